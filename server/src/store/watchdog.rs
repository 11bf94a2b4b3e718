//! Closes the socket of a connection whose server does not respond.
//!
//! libpq has no timeout for a read. A call to a frozen server would keep its thread, its
//! permit and its connection until the server responds. So each connection to a TCP address
//! has a second handle of its socket here, and a time by which the current work has to end.
//! A thread looks at these times, and shuts the socket down. The blocked call then returns
//! an error at once.
//!
//! This needs Linux. Elsewhere, and for a Unix-domain socket, nothing is closed.

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::socket::Mark;

/// How often the times are compared.
const TICK: Duration = Duration::from_millis(100);
/// How often the socket of a connection that is being opened is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The beginning of the times of this module.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// All watched connections of this process. The lock is never taken for work.
static CONNECTIONS: Mutex<Vec<Weak<Connection>>> = Mutex::new(Vec::new());

/// The connections that are being opened.
static ATTEMPTS: Mutex<Vec<Weak<Attempt>>> = Mutex::new(Vec::new());

/// The value of `due` while a connection is idle.
const IDLE: u64 = 0;
/// The value of `due` from the closing on.
const CLOSED: u64 = u64::MAX;

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Its server did not respond.
    Silent,
    /// Another host has taken over.
    HostLeft,
}

struct Connection {
    /// The server, as in the URL.
    host: String,
    socket: Socket,
    /// Identifies the socket as long as it is open.
    _mark: Arc<Mark>,
    /// When the current work has to end, in milliseconds since [`START`].
    due: AtomicU64,
    closing: OnceLock<Closing>,
    /// Whether another host has taken over.
    is_left: AtomicBool,
}

impl Connection {
    /// Closes the connection if its state is still `seen`. Returns whether it is closed.
    fn close(&self, seen: u64, why: Closing) -> bool {
        let closing =
            self.due.compare_exchange(seen, CLOSED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if closing {
            let _ = self.closing.set(why);
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        closing
    }
}

/// The watch over one connection. The default watches nothing.
#[derive(Clone, Default)]
pub(super) struct Watch(Option<Arc<Connection>>);

/// Work with a time limit, until it is dropped.
pub(super) struct TimeLimit<'a>(&'a Watch);

impl Drop for TimeLimit<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.0.0 {
            connection.due.store(IDLE, Ordering::Relaxed);
        }
    }
}

impl Watch {
    /// Watches the connection whose socket has this mark.
    fn over(mark: Arc<Mark>, host: &str) -> Self {
        let Some(socket) = mark.socket() else { return Self::default() };
        let connection = Arc::new(Connection {
            host: host.to_owned(),
            socket,
            _mark: mark,
            due: AtomicU64::new(IDLE),
            closing: OnceLock::new(),
            is_left: AtomicBool::new(false),
        });
        register(&CONNECTIONS, &connection);
        Self(Some(connection))
    }

    /// Closes the connection if the work that begins at `now` takes longer than this.
    pub(super) fn limit(&self, time_limit: Duration, now: Instant) -> TimeLimit<'_> {
        if let Some(connection) = &self.0 {
            connection.due.store(milliseconds(now + time_limit), Ordering::Relaxed);
        }
        TimeLimit(self)
    }

    /// Returns why the connection was closed, if it was.
    pub(super) fn closing(&self) -> Option<Closing> {
        self.0.as_ref()?.closing.get().copied()
    }

    /// Returns whether the connection may be used for further work.
    pub(super) fn is_usable(&self) -> bool {
        self.0.as_ref().is_none_or(|connection| {
            connection.closing.get().is_none() && !connection.is_left.load(Ordering::Relaxed)
        })
    }
}

/// A connection that libpq opens, until it is dropped.
///
/// `connect_timeout` includes the login, but not the first statements, which diesel sends
/// before it returns the connection. A pooler may accept the login and queue them for a
/// PostgreSQL that does not respond.
pub(super) struct Opening(Option<Arc<Attempt>>);

struct Attempt {
    mark: Arc<Mark>,
    /// How long one socket may take.
    time_limit: Duration,
    last_look: Mutex<Look>,
    is_silent: AtomicBool,
}

/// What a look at an attempt has found.
struct Look {
    at: Instant,
    /// The local address of the socket. libpq opens another one for each address of a host.
    socket: Option<SocketAddr>,
    /// The time of a look before the socket existed.
    before_socket: Instant,
}

impl Opening {
    /// Watches the opening of a connection whose socket will have this mark. `time_limit` is
    /// that of each address of the host.
    pub(super) fn begin(mark: Option<Mark>, time_limit: Duration) -> Self {
        let attempt = mark.map(|mark| {
            let now = Instant::now();
            let attempt = Arc::new(Attempt {
                mark: Arc::new(mark),
                time_limit,
                last_look: Mutex::new(Look { at: now, socket: None, before_socket: now }),
                is_silent: AtomicBool::new(false),
            });
            register(&ATTEMPTS, &attempt);
            attempt
        });
        Self(attempt)
    }

