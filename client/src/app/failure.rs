//! Why somebody does not get what they asked for.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use matchbook_client::{Error, Response};
use openssl::error::ErrorStack;

/// What the person is told who asked.
#[derive(Debug)]
pub(crate) enum Failure {
    Client(Error),
    /// The server answered this, also to fresh tokens; and how many seconds it
    /// asks to wait.
    Refused(u16, Option<u64>),
    /// Another site made the browser ask.
    AnotherSite,
    /// It was asked under a name that is not the app's.
    AnotherHost,
    /// There is no cookie of the app's, and without one nobody is anybody.
    NoCookie,
    /// As many browsers are known as may be, and all are in use.
    Full,
    /// The machine has no randomness.
    NoRandomness,
}

impl Failure {
    /// What an answer means that is not the one hoped for.
    pub(crate) fn of(response: &Response) -> Self {
        let retry_after = response.headers().get("retry-after");
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Refused(response.status().as_u16(), seconds)
    }

    /// How long to wait in seconds, for what may work later.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        if self.status_code() != StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let wait = match self {
            Self::Client(Error::Transient { retry_after, .. }) => retry_after.unwrap_or_default(),
            Self::Refused(_, Some(seconds)) => Duration::from_secs(*seconds),
            Self::Full => Duration::from_secs(60),
            _ => Duration::ZERO,
        };
        Some(wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<ErrorStack> for Failure {
    fn from(_: ErrorStack) -> Self {
        Self::NoRandomness
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(Error::NotLoggedIn) => f.write_str("Not logged in: open /login first."),
            Self::Client(Error::LoggedOut(_)) => {
                f.write_str("The session has ended: open /login to log in again.")
            }
            Self::Client(Error::Transient { problem, .. }) => {
                write!(f, "Try again in a moment: {problem}.")
            }
            Self::Client(error) => write!(f, "This did not work: {error}."),
            Self::Refused(status, _) => {
                write!(f, "This did not work: the server answers {status}.")
            }
            Self::AnotherSite => f.write_str("Another site asked for this: it is refused."),
            Self::AnotherHost => f.write_str(
                "This app does not answer under this name: the setting `client.hosts` lists those \
                 that it does.",
            ),
            Self::Full => f.write_str("Too many browsers use this app: try again later."),
            Self::NoCookie => f.write_str("Open / in a browser first: it gets a cookie there."),
            Self::NoRandomness => f.write_str("This machine has no randomness: try again."),
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Client(Error::NotLoggedIn | Error::LoggedOut(_)) | Self::NoCookie => {
                StatusCode::UNAUTHORIZED
            }
            // The server has too much to do, or lacks a part.
            Self::Client(Error::Transient { .. })
            | Self::Refused(429 | 503 | 504, _)
            | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::Client(_) | Self::Refused(..) => StatusCode::BAD_GATEWAY,
            Self::AnotherHost => StatusCode::MISDIRECTED_REQUEST,
            Self::AnotherSite => StatusCode::FORBIDDEN,
            Self::NoRandomness => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = self.retry_after() {
            response.insert_header((RETRY_AFTER, seconds));
        }
        response.insert_header(ContentType::plaintext()).body(self.to_string())
    }
}
