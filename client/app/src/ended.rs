//! Why a session is over, as sentences. The commands, the endpoints and the page use
//! the same ones, and each adds how to log in again there.

use matchbook_shared::InvalidGrantReason;

/// Why a process has no tokens of a session any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The server ended the session, or does not know it; why, where it says so.
    Ended(Option<InvalidGrantReason>),
    /// Another log-in replaced the session.
    Replaced,
}

/// What the client says when another copy of the tokens was refreshed first.
pub(crate) const SUPERSEDED: &str = "newer tokens of this session were issued to another process, \
                                     or to a copy of the tokens; you stay logged in";

impl End {
    /// The reason in one word: `replaced`, or as the server spells it.
    pub(crate) fn code(self) -> Option<&'static str> {
        match self {
            Self::Ended(reason) => reason.map(InvalidGrantReason::as_str),
            Self::Replaced => Some("replaced"),
        }
    }

    /// Names the cause in one sentence, without its end, and what to look after.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Replaced => "another log-in with the same cookie has replaced the session",
            Self::Ended(Some(InvalidGrantReason::Reuse)) => {
                "the session has ended because an old refresh token of it was used: there may be \
                 a copy of the tokens, so look at where they are stored"
            }
            Self::Ended(Some(InvalidGrantReason::LoggedOut)) => {
                "the session has ended because it was logged out, here or from another device"
            }
            Self::Ended(Some(InvalidGrantReason::ExpiredIdle)) => {
                "the session has ended because it was not used for longer than the server allows"
            }
            Self::Ended(Some(InvalidGrantReason::ExpiredAbsolute)) => {
                "the session has ended because it reached the longest lifetime that the server \
                 allows"
            }
            Self::Ended(Some(InvalidGrantReason::Unknown)) => {
                "the server does not know this session: it was removed after its end, or the \
                 server's database was replaced"
            }
            Self::Ended(_) => "the session has ended",
        }
    }

    /// The sentence with a capital letter.
    pub(crate) fn capitalized(self) -> String {
        let sentence = self.sentence();
        format!("{}{}", sentence[..1].to_uppercase(), &sentence[1..])
    }
}
