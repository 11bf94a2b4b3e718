//! What an application may want to know of while its requests go on.

use std::time::{Duration, Instant};

use matchbook_shared::Reason;

/// Something that happened to a [`crate::Credentials`]. None shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request went out, and an answer came or did not.
    Exchange {
        /// The method.
        method: String,
        /// The path of the URL, without the query.
        path: String,
        /// The status of the answer; `None` where there was none.
        status: Option<u16>,
        /// When the request was sent.
        began: Instant,
        /// How long it took until the head of the answer was there.
        took: Duration,
    },
    /// The tokens of a new sign-in are held.
    LoggedIn,
    /// The tokens were refreshed.
    Refreshed {
        /// How often, since the sign-in.
        count: u64,
    },
    /// A request is sent again: after a refresh, after a refresh that failed for
    /// the moment, or on a new connection in place of a kept one that was dead.
    Retried,
    /// The session is over and its tokens are erased; why, where the server said.
    LoggedOut(Option<Reason>),
}
