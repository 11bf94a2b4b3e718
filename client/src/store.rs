//! Where tokens outlive the process.

mod file;

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use file::FileStore;

/// The tokens of one sign-in as they are kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The access token.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
    /// How long the access token lived when it was granted, in seconds.
    pub expires_in: Option<u64>,
    /// The idempotency key of a refresh of these tokens that has begun. It is stored
    /// before the refresh is sent, so that a response that a crash has lost can be had
    /// again; tokens at rest have none, so that a copy of them is not good for longer
    /// than the grace period once they are refreshed.
    #[serde(default)]
    pub attempt_key: Option<String>,
    /// How often the tokens were refreshed since the sign-in.
    pub refreshes: u64,
    /// Which sign-in they are of: what was begun under one is not sent again
    /// under another.
    pub sign_in: String,
}

/// No token is shown.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("refreshes", &self.refreshes).finish_non_exhaustive()
    }
}

/// Until it is dropped, nobody else has the lock that it stands for.
pub type StoreLock = Box<dyn Send>;

/// Keeps the tokens of one sign-in for several processes, or for the next one.
///
/// What an implementation has to hold, or honest users are logged out:
///
/// * [`lock`](Self::lock) excludes everybody else who uses the same store, in any
///   process, and is set free when its owner dies.
/// * [`read`](Self::read) returns what was written last, whole. It is also called
///   without the lock.
/// * [`write`](Self::write) replaces all or nothing, and has reached what survives
///   a crash when it returns. It is only called under the lock.
///
/// All of them may block: they are called on threads made for that.
pub trait TokenStore: Send + Sync + 'static {
    /// Takes the lock, or gives up after `patience`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when others had it all the time; others
    /// when it cannot be had at all.
    fn lock(&self, patience: Duration) -> io::Result<StoreLock>;

    /// What is kept, if anything.
    ///
    /// # Errors
    /// When it cannot be read. "Nothing is kept" is no error, and an error does
    /// not log anybody out.
    fn read(&self) -> io::Result<Option<Stored>>;

    /// Keeps `tokens` in place of what was there; with `None`, nothing.
    ///
    /// # Errors
    /// When they are not kept for certain.
    fn write(&self, tokens: Option<&Stored>) -> io::Result<()>;
}
