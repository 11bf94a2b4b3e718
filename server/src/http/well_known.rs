//! The public signing keys, for verifiers of access tokens.

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web};

use utoipa::ToSchema;

use super::error::{Error, Errors};
use super::public_document::{self, PublicDocument};
use super::state::State;
use crate::keys::KeySet;

/// Public keys (RFC 7517 §5).
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the schema: `jsonwebtoken` makes the JSON")]
struct JwkSet {
    /// Each key has `kid`, `kty`, `alg`, `use`, and the members of its type.
    keys: Vec<HashMap<String, String>>,
}

/// Returns the public signing keys (RFC 7517).
///
/// Pages of any origin may read them (CORS).
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    tag = "Verification",
    operation_id = "getKeys",
    params(("If-None-Match" = Option<String>, Header, description = "The `ETag` of the cached document.")),
    responses(
        (
            status = 200,
            description = "The keys",
            body = JwkSet,
            content_type = "application/jwk-set+json",
            headers(
                ("ETag" = String, description = "The version of the document."),
                ("Cache-Control" = String, description = "How long to cache the document."),
            ),
        ),
        (status = 304, description = "The cached document is current"),
        Errors<()>,
    )
)]
pub(super) async fn jwks(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    let KeySet { body, etag, max_age } = state.issuer.jwks().await?;
    let content_type = "application/jwk-set+json";
    Ok(PublicDocument { content_type, body: body.into(), etag, max_age }.respond(&request))
}

/// Permits pages of any origin to read the keys (CORS preflight).
pub(super) async fn preflight() -> HttpResponse {
    public_document::preflight()
}
