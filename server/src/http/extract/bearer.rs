//! The bearer of an access token (RFC 6750).

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Query;
use actix_web::{FromRequest, HttpRequest, web};

use crate::http::error::Error;
use crate::http::state::State;
use crate::tokens::{TokenHolder, VerifiedToken};

/// The verified access token of a request, issued at the native endpoints. The token of an
/// OAuth client does not permit it to manage sessions and accounts.
pub(in crate::http) struct Bearer(pub(in crate::http) VerifiedToken);

/// The verified access token of a request, issued at the native endpoints or to an OAuth
/// client that acts for a user.
pub(in crate::http) struct UserBearer(pub(in crate::http) VerifiedToken);

impl FromRequest for Bearer {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let access = verify(&request).await?;
            let is_native = access.holder == TokenHolder::Native;
            is_native.then_some(Self(access)).ok_or(Error::InsufficientScope)
        })
    }
}

impl FromRequest for UserBearer {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let access = verify(&request).await?;
            let is_of_user = access.holder != TokenHolder::Machine;
            is_of_user.then_some(Self(access)).ok_or(Error::InsufficientScope)
        })
    }
}

/// Verifies a token in the form of a request, which has none in its header.
pub(in crate::http) async fn verify_form_token(
    state: &State,
    request: &HttpRequest,
    token: &str,
) -> Result<VerifiedToken, Error> {
    reject_token_in_url(request)?;
    Ok(state.issuer.verify(token).await?)
}

async fn verify(request: &HttpRequest) -> Result<VerifiedToken, Error> {
    let state = request.app_data::<web::Data<State>>().ok_or(Error::NotFound)?;
    Ok(state.issuer.verify(bearer_token(request)?).await?)
}

/// Rejects a request with a token in its URL, where logs would keep it.
fn reject_token_in_url(request: &HttpRequest) -> Result<(), Error> {
    let query = Query::<Vec<(String, String)>>::from_query(request.query_string());
    if query.is_ok_and(|query| query.iter().any(|(name, _)| name == "access_token")) {
        return Err(Error::InvalidBearer(
            "Send the access token in the Authorization header, not in the URL.",
        ));
    }
    Ok(())
}

/// Returns the one token, in the one place where it may be (RFC 6750 §2).
fn bearer_token(request: &HttpRequest) -> Result<&str, Error> {
    reject_token_in_url(request)?;
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let Some(header) = headers.next() else { return Err(Error::MissingToken) };
    if headers.next().is_some() {
        return Err(Error::InvalidBearer("Send one Authorization header."));
    }
    let Ok(header) = header.to_str() else { return Err(Error::INVALID_ACCESS_TOKEN) };
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::MissingToken);
    }
    match token.trim_matches(' ') {
        "" => Err(Error::MissingToken),
        token => Ok(token),
    }
}
