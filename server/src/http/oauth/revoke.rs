//! `POST /oauth/revoke` (RFC 7009).

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::documented::{OAuthErrors, PresentedTokenForm, RevocationEndpoint};
use super::error::failure;
use super::form::OAuthForm;
use super::{OAuthError, authenticate, credentials};
use crate::http::error::Error;
use crate::http::state::State;
use crate::ids::{ClientId, SessionId};
use crate::limits::Limit;
use crate::sessions::ClientInfo;

/// Ends the session of a token of this client (RFC 7009).
///
/// When this responds, no server accepts the tokens of the session. Any other token gets the same
/// response.
#[utoipa::path(
    post,
    path = "/oauth/revoke",
    tag = "OAuth",
    operation_id = "revokeToken",
    request_body(content = PresentedTokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (
            status = 200,
            description = "The session has ended, or the token is not valid",
            body = Object,
        ),
        OAuthErrors<RevocationEndpoint>,
    ),
    security((), ("client" = []))
)]
pub(in crate::http) async fn revoke(
    state: Data<State>,
    request: HttpRequest,
    form: Result<OAuthForm, OAuthError>,
    from: ClientInfo,
) -> Result<HttpResponse, OAuthError> {
    let OAuthForm(parameters) = form?;
    let credentials = credentials(&request, &parameters)?;
    state.check_limit(from.ip.map(Limit::Logout)).map_err(|error| match error {
        Error::RateLimited(wait) => OAuthError::RateLimited(wait),
        error => OAuthError::Form(error),
    })?;
    let client = authenticate(&state, &credentials).await?;
    let token = parameters.get("token").ok_or(OAuthError::InvalidRequest("token is missing."))?;
    if let Some(session) = session_of(&state, token, &client.id).await? {
        state.issuer.revoke(session, from).await?;
    }
    // Clients ignore the body (RFC 7009 §2.2), but some libraries reject one that is not JSON.
    Ok(HttpResponse::Ok().json(json!({})))
}

/// Returns the session of a token of this client. The hint of the request is not needed: the
/// forms of the tokens differ.
async fn session_of(
    state: &State,
    token: &str,
    client: &ClientId,
) -> Result<Option<SessionId>, OAuthError> {
    if let Some(token) = state.issuer.authenticate(token, Some(client)) {
        return Ok(Some(token.session));
    }
    match state.issuer.introspect(token).await {
        Ok(access) if access.text("client_id") == Some(client.as_str()) => {
            Ok(Some(access.token.session))
        }
        Ok(_) => Ok(None),
        Err(error) => failure(error).map(|()| None),
    }
}
