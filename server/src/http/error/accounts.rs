//! The errors of accounts and backends.

use actix_web::http::StatusCode;

use super::{Error, failure_parts};
use crate::accounts::{
    self, ChangePasswordError, DeleteError, HashingError, InvalidDisplayName, InvalidName,
    LinkError, LogInError, OpenSessionError, OwnAccountError, ProofError, RegisterError,
    Registration, SecondFactorError, TooManyFailures, Unacceptable,
};
use crate::issuer::{ErrorKind, VerifyError};

impl From<accounts::Error> for Error {
    fn from(error: accounts::Error) -> Self {
        match error {
            accounts::Error::Issuer(error) => Self::Failed(error),
            accounts::Error::Hashing(HashingError::Busy) => Self::Busy,
            error => Self::AccountsFailed(error),
        }
    }
}

impl From<InvalidName> for Error {
    fn from(_: InvalidName) -> Self {
        Self::InvalidName
    }
}

impl From<Unacceptable> for Error {
    fn from(reason: Unacceptable) -> Self {
        Self::UnacceptablePassword(reason.message())
    }
}

impl From<RegisterError> for Error {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Closed(registration) => Self::RegistrationClosed(registration),
            RegisterError::Unacceptable(reason) => reason.into(),
            RegisterError::NameTaken => Self::NameTaken,
            RegisterError::AlreadyAccount => Self::AlreadyAccount,
            RegisterError::GuestLoggedOut => VerifyError::Revoked.into(),
            RegisterError::Failed(error) => error.into(),
        }
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::InvalidLink => Self::InvalidLink,
            LinkError::NameMissing => Self::InvalidRequest("Send the field `name`."),
            LinkError::NameFixed => Self::InvalidRequest(
                "The invitation is for another name: send the request without `name`.",
            ),
            LinkError::NameTaken => Self::NameTaken,
            LinkError::AlreadyAccount => Self::AlreadyAccount,
            LinkError::Unacceptable(reason) => reason.into(),
            LinkError::Failed(error) => error.into(),
        }
    }
}

impl From<LogInError> for Error {
    fn from(error: LogInError) -> Self {
        match error {
            LogInError::InvalidCredentials | LogInError::PasswordChanged => {
                Self::InvalidCredentials
            }
            LogInError::SecondFactorRequired(_) => Self::SecondFactorRequired,
            LogInError::Disabled => Self::UserDisabled,
            LogInError::TooManyFailures(wait) => wait.into(),
            LogInError::Failed(error) => error.into(),
        }
    }
}

impl From<OpenSessionError> for Error {
    fn from(error: OpenSessionError) -> Self {
        match error {
            OpenSessionError::InvalidClient => Self::InvalidClient,
            OpenSessionError::InvalidSubject => Self::InvalidRequest(
                "`subject` must have 1 to 255 bytes, without control characters.",
            ),
            OpenSessionError::Disabled => Self::UserDisabled,
            OpenSessionError::Failed(error) => error.into(),
        }
    }
}

impl From<ChangePasswordError> for Error {
    fn from(error: ChangePasswordError) -> Self {
        match error {
            ChangePasswordError::NoPassword => Self::NoPassword,
            ChangePasswordError::WrongPassword => Self::InvalidCredentials,
            ChangePasswordError::TooManyFailures(wait) => wait.into(),
            ChangePasswordError::Unacceptable(reason) => reason.into(),
            ChangePasswordError::Failed(error) => error.into(),
        }
    }
}

impl From<TooManyFailures> for Error {
    fn from(TooManyFailures(wait): TooManyFailures) -> Self {
        Self::RateLimited(wait)
    }
}

impl From<ProofError> for Error {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::NoAccount => Self::NoAccount,
            ProofError::NoPassword => Self::NoPassword,
            ProofError::WrongPassword => Self::InvalidCredentials,
            ProofError::TooManyFailures(wait) => wait.into(),
            ProofError::Failed(error) => error.into(),
        }
    }
}

impl From<OwnAccountError> for Error {
    fn from(error: OwnAccountError) -> Self {
        match error {
            OwnAccountError::NoAccount => Self::NoAccount,
            OwnAccountError::Failed(error) => error.into(),
        }
    }
}

