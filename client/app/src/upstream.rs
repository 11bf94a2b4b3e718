//! Requests to the token server.

use actix_web::http::StatusCode;
use matchbook_client::{Client, Error, Request};
use matchbook_shared::UserInfo;
use serde::de::DeserializeOwned;

use crate::error::AppError;

/// Fetches the logged-in user.
pub(crate) async fn user(client: &Client) -> Result<UserInfo, AppError> {
    fetch_json(client.get("/user")).await
}

/// Sends a request and parses the JSON body of a `200` response.
pub(crate) async fn fetch_json<T: DeserializeOwned>(request: Request) -> Result<T, AppError> {
    let mut response = request.send().await?;
    if response.status().as_u16() != StatusCode::OK.as_u16() {
        return Err(AppError::from_response(&response));
    }
    // The parser's message may quote the body.
    response.json().await.map_err(|_| {
        let problem = "the response is not from the token server".to_owned();
        Error::Transient { problem, retry_after: None }.into()
    })
}