    /// Returns whether the connection was closed, because its server did not respond.
    pub(super) fn is_silent(&self) -> bool {
        self.0.as_ref().is_some_and(|attempt| attempt.is_silent.load(Ordering::Relaxed))
    }

    /// Watches the connection, which is open now.
    pub(super) fn into_watch(self, host: &str) -> Watch {
        self.0.map_or_else(Watch::default, |attempt| Watch::over(attempt.mark.clone(), host))
    }
}

impl Attempt {
    /// Closes the socket if it has taken too long.
    fn close_if_late(&self, now: Instant) {
        let mut last = self.last_look.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(last.at) < LOOK_INTERVAL {
            return;
        }
        let before = std::mem::replace(&mut last.at, now);
        let Some(socket) = self.mark.socket() else { return };
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        if address != last.socket {
            last.socket = address;
            last.before_socket = before;
        }
        if now.saturating_duration_since(last.before_socket) >= self.time_limit {
            self.is_silent.store(true, Ordering::Relaxed);
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Adds an entry to the list of the thread, which begins with the first one.
fn register<T>(list: &Mutex<Vec<Weak<T>>>, entry: &Arc<T>) {
    static THREAD: Once = Once::new();
    THREAD.call_once(|| {
        let thread = thread::Builder::new().name("database-watch".to_owned());
        if let Err(error) = thread.spawn(run) {
            tracing::error!(%error, "no thread that closes silent database connections");
        }
    });
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|entry| entry.strong_count() > 0);
    list.push(Arc::downgrade(entry));
}

/// Never returns a value that has another meaning.
fn milliseconds(time: Instant) -> u64 {
    let since = time.saturating_duration_since(*START).as_millis();
    u64::try_from(since).unwrap_or(u64::MAX).clamp(IDLE + 1, CLOSED - 1)
}

/// Returns the entries of a list that exist.
fn existing<T>(list: &Mutex<Vec<Weak<T>>>) -> Vec<Arc<T>> {
    let list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.iter().filter_map(Weak::upgrade).collect()
}

/// Closes the connections to a host, because another host has taken over. Those in use are
/// closed at once if `host_is_lost`, and otherwise when their work is done.
pub(super) fn leave(host: &str, host_is_lost: bool) {
    for connection in existing(&CONNECTIONS).iter().filter(|connection| connection.host == host) {
        connection.is_left.store(true, Ordering::Relaxed);
        connection.close(IDLE, Closing::HostLeft);
        // A state that changes meanwhile is that of work that ends or begins.
        while host_is_lost && connection.closing.get().is_none() {
            connection.close(connection.due.load(Ordering::Relaxed), Closing::HostLeft);
        }
    }
}

/// Closes connections whose work takes too long. Never returns.
fn run() {
    loop {
        thread::sleep(TICK);
        let now = Instant::now();
        close_late(&existing(&CONNECTIONS), milliseconds(now));
        for attempt in existing(&ATTEMPTS) {
            attempt.close_if_late(now);
        }
    }
}

/// Closes connections whose work is late, and the idle ones of the same server: they would
/// not respond either.
fn close_late(open: &[Arc<Connection>], now: u64) {
    for late in open {
        let due = late.due.load(Ordering::Relaxed);
        if due == IDLE || due == CLOSED || due > now || !late.close(due, Closing::Silent) {
            continue;
        }
        tracing::debug!(host = late.host, "database connection closed: no response");
        for idle in open.iter().filter(|other| other.host == late.host) {
            idle.close(IDLE, Closing::Silent);
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A watched connection, and its socket.
    fn watched(listener: &TcpListener, host: &str) -> (Watch, TcpStream) {
        let mark = Mark::take(Duration::from_secs(11)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(mark.timeout())).unwrap();
        (Watch::over(Arc::new(mark), host), stream)
    }

    #[test]
    fn connection_in_use_to_a_host_that_was_left_ends_with_its_work() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (idle, _idle) = watched(&listener, "left");
        let (used, _used) = watched(&listener, "left");
        let (other, _other) = watched(&listener, "other");
        let work = used.limit(MINUTE, Instant::now());
        leave("left", false);
        assert_eq!(idle.closing(), Some(Closing::HostLeft));
        assert!(used.closing().is_none(), "its work continues");
        assert!(!used.is_usable(), "for no further work");
        leave("left", true);
        assert_eq!(used.closing(), Some(Closing::HostLeft));
        drop(work);
        assert!(other.is_usable());
    }

    #[test]
    fn late_work_closes_the_idle_connections_to_its_host_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (idle, _idle) = watched(&listener, "silent");
        let (late, _late) = watched(&listener, "silent");
        let (used, _used) = watched(&listener, "silent");
        let _in_time = used.limit(MINUTE, Instant::now());
        let _late = late.limit(Duration::ZERO, Instant::now());
        while idle.closing().is_none() {
            thread::sleep(TICK);
        }
        assert_eq!(
            (late.closing(), idle.closing()),
            (Some(Closing::Silent), Some(Closing::Silent))
        );
        assert!(used.is_usable());
    }
}
