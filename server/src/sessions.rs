//! The rules of sessions: open, update, end, sweep.
//!
//! No HTTP, no async, no clock in here: time and randomness are arguments. A
//! refusal is a value, since what it has to write must be committed.
//!
//! A rotated token presented again gets the same successor again, for as long as
//! the [`Reuse`] rules say, and nobody but who shows it can compute that
//! successor. Any other use of a rotated token means that it was copied.

mod many;

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use diesel::{Connection, QueryResult};
use matchbook_shared::Reason;

pub use many::end_selected;

use crate::clock::Timestamp;
use crate::crypto::{IdempotencyKey, Salt, Secret, TokenKeys};
use crate::ids::{AccessTokenId, EventId, SessionId, UserId};
use crate::store::events::{self, Event};
use crate::store::revocations::{self, Revocation};
use crate::store::sessions::{
    NewSession, Rotated, RotationUpdate, SessionRow, SweepAction, SweepCandidate, SweepReport,
};
use crate::store::{self, Conn, users};
use crate::tokens::{RefreshToken, RotationRandomness};

/// How long things live, and what a rotated token is still good for.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// An access token, from its issue.
    pub access_lifetime: Duration,
    /// A session that is not refreshed.
    pub idle_lifetime: Duration,
    /// A session, however often it is refreshed.
    pub absolute_lifetime: Duration,
    /// The row of a session that is over.
    pub retention: Duration,
    /// When the same answer can be had again; `None`: never.
    pub reuse: Option<Reuse>,
    /// Whether a genuine token that is ahead of the database is taken as the
    /// live one: the database has lost its last commits.
    pub accept_ahead_of_database: bool,
}

/// When a rotated token gets the same answer again.
#[derive(Debug, Clone, Copy)]
pub struct Reuse {
    /// How long whoever shows it gets it, from its first use on.
    pub grace_period: Duration,
    /// How long the attempt key that rotated it gets it.
    pub recovery_window: Duration,
    /// Whether a token that was rotated with an idempotency key is reissued to
    /// that key alone, and a session that was ever rotated with a key is never
    /// rotated without one again.
    pub same_key_only: bool,
}

impl Policy {
    /// How long a successor may be asked for again.
    fn salt_lifetime(&self, keyed: bool) -> Duration {
        match self.reuse {
            None => Duration::ZERO,
            Some(reuse) if keyed => reuse.recovery_window.max(reuse.grace_period),
            Some(reuse) => reuse.grace_period,
        }
    }

    /// Whether a session that was ever rotated with a key needs one again.
    fn same_key_only(&self) -> bool {
        self.reuse.is_some_and(|reuse| reuse.same_key_only)
    }
}

/// Who asks.
pub struct ClientInfo {
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The client's address.
    pub ip: Option<IpAddr>,
}

/// What a client may have: a refresh token and the particulars of an access
/// token, not signed yet.
pub struct TokenGrant {
    /// Whose session it is.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// The live refresh token, as it travels.
    pub refresh_token: String,
    /// The id of the access token.
    pub access: AccessTokenId,
    /// When the access token was issued: a whole second, as JWTs count.
    pub issued_at: Timestamp,
    /// When the access token ends, no later than its session.
    pub access_expires_at: Timestamp,
}

/// What became of a sign-in.
pub enum LoginOutcome {
    /// A session was opened.
    Granted(TokenGrant),
    /// Nobody has that id.
    UserNotFound,
    /// The guest's session still lives: it has to be refreshed instead.
    AlreadyActive,
    /// The guest's one sign-in was used, and its session is over.
    GuestIdUsed,
}

/// A genuine refresh token, and how it is presented.
pub struct PresentedToken {
    /// The token.
    pub token: RefreshToken,
    /// The client's key for this attempt.
    pub attempt: Option<IdempotencyKey>,
    /// Who shows it.
    pub device: ClientInfo,
}

