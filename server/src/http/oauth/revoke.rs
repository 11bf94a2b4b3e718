//! `POST /oauth/revoke` (RFC 7009).

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::documented::{OAuthErrors, PresentedTokenForm, RevocationEndpoint};
use super::error::failure;
use super::form::OAuthForm;
use super::{OAuthError, admit, credentials};
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
    let token = parameters.get("token");
    // The hint of the request is not needed: the forms of the tokens differ.
    let refresh = token.and_then(|text| state.issuer.authenticate(text, Some(credentials.id())));
    let limit = from.ip.map(Limit::Logout);
    let client = admit(&state, &credentials, refresh.is_some(), limit).await?;
    let token = token.ok_or(OAuthError::InvalidRequest("token is missing."))?;
    let session = match refresh {
        Some(refresh) => Some(refresh.session),
        None => session_of_access(&state, token, &client.id).await?,
    };
    if let Some(session) = session {
        state.issuer.revoke(session, from).await?;
    }
    // Clients ignore the body (RFC 7009 §2.2), but some libraries reject one that is not JSON.
    Ok(HttpResponse::Ok().json(json!({})))
}

/// Returns the session of an access token of this client.
async fn session_of_access(
    state: &State,
    token: &str,
    client: &ClientId,
) -> Result<Option<SessionId>, OAuthError> {
    match state.issuer.introspect(token).await {
        Ok(access) if access.text("client_id") == Some(client.as_str()) => {
            Ok(Some(access.token.session))
        }
        Ok(_) => Ok(None),
        Err(error) => failure(error).map(|()| None),
    }
}
