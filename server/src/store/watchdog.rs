//! Closes the socket of a connection whose server does not respond.
//!
//! libpq has no timeout for a read. A call to a frozen server would keep its thread, its
//! permit and its connection until the server responds. So each connection to a TCP address
//! has a second handle of its socket here, and a time by which the current work has to end.
//! A thread looks at these times, and shuts the socket down. The blocked call then returns
//! an error at once.
//!
//! This needs Linux. Elsewhere, and for a Unix-domain socket, nothing is closed.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::socket::MarkedSocket;

/// How often the times are compared.
const TICK: Duration = Duration::from_millis(100);

/// The beginning of the times of this module.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// All watched connections of this process. The lock is never taken for work.
static CONNECTIONS: Mutex<Vec<Weak<Connection>>> = Mutex::new(Vec::new());

/// The value of `due` while a connection is idle.
const IDLE: u64 = 0;
/// The value of `due` from the closing on.
const CLOSED: u64 = u64::MAX;

struct Connection {
    /// The server, as in the URL.
    host: String,
    socket: MarkedSocket,
    /// When the current work has to end, in milliseconds since [`START`].
    due: AtomicU64,
    is_closed: AtomicBool,
}

impl Connection {
    /// Closes the connection if its state is still `seen`. Returns whether it is closed.
    fn close(&self, seen: u64) -> bool {
        let closing =
            self.due.compare_exchange(seen, CLOSED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if closing {
            self.is_closed.store(true, Ordering::Relaxed);
            let _ = self.socket.get().shutdown(Shutdown::Both);
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
    /// Watches the connection with this socket.
    pub(super) fn over(socket: MarkedSocket, host: &str) -> Self {
        static THREAD: Once = Once::new();
        THREAD.call_once(|| {
            let thread = thread::Builder::new().name("database-watch".to_owned());
            if let Err(error) = thread.spawn(run) {
                tracing::error!(%error, "no thread that closes silent database connections");
            }
        });
        let connection = Arc::new(Connection {
            host: host.to_owned(),
            socket,
            due: AtomicU64::new(IDLE),
            is_closed: AtomicBool::new(false),
        });
        let mut connections = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&connection));
        Self(Some(connection))
    }

    /// Closes the connection if the work that begins at `now` takes longer than this.
    pub(super) fn limit(&self, time_limit: Duration, now: Instant) -> TimeLimit<'_> {
        if let Some(connection) = &self.0 {
            connection.due.store(milliseconds(now + time_limit), Ordering::Relaxed);
        }
        TimeLimit(self)
    }

    /// Returns whether the connection was closed, because its server did not respond.
    pub(super) fn is_closed(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| connection.is_closed.load(Ordering::Relaxed))
    }
}

/// Never returns a value that has another meaning.
fn milliseconds(time: Instant) -> u64 {
    let since = time.saturating_duration_since(*START).as_millis();
    u64::try_from(since).unwrap_or(u64::MAX).clamp(IDLE + 1, CLOSED - 1)
}

/// Returns the connections that exist.
fn open() -> Vec<Arc<Connection>> {
    let connections = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    connections.iter().filter_map(Weak::upgrade).collect()
}

/// Closes all connections to a host, also those in use: another host has taken over.
pub(super) fn close_all(host: &str) {
    for connection in open().iter().filter(|connection| connection.host == host) {
        // A state that changes meanwhile is that of work that ends or begins.
        while !connection.is_closed.load(Ordering::Relaxed) {
            connection.close(connection.due.load(Ordering::Relaxed));
        }
    }
}

/// Closes connections whose work takes too long. Never returns.
fn run() {
    loop {
        thread::sleep(TICK);
        close_late(&open(), milliseconds(Instant::now()));
    }
}

/// Closes connections whose work is late, and the idle ones of the same server: they would
/// not respond either.
fn close_late(open: &[Arc<Connection>], now: u64) {
    for late in open {
        let due = late.due.load(Ordering::Relaxed);
        if due == IDLE || due == CLOSED || due > now || !late.close(due) {
            continue;
        }
        tracing::debug!(host = late.host, "database connection closed: no response");
        for idle in open.iter().filter(|other| other.host == late.host) {
            idle.close(IDLE);
        }
    }
}
