//! What verifiers need to know.

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, Header, IfNoneMatch,
};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::http::error::Error;
use crate::http::state::State;
use crate::keys::KeySet;

/// `GET /.well-known/jwks.json`: the public signing keys (RFC 7517 §5).
pub(super) async fn jwks(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    let KeySet { body, etag, max_age } = state.keys.published().await?;
    let mut response =
        if has(&request, &etag) { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        // Public, and the same for everybody: an app in a browser may verify tokens.
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((CACHE_CONTROL, format!("public, max-age={}", max_age.as_secs())))
        .insert_header((ETAG, etag.clone()));
    if has(&request, &etag) {
        return Ok(response.finish());
    }
    Ok(response.insert_header((CONTENT_TYPE, "application/jwk-set+json")).body(body))
}

/// `OPTIONS /.well-known/jwks.json`: any page may read it (CORS preflight, Fetch §4.8).
pub(super) async fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, "if-none-match"))
        .insert_header((ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}

/// Whether the client has what the tag stands for (RFC 9110 §13.1.2).
fn has(request: &HttpRequest, etag: &str) -> bool {
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => request.headers().contains_key("if-none-match"),
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| format!("\"{}\"", tag.tag()) == etag),
        Err(_) => false,
    }
}
