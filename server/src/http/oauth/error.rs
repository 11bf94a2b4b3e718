//! The errors of the OAuth endpoints (RFC 6749 §5.2).
//!
//! Clients drop their tokens at `invalid_grant`, and some at any error that is not JSON. A
//! passing fault is therefore always `503` with `temporarily_unavailable` and `Retry-After`.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use matchbook_shared::InvalidGrantReason;
use serde::Serialize;

use crate::grants::{CodeError, DeviceError, TokenError};
use crate::http::error::{Error, invalid_grant_message, round_up_to_seconds};
use crate::http::failures;
use crate::issuer::{self, VerifyError};
use crate::sessions::InvalidGrant;

/// Why a request of a client is rejected. `Display` is the description for its developer.
#[derive(Debug)]
pub(in crate::http) enum OAuthError {
    InvalidRequest(&'static str),
    /// Unknown client, wrong secret or none.
    InvalidClient {
        is_basic: bool,
    },
    /// The code or the refresh token is not valid. `None`: this server did not issue it, or
    /// not to this client.
    InvalidGrant(Option<InvalidGrant>),
    InvalidCode(CodeError),
    /// A device gets no tokens (RFC 8628 §3.5).
    Device(DeviceError),
    UnauthorizedClient(&'static str),
    UnsupportedGrantType,
    InvalidScope,
    InvalidTarget,
    /// A valid token, but too many requests: how long to wait.
    Busy(Duration),
    /// Too many requests without anything valid: how long to wait.
    RateLimited(Duration),
    /// An error of the request's form.
    Form(Error),
    Failed(issuer::Error),
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<InvalidGrantReason>,
}

impl From<issuer::Error> for OAuthError {
    fn from(error: issuer::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<TokenError> for OAuthError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::InvalidGrant(reason) => Self::InvalidGrant(Some(reason)),
            TokenError::Code(CodeError::NoRedirectUri) => {
                Self::InvalidRequest("Send the redirect_uri of the authorization request.")
            }
            TokenError::Code(problem) => Self::InvalidCode(problem),
            TokenError::Device(problem) => Self::Device(problem),
            TokenError::NotPermitted => {
                Self::UnauthorizedClient("The client may not use this grant type.")
            }
            TokenError::InvalidScope => Self::InvalidScope,
            TokenError::InvalidTarget => Self::InvalidTarget,
            TokenError::Failed(error) => Self::Failed(error),
        }
    }
}

impl OAuthError {
    pub(super) fn parts(&self) -> (StatusCode, &'static str, String) {
        let bad_request = |code, text: &str| (StatusCode::BAD_REQUEST, code, text.to_owned());
        match self {
            Self::InvalidRequest(text) => bad_request("invalid_request", text),
            Self::InvalidClient { is_basic } => {
                let status =
                    if *is_basic { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
                (status, "invalid_client", "Unknown client, or wrong or missing secret.".to_owned())
            }
            Self::InvalidGrant(reason) => {
                bad_request("invalid_grant", invalid_grant_message(*reason))
            }
            Self::InvalidCode(problem) => bad_request("invalid_grant", code_message(*problem)),
            Self::Device(problem) => {
                let (code, message) = device_error(*problem);
                bad_request(code, message)
            }
            Self::UnauthorizedClient(text) => bad_request("unauthorized_client", text),
            Self::UnsupportedGrantType => bad_request(
                "unsupported_grant_type",
                "grant_type must be authorization_code, refresh_token, client_credentials or \
                 urn:ietf:params:oauth:grant-type:device_code.",
            ),
            Self::InvalidScope => {
                bad_request("invalid_scope", "The scope is malformed or exceeds the granted one.")
            }
            Self::InvalidTarget => bad_request(
                "invalid_target",
                "The resource is malformed or exceeds the granted ones.",
            ),
            Self::Busy(_) | Self::Failed(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "The server is unavailable: try again after the time in Retry-After.".to_owned(),
            ),
            Self::RateLimited(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "Too many requests: wait for as long as the Retry-After header says.".to_owned(),
            ),
            Self::Form(error) => (error.status_code(), error.code(), error.to_string()),
        }
    }
}

fn code_message(problem: CodeError) -> &'static str {
    match problem {
        CodeError::Unrecognized => "The code is not one that was issued to this client.",
        CodeError::RedirectUri | CodeError::NoRedirectUri => {
            "redirect_uri is not that of the authorization request."
        }
        CodeError::Verifier => "code_verifier is missing or wrong: the code is spent.",
        CodeError::Expired => "The code has expired: start a new authorization request.",
    }
}

/// Returns the error and its description (RFC 8628 §3.5).
fn device_error(problem: DeviceError) -> (&'static str, &'static str) {
    match problem {
        DeviceError::Unrecognized => {
            ("invalid_grant", "The device code is not one that was issued to this client.")
        }
        DeviceError::Pending => {
            ("authorization_pending", "The user has not decided: poll again after the interval.")
        }
        DeviceError::SlowDown => {
            ("slow_down", "The user has not decided: make the interval 5 seconds longer.")
        }
        DeviceError::Denied => ("access_denied", "The user denied the request."),
        DeviceError::Expired => {
            ("expired_token", "The device code has expired: request a new one.")
        }
    }
}

/// Returns the failure of the server behind a rejected access token, if it is one.
pub(super) fn failure(error: VerifyError) -> Result<(), OAuthError> {
    match error {
        VerifyError::Failed(error) => Err(OAuthError::Failed(error)),
        VerifyError::Invalid | VerifyError::Expired | VerifyError::Revoked => Ok(()),
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().2)
    }
}

impl ResponseError for OAuthError {
    fn status_code(&self) -> StatusCode {
        self.parts().0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, code, description) = self.parts();
        let mut response = HttpResponse::build(status);
        let mut reason = None;
        match self {
            Self::Failed(error) => {
                failures::record(error);
                response.insert_header((RETRY_AFTER, "1"));
            }
            Self::Busy(wait) | Self::RateLimited(wait) => {
                response.insert_header((RETRY_AFTER, round_up_to_seconds(*wait)));
            }
            Self::InvalidClient { is_basic: true } => {
                response.insert_header((WWW_AUTHENTICATE, r#"Basic realm="matchbook""#));
            }
            Self::InvalidGrant(Some(invalid)) => reason = Some(invalid.reason()),
            Self::Form(Error::PayloadTooLarge | Error::BodyTimeout) => {
                response.force_close();
            }
            _ => {}
        }
        response.json(Body { error: code, error_description: &description, reason })
    }
}
