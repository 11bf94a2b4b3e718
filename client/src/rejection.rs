//! The reasons for which a server rejects a login or a registration.

use std::time::Duration;

/// Why the server rejected a login or a registration. Its code is [`Self::code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// No account has this name, or the password is wrong. The server does not say which.
    #[error("the name or the password is wrong")]
    InvalidCredentials,
    /// The password is right, and the account has a second factor: log in again with a
    /// [`code`](crate::PasswordLogin::code).
    #[error("this account needs a code of its second factor")]
    SecondFactorRequired,
    /// The password is right, and the account is disabled.
    #[error("this account is disabled")]
    UserDisabled,
    /// There were too many attempts, with this name or from this address.
    #[error("too many attempts{}", wait(*.retry_after))]
    TooManyAttempts {
        /// The time to wait, if the server named it.
        retry_after: Option<Duration>,
    },
    /// Accounts need an invitation, or only the operator adds them.
    #[error("the server does not accept registrations without an invitation")]
    RegistrationClosed,
    /// Another account has this name.
    #[error("the name is taken")]
    NameTaken,
    /// The client is logged in with an account, which cannot be registered again.
    #[error("the current user has an account already")]
    AlreadyRegistered,
    /// The name is neither an email address nor a user name. The server's message says what
    /// it may be.
    #[error("{0}")]
    InvalidName(String),
    /// The password is too short or too common. The server's message says which.
    #[error("{0}")]
    UnacceptablePassword(String),
    /// Another reason, such as one of a newer server.
    #[error("{message}")]
    Other {
        /// The code of the error.
        code: String,
        /// The server's message.
        message: String,
    },
}

impl Rejection {
    /// Interprets the code and the message of an error response.
    pub(crate) fn new(code: &str, message: String, retry_after: Option<Duration>) -> Self {
        match code {
            "invalid_credentials" => Self::InvalidCredentials,
            "second_factor_required" => Self::SecondFactorRequired,
            "user_disabled" => Self::UserDisabled,
            "too_many_requests" => Self::TooManyAttempts { retry_after },
            "registration_closed" => Self::RegistrationClosed,
            "name_taken" => Self::NameTaken,
            "already_registered" => Self::AlreadyRegistered,
            "invalid_name" => Self::InvalidName(message),
            "unacceptable_password" => Self::UnacceptablePassword(message),
            _ => Self::Other { code: code.to_owned(), message },
        }
    }

    /// Returns the code of the error in the server's API.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::InvalidCredentials => "invalid_credentials",
            Self::SecondFactorRequired => "second_factor_required",
            Self::UserDisabled => "user_disabled",
            Self::TooManyAttempts { .. } => "too_many_requests",
            Self::RegistrationClosed => "registration_closed",
            Self::NameTaken => "name_taken",
            Self::AlreadyRegistered => "already_registered",
            Self::InvalidName(_) => "invalid_name",
            Self::UnacceptablePassword(_) => "unacceptable_password",
            Self::Other { code, .. } => code,
        }
    }
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| format!(": wait {} s", wait.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_reason_of_the_same_code() {
        for code in [
            "invalid_credentials",
            "second_factor_required",
            "user_disabled",
            "too_many_requests",
            "registration_closed",
            "name_taken",
            "already_registered",
            "invalid_name",
            "unacceptable_password",
        ] {
            let reason = Rejection::new(code, "m".to_owned(), None);
            assert_eq!(reason.code(), code);
            assert!(!matches!(reason, Rejection::Other { .. }), "{code}");
        }
        let other = Rejection::new("from_the_future", "what to do".to_owned(), None);
        assert_eq!((other.code(), other.to_string().as_str()), ("from_the_future", "what to do"));
    }
}
