//! Messages that say why a session has ended. The commands, the endpoints and the page
//! share them, and each adds how to log in again there.

use matchbook_shared::InvalidGrantReason;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The server ended the session or does not know it. It may give the reason.
    Ended(Option<InvalidGrantReason>),
    /// Another login replaced the session.
    Replaced,
}

/// The message when another copy of the tokens was refreshed first.
pub(crate) const SUPERSEDED: &str = "newer tokens of this session were issued to another process, \
                                     or to a copy of the tokens; you stay logged in";

impl SessionEnd {
    /// Returns the reason's code: `replaced`, or the server's code.
    pub(crate) fn code(self) -> Option<&'static str> {
        match self {
            Self::Ended(reason) => reason.map(InvalidGrantReason::as_str),
            Self::Replaced => Some("replaced"),
        }
    }

    /// Returns the cause, and what to check, as a sentence without capital letter and
    /// full stop.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Replaced => "another login with the same cookie has replaced the session",
            Self::Ended(Some(InvalidGrantReason::Reuse)) => {
                "the session has ended because an old refresh token of it was used: there may be \
                 a copy of the tokens, so check where they are stored"
            }
            Self::Ended(Some(InvalidGrantReason::LoggedOut)) => {
                "the session has ended because it was logged out, here or from another device"
            }
            Self::Ended(Some(InvalidGrantReason::PasswordChanged)) => {
                "the session has ended because the password of the account was changed or reset on \
                 another device"
            }
            Self::Ended(Some(InvalidGrantReason::UserDisabled)) => {
                "the session has ended because the account was disabled or deleted"
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

    /// Returns the message with a capital first letter.
    pub(crate) fn capitalized(self) -> String {
        let message = self.message();
        format!("{}{}", message[..1].to_uppercase(), &message[1..])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_reason_has_a_sentence_of_its_own() {
        use InvalidGrantReason::{
            ExpiredAbsolute, ExpiredIdle, LoggedOut, Other, PasswordChanged, Reuse, Unknown,
            UserDisabled,
        };
        let reasons = [
            ExpiredAbsolute,
            ExpiredIdle,
            LoggedOut,
            Other,
            PasswordChanged,
            Reuse,
            Unknown,
            UserDisabled,
        ];
        let sentences = reasons.map(|reason| SessionEnd::Ended(Some(reason)).message());
        let different: HashSet<_> = sentences.iter().collect();
        assert_eq!(different.len(), reasons.len(), "{sentences:#?}");
    }
}
