//! Requests to the token server and how their responses are read.

use actix_web::http::StatusCode;
use matchbook_client::Client;
use matchbook_shared::UserInfo;

use crate::error::Failure;

/// Asks the server which user is logged in.
pub(crate) async fn user(session: &Client) -> Result<UserInfo, Failure> {
    read(session.get("/user")).await
}

/// Sends a request and parses the JSON body of a successful response.
pub(crate) async fn read<T: serde::de::DeserializeOwned>(
    request: matchbook_client::Request,
) -> Result<T, Failure> {
    let mut response = request.send().await?;
    if response.status().as_u16() != StatusCode::OK.as_u16() {
        return Err(Failure::of(&response));
    }
    // The parser's own words may quote what it read.
    let problem = || "this is not the server's answer".to_owned();
    let read = response.json().await;
    read.map_err(|_| {
        matchbook_client::Error::Transient { problem: problem(), retry_after: None }.into()
    })
}