/// What became of a refresh.
pub enum RefreshOutcome {
    /// The session has a new live token.
    Rotated(TokenGrant),
    /// The same answer as before: the live token is the one of that answer.
    Reissued(TokenGrant),
    /// The token is not good.
    Rejected {
        /// Why.
        refusal: InvalidGrant,
        /// Whose session it is, where there is one.
        user: Option<UserId>,
        /// Whether the last rotation came from another address or device.
        elsewhere: bool,
    },
    /// The deadline passed before the session could be rotated. Nothing changed.
    TooLate,
    /// It looks like reuse, by the date of the rotation alone. Nothing changed: a
    /// rotation that was committed late is dated a moment later.
    LooksLikeReuse,
}

/// Why a genuine refresh token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidGrant {
    /// There is no such session, or it was never at that generation.
    Unknown,
    /// It was not refreshed for too long.
    ExpiredIdle,
    /// It reached the end that no refresh extends.
    ExpiredAbsolute,
    /// The session had ended before.
    Ended(EndReason),
    /// A newer token has been granted a moment ago. The session goes on.
    Superseded,
    /// The token had been rotated: it was copied. The session ends with this.
    Reuse,
}

impl InvalidGrant {
    /// As a client is told.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Unknown => Reason::Unknown,
            Self::ExpiredIdle => Reason::ExpiredIdle,
            Self::ExpiredAbsolute => Reason::ExpiredAbsolute,
            Self::Superseded => Reason::Superseded,
            Self::Reuse | Self::Ended(EndReason::Reuse) => Reason::Reuse,
            Self::Ended(EndReason::LoggedOut) => Reason::LoggedOut,
            Self::Ended(EndReason::Other) => Reason::Other,
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// A copied refresh token was found out.
    Reuse,
    /// Its user ended it.
    LoggedOut,
    /// Another version of the server knows.
    Other,
}

impl EndReason {
    /// As the database spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reuse => "reuse",
            Self::LoggedOut => "logged_out",
            Self::Other => "other",
        }
    }

    fn parse(text: &str) -> Self {
        [Self::Reuse, Self::LoggedOut]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .unwrap_or(Self::Other)
    }
}

/// What the security log calls what happened.
#[derive(Debug, Clone, Copy)]
enum EventKind {
    SignedIn,
    RefreshRefused,
    ReuseDetected,
    LoggedOut,
    /// An old token came from another address or device than the last rotation.
    SupersededElsewhere,
    /// The successor was reissued to another address than the rotation's.
    ReissuedElsewhere,
    /// The successor was reissued by its idempotency key after the grace period.
    Recovered,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::SignedIn => "signed_in",
            Self::RefreshRefused => "refresh_refused",
            Self::ReuseDetected => "reuse_detected",
            Self::LoggedOut => "logged_out",
            Self::SupersededElsewhere => "superseded_elsewhere",
            Self::ReissuedElsewhere => "reissued_elsewhere",
            Self::Recovered => "refresh_recovered",
        }
    }
}

/// A sign-in to be.
pub struct Login {
    /// The guest.
    pub user: UserId,
    /// The id of the session.
    pub session: SessionId,
    /// The first secret.
    pub secret: Secret,
    /// Who signs in.
    pub device: ClientInfo,
}

