//! The errors of the API: status, code and message of each, and its headers.

mod accounts;
mod documented;

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use matchbook_shared::{ErrorBody, InvalidGrantReason};

use crate::accounts::{Error as AccountsError, Registration};
use crate::http::failures;
use crate::issuer::{self, ErrorKind, RefreshError, VerifyError};
use crate::sessions::{GuestRejection, InvalidGrant};

pub(super) use documented::{
    Errors, Format, Limited, NewGuest, OwnSession, PageErrors, Parameters, RequestBody, Responses,
    UnknownPath,
};

/// Why a request is rejected. `Display` is the message for the client. The cause of
/// a `5xx` is only logged.
#[derive(Debug)]
pub enum Error {
    /// The request is malformed; what to send instead.
    InvalidRequest(&'static str),
    /// The bearer token was sent in a way that RFC 6750 forbids.
    InvalidBearer(&'static str),
    /// The request has no access token.
    MissingToken,
    /// The access token is not valid; why.
    InvalidToken(&'static str),
    /// The access token is valid, but does not permit this request.
    InsufficientScope,
    /// The refresh token is not valid. `None`: this server did not issue it.
    InvalidGrant(Option<InvalidGrant>),
    UserNotFound,
    /// The guest has a live session.
    AlreadyActive,
    /// The guest has logged in before.
    GuestIdUsed,
    /// Guests cannot register.
    NoGuests,
    /// Accounts cannot be registered without an invitation, or not at all.
    RegistrationClosed(Registration),
    InvalidName,
    /// The new password is not acceptable; why.
    UnacceptablePassword(String),
    NameTaken,
    /// The access token of a registration is of an account.
    AlreadyAccount,
    /// Unknown name or wrong password.
    InvalidCredentials,
    /// The password is right, and the code of the second factor is missing.
    SecondFactorRequired,
    /// The code of the second factor is wrong, in a request with an access token.
    InvalidCode,
    /// The user is a guest.
    NoAccount,
    SecondFactorOn,
    SecondFactorOff,
    /// Unknown backend, or wrong secret.
    InvalidClient,
    /// The password is right, but the account is disabled.
    UserDisabled,
    /// The link was used, has expired, or never existed.
    InvalidLink,
    /// The user has no password that could be changed.
    NoPassword,
    /// Too many passwords wait to be verified.
    Busy,
    /// The user is in none of the groups that an application requires.
    NotInGroup,
    /// The user has no session of this id.
    SessionNotFound,
    /// How long to wait.
    RateLimited(Duration),
    NotFound,
    /// The methods that the path allows.
    MethodNotAllowed(&'static str),
    PayloadTooLarge,
    BodyTimeout,
    Failed(issuer::Error),
    AccountsFailed(AccountsError),
}

impl From<issuer::Error> for Error {
    fn from(error: issuer::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<GuestRejection> for Error {
    fn from(rejection: GuestRejection) -> Self {
        match rejection {
            GuestRejection::UserNotFound => Self::UserNotFound,
            GuestRejection::AlreadyActive => Self::AlreadyActive,
            GuestRejection::IdUsed => Self::GuestIdUsed,
        }
    }
}

impl From<RefreshError> for Error {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::InvalidGrant(reason) => Self::InvalidGrant(Some(reason)),
            RefreshError::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<VerifyError> for Error {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Invalid => Self::INVALID_ACCESS_TOKEN,
            VerifyError::Expired => Self::InvalidToken("The access token has expired: refresh it."),
            VerifyError::Revoked => Self::InvalidToken("The session has ended: log in again."),
            VerifyError::Failed(error) => Self::Failed(error),
        }
    }
}

/// The protection space (RFC 9110 §11.5) of each challenge.
const REALM: &str = r#"Bearer realm="matchbook""#;

impl Error {
    pub(super) const INVALID_ACCESS_TOKEN: Self =
        Self::InvalidToken("The access token is not valid: log in or refresh.");

    /// Returns the status, the code for programs and the message for people.
    fn parts(&self) -> (StatusCode, &'static str, &str) {
        use StatusCode as Status;
        match self {
            Self::InvalidRequest(message) | Self::InvalidBearer(message) => {
                (Status::BAD_REQUEST, "invalid_request", message)
            }
            Self::MissingToken => (
                Status::UNAUTHORIZED,
                "missing_token",
                "Send an access token: `Authorization: Bearer <token>`.",
            ),
            Self::InvalidToken(message) => (Status::UNAUTHORIZED, "invalid_token", message),
            Self::InsufficientScope => (
                Status::FORBIDDEN,
                "insufficient_scope",
                "The access token does not permit this request.",
            ),
            Self::InvalidGrant(reason) => {
                (Status::UNAUTHORIZED, "invalid_grant", invalid_grant_message(*reason))
            }
            Self::UserNotFound => {
                (Status::NOT_FOUND, "unknown_user", "No user has this id: get one from /register.")
            }
            // Code and message of the article that this API follows; its clients compare
            // the code.
            Self::AlreadyActive => (
                Status::BAD_REQUEST,
                "User already has an active token",
                "Use the /refresh endpoint with your refresh token to get a new token",
            ),
            Self::GuestIdUsed => (
                Status::BAD_REQUEST,
                "sign_in_used",
                "A guest id permits one login, and this one is used: get a new id from /register.",
            ),
            Self::SessionNotFound => (
                Status::NOT_FOUND,
                "unknown_session",
                "You have no session of this id: GET /sessions lists them.",
            ),
            Self::RateLimited(_) => (
                Status::TOO_MANY_REQUESTS,
                "too_many_requests",
                "Too many requests: wait for as long as the Retry-After header says.",
            ),
            Self::NotInGroup => (
                Status::FORBIDDEN,
                "not_in_group",
                "Your account is in none of the groups that may open this application.",
            ),
            Self::NotFound => (Status::NOT_FOUND, "not_found", "There is nothing at this path."),
            Self::MethodNotAllowed(_) => (
                Status::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This path does not allow this method: see the Allow header.",
            ),
            Self::PayloadTooLarge => {
                (Status::PAYLOAD_TOO_LARGE, "too_large", "The request body is too large.")
            }
            Self::BodyTimeout => (
                Status::REQUEST_TIMEOUT,
                "too_slow",
                "The request body did not arrive in time: send it again.",
            ),
            Self::Failed(error) => failure_parts(error.kind()),
            _ => self.account_parts(),
        }
    }

    /// Returns the code for programs.
    pub(super) fn code(&self) -> &'static str {
        self.parts().1
    }

    /// Logs a failure of the server.
    pub(super) fn log(&self) {
        match self {
            Self::Failed(error) => failures::record(error),
            Self::AccountsFailed(error) => tracing::error!(%error, "request failed"),
            _ => {}
        }
    }

    /// Returns why a token that this server issued is rejected.
    fn reason(&self) -> Option<InvalidGrantReason> {
        let Self::InvalidGrant(Some(reason)) = self else { return None };
        Some(reason.reason())
    }

    /// Returns the challenge of a `401` (RFC 6750 §3).
    fn challenge(&self) -> Option<String> {
        match self {
            Self::MissingToken | Self::InvalidGrant(_) => Some(REALM.to_owned()),
            Self::InvalidClient => Some(r#"Basic realm="matchbook", charset="UTF-8""#.to_owned()),
            Self::InvalidToken(_) | Self::InvalidBearer(_) | Self::InsufficientScope => {
                let (_, code, message) = self.parts();
                Some(format!(r#"{REALM}, error="{code}", error_description="{message}""#))
            }
            _ => None,
        }
    }

    /// Returns the headers of the response.
    fn headers(&self) -> Vec<(HeaderName, String)> {
        let challenge = self.challenge().map(|challenge| (WWW_AUTHENTICATE, challenge));
        let hint = match self {
            Self::RateLimited(wait) => Some((RETRY_AFTER, round_up_to_seconds(*wait).to_string())),
            Self::MethodNotAllowed(allowed) => Some((ALLOW, (*allowed).to_owned())),
            _ if self.parts().0 == StatusCode::SERVICE_UNAVAILABLE => {
                Some((RETRY_AFTER, "1".to_owned()))
            }
            _ => None,
        };
        challenge.into_iter().chain(hint).collect()
    }
}

pub(super) fn invalid_grant_message(reason: Option<InvalidGrant>) -> &'static str {
    match reason {
        None | Some(InvalidGrant::Unknown) => "The refresh token is not valid: log in again.",
        Some(InvalidGrant::ExpiredIdle) => {
            "The session expired because it was not used: log in again."
        }
        Some(InvalidGrant::ExpiredAbsolute) => {
            "The session has reached its maximum lifetime: log in again."
        }
        Some(InvalidGrant::Ended(_)) => "The session has ended: log in again.",
        Some(InvalidGrant::Superseded) => {
            "A newer refresh token was issued a moment ago: use that one."
        }
        Some(InvalidGrant::Reuse) => {
            "The refresh token was used before and may have been copied, so the session has ended: \
             log in again."
        }
    }
}

fn failure_parts(kind: ErrorKind) -> (StatusCode, &'static str, &'static str) {
    let message = match kind {
        ErrorKind::DatabaseUnavailable => {
            "The server cannot reach its database: try again in a moment."
        }
        ErrorKind::WrongClock => "The clock of the server is wrong: try again in a moment.",
        ErrorKind::NoKey => "The server has no key to sign with: try again in a moment.",
        ErrorKind::StaleKeys => "The server cannot read its signing keys: try again in a moment.",
        ErrorKind::Unconfirmed => {
            "The sessions have ended, but a server of this service has not confirmed yet that it \
             rejects their access tokens: try again in a moment."
        }
        ErrorKind::Internal => {
            let message = "The server failed: its log has the cause.";
            return (StatusCode::INTERNAL_SERVER_ERROR, "server_error", message);
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", message)
}

/// Rounds a duration up, so that a client that waits for it does not come too early.
pub(super) fn round_up_to_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.parts().2)
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        self.parts().0
    }

    fn error_response(&self) -> HttpResponse {
        self.log();
        let (status, code, message) = self.parts();
        let mut response = HttpResponse::build(status);
        for header in self.headers() {
            response.insert_header(header);
        }
        // The rest of the body is not read.
        if matches!(self, Self::PayloadTooLarge | Self::BodyTimeout) {
            response.force_close();
        }
        response.json(ErrorBody {
            error: code.to_owned(),
            message: message.to_owned(),
            reason: self.reason(),
        })
    }
}
