//! How a refusal looks on the wire: the one place that knows status codes.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use matchbook_shared::{ErrorBody, Reason};

use crate::crypto::RngError;
use crate::sessions::InvalidGrant;
use crate::{keys, store};

/// Why a request is not granted. `Display` is what the client is told; what a
/// `5xx` was about goes to the log alone.
#[derive(Debug)]
pub enum Error {
    /// The request is malformed; what to send instead.
    InvalidRequest(&'static str),
    /// The bearer token was sent in a way that RFC 6750 forbids.
    InvalidBearer(&'static str),
    /// No access token was sent.
    MissingToken,
    /// The access token is not good; why.
    InvalidToken(&'static str),
    /// The refresh token is not good; why, where it was genuine.
    InvalidGrant(Option<InvalidGrant>),
    /// No user has that id.
    UserNotFound,
    /// The guest's session still lives.
    AlreadyActive,
    /// The guest's one sign-in is used up.
    GuestIdUsed,
    /// The user has no such session.
    SessionNotFound,
    /// There were too many requests; how long to wait.
    RateLimited(Duration),
    /// There is nothing at this path.
    NotFound,
    /// The path takes other methods.
    MethodNotAllowed(&'static str),
    /// The body is longer than any good request.
    PayloadTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The database failed.
    Store(store::Error),
    /// A key operation failed.
    Keys(keys::Error),
    /// This server has no key to sign with: its secret is not the database's.
    NoKey,
    /// This server could not read its keys for too long.
    StaleKeys,
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<keys::Error> for Error {
    fn from(error: keys::Error) -> Self {
        match error {
            keys::Error::NoKey => Self::NoKey,
            keys::Error::Stale => Self::StaleKeys,
            keys::Error::Store(error) => Self::Store(error),
            error => Self::Keys(error),
        }
    }
}

impl From<RngError> for Error {
    fn from(error: RngError) -> Self {
        Self::Keys(error.into())
    }
}

/// The protection space (RFC 9110 §11.5) named in every challenge.
const REALM: &str = r#"Bearer realm="matchbook""#;

impl Error {
    /// The code in the answer, for programs.
    fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::InvalidBearer(_) => "invalid_request",
            Self::MissingToken => "missing_token",
            Self::InvalidToken(_) => "invalid_token",
            Self::InvalidGrant(_) => "invalid_grant",
            Self::UserNotFound => "unknown_user",
            // The article's own words, which its clients look for.
            Self::AlreadyActive => "User already has an active token",
            Self::GuestIdUsed => "sign_in_used",
            Self::SessionNotFound => "unknown_session",
            Self::RateLimited(_) => "too_many_requests",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::PayloadTooLarge => "too_large",
            Self::BodyTimeout => "too_slow",
            Self::NoKey | Self::StaleKeys => "temporarily_unavailable",
            Self::Store(error) if error.is_transient() => "temporarily_unavailable",
            Self::Store(_) | Self::Keys(_) => "server_error",
        }
    }

    /// Why a genuine refresh token is refused, for programs.
    fn reason(&self) -> Option<Reason> {
        let Self::InvalidGrant(Some(refusal)) = self else { return None };
        Some(refusal.reason())
    }

    /// The challenge that goes with a `401` (RFC 6750 §3).
    fn challenge(&self) -> Option<String> {
        match self {
            Self::MissingToken | Self::InvalidGrant(_) => Some(REALM.to_owned()),
            Self::InvalidToken(_) | Self::InvalidBearer(_) => {
                Some(format!(r#"{REALM}, error="{}", error_description="{self}""#, self.code()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidRequest(problem)
            | Self::InvalidBearer(problem)
            | Self::InvalidToken(problem) => problem,
            Self::MissingToken => "Send an access token: `Authorization: Bearer <token>`.",
            Self::InvalidGrant(None | Some(InvalidGrant::Unknown)) => {
                "The refresh token is not valid: log in again."
            }
            Self::InvalidGrant(Some(InvalidGrant::ExpiredIdle)) => {
                "The session was not used for too long: log in again."
            }
            Self::InvalidGrant(Some(InvalidGrant::ExpiredAbsolute)) => {
                "The session has reached its longest life: log in again."
            }
            Self::InvalidGrant(Some(InvalidGrant::Ended(_))) => {
                "The session has ended: log in again."
            }
            Self::InvalidGrant(Some(InvalidGrant::Superseded)) => {
                "A newer refresh token was granted a moment ago: use that one."
            }
            Self::InvalidGrant(Some(InvalidGrant::Reuse)) => {
                "The refresh token was used before, so somebody may hold a copy of it; the session \
                 has ended: log in again."
            }
            Self::UserNotFound => "No user has this id: get one from /register.",
            Self::AlreadyActive => {
                "Use the /refresh endpoint with your refresh token to get a new token"
            }
            Self::GuestIdUsed => {
                "A guest id is good for one sign-in, and this one is used: get a new id from \
                 /register."
            }
            Self::SessionNotFound => "You have no session of this id: GET /sessions lists them.",
            Self::RateLimited(_) => {
                "There were too many requests: wait for as long as the Retry-After header says."
            }
            Self::NotFound => "There is nothing at this path.",
            Self::MethodNotAllowed(_) => {
                "This path does not take this method: see the Allow header."
            }
            Self::PayloadTooLarge => "The request is longer than any that is good.",
            Self::BodyTimeout => "The request did not arrive in time: send it again.",
            Self::StaleKeys => "The server cannot read its signing keys: try again in a moment.",
            Self::NoKey => "The server has no key to sign with: try again in a moment.",
            Self::Store(store::Error::WrongClock) => {
                "The clock of the server is wrong: try again in a moment."
            }
            Self::Store(error) if error.is_transient() => {
                "The server cannot reach its database: try again in a moment."
            }
            Self::Store(_) | Self::Keys(_) => "The server failed; its log says why.",
        })
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::InvalidRequest(_)
            | Self::InvalidBearer(_)
            | Self::AlreadyActive
            | Self::GuestIdUsed => StatusCode::BAD_REQUEST,
            Self::MissingToken | Self::InvalidToken(_) | Self::InvalidGrant(_) => {
                StatusCode::UNAUTHORIZED
            }
            Self::UserNotFound | Self::SessionNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NoKey | Self::StaleKeys => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(error) if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(_) | Self::Keys(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        match self {
            Self::Store(error) => tracing::error!(%error, "the database failed a request"),
            Self::Keys(error) => tracing::error!(%error, "a key operation failed"),
            Self::NoKey => tracing::error!("no key to sign with"),
            Self::StaleKeys => tracing::error!("signing keys too old to be used"),
            _ => {}
        }
        let mut response = HttpResponse::build(self.status_code());
        if let Some(challenge) = self.challenge() {
            response.insert_header((WWW_AUTHENTICATE, challenge));
        }
        match self {
            Self::RateLimited(wait) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                response.insert_header((RETRY_AFTER, seconds));
            }
            Self::MethodNotAllowed(allowed) => {
                response.insert_header((ALLOW, *allowed));
            }
            // What is left of the body is of no interest.
            Self::PayloadTooLarge | Self::BodyTimeout => {
                response.force_close();
            }
            _ if self.status_code() == StatusCode::SERVICE_UNAVAILABLE => {
                response.insert_header((RETRY_AFTER, "1"));
            }
            _ => {}
        }
        response.json(ErrorBody {
            error: self.code().to_owned(),
            message: self.to_string(),
            reason: self.reason(),
        })
    }
}