/// Opens the one session of a guest.
///
/// # Errors
/// When a statement fails.
pub fn open(
    conn: &mut Conn,
    sign_in: Login,
    randomness: &RotationRandomness,
    token_keys: &TokenKeys,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<LoginOutcome> {
    let Login { user, session, secret, device } = sign_in;
    conn.transaction(|conn| {
        // The write comes first: of several at once, one gets past it.
        if !users::use_login(conn, user, now)? {
            return Ok(match users::is_there(conn, user)? {
                false => LoginOutcome::UserNotFound,
                true if store::sessions::has_live(conn, user, now)? => LoginOutcome::AlreadyActive,
                true => LoginOutcome::GuestIdUsed,
            });
        }
        let expires_at = now.after(policy.absolute_lifetime);
        let idle_expires_at = now.after(policy.idle_lifetime);
        store::sessions::insert(
            conn,
            &NewSession {
                id: session,
                user,
                secret: secret.digest(),
                access: randomness.access,
                access_expires_at: now.after(policy.access_lifetime),
                now,
                idle_expires_at,
                expires_at,
                user_agent: device.user_agent.as_deref(),
                ip: device.ip,
            },
        )?;
        let subject = Subject { session, user: Some(user), generation: None };
        record(conn, EventKind::SignedIn, None, &subject, &device, randomness.event, now)?;
        let refresh = RefreshToken { session, generation: 0, secret }.encode(&token_keys.current);
        Ok(LoginOutcome::Granted(grant(
            user,
            session,
            refresh,
            randomness.access,
            now,
            expires_at,
            policy,
        )))
    })
}

/// Takes back a sign-in whose response nobody waits for any more: the guest may
/// sign in again.
///
/// # Errors
/// When a statement fails.
pub fn undo_log_in(conn: &mut Conn, session: SessionId, user: UserId) -> QueryResult<()> {
    conn.transaction(|conn| {
        if store::sessions::delete_unused(conn, session)? {
            users::release_login(conn, user)?;
        }
        Ok(())
    })
}

/// A refresh token that is presented, and what it is to be traded for.
pub struct Refresh {
    presented: PresentedToken,
    successor: RefreshToken,
    event: EventId,
    /// What the database is asked for first, beside what others ask for.
    pub update: Arc<RotationUpdate>,
}

impl Refresh {
    /// Derives the successor of the token that is presented.
    #[must_use]
    pub fn new(
        presented: PresentedToken,
        randomness: RotationRandomness,
        token_keys: &TokenKeys,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let token = &presented.token;
        let RotationRandomness { salt, access, event } = randomness;
        let successor = RefreshToken {
            session: token.session,
            generation: token.generation.saturating_add(1),
            secret: token.secret.successor(&salt, &token_keys.current),
        };
        let key = policy.reuse.and(presented.attempt.as_ref());
        let update = Arc::new(RotationUpdate {
            session: token.session,
            generation: token.generation,
            presented: token.secret.digest(),
            successor: successor.secret.digest(),
            salt: policy.reuse.map(|_| salt),
            attempt: key.map(|key| token.secret.idempotency_key_digest(key)),
            key_required: policy.same_key_only() && key.is_none(),
            access,
            access_expires_at: now.after(policy.access_lifetime),
            now,
            grace_from: now.before(policy.reuse.map_or(Duration::ZERO, |reuse| reuse.grace_period)),
            deadline: Timestamp::MAX,
            idle_expires_at: now.after(policy.idle_lifetime),
            user_agent: presented.device.user_agent.clone(),
            ip: presented.device.ip,
        });
        Self { presented, successor, event, update }
    }

    /// Has the session not be rotated after `deadline`, when nobody waits for the
    /// outcome any more.
    #[must_use]
    pub fn until(mut self, deadline: Timestamp) -> Self {
        if let Some(update) = Arc::get_mut(&mut self.update) {
            update.deadline = deadline;
        }
        self
    }

    /// What is presented, and by whom.
    #[must_use]
    pub fn presented(&self) -> &PresentedToken {
        &self.presented
    }

    /// What its client may have, now that the session is advanced.
    #[must_use]
    pub fn rotated(
        &self,
        (user, expires_at): Rotated,
        token_keys: &TokenKeys,
        policy: &Policy,
    ) -> RefreshOutcome {
        let RotationUpdate { session, access, now, .. } = *self.update;
        let refresh = self.successor.encode(&token_keys.current);
        RefreshOutcome::Rotated(grant(user, session, refresh, access, now, expires_at, policy))
    }
}

/// How often a rotation is tried again because a concurrent request changed the
/// session in between. Each try means that another request got its way.
const MAX_ATTEMPTS: usize = 16;

/// How often the session of a rotation that matched no row is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// For the first time: reuse by date alone is not decided yet.
    First,
    /// Some time after the first.
    Last,
}

