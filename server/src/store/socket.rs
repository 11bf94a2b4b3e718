//! Finds the socket of a connection that libpq has opened, and duplicates it.
//!
//! libpq sets `tcp_user_timeout` on its socket. Each connection gets another value, which
//! therefore identifies its socket among the open files of the process. This works through
//! poolers and address translation. The duplicate keeps the socket, so that a closed and
//! reused file number cannot be mistaken for it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use socket2::Socket;

/// How many connections can be marked at once.
const MARKS: u32 = 1000;

/// The open files of this process.
const FILES: &str = "/proc/self/fd";

/// The marks in use, and the one that was used last.
static IN_USE: LazyLock<Mutex<(HashSet<u32>, u32)>> = LazyLock::new(Mutex::default);

/// A value of `tcp_user_timeout` that no other connection of this process has.
pub(super) struct Mark {
    number: u32,
    timeout: Duration,
}

impl Mark {
    /// Takes a mark, which adds less than a second to `timeout`. Returns `None` if all are
    /// in use.
    pub(super) fn take(timeout: Duration) -> Option<Self> {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let (numbers, last) = &mut *in_use;
        let mut next = (1..=MARKS).map(|step| (*last + step) % MARKS);
        let number = next.find(|number| !numbers.contains(number))?;
        numbers.insert(number);
        *last = number;
        Some(Self { number, timeout: timeout + Duration::from_millis(number.into()) })
    }

    /// The `tcp_user_timeout` of the connection.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Finds the socket with this mark, and returns a second handle of it. Returns `None` if
    /// the connection has no TCP socket, or the system does not show it.
    pub(super) fn socket(&self) -> Option<Socket> {
        open_sockets().find(|socket| timeout_of(socket) == Some(self.timeout))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.0.remove(&self.number);
    }
}

#[cfg(target_os = "linux")]
fn timeout_of(socket: &Socket) -> Option<Duration> {
    socket.tcp_user_timeout().ok().flatten()
}

#[cfg(not(target_os = "linux"))]
fn timeout_of(_: &Socket) -> Option<Duration> {
    None
}

/// Returns a duplicate of each open socket of this process. Begins with the highest number,
/// because a new socket usually has it, and an idle server has thousands of others.
fn open_sockets() -> impl Iterator<Item = Socket> {
    // Only Linux has this directory.
    let files = std::fs::read_dir(FILES).into_iter().flatten().flatten();
    let mut numbers: Vec<RawFd> =
        files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable_by_key(|number| Reverse(*number));
    // A file is never duplicated: closing any handle of a file releases its POSIX locks.
    let sockets = numbers.into_iter().filter(|number| {
        std::fs::read_link(format!("{FILES}/{number}"))
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    });
    sockets.filter_map(duplicate)
}

/// Duplicates the open file with this number. Returns `None` if it has been closed.
fn duplicate(number: RawFd) -> Option<Socket> {
    #[expect(unsafe_code, reason = "libpq's socket has no owner in Rust")]
    // SAFETY: the borrow lasts for one system call, which duplicates the file or fails if
    // the number is not in use. If another thread reuses the number meanwhile, the duplicate
    // is of that file. It is owned here, and dropped unless it has the mark.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned().ok().map(Socket::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_connections_have_the_same_mark() {
        let first = Mark::take(Duration::from_secs(5)).unwrap();
        let marks: Vec<Mark> =
            (0..50).map(|_| Mark::take(Duration::from_secs(5)).unwrap()).collect();
        let timeouts: HashSet<Duration> = marks.iter().map(Mark::timeout).collect();
        assert_eq!(timeouts.len(), 50);
        assert!(!timeouts.contains(&first.timeout()));
        assert!(timeouts.iter().all(|timeout| *timeout < Duration::from_secs(6)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn socket_is_found_by_its_mark_alone() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (marked, other) = (connect(), connect());
        let mark = Mark::take(Duration::from_secs(7)).unwrap();
        socket2::SockRef::from(&marked).set_tcp_user_timeout(Some(mark.timeout())).unwrap();
        let found = mark.socket().unwrap();
        let local = found.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local, marked.local_addr().unwrap());
        assert_ne!(local, other.local_addr().unwrap());
        assert!(Mark::take(Duration::from_secs(9)).unwrap().socket().is_none());
    }
}
