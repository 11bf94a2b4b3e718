//! Converts a response of the token server to JSON or to an [`Error`].
//!
//! A gateway, a proxy or the login page of a network may respond in place of the server. Such
//! a response is a transient error, whatever it says.

use std::time::Duration;

use awc::http::StatusCode;
use awc::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use matchbook_shared::{InvalidGrantReason, SERVER_MARK, SERVER_MARK_VALUE};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::rejection::Rejection;
use crate::scrub::scrub;
use crate::server::Server;
use crate::transport::{Response, is_json, redirected};

/// The error code of a refresh token that is not valid (RFC 6749 §5.2).
const INVALID_GRANT: &str = "invalid_grant";

/// The timeout for the rest of a body that is discarded.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest body that is discarded, in bytes. A longer one closes the connection.
const MAX_DRAINED: usize = 64 * 1024;

/// The body of an error response: Matchbook's own, or one of RFC 6749 §5.2.
#[derive(Deserialize)]
pub(crate) struct ErrorResponse {
    error: String,
    message: Option<String>,
    error_description: Option<String>,
    /// Why a refresh token is not valid. Only Matchbook's errors have it.
    pub(crate) reason: Option<InvalidGrantReason>,
}

impl ErrorResponse {
    /// Returns the message for a human, without `secrets`.
    pub(crate) fn message(&self, secrets: &[&str]) -> String {
        let message = self.message.as_deref().or(self.error_description.as_deref());
        scrub(message.unwrap_or(&self.error), secrets)
    }

    /// Returns whether the token server rejects the refresh token. Matchbook's errors always
    /// have a message; the error of a gateway has another code or no message.
    pub(crate) fn is_invalid_grant(&self, is_oauth: bool) -> bool {
        self.error == INVALID_GRANT && (is_oauth || self.message.is_some())
    }
}

/// Parses the JSON of a `200` response. Errors do not show `secrets`.
///
/// # Errors
/// The error that another response means.
pub(crate) async fn read_json<T: DeserializeOwned>(
    server: &Server,
    response: Response,
    secrets: &[&str],
) -> Result<T, Error> {
    if response.status() != StatusCode::OK {
        return Err(error_from(server, response, secrets).await);
    }
    parse_json(server, response).await
}

/// Parses the JSON of a successful response.
pub(crate) async fn parse_json<T: DeserializeOwned>(
    server: &Server,
    mut response: Response,
) -> Result<T, Error> {
    let status = response.status();
    if let Some(error) = compressed(&response) {
        return Err(error);
    }
    let is_from_server = is_from_token_server(server, &response);
    // The parser's error is not shown: it may quote a token.
    response.json().await.map_err(|_| {
        if is_from_server {
            Error::UnexpectedResponse("not the JSON of a token server".to_owned())
        } else {
            not_from_token_server(status, None)
        }
    })
}

/// Returns the error that a response other than a success means. It does not show `secrets`.
pub(crate) async fn error_from(server: &Server, mut response: Response, secrets: &[&str]) -> Error {
    if let Some(error) = redirected(&response) {
        return error;
    }
    let compressed = compressed(&response);
    let status = response.status();
    let retry_after = retry_after(&response);
    let is_transient = status.is_server_error()
        || matches!(status.as_u16(), 408 | 425)
        || status == StatusCode::TOO_MANY_REQUESTS;
    if !is_transient && !is_from_token_server(server, &response) {
        return compressed.unwrap_or_else(|| not_from_token_server(status, retry_after));
    }
    let description = match response.json::<ErrorResponse>().await {
        Ok(error) => format!("{} ({})", status.as_u16(), error.message(secrets)),
        Err(_) => status.as_u16().to_string(),
    };
    if is_transient {
        let problem = format!("the token server responds {description}");
        Error::Transient { problem, retry_after }
    } else {
        compressed.unwrap_or(Error::UnexpectedResponse(description))
    }
}

/// Returns the error of a rejected login or registration: the server's reason, or the error
/// that another response means. It does not show `secrets`.
pub(crate) async fn rejection_from(
    server: &Server,
    mut response: Response,
    secrets: &[&str],
) -> Error {
    let status = response.status();
    let is_decision = status.is_client_error() && !matches!(status.as_u16(), 404 | 408 | 425);
    let is_from_server = is_from_token_server(server, &response);
    if !is_decision || !is_from_server || compressed(&response).is_some() {
        return error_from(server, response, secrets).await;
    }
    let retry_after = retry_after(&response);
    match response.json::<ErrorResponse>().await {
        Ok(error) => {
            let message = error.message(secrets);
            Rejection::new(&scrub(&error.error, secrets), message, retry_after).into()
        }
        Err(_) => Error::UnexpectedResponse(status.as_u16().to_string()),
    }
}

/// Returns the error for compressed JSON. No request accepts compression, so a proxy has
/// compressed it.
pub(crate) fn compressed(response: &Response) -> Option<Error> {
    let encoding = response.headers().get(CONTENT_ENCODING)?.to_str().unwrap_or("unknown");
    (is_json(response) && !encoding.eq_ignore_ascii_case("identity")).then(|| {
        Error::Misconfigured(format!(
            "the response is compressed ({encoding}), which the request did not permit: turn \
             compression off in the proxy before the server"
        ))
    })
}

/// Returns the delay that the server requests, in seconds (RFC 9110 §10.2.3). The other form
/// of the header, a date, is ignored: the two clocks may differ.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns whether the token server itself has sent a response. Matchbook marks each
/// response. An error of an OAuth server is JSON (RFC 6749 §5.2). The body of a successful
/// revocation has no meaning (RFC 7009 §2.2), but is no HTML page.
pub(crate) fn is_from_token_server(server: &Server, response: &Response) -> bool {
    if server.as_oauth().is_some() && response.status().is_success() {
        let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_page = |value: &[u8]| value.to_ascii_lowercase().starts_with(b"text/html");
        return !content_type.is_some_and(is_page);
    }
    if server.as_oauth().is_some() {
        return is_json(response);
    }
    let mark = response.headers().get(SERVER_MARK).and_then(|mark| mark.to_str().ok());
    mark == Some(SERVER_MARK_VALUE)
}

/// Returns the error for a response of something other than the token server. It ends no
/// session.
pub(crate) fn not_from_token_server(status: StatusCode, retry_after: Option<Duration>) -> Error {
    let status = status.as_u16();
    let problem = format!("{status} from a proxy or a gateway, not from the token server");
    Error::Transient { problem, retry_after }
}

/// Discards the rest of a body, so that the connection can be used again.
pub(crate) async fn drain(response: Response) {
    let _ = response.timeout(DRAIN_TIMEOUT).body().limit(MAX_DRAINED).await;
}
