//! `GET /.well-known/oauth-authorization-server` (RFC 8414) and
//! `GET /.well-known/openid-configuration` (`OpenID` Connect Discovery 1.0): the same document.

use std::time::Duration;

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::token::DEVICE_GRANT_TYPE;
use crate::crypto::Digest;
use crate::grants::STANDARD_SCOPES;
use crate::http::error::{Error, Errors, UnknownPath};
use crate::http::public_document::{self, PublicDocument};
use crate::http::state::State;
use crate::tokens::UserClaims;

/// How long the metadata may be cached.
const MAX_AGE: Duration = Duration::from_secs(300);

/// The claims of ID tokens that are not about the user.
const ID_TOKEN_CLAIMS: [&str; 9] =
    ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "sid"];

/// Returns the metadata of the authorization server (RFC 8414).
#[utoipa::path(
    get,
    path = "/.well-known/oauth-authorization-server",
    tag = "OAuth",
    operation_id = "getMetadata",
    params(("If-None-Match" = Option<String>, Header, description = "The cached version.")),
    responses(
        (
            status = 200,
            description = "The metadata",
            body = Object,
            headers(("ETag" = String, description = "The version of the document.")),
        ),
        (status = 304, description = "The cached document is current"),
    )
)]
pub(in crate::http) async fn metadata(state: Data<State>, request: HttpRequest) -> HttpResponse {
    document(&state).respond(&request)
}

/// Allows any origin (CORS preflight).
pub(in crate::http) async fn metadata_preflight() -> HttpResponse {
    public_document::preflight()
}

/// Returns the metadata of an issuer with a path.
///
/// The path follows the well-known part of the URL (RFC 8414 §3).
#[utoipa::path(
    get,
    path = "/.well-known/oauth-authorization-server/{path}",
    tag = "OAuth",
    operation_id = "getMetadataOfPath",
    params(
        ("path" = String, Path, description = "The path of the issuer."),
        ("If-None-Match" = Option<String>, Header, description = "The cached version."),
    ),
    responses(
        (
            status = 200,
            description = "The metadata",
            body = Object,
            headers(("ETag" = String, description = "The version of the document.")),
        ),
        (status = 304, description = "The cached document is current"),
        Errors<(UnknownPath,)>,
    )
)]
pub(in crate::http) async fn metadata_of_path(
    state: Data<State>,
    path: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    respond_at(&state, &path, &request)
}

/// Returns the metadata of the `OpenID` provider (`OpenID` Connect Discovery 1.0 §4).
///
/// The same document as at `/.well-known/oauth-authorization-server`.
#[utoipa::path(
    get,
    path = "/.well-known/openid-configuration",
    tag = "OAuth",
    operation_id = "getOpenidConfiguration",
    params(("If-None-Match" = Option<String>, Header, description = "The cached version.")),
    responses(
        (
            status = 200,
            description = "The metadata",
            body = Object,
            headers(("ETag" = String, description = "The version of the document.")),
        ),
        (status = 304, description = "The cached document is current"),
    )
)]
pub(in crate::http) async fn openid_configuration(
    state: Data<State>,
    request: HttpRequest,
) -> HttpResponse {
    document(&state).respond(&request)
}

/// Returns the metadata of an issuer with a path.
///
/// The path comes before the well-known part of the URL (`OpenID` Connect Discovery 1.0 §4.1).
#[utoipa::path(
    get,
    path = "/{path}/.well-known/openid-configuration",
    tag = "OAuth",
    operation_id = "getOpenidConfigurationOfPath",
    params(
        ("path" = String, Path, description = "The path of the issuer."),
        ("If-None-Match" = Option<String>, Header, description = "The cached version."),
    ),
    responses(
        (
            status = 200,
            description = "The metadata",
            body = Object,
            headers(("ETag" = String, description = "The version of the document.")),
        ),
        (status = 304, description = "The cached document is current"),
        Errors<(UnknownPath,)>,
    )
)]
pub(in crate::http) async fn openid_configuration_of_path(
    state: Data<State>,
    path: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    respond_at(&state, &path, &request)
}

/// Returns the metadata if the path is that of the issuer.
fn respond_at(state: &State, path: &str, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let issuer = state.issuer.name();
    let after_host = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    let issuer_path = after_host.split_once('/').map_or("", |(_, path)| path);
    if path.trim_end_matches('/') == issuer_path.trim_end_matches('/') {
        Ok(document(state).respond(request))
    } else {
        Err(Error::NotFound)
    }
}

fn document(state: &State) -> PublicDocument {
    let base = state.public_url.trim_end_matches('/');
    let url = |path: &str| format!("{base}{path}");
    let auth_methods = ["client_secret_basic", "client_secret_post"];
    let claims: Vec<&str> = ID_TOKEN_CLAIMS.into_iter().chain(UserClaims::NAMES).collect();
    let body = json!({
        "issuer": state.issuer.name(),
        "authorization_endpoint": url("/oauth/authorize"),
        "token_endpoint": url("/oauth/token"),
        "revocation_endpoint": url("/oauth/revoke"),
        "introspection_endpoint": url("/oauth/introspect"),
        "userinfo_endpoint": url("/oauth/userinfo"),
        "device_authorization_endpoint": url("/oauth/device"),
        "end_session_endpoint": url("/oauth/logout"),
        "jwks_uri": url("/.well-known/jwks.json"),
        "service_documentation": url("/docs"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "grant_types_supported":
            ["authorization_code", "refresh_token", "client_credentials", DEVICE_GRANT_TYPE],
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
        "scopes_supported": STANDARD_SCOPES,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": claims,
        "claim_types_supported": ["normal"],
        "claims_parameter_supported": false,
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", auth_methods[0], auth_methods[1]],
        "revocation_endpoint_auth_methods_supported": ["none", auth_methods[0], auth_methods[1]],
        "introspection_endpoint_auth_methods_supported": auth_methods,
        "authorization_response_iss_parameter_supported": true,
        "refresh_token_expiration_types_supported": ["authorization", "token_timeout"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
    });
    let body = Bytes::from(body.to_string());
    let digest = Digest::of(&[&body]);
    PublicDocument {
        content_type: "application/json",
        etag: format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest.as_bytes()[..16])),
        body,
        max_age: MAX_AGE,
    }
}
