//! How a call can fail.

use std::time::Duration;

use matchbook_shared::Reason;

/// Why there is no answer to hand on. None of them shows a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody has logged in, or the session was given up since.
    #[error("not logged in")]
    NotLoggedIn,
    /// The server has ended the session: only logging in again helps. The tokens
    /// are erased.
    #[error("the session has ended: log in again")]
    LoggedOut(Option<Reason>),
    /// A newer refresh token of this session was issued to somebody else a moment
    /// ago, and the store does not have it: another process that keeps its tokens
    /// elsewhere, or a copy. The tokens are kept; the server decides at the next try.
    #[error(
        "newer tokens of this session were issued to another process, or to a copy of the tokens"
    )]
    Superseded,
    /// The server could not be asked, or could not answer, this time. The
    /// tokens are kept: the same call may succeed later.
    #[error("{problem}")]
    Transient {
        /// What happened.
        problem: String,
        /// How long to wait before the next try, where that is known.
        retry_after: Option<Duration>,
    },
    /// The server cannot be used as it is configured: an unknown host, a
    /// certificate that is not trusted, HTTP in place of HTTPS, a redirect. The
    /// message names the cause and what to change. Another try does not help
    /// before that. The tokens are kept.
    #[error("{0}")]
    Misconfigured(String),
    /// The server answered `401` to a body that cannot be sent twice: a stream,
    /// or one beyond the limit. The tokens are fresh now, so send it again.
    #[error("the access token had expired, and this body cannot be sent a second time by itself")]
    NotReplayable,
    /// Somebody logged in anew while this request was under way: it was not sent
    /// again with the tokens of that sign-in.
    #[error("somebody has logged in anew meanwhile; this was a request of the sign-in before")]
    SupersededByLogin,
    /// The URL is of an origin that is not to see the access token:
    /// [`crate::Server::allow_origin`] allows one.
    #[error("the access token is not for {0}")]
    OriginNotAllowed(String),
    /// The request cannot be built as it was described.
    #[error("this request cannot be sent: {0}")]
    Invalid(String),
    /// The store of tokens cannot be used.
    #[error("the stored tokens: {0}")]
    Store(String),
    /// The server answered what a token server does not answer.
    #[error("unexpected answer from the token server: {0}")]
    UnexpectedResponse(String),
}

impl Error {
    /// A failure that may pass, without a word on when.
    pub(crate) fn transient(problem: impl Into<String>) -> Self {
        Self::Transient { problem: problem.into(), retry_after: None }
    }
}
