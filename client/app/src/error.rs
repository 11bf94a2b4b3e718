//! Why somebody does not get what they asked for.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, ContentType, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use matchbook_client::{Error, Response};
use openssl::error::ErrorStack;

use crate::ended::{End, SUPERSEDED};

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
    /// The cookie is one that the app does not know: it was restarted since.
    Forgotten,
    /// Logging in by GET is for this machine alone.
    LoginByGet,
    /// Too many log-ins from one address: how long to wait.
    TooManyLogins(Duration),
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
        if !matches!(
            self.status_code(),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            return None;
        }
        let wait = match self {
            Self::Client(Error::Transient { retry_after, .. }) => retry_after.unwrap_or_default(),
            Self::Refused(_, Some(seconds)) => Duration::from_secs(*seconds),
            Self::Full => Duration::from_secs(60),
            Self::TooManyLogins(wait) => *wait,
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
            Self::Client(Error::LoggedOut(reason)) => {
                write!(f, "{}: open /login to log in again.", End::Ended(*reason).capitalized())
            }
            Self::Client(Error::Transient { problem, .. }) => {
                write!(f, "Try again in a moment: {problem}.")
            }
            Self::Client(Error::SupersededByLogin) => {
                f.write_str("Another log-in has replaced the session meanwhile: try again.")
            }
            Self::Client(Error::Superseded) => write!(
                f,
                "This did not work: {SUPERSEDED}. Try again; when that fails, log in again."
            ),
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
            Self::Forgotten => f.write_str(
                "The app was restarted, or you were away for a day: open / and log in again.",
            ),
            Self::LoginByGet => f.write_str(
                "Log in on the page, or by POST: GET logs in only where the app listens on a \
                 loopback address, or with `client.demo = true`.",
            ),
            Self::TooManyLogins(_) => {
                f.write_str("Too many log-ins from this address: try again later.")
            }
            Self::NoCookie => f.write_str("Open / in a browser first: it gets a cookie there."),
            Self::NoRandomness => f.write_str("This machine has no randomness: try again."),
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Client(Error::NotLoggedIn | Error::LoggedOut(_))
            | Self::NoCookie
            | Self::Forgotten => StatusCode::UNAUTHORIZED,
            Self::LoginByGet => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyLogins(_) => StatusCode::TOO_MANY_REQUESTS,
            // The server has too much to do, or lacks a part.
            Self::Client(Error::Transient { .. } | Error::Superseded)
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
        if matches!(self, Self::LoginByGet) {
            response.insert_header((ALLOW, "POST"));
        }
        response.insert_header(ContentType::plaintext()).body(self.to_string())
    }
}
