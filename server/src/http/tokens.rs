//! What a session lives by: a guest registers, gets tokens, refreshes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::USER_AGENT;
use actix_web::web::{Data, Form, Json, Query};
use futures_util::future::join;
use matchbook_shared::{RefreshForm, TokenQuery, Tokens};
use tracing::Instrument;
use uuid::Uuid;

use super::observe::client_address;
use super::timely::Timely;
use crate::clock::{self, Timestamp};
use crate::error::Error;
use crate::limits::Limit;
use crate::sessions::{
    self, Attempt, Device, EndReason, Grant, Look, Opening, Presentation, Refusal, Rotation, SignIn,
};
use crate::state::State;
use crate::store::sessions::redate_late;
use crate::store::{self, Conn, ends, users};
use crate::token::{AttemptKey, Claims, Dice, RefreshToken, Secret, SessionId, UserId};

/// The client that these endpoints stand for (`client_id`, RFC 9068 §2.2).
const CLIENT: &str = "matchbook";

/// Names one attempt of a client, so that it can be repeated
/// (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// After how long a token that looks like reuse is looked at again: a rotation that was
/// committed late has been dated by then.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The most of a `User-Agent` that is kept, in bytes.
const LONGEST_USER_AGENT: usize = 256;

/// `GET /register`: a new guest.
pub(super) async fn register(
    state: Data<State>,
    request: HttpRequest,
) -> Result<Json<UserId>, Error> {
    limit(&state, &request, Limit::Register)?;
    count(&state, Limit::RegisterTotal)?;
    let (id, now) = (UserId::random(), clock::now());
    state.store.write(move |conn| users::insert(conn, id, now)).await?;
    Ok(Json(id))
}

