//! Where tokens outlive the process.

mod file;

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use file::FileStore;

/// The tokens of one login, as a [`TokenStore`] keeps them.
///
/// The serialized names are the format of the token file. Never change them: a client that
/// cannot read its file is logged out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTokens {
    /// The access token.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
    /// The lifetime of the access token when it was issued, in seconds.
    pub expires_in: Option<u64>,
    /// The idempotency key of a refresh of these tokens that has started. It is stored
    /// before the request is sent, so that a response lost in a crash can be recovered.
    /// Tokens without a started refresh have no key: a stolen copy of them is then limited
    /// to the grace period.
    #[serde(default, rename = "attempt_key")]
    pub idempotency_key: Option<String>,
    /// The number of refreshes since the login.
    #[serde(rename = "refreshes")]
    pub generation: u64,
    /// The login that the tokens belong to, a random identifier. A request of one login is
    /// not sent again under another one.
    #[serde(rename = "sign_in")]
    pub login_id: String,
}

/// No token is shown.
impl fmt::Debug for StoredTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredTokens").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Until it is dropped, nobody else has the lock that it stands for.
pub type StoreGuard = Box<dyn Send>;

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
    /// Takes the lock, or gives up after `timeout`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when others had it all the time; others
    /// when it cannot be had at all.
    fn lock(&self, timeout: Duration) -> io::Result<StoreGuard>;

    /// What is kept, if anything.
    ///
    /// # Errors
    /// When it cannot be read. "Nothing is kept" is no error, and an error does
    /// not log anybody out.
    fn read(&self) -> io::Result<Option<StoredTokens>>;

    /// Keeps `tokens` in place of what was there; with `None`, nothing.
    ///
    /// # Errors
    /// When they are not kept for certain.
    fn write(&self, tokens: Option<&StoredTokens>) -> io::Result<()>;
}
