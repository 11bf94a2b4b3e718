//! Errors of a request, a login or a logout.

use std::time::Duration;

use matchbook_shared::InvalidGrantReason;

use crate::rejection::Rejection;

/// An error of a request, a login or a logout. No error shows a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are no tokens: log in first.
    #[error("not logged in")]
    NotLoggedIn,
    /// The server has ended the session, for the given reason if it named one. The tokens
    /// are erased; log in again.
    #[error("the session has ended: log in again")]
    LoggedOut(Option<InvalidGrantReason>),
    /// The server issued newer tokens of this session a moment ago, and the store does not
    /// have them. Another process with another store uses this session, or a copy of the
    /// tokens is in use. The tokens are kept; the next refresh decides.
    #[error(
        "newer tokens of this session were issued to another process, or to a copy of the tokens"
    )]
    Superseded,
    /// The server rejected a login or a registration. The current tokens, if there are any,
    /// stay.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The server could not be reached, or could not serve the request. The tokens are
    /// kept: the same call may succeed later.
    #[error("{problem}")]
    Transient {
        /// The cause, for a human.
        problem: String,
        /// The delay before the next try, if it is known.
        retry_after: Option<Duration>,
    },
    /// The server cannot be used with these settings: an unknown host, an untrusted
    /// certificate, HTTP in place of HTTPS, or a redirect. The message names the cause and
    /// the remedy. Retrying does not help. The tokens are kept.
    #[error("{0}")]
    Misconfigured(String),
    /// The server responded `401` to a body that cannot be sent twice: a stream, or one
    /// beyond [`body_limit`](crate::CredentialsBuilder::body_limit). The tokens have been
    /// refreshed, so send the request again.
    #[error("the access token had expired, and this body cannot be sent twice: send it again")]
    NotReplayable,
    /// Another login replaced the tokens during the request. The request was not sent again
    /// with the tokens of that login.
    #[error("another login has replaced the one of this request")]
    SupersededByLogin,
    /// The URL has an origin that must not receive the access token.
    /// [`Server::allow_origin`](crate::Server::allow_origin) allows one.
    #[error("the access token must not be sent to {0}")]
    OriginNotAllowed(String),
    /// The request is invalid. Nothing was sent.
    #[error("this request cannot be sent: {0}")]
    Invalid(String),
    /// The token store cannot be used.
    #[error("the stored tokens: {0}")]
    Store(String),
    /// The response is not one of a token server.
    #[error("unexpected response from the token server: {0}")]
    UnexpectedResponse(String),
}

impl Error {
    /// Creates a transient error without a delay.
    pub(crate) fn transient(problem: impl Into<String>) -> Self {
        Self::Transient { problem: problem.into(), retry_after: None }
    }
}