/// Handles a rotation that matched no row: rotates on a second try, reissues the
/// same successor, or rejects the token.
///
/// A rejection is an `Ok` value: ending the session of a copied token has to be
/// committed, and an `Err` would roll it back.
///
/// # Errors
/// When a statement fails.
pub fn settle(
    conn: &mut Conn,
    attempt: &Refresh,
    token_keys: &TokenKeys,
    policy: &Policy,
    look: Look,
) -> QueryResult<RefreshOutcome> {
    let Refresh { presented, update, event, .. } = attempt;
    let mut seen_live = false;
    for _ in 0..MAX_ATTEMPTS {
        let Some(mut standing) = store::sessions::find(conn, presented.token.session)? else {
            return refuse(
                conn,
                presented,
                InvalidGrant::Unknown,
                None,
                *event,
                policy,
                update.now,
            );
        };
        if seen_live {
            standing.rotated_after(update.now, presented.token.generation);
        }
        let verdict =
            judge(&presented.token, presented.attempt.as_ref(), &standing, policy, update.now);
        let row = match verdict {
            // It was seen as the live one before, and is unchanged: what else the
            // statement asks for is the deadline.
            Assessment::Live if seen_live => return Ok(RefreshOutcome::TooLate),
            Assessment::Live => {
                seen_live = true;
                store::sessions::rotate(conn, update)?
            }
            Assessment::Ahead => store::sessions::rotate_from(conn, &standing, update)?,
            Assessment::Repeat => match reissue(conn, attempt, &standing, token_keys, policy)? {
                Some(rotation) => return Ok(rotation),
                None => continue,
            },
            Assessment::Refused(InvalidGrant::Reuse)
                if look == Look::First && is_by_date(presented, &standing, policy) =>
            {
                return Ok(RefreshOutcome::LooksLikeReuse);
            }
            Assessment::Refused(refusal) => {
                return refuse(
                    conn,
                    presented,
                    refusal,
                    Some(&standing),
                    *event,
                    policy,
                    update.now,
                );
            }
        };
        if let Some(row) = row {
            return Ok(attempt.rotated(row, token_keys, policy));
        }
    }
    Ok(RefreshOutcome::TooLate)
}

/// Whether nothing but the date of the last rotation makes it reuse.
fn is_by_date(presented: &PresentedToken, standing: &SessionRow, policy: &Policy) -> bool {
    let Some(rotated_at) = standing.rotated_at else { return false };
    let then = judge(&presented.token, presented.attempt.as_ref(), standing, policy, rotated_at);
    then == Assessment::Repeat
}

/// Reissues the live pair to the token before it, with a new access token where
/// that one has expired; `None` where the session has changed meanwhile.
fn reissue(
    conn: &mut Conn,
    attempt: &Refresh,
    standing: &SessionRow,
    token_keys: &TokenKeys,
    policy: &Policy,
) -> QueryResult<Option<RefreshOutcome>> {
    let Refresh { presented, update, event, .. } = attempt;
    let (session, now) = (update.session, update.now);
    let Some(refresh) = say_again(&presented.token, standing, token_keys) else {
        // The secret that it was derived under is not known any more.
        let refusal = InvalidGrant::Superseded;
        return refuse(conn, presented, refusal, Some(standing), *event, policy, now).map(Some);
    };
    let mut grant = grant_again(session, refresh, standing, policy);
    if grant.access_expires_at <= now {
        let (access, until) = (update.access, update.access_expires_at);
        if !store::sessions::renew_access(conn, session, standing, access, until, now)? {
            return Ok(None);
        }
        let (user, ends) = (standing.user, standing.expires_at);
        grant = self::grant(user, session, grant.refresh_token, access, now, ends, policy);
    }
    if standing.rotated_at == Some(now) {
        // Committed late, it may not be dated right yet: others wait for it, too.
        store::sessions::redate(conn, &[(session, &standing.secret_digest)], now)?;
    }
    let window = policy.reuse.map_or(Duration::ZERO, |reuse| reuse.grace_period);
    let is_late = standing.rotated_at.is_some_and(|rotated_at| rotated_at.after(window) < now);
    let from_elsewhere = standing.ip.map(|ip| ip.0) != presented.device.ip;
    if is_late || from_elsewhere {
        let what = if is_late { EventKind::Recovered } else { EventKind::ReissuedElsewhere };
        let generation = Some(presented.token.generation);
        let subject = Subject { session, user: Some(standing.user), generation };
        record(conn, what, None, &subject, &presented.device, *event, now)?;
    }
    Ok(Some(RefreshOutcome::Reissued(grant)))
}

