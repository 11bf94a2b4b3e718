//! A document that pages of any origin may read and cache: the key set, the API description.

use std::time::Duration;

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, Header, IfNoneMatch,
};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};

/// A document, the version of its content, and how long it may be cached.
pub(super) struct PublicDocument {
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    /// With its quotes.
    pub(super) etag: String,
    pub(super) max_age: Duration,
}

impl PublicDocument {
    /// Responds with the document, or with `304` if the client has cached this version.
    pub(super) fn respond(self, request: &HttpRequest) -> HttpResponse {
        let is_cached = if_none_match(request, &self.etag);
        let mut response = if is_cached { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response
            .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
            .insert_header((CACHE_CONTROL, format!("public, max-age={}", self.max_age.as_secs())))
            .insert_header((ETAG, self.etag));
        if is_cached {
            return response.finish();
        }
        response.insert_header((CONTENT_TYPE, self.content_type)).body(self.body)
    }
}

/// Allows any origin (CORS preflight, Fetch §4.8).
pub(super) fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, "if-none-match"))
        .insert_header((ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}

/// Returns whether the client has cached the version of this tag (RFC 9110 §13.1.2).
fn if_none_match(request: &HttpRequest, etag: &str) -> bool {
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => request.headers().contains_key("if-none-match"),
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| format!("\"{}\"", tag.tag()) == etag),
        Err(_) => false,
    }
}
