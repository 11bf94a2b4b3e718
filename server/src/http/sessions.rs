//! Sessions: logout, list and revoke.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path, Query};
use matchbook_shared::{RefreshRequest, RevokeSessionsQuery, RevokedSessions, SessionInfo};
use uuid::Uuid;

use super::error::{Error, Errors, Limited, OwnSession, Parameters, RequestBody};
use super::extract::bearer::Bearer;
use super::extract::optional_form::OptionalForm;
use super::state::State;
use crate::ids::SessionId;
use crate::issuer::{Issuer, RefreshError, SessionSummary};
use crate::limits::Limit;
use crate::sessions::{ClientInfo, Keep};

/// Lists the live sessions of the user.
///
/// The last used first, at most 1000.
#[utoipa::path(
    get,
    path = "/sessions",
    tag = "Sessions",
    operation_id = "listSessions",
    responses(
        (status = 200, description = "The sessions", body = Vec<SessionInfo>),
        Errors<(Bearer,)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn list(
    state: Data<State>,
    Bearer(access): Bearer,
) -> Result<Json<Vec<SessionInfo>>, Error> {
    let sessions = state.issuer.sessions(access.user).await?;
    let info = |session: SessionSummary| SessionInfo {
        id: session.id.0,
        current: session.id == access.session,
        created_at: session.created_at.to_date_time(),
        last_used_at: session.rotated_at.unwrap_or(session.created_at).to_date_time(),
        expires_at: session.idle_expires_at.min(session.expires_at).to_date_time(),
        ip: session.ip.map(|address| address.0),
        user_agent: session.user_agent,
    };
    Ok(Json(sessions.into_iter().map(info).collect()))
}

/// Ends a session.
///
/// The session of the refresh token, or else of the access token. No server accepts its tokens after
/// the response.
#[utoipa::path(
    post,
    path = "/logout",
    tag = "Sessions",
    operation_id = "logOut",
    request_body(
        content = Option<RefreshRequest>,
        content_type = "application/x-www-form-urlencoded",
        description = "The refresh token of the session, unless the request has an access token.",
    ),
    responses(
        (status = 204, description = "The session has ended"),
        Errors<(Limited, Bearer, RequestBody, RefreshError)>,
    ),
    security((), ("bearer" = []))
)]
pub(super) async fn logout(
    state: Data<State>,
    bearer: Result<Bearer, Error>,
    form: Result<OptionalForm<RefreshRequest>, actix_web::Error>,
    client: ClientInfo,
) -> Result<HttpResponse, actix_web::Error> {
    state.check_limit(client.ip.map(Limit::Logout))?;
    let refresh_token = form.map(|OptionalForm(form)| form.and_then(|form| form.refresh_token));
    let session = session_to_end(&state.issuer, bearer, refresh_token)?;
    state.issuer.revoke(session, client).await.map_err(Error::from)?;
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the session that a logout names. A refresh token decides: an app may send
/// its access token with each request, valid or not.
fn session_to_end(
    issuer: &Issuer,
    bearer: Result<Bearer, Error>,
    refresh_token: Result<Option<String>, actix_web::Error>,
) -> Result<SessionId, actix_web::Error> {
    if let Ok(Some(text)) = &refresh_token
        && !text.is_empty()
    {
        let session = issuer.session_of(text).ok_or(Error::InvalidGrant(None))?;
        if bearer.is_ok_and(|Bearer(access)| access.session != session) {
            return Err(Error::InvalidRequest(
                "The access token and the refresh token are of two sessions: send one of them.",
            )
            .into());
        }
        return Ok(session);
    }
    match bearer {
        Ok(Bearer(access)) => Ok(access.session),
        Err(Error::MissingToken) => {
            // A form that cannot be read is the better explanation.
            refresh_token?;
            Err(Error::InvalidRequest(
                "Send an access token as bearer, or the form field `refresh_token`.",
            )
            .into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends one session of the user.
///
/// The response does not reveal whether another user has such a session.
#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    tag = "Sessions",
    operation_id = "endSession",
    params(("id" = Uuid, Path, description = "The id of the session in `GET /sessions`.")),
    responses((status = 204, description = "The session has ended"), Errors<(Bearer, OwnSession)>),
    security(("bearer" = []))
)]
pub(super) async fn revoke(
    state: Data<State>,
    Bearer(access): Bearer,
    id: Path<String>,
    client: ClientInfo,
) -> Result<HttpResponse, Error> {
    let session = Uuid::try_parse(&id).map(SessionId).map_err(|_| Error::SessionNotFound)?;
    if state.issuer.revoke_own(access.user, session, client).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(Error::SessionNotFound)
    }
}

/// Ends all sessions of the user.
///
/// With `keep=current`, all but that of the request.
#[utoipa::path(
    delete,
    path = "/sessions",
    tag = "Sessions",
    operation_id = "endSessions",
    params(RevokeSessionsQuery),
    responses(
        (status = 200, description = "The sessions have ended", body = RevokedSessions),
        Errors<(Bearer, Parameters)>,
    ),
    security(("bearer" = []))
)]
pub(super) async fn revoke_all(
    state: Data<State>,
    Bearer(access): Bearer,
    query: Query<RevokeSessionsQuery>,
    client: ClientInfo,
) -> Result<Json<RevokedSessions>, Error> {
    let keep = match query.into_inner().keep.as_deref() {
        None => Keep::Nothing,
        Some("current") => Keep::Session(access.session),
        Some(_) => return Err(Error::InvalidRequest("`keep` can only be `current`.")),
    };
    let ended = state.issuer.revoke_all(access.user, keep, client).await?;
    Ok(Json(RevokedSessions { ended }))
}