impl From<DeleteError> for Error {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::NotProven(error) => error.into(),
            DeleteError::SecondFactorRequired => Self::SecondFactorRequired,
            DeleteError::WrongCode => Self::InvalidCredentials,
            DeleteError::TooManyFailures(wait) => wait.into(),
            DeleteError::Failed(error) => error.into(),
        }
    }
}

impl From<SecondFactorError> for Error {
    fn from(error: SecondFactorError) -> Self {
        match error {
            SecondFactorError::NoAccount => Self::NoAccount,
            SecondFactorError::NotProven(error) => error.into(),
            SecondFactorError::AlreadyOn => Self::SecondFactorOn,
            SecondFactorError::Off => Self::SecondFactorOff,
            SecondFactorError::WrongCode => Self::InvalidCode,
            SecondFactorError::TooManyFailures(wait) => wait.into(),
            SecondFactorError::Failed(error) => error.into(),
        }
    }
}

impl From<InvalidDisplayName> for Error {
    fn from(_: InvalidDisplayName) -> Self {
        Self::InvalidRequest(
            "`displayName` must have 1 to 100 characters, without control characters, or be null.",
        )
    }
}

impl Error {
    /// Returns the status, the code for programs and the message for people.
    pub(super) fn account_parts(&self) -> (StatusCode, &'static str, &str) {
        use StatusCode as Status;
        match self {
            Self::NoGuests => (
                Status::FORBIDDEN,
                "registration_closed",
                "This server has no guests: log in with an account.",
            ),
            Self::RegistrationClosed(registration) => {
                (Status::FORBIDDEN, "registration_closed", registration_message(*registration))
            }
            Self::InvalidName => (
                Status::BAD_REQUEST,
                "invalid_name",
                "The name must be an email address, or 1 to 64 letters, digits and `.`, `-`, `_`, \
                 of which the first is a letter or digit.",
            ),
            Self::UnacceptablePassword(message) => {
                (Status::BAD_REQUEST, "unacceptable_password", message)
            }
            Self::NameTaken => {
                (Status::CONFLICT, "name_taken", "The name is taken: choose another one.")
            }
            Self::AlreadyAccount => (
                Status::CONFLICT,
                "already_registered",
                "The access token is of an account: log out first, or send the request without it.",
            ),
            Self::InvalidCredentials => (
                Status::UNAUTHORIZED,
                "invalid_credentials",
                "The name, the password or the code is wrong.",
            ),
            Self::SecondFactorRequired => (
                Status::UNAUTHORIZED,
                "second_factor_required",
                "The account has a second factor: send its code, too, or a recovery code.",
            ),
            Self::InvalidCode => (
                Status::UNAUTHORIZED,
                "invalid_code",
                "The code is wrong or was used: wait for the next one, and check the clock of the \
                 device that shows it.",
            ),
            Self::NoAccount => (
                Status::NOT_FOUND,
                "no_account",
                "The user is a guest: POST /register makes it an account.",
            ),
            Self::SecondFactorOn => (
                Status::CONFLICT,
                "second_factor_on",
                "The account has a second factor: DELETE /account/totp removes it.",
            ),
            Self::SecondFactorOff => (
                Status::CONFLICT,
                "second_factor_off",
                "The account has no second factor: POST /account/totp begins to add one.",
            ),
            Self::InvalidClient => (
                Status::UNAUTHORIZED,
                "invalid_client",
                "Send the id and the secret of a backend by HTTP Basic: `matchbook-server backends \
                 add` makes them.",
            ),
            Self::UserDisabled => (
                Status::FORBIDDEN,
                "user_disabled",
                "The account is disabled: ask the operator of this server.",
            ),
            Self::InvalidLink => (
                Status::BAD_REQUEST,
                "invalid_link",
                "The link does not work: it was used, has expired, or a newer one replaced it. \
                 Request a new one.",
            ),
            Self::NoPassword => (
                Status::CONFLICT,
                "no_password",
                "The user has no password: register an account first.",
            ),
            Self::Busy => (
                Status::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "Too many people log in at this moment: try again in a moment.",
            ),
            _ => failure_parts(ErrorKind::Internal),
        }
    }
}

fn registration_message(registration: Registration) -> &'static str {
    match registration {
        Registration::Closed => {
            "Registration is closed: ask the operator of this server for an account."
        }
        Registration::Open | Registration::Invite => {
            "Registration needs an invitation: ask the operator of this server for one."
        }
    }
}
