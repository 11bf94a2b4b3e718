//! Stores for tokens that outlive the process.

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
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// The number of refreshes since the login.
    pub generation: u64,
    /// The login that the tokens belong to, a random identifier. A request of one login is
    /// not sent again under another one.
    pub login_id: String,
}

/// Shows no token.
impl fmt::Debug for StoredTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredTokens").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Holds the lock of a store until it is dropped.
pub type StoreGuard = Box<dyn Send>;

/// Keeps the tokens of one login for several processes, or for the next process.
///
/// An implementation that breaks one of these rules logs users out:
///
/// * [`lock`](Self::lock) excludes all other users of the store, in every process. The lock is
///   released when its process dies.
/// * [`read`](Self::read) returns the last write as a whole. It is also called without the lock.
/// * [`write`](Self::write) replaces everything or nothing. When it returns, the tokens survive
///   a crash. It is called under the lock only.
///
/// All methods may block: they are called on threads for blocking calls.
pub trait TokenStore: Send + Sync + 'static {
    /// Acquires the lock, and waits for at most `timeout`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another user held the lock for the whole `timeout`;
    /// other kinds if the lock cannot be used.
    fn lock(&self, timeout: Duration) -> io::Result<StoreGuard>;

    /// Returns the stored tokens, or `None` if the store is empty.
    ///
    /// # Errors
    /// Any kind if the store cannot be read. An error does not log the user out.
    fn read(&self) -> io::Result<Option<StoredTokens>>;

    /// Replaces the stored tokens; `None` deletes them.
    ///
    /// # Errors
    /// Any kind if the tokens may not survive a crash.
    fn write(&self, tokens: Option<&StoredTokens>) -> io::Result<()>;
}
