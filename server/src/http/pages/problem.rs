//! Problems of an input, for which a form is presented again.

use std::time::Duration;

use actix_web::ResponseError;
use actix_web::http::StatusCode;

use crate::http::error::{Error, round_up_to_seconds};

/// A problem that the user can correct.
pub(super) struct Problem {
    status: StatusCode,
    text: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        Self { status, text: text.to_owned() }
    }

    /// Returns the problem of an input that the user can correct; otherwise the error.
    pub(super) fn of(error: Error) -> Result<Self, Error> {
        match error {
            Error::InvalidName
            | Error::NameTaken
            | Error::UnacceptablePassword(_)
            | Error::InvalidCredentials
            | Error::InvalidCode
            | Error::UserDisabled => Ok(Self::new(error.status_code(), &error.to_string())),
            Error::RateLimited(wait) => Ok(Self::too_many_attempts(wait)),
            error => Err(error),
        }
    }

    pub(super) fn different_passwords() -> Self {
        let text = "The two passwords are different: type the same one twice.";
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// The value of the form is not the browser's.
    pub(super) fn foreign_form() -> Self {
        let text = "The form was out of date, or the browser rejects cookies: send it again.";
        Self::new(StatusCode::FORBIDDEN, text)
    }

    fn too_many_attempts(wait: Duration) -> Self {
        let seconds = round_up_to_seconds(wait);
        let text = format!("Too many attempts: wait {seconds} seconds, then try again.");
        Self { status: StatusCode::TOO_MANY_REQUESTS, text }
    }
}

/// Splits an optional problem into the status and the message of a page.
pub(super) fn parts(problem: Option<Problem>) -> (StatusCode, Option<String>) {
    problem.map_or((StatusCode::OK, None), |Problem { status, text }| (status, Some(text)))
}
