//! Requests to the token server.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, USER_AGENT, X_FORWARDED_FOR};
use matchbook_client::{Client, Credentials, Error, Request, Response, UserAgent};
use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE, UserInfo};
use serde::de::DeserializeOwned;

use crate::error::AppError;

/// Returns the thread's client with the tokens of a browser, with its `User-Agent` and its
/// address: the server's list of sessions shows the browser, not this app.
pub(crate) fn on_behalf_of(
    client: &Client,
    credentials: &Credentials,
    request: &HttpRequest,
) -> Client {
    let mut client = client.with_credentials(credentials.clone());
    let user_agent = request.headers().get(USER_AGENT);
    let user_agent = user_agent.map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(Ok(user_agent)) = user_agent.map(|text| UserAgent::new(&text)) {
        client = client.with_user_agent(user_agent);
    }
    let addresses = request.peer_addr().map(|peer| forwarded_for(request.headers(), peer.ip()));
    match addresses.map(|addresses| client.with_forwarded_for(&addresses)) {
        Some(Ok(client)) => client,
        _ => client,
    }
}

/// Returns the `X-Forwarded-For` of a browser's request, as a proxy sends it on: what the
/// request has, and the address from which it came. The server ignores what precedes the
/// address of an untrusted peer, so a browser cannot claim another address.
fn forwarded_for(headers: &HeaderMap, peer: IpAddr) -> String {
    let received = headers.get_all(X_FORWARDED_FOR).filter_map(|line| line.to_str().ok());
    let peer = peer.to_canonical().to_string();
    let hops: Vec<&str> = received.chain([peer.as_str()]).collect();
    hops.join(", ")
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

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn the_address_of_the_peer_is_last_whatever_the_browser_claims() {
        let mut headers = HeaderMap::new();
        let addresses =
            |headers: &HeaderMap, peer: &str| forwarded_for(headers, peer.parse().unwrap());
        assert_eq!(addresses(&headers, "::ffff:192.0.2.1"), "192.0.2.1");
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("6.6.6.6, 198.51.100.7"));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(
            addresses(&headers, "2001:db8::1"),
            "6.6.6.6, 198.51.100.7, 10.0.0.1, 2001:db8::1"
        );
    }
}