/// What a genuine refresh token is worth against its session as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assessment {
    /// It is the live one.
    Live,
    /// It is ahead of the database, and is taken as the live one.
    Ahead,
    /// It was rotated, and gets the same successor again.
    Repeat,
    /// It is not good.
    Refused(InvalidGrant),
}

/// Judges a token by its session. The end of a session and its expiry come
/// before anything else.
#[must_use]
pub fn judge(
    presented: &RefreshToken,
    attempt: Option<&IdempotencyKey>,
    standing: &SessionRow,
    policy: &Policy,
    now: Timestamp,
) -> Assessment {
    // What had expired before it was ended is over for that reason.
    let at = standing.ended_at.unwrap_or(now);
    if standing.expires_at <= at {
        return Assessment::Refused(InvalidGrant::ExpiredAbsolute);
    }
    if standing.idle_expires_at <= at {
        return Assessment::Refused(InvalidGrant::ExpiredIdle);
    }
    if let Some(reason) = &standing.end_reason {
        return Assessment::Refused(InvalidGrant::Ended(EndReason::parse(reason)));
    }
    match presented.generation.cmp(&standing.generation) {
        Ordering::Less => judge_rotated(presented, attempt, standing, policy, now),
        Ordering::Equal if presented.secret.digest().matches(&standing.secret_digest) => {
            with_its_key(Assessment::Live, attempt, standing, policy)
        }
        // Of one generation there are two: the database was set back between
        // the two, and the one before was presented to it again.
        Ordering::Equal => Assessment::Refused(InvalidGrant::Reuse),
        Ordering::Greater if policy.accept_ahead_of_database => {
            with_its_key(Assessment::Ahead, attempt, standing, policy)
        }
        Ordering::Greater => Assessment::Refused(InvalidGrant::Unknown),
    }
}

/// `verdict`, unless the client of this session always sends keys, and this request
/// has none: it is not from that client.
fn with_its_key(
    verdict: Assessment,
    attempt: Option<&IdempotencyKey>,
    standing: &SessionRow,
    policy: &Policy,
) -> Assessment {
    let needs_key = policy.same_key_only() && standing.has_used_idempotency_key;
    if needs_key && attempt.is_none() { Assessment::Refused(InvalidGrant::Reuse) } else { verdict }
}

/// Judges a token that is not the live one any more.
fn judge_rotated(
    presented: &RefreshToken,
    attempt: Option<&IdempotencyKey>,
    standing: &SessionRow,
    policy: &Policy,
    now: Timestamp,
) -> Assessment {
    let (Some(reuse), Some(rotated_at)) = (policy.reuse, standing.rotated_at) else {
        return Assessment::Refused(InvalidGrant::Reuse);
    };
    let is = |digest: crate::crypto::Digest, stored: &Option<Vec<u8>>| {
        stored.as_ref().is_some_and(|stored| digest.matches(stored))
    };
    let rotated_last = presented.generation.checked_add(1) == Some(standing.generation)
        && is(presented.secret.digest(), &standing.previous_digest);
    let same_attempt = rotated_last
        && attempt.is_some_and(|key| {
            is(presented.secret.idempotency_key_digest(key), &standing.idempotency_key_digest)
        });
    if reuse.same_key_only && standing.has_used_idempotency_key && !same_attempt {
        return Assessment::Refused(InvalidGrant::Reuse);
    }
    let in_window = now <= rotated_at.after(reuse.grace_period);
    let recoverable = same_attempt && now <= rotated_at.after(reuse.recovery_window);
    let excused = rotated_last || presented.generation >= standing.oldest_recent_generation;
    match (rotated_last, in_window || recoverable) {
        (true, true) if standing.successor_salt.is_some() => Assessment::Repeat,
        // A rotation a moment ago, a thief's too, excuses no token that was already
        // old before: only one that was itself current in the last windows.
        (_, true) if excused => Assessment::Refused(InvalidGrant::Superseded),
        _ => Assessment::Refused(InvalidGrant::Reuse),
    }
}