/// `GET /token?userId=`: opens the one session of a guest.
pub(super) async fn token(
    state: Data<State>,
    query: Query<TokenQuery>,
    request: HttpRequest,
) -> Result<Json<Tokens>, Error> {
    limit(&state, &request, Limit::Token)?;
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
        .write_or_undo(
            move |conn| sessions::open(conn, sign_in, &dice, &peppers, &policy, now),
            move |conn, opening| match opening {
                Opening::Granted(_) => sessions::undo_open(conn, session, user),
                _ => Ok(()),
            },
        )
        .await?;
    let ip = ip.map(tracing::field::display);
    let refused = match opening {
        Opening::Granted(grant) => {
            tracing::info!(%session, %user, ip, "session opened");
            state.metrics.opened();
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
    limit(&state, &request, Limit::Refresh)?;
    let text = form.into_inner().refresh_token.filter(|token| !token.is_empty());
    let text = text.ok_or(Error::InvalidRequest("Send the form field `refresh_token`."))?;
    let (attempt, device) = (attempt_key(&request)?, device(&request));
    let ip = device.ip.map(tracing::field::display);
    let Some(token) = RefreshToken::parse(&text, &state.peppers) else {
        tracing::info!(ip, "refresh refused: not a token of this server");
        state.metrics.refreshed("not_ours");
        return Err(Error::InvalidGrant(None));
    };
    let RefreshToken { session, generation, .. } = token;
    count(&state, Limit::Session(session))?;
    let (now, keyed) = (clock::now(), attempt.is_some());
    let shown = Presentation { token, attempt, device };
    let attempt = Attempt::new(shown, Dice::throw(now)?, &state.peppers, &state.policy, now)
        .until(state.store.deadline(now));
    if !keyed {
        // Before it is rotated: the caller may hang up, and the salt is to go all the same.
        state.rotations.note(session, now);
    }
    let attempt = Arc::new(attempt);
    let rotation = match state.store.advance(attempt.advance.clone()).await? {
        Some(row) => attempt.rotated(row, &state.peppers, &state.policy),
        None => match settle(&state, &attempt, Look::First).await? {
            Rotation::LooksLikeReuse => {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                settle(&state, &attempt, Look::Last).await?
            }
            rotation => rotation,
        },
    };
    let user_agent = attempt.shown().device.user_agent.as_deref();
    match rotation {
        Rotation::Rotated(grant) => {
            state.metrics.refreshed("rotated");
            answer(&state, grant, now).await
        }
        Rotation::Repeated(grant) => {
            let user = grant.user;
            state.metrics.refreshed("repeated");
            tracing::info!(
                %session, %user, generation, keyed, ip, user_agent, "refresh repeated"
            );
            answer(&state, grant, now).await
        }
        Rotation::TooLate | Rotation::LooksLikeReuse => {
            state.metrics.refreshed("too_late");
            Err(Error::Store(store::Error::TooLate))
        }
        Rotation::Refused { refusal, user, elsewhere } => {
            let (reason, user) = (refusal.reason().as_str(), user.map(tracing::field::display));
            state.metrics.refreshed(reason);
            if refusal == Refusal::Reuse {
                tracing::warn!(
                    %session, user, generation, ip, user_agent,
                    "refresh token reused: session ended"
                );
            } else if refusal == Refusal::Superseded && elsewhere {
                tracing::warn!(
                    %session, user, generation, ip, user_agent,
                    "superseded refresh token presented from another address or device"
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

/// Looks at a session that was not advanced alone, and tells Redis where that
/// ended it.
async fn settle(
    state: &Data<State>,
    attempt: &Arc<Attempt>,
    look: Look,
) -> Result<Rotation, store::Error> {
    let (state, attempt) = (state.clone(), attempt.clone());
    let settling = async move {
        let session = attempt.advance.session;
        let (policy, peppers) = (state.policy, state.peppers.clone());
        let settle = move |conn: &mut Conn| {
            let rotation = sessions::settle(conn, &attempt, &peppers, &policy, look)?;
            if let Rotation::Rotated(_) = rotation {
                redate_late(conn, std::iter::once(&*attempt.advance));
            }
            Ok(rotation)
        };
        let rotation = state.store.write(settle).await?;
        if let Rotation::Refused { refusal: Refusal::Reuse, .. } = rotation {
            state.metrics.ended(EndReason::Reuse.as_str(), 1);
            let ends = state.store.run(move |conn| ends::of(conn, &[session])).await?;
            state.active.ended(&ends).await;
        }
        Ok(rotation)
    };
    // On a task of its own: the caller may hang up, but an end that the database
    // has must reach Redis.
    actix_rt::spawn(settling.in_current_span()).await.map_err(store::Error::Unfinished)?
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

/// Signs the access token and says both tokens.
async fn answer(state: &State, grant: Grant, now: Timestamp) -> Result<Json<Tokens>, Error> {
    let claims = Claims {
        iss: state.issuer.as_str().into(),
        aud: state.audience.as_str().into(),
        sub: grant.user,
        client_id: CLIENT.into(),
        iat: grant.issued_at.as_secs(),
        exp: grant.access_expires_at.as_secs(),
        jti: grant.access,
        sid: grant.session,
    };
    let access = claims.access();
    // What is left of it, where this is the same answer again.
    let left = access.expires_at.since(now);
    let sign = async {
        // What is for Redis leaves first.
        tokio::task::yield_now().await;
        let start = Instant::now();
        let token = state.keys.sign(&claims, now);
        state.metrics.signed(start.elapsed());
        token
    };
    // Redis notes it while the key signs.
    let ((), token) = join(state.active.granted(&access, now), sign).await;
    Ok(Json(Tokens {
        token: token?,
        refresh_token: grant.refresh_token,
        expires_in: left.as_secs() + u64::from(left.subsec_nanos() > 0),
    }))
}

/// Counts a request by the address of its client.
pub(super) fn limit(
    state: &State,
    request: &HttpRequest,
    limit: impl FnOnce(std::net::IpAddr) -> Limit,
) -> Result<(), Error> {
    client_address(request).map_or(Ok(()), |address| count(state, limit(address)))
}

fn count(state: &State, limit: Limit) -> Result<(), Error> {
    state.limits.check(limit).map_err(|wait| {
        state.metrics.limited(limit.as_str());
        tracing::debug!(?limit, "too many requests");
        Error::TooMany(wait)
    })
}

/// Who asks.
pub(super) fn device(request: &HttpRequest) -> Device {
    let user_agent = request.headers().get(USER_AGENT).map(|header| {
        let mut text = String::from_utf8_lossy(header.as_bytes()).into_owned();
        let mut end = text.len().min(LONGEST_USER_AGENT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    });
    Device { user_agent, ip: client_address(request) }
}
