//! How a call can fail.

use std::time::Duration;

use matchbook_shared::Reason;

/// Why there is no answer to hand on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody has logged in, or the session was given up since.
    #[error("not logged in")]
    NotLoggedIn,
    /// The server has ended the session: only logging in again helps.
    #[error("the session has ended: log in again")]
    LoggedOut(Option<Reason>),
    /// The server could not be asked, or could not answer, this time. The
    /// tokens are kept.
    #[error("{problem}")]
    Transient {
        /// What happened.
        problem: String,
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
    },
    /// The server answered what a token server does not answer.
    #[error("unexpected answer from the token server: {0}")]
    Unexpected(String),
}
