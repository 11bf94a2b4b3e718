//! The bearer of an access token (RFC 6750).

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Query;
use actix_web::{FromRequest, HttpRequest, web};

use crate::clock;
use crate::http::error::Error;
use crate::http::state::State;
use crate::keys::VerifyError;
use crate::token_status::Source;
use crate::tokens::VerifiedToken;

/// Whoever sent an access token that is genuine, unexpired and active.
pub(in crate::http) struct Bearer(pub(in crate::http) VerifiedToken);

impl FromRequest for Bearer {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let state = request.app_data::<web::Data<State>>().ok_or(Error::NotFound)?;
            let now = clock::now();
            let verified = state.keys.verify(credential(&request)?, now).await;
            let access = verified.map_err(|fault| match fault {
                VerifyError::Expired => {
                    Error::InvalidToken("The access token has expired: refresh it.")
                }
                VerifyError::Invalid => {
                    Error::InvalidToken("The access token is not valid: log in or refresh.")
                }
                VerifyError::Unavailable(error) => error.into(),
            })?;
            let checked = state.active.check(&access, now).await?;
            state.metrics.checked(match checked.source {
                Source::Cache => "hit",
                Source::Database => "miss",
                Source::DatabaseFallback => "fallback",
            });
            if !checked.active {
                return Err(Error::InvalidToken("The session has ended: log in again."));
            }
            Ok(Self(access))
        })
    }
}

/// The one token in the one place where it may be (RFC 6750 §2).
fn credential(request: &HttpRequest) -> Result<&str, Error> {
    let query = Query::<Vec<(String, String)>>::from_query(request.query_string());
    if query.is_ok_and(|query| query.iter().any(|(name, _)| name == "access_token")) {
        return Err(Error::InvalidBearer(
            "Send the access token in the Authorization header, not in the URL.",
        ));
    }
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let Some(header) = headers.next() else { return Err(Error::MissingToken) };
    if headers.next().is_some() {
        return Err(Error::InvalidBearer("Send one Authorization header."));
    }
    let malformed = Error::InvalidToken("The access token is not valid: log in or refresh.");
    let Ok(header) = header.to_str() else { return Err(malformed) };
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::MissingToken);
    }
    match token.trim_matches(' ') {
        "" => Err(Error::MissingToken),
        token => Ok(token),
    }
}
