//! What verifiers need to know.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpResponse, web};

use crate::state::State;

/// `GET /.well-known/jwks.json`: the public signing keys (RFC 7517 §5).
pub(super) async fn jwks(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "public, max-age=300"))
        .insert_header((CONTENT_TYPE, "application/jwk-set+json"))
        .json(state.keys.jwks())
}
