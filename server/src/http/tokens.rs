//! The article's endpoints: a guest registers, gets tokens, refreshes them.

use actix_web::HttpRequest;
use actix_web::http::header::USER_AGENT;
use actix_web::web::{Data, Form, Json, Query};
use matchbook_shared::{RefreshForm, TokenQuery, Tokens};
use tracing::Instrument;
use uuid::Uuid;

use super::timely::Timely;
use crate::clock::{self, Timestamp};
use crate::error::Error;
use crate::sessions::{self, Device, Grant, Opening, Refusal, Rotation};
use crate::state::State;
use crate::store::{self, users};
use crate::token::{Claims, Dice, RefreshToken, SessionId, UserId};

/// The client that these endpoints stand for (`client_id`, RFC 9068 §2.2).
const CLIENT: &str = "matchbook";

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
    let (session, device, dice) = (SessionId::new(now)?, device(&request), Dice::throw()?);
    let (policy, ip) = (state.policy, device.ip);
    let opening = state
        .store
        .run(move |conn| sessions::open(conn, user, session, &device, dice, now, &policy))
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
    let ip = request.peer_addr().map(|peer| tracing::field::display(peer.ip()));
    let Some(presented) = RefreshToken::parse(&text, &state.pepper)? else {
        tracing::info!(ip, "refresh refused: not a token of this server");
        return Err(Error::InvalidGrant(None));
    };
    let session = presented.session;
    let (now, dice) = (clock::now(), Dice::throw()?);
    // On a task of its own: the caller may hang up, but an end that the
    // database has must reach Redis.
    let rotation = actix_rt::spawn(rotate(state.clone(), presented, dice, now).in_current_span())
        .await
        .map_err(store::Error::Unfinished)??;
    match rotation {
        Rotation::Granted(grant) => answer(&state, grant, now).await,
        Rotation::Refused(refusal) => {
            if refusal == Refusal::Reuse {
                tracing::warn!(%session, ip, "refresh token reused: session ended");
            } else {
                tracing::info!(%session, ip, ?refusal, "refresh refused");
            }
            Err(Error::InvalidGrant(Some(refusal)))
        }
    }
}

/// Rotates in the database, and tells Redis where that ended the session.
async fn rotate(
    state: Data<State>,
    presented: RefreshToken,
    dice: Dice,
    now: Timestamp,
) -> Result<Rotation, store::Error> {
    let (session, policy) = (presented.session, state.policy);
    let rotation =
        state.store.run(move |conn| sessions::rotate(conn, &presented, dice, now, &policy)).await?;
    if matches!(rotation, Rotation::Refused(Refusal::Reuse)) {
        state.active.ended(session).await;
    }
    Ok(rotation)
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
        sid: grant.refresh.session,
    };
    let tokens = Tokens {
        token: state.keys.sign(&claims)?,
        refresh_token: grant.refresh.encode(&state.pepper)?,
        expires_in: u64::try_from(claims.exp - claims.iat).unwrap_or(0),
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
