//! `POST /oauth/introspect` (RFC 7662).

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use serde_json::{Map, Value, json};

use super::documented::{Introspection, IntrospectionEndpoint, OAuthErrors, PresentedTokenForm};
use super::error::failure;
use super::form::OAuthForm;
use super::{OAuthError, authenticate, credentials};
use crate::clients::Client;
use crate::http::state::State;
use crate::issuer::{ActiveRefreshToken, Introspected};

/// Returns what a token is, to a confidential client (RFC 7662).
///
/// A token of another client is inactive for it, unless it is an access token for one of its
/// audiences.
#[utoipa::path(
    post,
    path = "/oauth/introspect",
    tag = "OAuth",
    operation_id = "introspectToken",
    request_body(content = PresentedTokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "What the token is", body = Introspection),
        OAuthErrors<IntrospectionEndpoint>,
    ),
    security((), ("client" = []))
)]
pub(in crate::http) async fn introspect(
    state: Data<State>,
    request: HttpRequest,
    form: Result<OAuthForm, OAuthError>,
) -> Result<Json<Map<String, Value>>, OAuthError> {
    let OAuthForm(parameters) = form?;
    let credentials = credentials(&request, &parameters)?;
    let client = authenticate(&state, &credentials).await?;
    if client.is_public() {
        return Err(OAuthError::InvalidClient { is_basic: credentials.is_basic() });
    }
    let token = parameters.get("token").ok_or(OAuthError::InvalidRequest("token is missing."))?;
    let found = match state.issuer.introspect_refresh_token(token, &client.id).await? {
        Some(refresh) => Some(describe_refresh(refresh, state.issuer.name())),
        None => match state.issuer.introspect(token).await {
            Ok(access) => may_see(&client, &access).then(|| describe_access(access)),
            Err(error) => {
                failure(error)?;
                None
            }
        },
    };
    Ok(Json(found.unwrap_or_else(inactive)))
}

fn inactive() -> Map<String, Value> {
    Map::from_iter([("active".to_owned(), Value::Bool(false))])
}

fn may_see(client: &Client, access: &Introspected) -> bool {
    access.text("client_id") == Some(client.id.as_str())
        || client.audiences.iter().any(|audience| access.is_for(audience))
}

fn describe_access(access: Introspected) -> Map<String, Value> {
    let mut body = access.claims;
    body.insert("active".to_owned(), Value::Bool(true));
    body.insert("token_type".to_owned(), Value::from("Bearer"));
    body
}

fn describe_refresh(refresh: ActiveRefreshToken, issuer: &str) -> Map<String, Value> {
    let ActiveRefreshToken { session, user, grant, issued_at, expires_at } = refresh;
    let body = json!({
        "active": true,
        "iss": issuer,
        "sub": user,
        "client_id": grant.client.as_str(),
        "scope": grant.scope.as_str(),
        "sid": session,
        "iat": issued_at.as_secs(),
        "exp": expires_at.as_secs(),
    });
    if let Value::Object(body) = body { body } else { inactive() }
}
