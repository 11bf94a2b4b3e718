//! What a session lives by: a guest registers, gets tokens, refreshes them,
//! logs out.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_TYPE, USER_AGENT};
use actix_web::web::{Data, Form, Json, Query};
use actix_web::{HttpRequest, HttpResponse};
use matchbook_shared::{RefreshForm, TokenQuery, Tokens};
use tracing::Instrument;
use uuid::Uuid;

use super::bearer::Bearer;
use super::timely::Timely;
use crate::clock::{self, Timestamp};
use crate::error::Error;
use crate::sessions::{self, Device, Grant, Opening, Presentation, Refusal, Rotation, SignIn};
use crate::state::State;
use crate::store::{self, users};
use crate::token::{AttemptKey, Claims, Dice, EventId, RefreshToken, Secret, SessionId, UserId};

/// The client that these endpoints stand for (`client_id`, RFC 9068 §2.2).
const CLIENT: &str = "matchbook";

/// Names one attempt of a client, so that it can be repeated
/// (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The most of a `User-Agent` that is kept, in characters.
const LONGEST_USER_AGENT: usize = 256;

/// `GET /register`: a new guest.
pub(super) async fn register(state: Data<State>) -> Result<Json<UserId>, Error> {
    let (id, now) = (UserId::random(), clock::now());
    state.store.run(move |conn| users::insert(conn, id, now)).await?;
    Ok(Json(id))
}

/// `GET /token?userId=`: opens the one session of a guest.
pub(super) async fn token(
    state: Data<State>,
    query: Query<TokenQuery>,
    request: HttpRequest,
) -> Result<Json<Tokens>, Error> {
    let id = query.into_inner().user_id.filter(|id| !id.is_empty());
    let id = id.ok_or(Error::InvalidRequest("Send the id from /register: `?userId=…`."))?;
    let user = Uuid::try_parse(&id).map(UserId).map_err(|_| {
        Error::InvalidRequest("`userId` is not an id: send the one from /register.")
    })?;
    let now = clock::now();
    let (session, secret, device) = (SessionId::new(now)?, Secret::random()?, device(&request));
    let (ip, dice) = (device.ip, Dice::throw(now)?);
    let sign_in = SignIn { user, session, secret, device };
    let (policy, peppers) = (state.policy, state.peppers.clone());
    let opening = state
        .store
        .run(move |conn| sessions::open(conn, sign_in, &dice, &peppers, &policy, now))
        .await?;
    let ip = ip.map(tracing::field::display);
    let refused = match opening {
        Opening::Granted(grant) => {
            tracing::info!(%session, %user, ip, "session opened");
            return answer(&state, grant, now).await;
        }
        Opening::UnknownUser => Error::UnknownUser,
        Opening::AlreadyActive => Error::AlreadyActive,
        Opening::SignInUsed => Error::SignInUsed,
    };
    tracing::info!(ip, reason = ?refused, "sign-in refused");
    Err(refused)
}

/// `POST /refresh`: trades a refresh token for its successor.
pub(super) async fn refresh(
    state: Data<State>,
    Timely(form): Timely<Form<RefreshForm>>,
    request: HttpRequest,
) -> Result<Json<Tokens>, Error> {
    let text = form.into_inner().refresh_token.filter(|token| !token.is_empty());
    let text = text.ok_or(Error::InvalidRequest("Send the form field `refresh_token`."))?;
    let (attempt, device) = (attempt_key(&request)?, device(&request));
    let ip = device.ip.map(tracing::field::display);
    let Some(token) = RefreshToken::parse(&text, &state.peppers) else {
        tracing::info!(ip, "refresh refused: not a token of this server");
        return Err(Error::InvalidGrant(None));
    };
    let RefreshToken { session, generation, .. } = token;
    let (now, keyed) = (clock::now(), attempt.is_some());
    let shown = Arc::new(Presentation { token, attempt, device });
    let dice = Dice::throw(now)?;
    // On a task of its own: the caller may hang up, but an end that the
    // database has must reach Redis.
    let rotation = rotate(state.clone(), shown.clone(), dice, now).in_current_span();
    let rotation = actix_rt::spawn(rotation).await.map_err(store::Error::Unfinished)??;
    let user_agent = shown.device.user_agent.as_deref();
    match rotation {
        Rotation::Rotated(grant) => answer(&state, grant, now).await,
        Rotation::Repeated(grant) => {
            let user = grant.user;
            tracing::info!(
                %session, %user, generation, keyed, ip, user_agent, "refresh repeated"
            );
            answer(&state, grant, now).await
        }
        Rotation::Refused(refusal, user) => {
            let (reason, user) = (refusal.reason().as_str(), user.map(tracing::field::display));
            if refusal == Refusal::Reuse {
                tracing::warn!(
                    %session, user, generation, ip, user_agent,
                    "refresh token reused: session ended"
                );
            } else {
                tracing::info!(
                    %session, user, generation, ip, user_agent, reason, "refresh refused"
                );
            }
            Err(Error::InvalidGrant(Some(refusal)))
        }
    }
}

