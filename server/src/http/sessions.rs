//! Seeing and ending sessions: this one, another of mine, all of them.

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Data, Form, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use diesel::QueryResult;
use matchbook_shared::{RefreshRequest, RevokeSessionsQuery, RevokedSessions, SessionInfo};
use tracing::Instrument;
use uuid::Uuid;

use super::extract::bearer::Bearer;
use super::extract::body_timeout::WithTimeout;
use super::tokens::{device, limit};
use crate::clock;
use crate::http::error::Error;
use crate::http::state::State;
use crate::ids::{EventId, SessionId};
use crate::limits::Limit;
use crate::sessions::{self, EndReason};
use crate::store::revocations::{self, Revocation};
use crate::store::sessions::SessionSummary;
use crate::store::{self, Conn};
use crate::tokens::{RefreshToken, VerifiedToken};

/// `GET /sessions`: those of mine that are live, the last used first.
pub(super) async fn list(
    state: Data<State>,
    Bearer(access): Bearer,
) -> Result<Json<Vec<SessionInfo>>, Error> {
    let (user, now) = (access.user, clock::now());
    let listed = state.store.run(move |conn| store::sessions::list_live(conn, user, now)).await?;
    let info = |listed: SessionSummary| SessionInfo {
        id: listed.id.0,
        current: listed.id == access.session,
        created_at: listed.created_at.to_date_time(),
        last_used_at: listed.rotated_at.unwrap_or(listed.created_at).to_date_time(),
        expires_at: listed.idle_expires_at.min(listed.expires_at).to_date_time(),
        ip: listed.ip.map(|address| address.0),
        user_agent: listed.user_agent,
    };
    Ok(Json(listed.into_iter().map(info).collect()))
}

/// `POST /logout`: ends the session of an access token or of a refresh token.
/// It has ended, at every server, when the answer goes out.
pub(super) async fn logout(
    state: Data<State>,
    bearer: Result<Bearer, Error>,
    form: Result<WithTimeout<Form<RefreshRequest>>, actix_web::Error>,
    request: HttpRequest,
) -> Result<HttpResponse, actix_web::Error> {
    limit(&state, &request, Limit::Logout)?;
    let form = if request.headers().contains_key(CONTENT_TYPE) {
        form.map(|WithTimeout(form)| {
            form.into_inner().refresh_token.filter(|token| !token.is_empty())
        })
    } else {
        Ok(None)
    };
    // An app may send its access token with every request, good or not.
    let session = match (bearer, form) {
        (bearer, Ok(Some(text))) => {
            let token = RefreshToken::parse(&text, &state.token_keys);
            let session = token.ok_or(Error::InvalidGrant(None))?.session;
            if bearer.is_ok_and(|Bearer(access)| access.session != session) {
                return Err(Error::InvalidRequest(
                    "The access token and the refresh token are of two sessions: send one of them.",
                )
                .into());
            }
            session
        }
        (Ok(Bearer(access)), _) => access.session,
        (Err(Error::MissingToken), Ok(None)) => {
            return Err(Error::InvalidRequest(
                "Send an access token as bearer, or the form field `refresh_token`.",
            )
            .into());
        }
        (Err(Error::MissingToken), Err(error)) => return Err(error),
        (Err(error), _) => return Err(error.into()),
    };
    end_one_session(state, session, &request).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /sessions/{id}`: ends one of mine.
pub(super) async fn end_one(
    state: Data<State>,
    Bearer(access): Bearer,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    let session = Uuid::try_parse(&id).map(SessionId).map_err(|_| Error::SessionNotFound)?;
    // Somebody else's is none to be told of.
    let owner = state.store.run(move |conn| store::sessions::owner(conn, session)).await?;
    if owner != Some(access.user) {
        return Err(Error::SessionNotFound);
    }
    end_one_session(state, session, &request).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /sessions`: ends all of mine; with `?keep=current`, all but this one.
pub(super) async fn end_all(
    state: Data<State>,
    Bearer(access): Bearer,
    query: Query<RevokeSessionsQuery>,
    request: HttpRequest,
) -> Result<Json<RevokedSessions>, Error> {
    let VerifiedToken { user, session: sid, .. } = access;
    let keep = match query.into_inner().keep.as_deref() {
        None => None,
        Some("current") => Some(sid),
        Some(_) => return Err(Error::InvalidRequest("`keep` can only be `current`.")),
    };
    let (now, device, policy) = (clock::now(), device(&request), state.policy);
    let event = EventId::new(now)?;
    let ended = end(state, move |conn| {
        sessions::log_out_everywhere(conn, user, keep, &device, event, &policy, now)
    })
    .await?;
    Ok(Json(RevokedSessions { ended }))
}

async fn end_one_session(
    state: Data<State>,
    session: SessionId,
    request: &HttpRequest,
) -> Result<(), Error> {
    let (now, device, policy) = (clock::now(), device(request), state.policy);
    let event = EventId::new(now)?;
    end(state, move |conn| {
        let ended = sessions::log_out(conn, session, &device, event, &policy, now)?;
        // Told again where it had ended: whoever ended it may still be at it.
        Ok((usize::from(ended), vec![session]))
    })
    .await?;
    Ok(())
}

/// Ends sessions in the database, then tells Redis; answers how many.
async fn end(
    state: Data<State>,
    in_database: impl FnOnce(&mut Conn) -> QueryResult<(usize, Vec<SessionId>)> + Send + 'static,
) -> Result<usize, Error> {
    let end = async move {
        let in_database = |conn: &mut Conn| {
            let (ended, sessions) = in_database(conn)?;
            Ok((ended, revocations::for_sessions(conn, &sessions)?))
        };
        let (ended, ends) = state.store.write(in_database).await?;
        state.metrics.ended(EndReason::LoggedOut.as_str(), ended);
        for Revocation { session_id: session, .. } in ends.iter().filter(|_| ended > 0) {
            tracing::info!(%session, "logged out");
        }
        if !ends.is_empty() {
            state.active.ended(&ends).await;
        }
        Ok::<_, store::Error>(ended)
    };
    // On a task of its own: the caller may hang up, but an end that the
    // database has must reach Redis.
    Ok(actix_rt::spawn(end.in_current_span()).await.map_err(store::Error::TaskPanicked)??)
}
