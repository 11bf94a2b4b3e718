//! The public signing keys, for verifiers of access tokens.

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, Header, IfNoneMatch,
};
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::Error;
use super::state::State;
use crate::keys::KeySet;

/// `GET /.well-known/jwks.json`: the public signing keys (RFC 7517 §5).
pub(super) async fn jwks(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    let KeySet { body, etag, max_age } = state.issuer.jwks().await?;
    let is_cached = if_none_match(&request, &etag);
    let mut response = if is_cached { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        // Public, so that an app in a browser can verify tokens.
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((CACHE_CONTROL, format!("public, max-age={}", max_age.as_secs())))
        .insert_header((ETAG, etag));
    if is_cached {
        return Ok(response.finish());
    }
    Ok(response.insert_header((CONTENT_TYPE, "application/jwk-set+json")).body(body))
}

/// `OPTIONS /.well-known/jwks.json`: allows any origin (CORS preflight, Fetch §4.8).
pub(super) async fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, "if-none-match"))
        .insert_header((ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}

/// Returns whether the client has cached the key set with this tag (RFC 9110 §13.1.2).
fn if_none_match(request: &HttpRequest, etag: &str) -> bool {
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => request.headers().contains_key("if-none-match"),
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| format!("\"{}\"", tag.tag()) == etag),
        Err(_) => false,
    }
}