/// Rotates in the database, and tells Redis where that ended the session.
async fn rotate(
    state: Data<State>,
    shown: Arc<Presentation>,
    dice: Dice,
    now: Timestamp,
) -> Result<Rotation, store::Error> {
    let (session, keyed) = (shown.token.session, shown.attempt.is_some());
    let (policy, peppers) = (state.policy, state.peppers.clone());
    let rotation = state
        .store
        .run(move |conn| sessions::rotate(conn, &shown, &dice, &peppers, &policy, now))
        .await?;
    match rotation {
        Rotation::Rotated(_) if !keyed => state.rotations.note(session, now),
        Rotation::Refused(Refusal::Reuse, _) => state.active.ended(session).await,
        _ => {}
    }
    Ok(rotation)
}

/// The key of this attempt (`Idempotency-Key`), where the client sends one.
fn attempt_key(request: &HttpRequest) -> Result<Option<AttemptKey>, Error> {
    let mut headers = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(Error::InvalidRequest("Send one `Idempotency-Key`."));
    }
    let key = header.to_str().ok().and_then(AttemptKey::parse);
    key.map(Some).ok_or(Error::InvalidRequest(
        "`Idempotency-Key` must be 16 to 128 visible ASCII characters, new and random for each \
         refresh token.",
    ))
}

/// `POST /logout`: ends the session of an access token or of a refresh token.
/// It has ended, at every server, when the answer goes out.
pub(super) async fn logout(
    state: Data<State>,
    bearer: Result<Bearer, Error>,
    form: Result<Timely<Form<RefreshForm>>, actix_web::Error>,
    request: HttpRequest,
) -> Result<HttpResponse, actix_web::Error> {
    let session = match bearer {
        Ok(Bearer(claims)) => claims.sid,
        Err(Error::NoToken) => {
            let nothing = Error::InvalidRequest(
                "Send an access token as bearer, or the form field `refresh_token`.",
            );
            if !request.headers().contains_key(CONTENT_TYPE) {
                return Err(nothing.into());
            }
            let text = form?.0.into_inner().refresh_token.filter(|token| !token.is_empty());
            let text = text.ok_or(nothing)?;
            let token = RefreshToken::parse(&text, &state.peppers);
            token.ok_or(Error::InvalidGrant(None))?.session
        }
        Err(error) => return Err(error.into()),
    };
    end_session(state, session, device(&request)).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn end_session(state: Data<State>, session: SessionId, device: Device) -> Result<(), Error> {
    let (now, ip) = (clock::now(), device.ip.map(tracing::field::display));
    // On a task of its own, like a refresh.
    let end = log_out(state, session, device, EventId::new(now)?, now).in_current_span();
    if actix_rt::spawn(end).await.map_err(store::Error::Unfinished)?? {
        tracing::info!(%session, ip, "logged out");
    }
    Ok(())
}

/// Ends the session in the database, then tells Redis.
async fn log_out(
    state: Data<State>,
    session: SessionId,
    device: Device,
    event: EventId,
    now: Timestamp,
) -> Result<bool, store::Error> {
    let ended =
        state.store.run(move |conn| sessions::log_out(conn, session, &device, event, now)).await?;
    state.active.ended(session).await;
    Ok(ended)
}

/// Signs the access token and says both tokens.
async fn answer(state: &State, grant: Grant, now: Timestamp) -> Result<Json<Tokens>, Error> {
    let claims = Claims {
        iss: state.issuer.clone(),
        aud: state.audience.clone(),
        sub: grant.user,
        client_id: CLIENT.to_owned(),
        iat: grant.issued_at.as_secs(),
        exp: grant.access_expires_at.as_secs(),
        jti: grant.access,
        sid: grant.session,
    };
    // What is left of it, where this is the same answer again.
    let left = Timestamp::from_secs(claims.exp).since(now);
    let tokens = Tokens {
        token: state.keys.sign(&claims)?,
        refresh_token: grant.refresh_token,
        expires_in: left.as_secs() + u64::from(left.subsec_nanos() > 0),
    };
    state.active.granted(&claims, now).await;
    Ok(Json(tokens))
}

fn device(request: &HttpRequest) -> Device {
    let user_agent = request.headers().get(USER_AGENT).map(|header| {
        String::from_utf8_lossy(header.as_bytes()).chars().take(LONGEST_USER_AGENT).collect()
    });
    Device { user_agent, ip: request.peer_addr().map(|peer| peer.ip()) }
}
