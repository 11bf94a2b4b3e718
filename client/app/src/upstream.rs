//! Requests to the token server.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, USER_AGENT};
use matchbook_client::{Client, Credentials, Error, Request, Response, UserAgent};
use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE, UserInfo};
use serde::de::DeserializeOwned;

use crate::error::AppError;

/// Returns the thread's client with the tokens of a browser, and with its `User-Agent`: the
/// server's list of sessions shows the browser, not this app.
pub(crate) fn on_behalf_of(
    client: &Client,
    credentials: &Credentials,
    headers: &HeaderMap,
) -> Client {
    let client = client.with_credentials(credentials.clone());
    let user_agent = headers.get(USER_AGENT);
    let user_agent = user_agent.map(|value| String::from_utf8_lossy(value.as_bytes()));
    match user_agent.map(|text| UserAgent::new(&text)) {
        Some(Ok(user_agent)) => client.with_user_agent(user_agent),
        _ => client,
    }
}

/// Fetches the logged-in user.
pub(crate) async fn user(client: &Client) -> Result<UserInfo, AppError> {
    fetch_json(client.get("/user")).await
}

/// Sends a request and parses the JSON body of a `200` response.
pub(crate) async fn fetch_json<T: DeserializeOwned>(request: Request) -> Result<T, AppError> {
    let mut response = request.send().await?;
    check_origin(&response)?;
    if response.status().as_u16() != StatusCode::OK.as_u16() {
        return Err(AppError::from_response(&response));
    }
    // The parser's message may quote the body.
    response.json().await.map_err(|_| {
        let problem = "the response is not from the token server".to_owned();
        Error::Transient { problem, retry_after: None }.into()
    })
}

/// Checks that the token server sent a response. A captive portal or a gateway may
/// respond in its place, which confirms nothing. Statuses that are temporary anyway are
/// left to the caller.
///
/// # Errors
/// A temporary failure if the token server did not send it.
pub(crate) fn check_origin(response: &Response) -> Result<(), AppError> {
    let status = response.status();
    let mark = response.headers().get(SERVER_MARK);
    let has_mark = mark.is_some_and(|mark| mark.as_bytes() == SERVER_MARK_VALUE.as_bytes());
    let is_temporary = status.is_server_error() || status.as_u16() == 429;
    if has_mark || is_temporary {
        return Ok(());
    }
    let status = status.as_u16();
    let problem = format!("{status} from a proxy or a gateway, not from the token server");
    Err(Error::Transient { problem, retry_after: None }.into())
}