/// The live token, from the one before it, which was just presented, and the salt.
/// Its tag is under the same pepper as it was, so that it is the same text.
fn say_again(
    presented: &RefreshToken,
    standing: &SessionRow,
    token_keys: &TokenKeys,
) -> Option<String> {
    let salt = Salt::from_bytes(standing.successor_salt.as_deref()?)?;
    token_keys.all().find_map(|token_key| {
        let secret = presented.secret.successor(&salt, token_key);
        if !secret.digest().matches(&standing.secret_digest) {
            return None;
        }
        let (session, generation) = (presented.session, standing.generation);
        Some(RefreshToken { session, generation, secret }.encode(token_key))
    })
}

/// Ends a session because its user says so; `false` where it had ended or was
/// never there. One that has expired ends as well: the clock may be set back.
///
/// # Errors
/// When a statement fails.
pub fn log_out(
    conn: &mut Conn,
    session: SessionId,
    device: &ClientInfo,
    event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<bool> {
    conn.transaction(|conn| {
        let user = end(conn, session, EndReason::LoggedOut, policy, now)?;
        if user.is_some() {
            let subject = Subject { session, user, generation: None };
            record(conn, EventKind::LoggedOut, None, &subject, device, event, now)?;
        }
        Ok(user.is_some())
    })
}

/// Ends all live sessions of a user, but for the one to `keep`. Answers how many,
/// and which ones Redis has to be told of: those, and others of that user that
/// somebody else is just ending.
///
/// # Errors
/// When a statement fails.
pub fn log_out_everywhere(
    conn: &mut Conn,
    user: UserId,
    keep: Option<SessionId>,
    device: &ClientInfo,
    event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<(usize, Vec<SessionId>)> {
    conn.write(|conn| {
        let ended = store::sessions::end_all(conn, user, keep, EndReason::LoggedOut.as_str(), now)?;
        for ((session, access_expires_at), n) in ended.iter().copied().zip(0..) {
            note_end(conn, session, access_expires_at, policy, now)?;
            let subject = Subject { session, user: Some(user), generation: None };
            record(conn, EventKind::LoggedOut, None, &subject, device, event.offset(n), now)?;
        }
        Ok((ended.len(), revocations::for_user(conn, user)?))
    })
}

/// Ends a session, and notes that for Redis; answers whose it was, unless it had
/// ended already.
fn end(
    conn: &mut Conn,
    session: SessionId,
    reason: EndReason,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<Option<UserId>> {
    let ended = store::sessions::end(conn, session, reason.as_str(), now)?;
    let Some((user, access_expires_at)) = ended else { return Ok(None) };
    note_end(conn, session, access_expires_at, policy, now)?;
    Ok(Some(user))
}

fn note_end(
    conn: &mut Conn,
    session: SessionId,
    access_expires_at: Option<Timestamp>,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<()> {
    // What an older version granted lives as long as what is granted now.
    let access_expires_at = access_expires_at.unwrap_or(now.after(policy.access_lifetime));
    revocations::insert(conn, &Revocation { session_id: session, access_expires_at })
}

/// Takes away, of the `limit` sessions that follow on `after`, salts that are not
/// needed any more and rows of sessions that are long over.
///
/// # Errors
/// When a statement fails.
pub fn sweep(
    conn: &mut Conn,
    after: Option<SessionId>,
    limit: i64,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<SweepReport> {
    store::sessions::sweep(conn, after, limit, |candidate| retention_action(candidate, policy, now))
}

fn retention_action(candidate: &SweepCandidate, policy: &Policy, now: Timestamp) -> SweepAction {
    let expires_at = candidate.idle_expires_at.min(candidate.expires_at);
    let over_at = candidate.ended_at.map_or(expires_at, |ended_at| ended_at.min(expires_at));
    if over_at.after(policy.retention) <= now {
        return SweepAction::Delete;
    }
    let salt_ends = candidate
        .rotated_at
        .unwrap_or(now)
        .after(policy.salt_lifetime(candidate.has_idempotency_key));
    if candidate.has_salt && (over_at <= now || salt_ends < now) {
        SweepAction::ClearSalt
    } else {
        SweepAction::Keep
    }
}

/// Clears the salts of those of `sessions` whose window is over. Attempt keys
/// keep theirs.
///
/// # Errors
/// When a statement fails.
pub fn clear_salts(
    conn: &mut Conn,
    sessions: &[SessionId],
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<usize> {
    store::sessions::clear_salts(conn, sessions, now.before(policy.salt_lifetime(false)))
}

/// What an entry of the security log is about.
struct Subject {
    session: SessionId,
    user: Option<UserId>,
    generation: Option<i64>,
}

fn record(
    conn: &mut Conn,
    kind: EventKind,
    reason: Option<Reason>,
    subject: &Subject,
    device: &ClientInfo,
    id: EventId,
    now: Timestamp,
) -> QueryResult<()> {
    let event = Event {
        id,
        occurred_at: now,
        kind: kind.as_str(),
        reason: reason.map(Reason::as_str),
        session: subject.session,
        user: subject.user,
        generation: subject.generation,
        ip: device.ip,
        user_agent: device.user_agent.as_deref(),
    };
    match kind {
        EventKind::SignedIn | EventKind::LoggedOut => events::insert(conn, &event),
        // Anybody who has a token, a dead one too, can have these happen at will.
        _ => events::count(conn, &event),
    }
}

/// Writes what a rejection has to write.
fn refuse(
    conn: &mut Conn,
    presented: &PresentedToken,
    refusal: InvalidGrant,
    standing: Option<&SessionRow>,
    event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<RefreshOutcome> {
    let RefreshToken { session, generation, .. } = presented.token;
    let user = standing.map(|standing| standing.user);
    let elsewhere = standing.is_some_and(|standing| {
        standing.ip.map(|ip| ip.0) != presented.device.ip
            || standing.user_agent != presented.device.user_agent
    });
    let subject = Subject { session, user, generation: Some(generation) };
    let reason = Some(refusal.reason());
    // An end and its entry are committed together.
    conn.write(|conn| {
        let what = match refusal {
            InvalidGrant::Reuse if end(conn, session, EndReason::Reuse, policy, now)?.is_some() => {
                EventKind::ReuseDetected
            }
            InvalidGrant::Superseded if elsewhere => EventKind::SupersededElsewhere,
            _ => EventKind::RefreshRefused,
        };
        record(conn, what, reason, &subject, &presented.device, event, now)
    })?;
    Ok(RefreshOutcome::Rejected { refusal, user, elsewhere })
}

fn grant(
    user: UserId,
    session: SessionId,
    refresh_token: String,
    access: AccessTokenId,
    issued: Timestamp,
    session_ends: Timestamp,
    policy: &Policy,
) -> TokenGrant {
    let issued_at = Timestamp::from_secs(issued.as_secs());
    let access_expires_at = issued_at.after(policy.access_lifetime).min(session_ends);
    TokenGrant { user, session, refresh_token, access, issued_at, access_expires_at }
}

/// What was granted with the live token. It never outlives `access_expires_at`, by which
/// the end of the session is remembered: lifetimes may have become longer since.
fn grant_again(
    session: SessionId,
    refresh_token: String,
    standing: &SessionRow,
    policy: &Policy,
) -> TokenGrant {
    let issued = standing.access_issued_at;
    let until = standing.access_expires_at.unwrap_or(issued.after(policy.access_lifetime));
    let ends = standing.expires_at.min(until);
    grant(standing.user, session, refresh_token, standing.access, issued, ends, policy)
}
