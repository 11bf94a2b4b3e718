//! What a session lives by: a guest registers, gets tokens, refreshes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::USER_AGENT;
use actix_web::web::{Data, Form, Json, Query};
use futures_util::future::join;
use matchbook_shared::{GuestLoginQuery, RefreshRequest, TokenResponse};
use tracing::Instrument;
use uuid::Uuid;

use super::extract::body_timeout::WithTimeout;
use super::middleware::request_log::client_address;
use crate::clock::{self, Timestamp};
use crate::crypto::{IdempotencyKey, Secret};
use crate::http::error::Error;
use crate::http::state::State;
use crate::ids::{SessionId, UserId};
use crate::limits::Limit;
use crate::sessions::{
    self, ClientInfo, EndReason, InvalidGrant, Login, LoginOutcome, Look, PresentedToken, Refresh,
    RefreshOutcome, TokenGrant,
};
use crate::store::sessions::redate_late;
use crate::store::{self, Conn, revocations, users};
use crate::tokens::{Claims, RefreshToken, RotationRandomness};

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
    query: Query<GuestLoginQuery>,
    request: HttpRequest,
) -> Result<Json<TokenResponse>, Error> {
    limit(&state, &request, Limit::Token)?;
    let id = query.into_inner().user_id.filter(|id| !id.is_empty());
    let id = id.ok_or(Error::InvalidRequest("Send the id from /register: `?userId=…`."))?;
    let user = Uuid::try_parse(&id).map(UserId).map_err(|_| {
        Error::InvalidRequest("`userId` is not an id: send the one from /register.")
    })?;
    let now = clock::now();
    let session = SessionId::new(user, now)?;
    let secret = Secret::random()?;
    let device = device(&request);
    let (ip, randomness) = (device.ip, RotationRandomness::generate(now)?);
    let sign_in = Login { user, session, secret, device };
    let (policy, token_keys) = (state.policy, state.token_keys.clone());
    let opening = state
        .store
        .write_or_undo(
            move |conn| sessions::open(conn, sign_in, &randomness, &token_keys, &policy, now),
            move |conn, opening| match opening {
                LoginOutcome::Granted(_) => sessions::undo_log_in(conn, session, user),
                _ => Ok(()),
            },
        )
        .await?;
    let ip = ip.map(tracing::field::display);
    let refused = match opening {
        LoginOutcome::Granted(grant) => {
            tracing::info!(%session, %user, ip, "session opened");
            state.metrics.opened();
            return answer(&state, grant, now).await;
        }
        LoginOutcome::UserNotFound => Error::UserNotFound,
        LoginOutcome::AlreadyActive => Error::AlreadyActive,
        LoginOutcome::GuestIdUsed => Error::GuestIdUsed,
    };
    tracing::info!(ip, reason = ?refused, "sign-in refused");
    Err(refused)
}

