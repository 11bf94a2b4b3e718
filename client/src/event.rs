//! Events for an application.

use std::time::{Duration, Instant};

use matchbook_shared::InvalidGrantReason;

/// An event of [`Credentials`](crate::Credentials), reported to
/// [`on_event`](crate::CredentialsBuilder::on_event). No event shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request was sent, and its response or its failure has arrived.
    Exchange {
        /// The method.
        method: String,
        /// The path of the URL, without the query.
        path: String,
        /// The status of the response; `None` if there is no response.
        status: Option<u16>,
        /// When the request was sent.
        began: Instant,
        /// The time until the head of the response arrived.
        took: Duration,
    },
    /// A login has installed tokens.
    LoggedIn,
    /// The tokens were refreshed.
    Refreshed {
        /// The number of refreshes since the login.
        count: u64,
    },
    /// A request is sent again: after a refresh, after a transient failure of a refresh, or
    /// because its kept connection was dead.
    Retried,
    /// The session has ended and the tokens are erased. The server may have given a reason.
    LoggedOut(Option<InvalidGrantReason>),
}
