//! Errors of the plain-text endpoints, which are also part of the JSON API's errors.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, ContentType, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use matchbook_client::{Error, Rejection, Response};
use openssl::error::ErrorStack;

use crate::ended::{SUPERSEDED, SessionEnd};

/// An error with a message for the visitor.
#[derive(Debug)]
pub(crate) enum AppError {
    Client(Error),
    /// The server returned this status, even with fresh tokens.
    UpstreamStatus {
        status: u16,
        /// From the `Retry-After` header, in seconds.
        retry_after: Option<u64>,
    },
    /// Another site caused the request.
    CrossSite,
    /// The `Host` header is not in `client.hosts`.
    HostNotAllowed,
    /// The request has no cookie, and the demo guest is disabled.
    NoCookie,
    /// The cookie is unknown, for example after a day without a request.
    UnknownCookie,
    /// Login by GET is disabled on a network address.
    LoginByGet,
    /// Too many logins from one address. Holds the time to wait.
    LoginRateLimited(Duration),
    /// The limit of browsers is reached, and all are in use.
    TooManyBrowsers,
    /// The random number generator failed.
    Rng,
}

impl AppError {
    /// Creates the error for a response with an unexpected status.
    pub(crate) fn from_response(response: &Response) -> Self {
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Self::UpstreamStatus { status: response.status().as_u16(), retry_after }
    }

    /// Returns the `Retry-After` value in seconds, for errors that may pass.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        if !matches!(
            self.status_code(),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            return None;
        }
        let wait = match self {
            Self::Client(
                Error::Transient { retry_after, .. }
                | Error::Rejected(Rejection::TooManyAttempts { retry_after }),
            ) => retry_after.unwrap_or_default(),
            Self::UpstreamStatus { retry_after: Some(seconds), .. } => {
                Duration::from_secs(*seconds)
            }
            Self::TooManyBrowsers => Duration::from_secs(60),
            Self::LoginRateLimited(wait) => *wait,
            _ => Duration::ZERO,
        };
        Some(wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1))
    }
}

/// Returns why a login or a registration was rejected, and what to do.
fn rejection_message(rejection: &Rejection) -> String {
    match rejection {
        Rejection::InvalidCredentials => "The name or the password is wrong.".to_owned(),
        Rejection::SecondFactorRequired => {
            "Enter the code of your authenticator app, or a recovery code.".to_owned()
        }
        Rejection::UserDisabled => {
            "This account is disabled: ask the operator of the server.".to_owned()
        }
        Rejection::TooManyAttempts { retry_after } => {
            let wait = retry_after.map_or(60, |wait| wait.as_secs().max(1));
            format!("Too many attempts: try again in {wait} s.")
        }
        Rejection::RegistrationClosed => {
            "This server does not accept registrations: ask its operator for an invitation."
                .to_owned()
        }
        Rejection::NameTaken => "This name is taken: choose another one, or log in.".to_owned(),
        Rejection::AlreadyRegistered => {
            "You are logged in with an account: log out first to register another one.".to_owned()
        }
        // The server's message says what to do.
        other => other.to_string(),
    }
}

fn rejection_status(rejection: &Rejection) -> StatusCode {
    match rejection {
        Rejection::InvalidCredentials | Rejection::SecondFactorRequired => StatusCode::UNAUTHORIZED,
        Rejection::UserDisabled | Rejection::RegistrationClosed => StatusCode::FORBIDDEN,
        Rejection::TooManyAttempts { .. } => StatusCode::TOO_MANY_REQUESTS,
        Rejection::NameTaken | Rejection::AlreadyRegistered => StatusCode::CONFLICT,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl From<Error> for AppError {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<ErrorStack> for AppError {
    fn from(_: ErrorStack) -> Self {
        Self::Rng
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(Error::NotLoggedIn) => f.write_str("Not logged in: open /login first."),
            Self::Client(Error::LoggedOut(reason)) => {
                let message = SessionEnd::Ended(*reason).capitalized();
                write!(f, "{message}: open /login to log in again.")
            }
            Self::Client(Error::Transient { problem, .. }) => {
                write!(f, "Temporary failure: {problem}. Try again in a moment.")
            }
            Self::Client(Error::SupersededByLogin) => {
                f.write_str("Another login has replaced the session: try again.")
            }
            Self::Client(Error::Superseded) => {
                write!(f, "Request failed: {SUPERSEDED}. Try again; if that fails, log in again.")
            }
            Self::Client(Error::Rejected(rejection)) => f.write_str(&rejection_message(rejection)),
            Self::Client(error) => write!(f, "Request failed: {error}."),
            Self::UpstreamStatus { status, .. } => {
                write!(f, "Request failed: the server returned status {status}.")
            }
            Self::CrossSite => f.write_str("Cross-site request rejected."),
            Self::HostNotAllowed => {
                f.write_str("This host name is not allowed: add it to the setting `client.hosts`.")
            }
            Self::TooManyBrowsers => {
                f.write_str("Too many browsers use this app: try again later.")
            }
            Self::UnknownCookie => f.write_str(
                "The app does not know this browser, as after a day without a request: open / and \
                 log in again.",
            ),
            Self::LoginByGet => f.write_str(
                "Log in on the page, or by POST: login by GET needs a loopback address, or \
                 `client.demo = true`.",
            ),
            Self::LoginRateLimited(_) => {
                f.write_str("Too many logins from this address: try again later.")
            }
            Self::NoCookie => f.write_str("No cookie: open / in a browser first."),
            Self::Rng => f.write_str("The random number generator failed: try again."),
        }
    }
}

impl ResponseError for AppError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Client(Error::NotLoggedIn | Error::LoggedOut(_))
            | Self::NoCookie
            | Self::UnknownCookie => StatusCode::UNAUTHORIZED,
            Self::Client(Error::Rejected(rejection)) => rejection_status(rejection),
            Self::LoginByGet => StatusCode::METHOD_NOT_ALLOWED,
            Self::LoginRateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            // The server is overloaded, or a dependency of it is unavailable.
            Self::Client(Error::Transient { .. } | Error::Superseded)
            | Self::UpstreamStatus { status: 429 | 503 | 504, .. }
            | Self::TooManyBrowsers => StatusCode::SERVICE_UNAVAILABLE,
            Self::Client(_) | Self::UpstreamStatus { .. } => StatusCode::BAD_GATEWAY,
            Self::HostNotAllowed => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::Rng => StatusCode::INTERNAL_SERVER_ERROR,
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