/// `POST /refresh`: trades a refresh token for its successor.
pub(super) async fn refresh(
    state: Data<State>,
    WithTimeout(form): WithTimeout<Form<RefreshRequest>>,
    request: HttpRequest,
) -> Result<Json<TokenResponse>, Error> {
    limit(&state, &request, Limit::Refresh)?;
    let text = form.into_inner().refresh_token.filter(|token| !token.is_empty());
    let text = text.ok_or(Error::InvalidRequest("Send the form field `refresh_token`."))?;
    let (attempt, device) = (attempt_key(&request)?, device(&request));
    let ip = device.ip.map(tracing::field::display);
    let Some(token) = RefreshToken::parse(&text, &state.token_keys) else {
        tracing::info!(ip, "refresh refused: not a token of this server");
        state.metrics.refreshed("not_ours");
        return Err(Error::InvalidGrant(None));
    };
    let RefreshToken { session, generation, .. } = token;
    count(&state, Limit::Session(session))?;
    let (now, keyed) = (clock::now(), attempt.is_some());
    let presented = PresentedToken { token, attempt, device };
    let attempt = Refresh::new(
        presented,
        RotationRandomness::generate(now)?,
        &state.token_keys,
        &state.policy,
        now,
    )
    .until(state.store.deadline(now));
    if !keyed {
        // Before it is rotated: the caller may hang up, and the salt is to go all the same.
        state.salt_expiry.track(session, now);
    }
    let attempt = Arc::new(attempt);
    let rotation = match state.store.rotate(attempt.update.clone()).await? {
        Some(row) => attempt.rotated(row, &state.token_keys, &state.policy),
        None => match settle(&state, &attempt, Look::First).await? {
            RefreshOutcome::LooksLikeReuse => {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                settle(&state, &attempt, Look::Last).await?
            }
            rotation => rotation,
        },
    };
    let user_agent = attempt.presented().device.user_agent.as_deref();
    match rotation {
        RefreshOutcome::Rotated(grant) => {
            state.metrics.refreshed("rotated");
            answer(&state, grant, now).await
        }
        RefreshOutcome::Reissued(grant) => {
            let user = grant.user;
            state.metrics.refreshed("repeated");
            tracing::info!(
                %session, %user, generation, keyed, ip, user_agent, "refresh repeated"
            );
            answer(&state, grant, now).await
        }
        RefreshOutcome::TooLate | RefreshOutcome::LooksLikeReuse => {
            state.metrics.refreshed("too_late");
            Err(Error::Store(store::Error::TooLate))
        }
        RefreshOutcome::Rejected { refusal, user, elsewhere } => {
            let (reason, user) = (refusal.reason().as_str(), user.map(tracing::field::display));
            state.metrics.refreshed(reason);
            if refusal == InvalidGrant::Reuse {
                tracing::warn!(
                    %session, user, generation, ip, user_agent,
                    "refresh token reused: session ended"
                );
            } else if refusal == InvalidGrant::Superseded && elsewhere {
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
    attempt: &Arc<Refresh>,
    look: Look,
) -> Result<RefreshOutcome, store::Error> {
    let (state, attempt) = (state.clone(), attempt.clone());
    let settling = async move {
        let session = attempt.update.session;
        let (policy, token_keys) = (state.policy, state.token_keys.clone());
        let settle = move |conn: &mut Conn| {
            let rotation = sessions::settle(conn, &attempt, &token_keys, &policy, look)?;
            if let RefreshOutcome::Rotated(_) = rotation {
                redate_late(conn, std::iter::once(&*attempt.update));
            }
            Ok(rotation)
        };
        let rotation = state.store.write(settle).await?;
        if let RefreshOutcome::Rejected { refusal: InvalidGrant::Reuse, .. } = rotation {
            state.metrics.ended(EndReason::Reuse.as_str(), 1);
            let ends =
                state.store.run(move |conn| revocations::for_sessions(conn, &[session])).await?;
            state.active.ended(&ends).await;
        }
        Ok(rotation)
    };
    // On a task of its own: the caller may hang up, but an end that the database
    // has must reach Redis.
    actix_rt::spawn(settling.in_current_span()).await.map_err(store::Error::TaskPanicked)?
}

/// The key of this attempt (`Idempotency-Key`), where the client sends one.
fn attempt_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Error> {
    let mut headers = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(Error::InvalidRequest("Send one `Idempotency-Key`."));
    }
    let key = header.to_str().ok().and_then(IdempotencyKey::parse);
    key.map(Some).ok_or(Error::InvalidRequest(
        "`Idempotency-Key` must be 16 to 128 visible ASCII characters, new and random for each \
         refresh token.",
    ))
}

/// Signs the access token and says both tokens.
async fn answer(
    state: &State,
    grant: TokenGrant,
    now: Timestamp,
) -> Result<Json<TokenResponse>, Error> {
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
    let access = claims.verified();
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
    Ok(Json(TokenResponse {
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
        Error::RateLimited(wait)
    })
}

/// Who asks.
pub(super) fn device(request: &HttpRequest) -> ClientInfo {
    let user_agent = request.headers().get(USER_AGENT).map(|header| {
        let mut text = String::from_utf8_lossy(header.as_bytes()).into_owned();
        let mut end = text.len().min(LONGEST_USER_AGENT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    });
    ClientInfo { user_agent, ip: client_address(request) }
}
