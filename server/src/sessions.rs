//! The rules of sessions: open, rotate, end, sweep.
//!
//! No HTTP, no async, no clock in here: time and randomness are arguments. A
//! refusal is a value, since what it has to write must be committed.
//!
//! A rotated token shown again gets the same successor again, for as long as
//! the [`Retry`] rules say, and nobody but who shows it can compute that
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
use crate::store::ends::{self, End};
use crate::store::events::{self, Event};
use crate::store::sessions::{Advance, Advanced, Chore, Dust, NewSession, Standing, Swept};
use crate::store::{self, Conn, users};
use crate::token::{
    AccessId, AttemptKey, Dice, EventId, Peppers, RefreshToken, Salt, Secret, SessionId, UserId,
};

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
    pub retry: Option<Retry>,
    /// Whether a genuine token that is ahead of the database is taken as the
    /// live one: the database has lost its last commits.
    pub adopt: bool,
}

/// When a rotated token gets the same answer again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// How long whoever shows it gets it, from its first use on.
    pub window: Duration,
    /// How long the attempt key that rotated it gets it.
    pub recovery: Duration,
    /// Whether a token that was rotated with an idempotency key is reissued to
    /// that key alone, and a session that was ever rotated with a key is never
    /// rotated without one again.
    pub exclusive: bool,
}

impl Policy {
    /// How long a successor may be asked for again.
    fn salt_lifetime(&self, keyed: bool) -> Duration {
        match self.retry {
            None => Duration::ZERO,
            Some(retry) if keyed => retry.recovery.max(retry.window),
            Some(retry) => retry.window,
        }
    }

    /// Whether a session that was ever rotated with a key needs one again.
    fn exclusive(&self) -> bool {
        self.retry.is_some_and(|retry| retry.exclusive)
    }
}

/// Who asks.
pub struct Device {
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The client's address.
    pub ip: Option<IpAddr>,
}

/// What a client may have: a refresh token and the particulars of an access
/// token, not signed yet.
pub struct Grant {
    /// Whose session it is.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// The live refresh token, as it travels.
    pub refresh_token: String,
    /// The id of the access token.
    pub access: AccessId,
    /// When the access token was issued: a whole second, as JWTs count.
    pub issued_at: Timestamp,
    /// When the access token ends, no later than its session.
    pub access_expires_at: Timestamp,
}

/// What became of a sign-in.
pub enum Opening {
    /// A session was opened.
    Granted(Grant),
    /// Nobody has that id.
    UnknownUser,
    /// The guest's session still lives: it has to be refreshed instead.
    AlreadyActive,
    /// The guest's one sign-in was used, and its session is over.
    SignInUsed,
}

/// A genuine refresh token, and how it is shown.
pub struct Presentation {
    /// The token.
    pub token: RefreshToken,
    /// The client's key for this attempt.
    pub attempt: Option<AttemptKey>,
    /// Who shows it.
    pub device: Device,
}

/// What became of a refresh.
pub enum Rotation {
    /// The session has a new live token.
    Rotated(Grant),
    /// The same answer as before: the live token is the one of that answer.
    Repeated(Grant),
    /// The token is not good.
    Refused {
        /// Why.
        refusal: Refusal,
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
pub enum Refusal {
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

impl Refusal {
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
enum What {
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

impl What {
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
pub struct SignIn {
    /// The guest.
    pub user: UserId,
    /// The id of the session.
    pub session: SessionId,
    /// The first secret.
    pub secret: Secret,
    /// Who signs in.
    pub device: Device,
}

/// Opens the one session of a guest.
///
/// # Errors
/// When a statement fails.
pub fn open(
    conn: &mut Conn,
    sign_in: SignIn,
    dice: &Dice,
    peppers: &Peppers,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<Opening> {
    let SignIn { user, session, secret, device } = sign_in;
    conn.transaction(|conn| {
        // The write comes first: of several at once, one gets past it.
        if !users::use_sign_in(conn, user, now)? {
            return Ok(match users::is_there(conn, user)? {
                false => Opening::UnknownUser,
                true if store::sessions::any_live(conn, user, now)? => Opening::AlreadyActive,
                true => Opening::SignInUsed,
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
                access: dice.access,
                access_until: now.after(policy.access_lifetime),
                now,
                idle_expires_at,
                expires_at,
                user_agent: device.user_agent.as_deref(),
                ip: device.ip,
            },
        )?;
        let subject = Subject { session, user: Some(user), generation: None };
        record(conn, What::SignedIn, None, &subject, &device, dice.event, now)?;
        let refresh = RefreshToken { session, generation: 0, secret }.encode(&peppers.current);
        Ok(Opening::Granted(grant(user, session, refresh, dice.access, now, expires_at, policy)))
    })
}

/// Takes back a sign-in whose response nobody waits for any more: the guest may
/// sign in again.
///
/// # Errors
/// When a statement fails.
pub fn undo_open(conn: &mut Conn, session: SessionId, user: UserId) -> QueryResult<()> {
    conn.transaction(|conn| {
        if store::sessions::delete_unused(conn, session)? {
            users::give_back_sign_in(conn, user)?;
        }
        Ok(())
    })
}

/// A refresh token that is shown, and what it is to be traded for.
pub struct Attempt {
    shown: Presentation,
    successor: RefreshToken,
    event: EventId,
    /// What the database is asked for first, beside what others ask for.
    pub advance: Arc<Advance>,
}

impl Attempt {
    /// Derives the successor of the token that is shown.
    #[must_use]
    pub fn new(
        shown: Presentation,
        dice: Dice,
        peppers: &Peppers,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let presented = &shown.token;
        let Dice { salt, access, event } = dice;
        let successor = RefreshToken {
            session: presented.session,
            generation: presented.generation.saturating_add(1),
            secret: presented.secret.successor(&salt, &peppers.current),
        };
        let key = policy.retry.and(shown.attempt.as_ref());
        let advance = Arc::new(Advance {
            session: presented.session,
            generation: presented.generation,
            presented: presented.secret.digest(),
            successor: successor.secret.digest(),
            salt: policy.retry.map(|_| salt),
            attempt: key.map(|key| presented.secret.attempt(key)),
            key_required: policy.exclusive() && key.is_none(),
            access,
            access_until: now.after(policy.access_lifetime),
            now,
            grace_from: now.before(policy.retry.map_or(Duration::ZERO, |retry| retry.window)),
            deadline: Timestamp::MAX,
            idle_expires_at: now.after(policy.idle_lifetime),
            user_agent: shown.device.user_agent.clone(),
            ip: shown.device.ip,
        });
        Self { shown, successor, event, advance }
    }

    /// Has the session not be rotated after `deadline`, when nobody waits for the
    /// outcome any more.
    #[must_use]
    pub fn until(mut self, deadline: Timestamp) -> Self {
        if let Some(advance) = Arc::get_mut(&mut self.advance) {
            advance.deadline = deadline;
        }
        self
    }

    /// What is shown, and by whom.
    #[must_use]
    pub fn shown(&self) -> &Presentation {
        &self.shown
    }

    /// What its client may have, now that the session is advanced.
    #[must_use]
    pub fn rotated(
        &self,
        (user, expires_at): Advanced,
        peppers: &Peppers,
        policy: &Policy,
    ) -> Rotation {
        let Advance { session, access, now, .. } = *self.advance;
        let refresh = self.successor.encode(&peppers.current);
        Rotation::Rotated(grant(user, session, refresh, access, now, expires_at, policy))
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
    attempt: &Attempt,
    peppers: &Peppers,
    policy: &Policy,
    look: Look,
) -> QueryResult<Rotation> {
    let Attempt { shown, advance, event, .. } = attempt;
    let mut seen_live = false;
    for _ in 0..MAX_ATTEMPTS {
        let Some(mut standing) = store::sessions::find(conn, shown.token.session)? else {
            return refuse(conn, shown, Refusal::Unknown, None, *event, policy, advance.now);
        };
        if seen_live {
            standing.rotated_after(advance.now, shown.token.generation);
        }
        let verdict = judge(&shown.token, shown.attempt.as_ref(), &standing, policy, advance.now);
        let row = match verdict {
            // It was seen as the live one before, and is unchanged: what else the
            // statement asks for is the deadline.
            Verdict::Live if seen_live => return Ok(Rotation::TooLate),
            Verdict::Live => {
                seen_live = true;
                store::sessions::advance(conn, advance)?
            }
            Verdict::Ahead => store::sessions::adopt(conn, &standing, advance)?,
            Verdict::Repeat => match reissue(conn, attempt, &standing, peppers, policy)? {
                Some(rotation) => return Ok(rotation),
                None => continue,
            },
            Verdict::Refused(Refusal::Reuse)
                if look == Look::First && is_by_date(shown, &standing, policy) =>
            {
                return Ok(Rotation::LooksLikeReuse);
            }
            Verdict::Refused(refusal) => {
                return refuse(conn, shown, refusal, Some(&standing), *event, policy, advance.now);
            }
        };
        if let Some(row) = row {
            return Ok(attempt.rotated(row, peppers, policy));
        }
    }
    Ok(Rotation::TooLate)
}

/// Whether nothing but the date of the last rotation makes it reuse.
fn is_by_date(shown: &Presentation, standing: &Standing, policy: &Policy) -> bool {
    let Some(rotated_at) = standing.rotated_at else { return false };
    let then = judge(&shown.token, shown.attempt.as_ref(), standing, policy, rotated_at);
    then == Verdict::Repeat
}

/// Reissues the live pair to the token before it, with a new access token where
/// that one has expired; `None` where the session has changed meanwhile.
fn reissue(
    conn: &mut Conn,
    attempt: &Attempt,
    standing: &Standing,
    peppers: &Peppers,
    policy: &Policy,
) -> QueryResult<Option<Rotation>> {
    let Attempt { shown, advance, event, .. } = attempt;
    let (session, now) = (advance.session, advance.now);
    let Some(refresh) = say_again(&shown.token, standing, peppers) else {
        // The secret that it was derived under is not known any more.
        let refusal = Refusal::Superseded;
        return refuse(conn, shown, refusal, Some(standing), *event, policy, now).map(Some);
    };
    let mut grant = grant_again(session, refresh, standing, policy);
    if grant.access_expires_at <= now {
        let (access, until) = (advance.access, advance.access_until);
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
    let window = policy.retry.map_or(Duration::ZERO, |retry| retry.window);
    let is_late = standing.rotated_at.is_some_and(|rotated_at| rotated_at.after(window) < now);
    let from_elsewhere = standing.ip.map(|ip| ip.0) != shown.device.ip;
    if is_late || from_elsewhere {
        let what = if is_late { What::Recovered } else { What::ReissuedElsewhere };
        let generation = Some(shown.token.generation);
        let subject = Subject { session, user: Some(standing.user), generation };
        record(conn, what, None, &subject, &shown.device, *event, now)?;
    }
    Ok(Some(Rotation::Repeated(grant)))
}

/// What a genuine refresh token is worth against its session as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the live one.
    Live,
    /// It is ahead of the database, and is taken as the live one.
    Ahead,
    /// It was rotated, and gets the same successor again.
    Repeat,
    /// It is not good.
    Refused(Refusal),
}

/// Judges a token by its session. The end of a session and its expiry come
/// before anything else.
#[must_use]
pub fn judge(
    presented: &RefreshToken,
    attempt: Option<&AttemptKey>,
    standing: &Standing,
    policy: &Policy,
    now: Timestamp,
) -> Verdict {
    // What had expired before it was ended is over for that reason.
    let at = standing.ended_at.unwrap_or(now);
    if standing.expires_at <= at {
        return Verdict::Refused(Refusal::ExpiredAbsolute);
    }
    if standing.idle_expires_at <= at {
        return Verdict::Refused(Refusal::ExpiredIdle);
    }
    if let Some(reason) = &standing.end_reason {
        return Verdict::Refused(Refusal::Ended(EndReason::parse(reason)));
    }
    match presented.generation.cmp(&standing.generation) {
        Ordering::Less => judge_rotated(presented, attempt, standing, policy, now),
        Ordering::Equal if presented.secret.digest().is(&standing.secret_digest) => {
            with_its_key(Verdict::Live, attempt, standing, policy)
        }
        // Of one generation there are two: the database was set back between
        // the two, and the one before was shown to it again.
        Ordering::Equal => Verdict::Refused(Refusal::Reuse),
        Ordering::Greater if policy.adopt => {
            with_its_key(Verdict::Ahead, attempt, standing, policy)
        }
        Ordering::Greater => Verdict::Refused(Refusal::Unknown),
    }
}

/// `verdict`, unless the client of this session always sends keys, and this request
/// has none: it is not from that client.
fn with_its_key(
    verdict: Verdict,
    attempt: Option<&AttemptKey>,
    standing: &Standing,
    policy: &Policy,
) -> Verdict {
    let needs_key = policy.exclusive() && standing.keyed;
    if needs_key && attempt.is_none() { Verdict::Refused(Refusal::Reuse) } else { verdict }
}

/// Judges a token that is not the live one any more.
fn judge_rotated(
    presented: &RefreshToken,
    attempt: Option<&AttemptKey>,
    standing: &Standing,
    policy: &Policy,
    now: Timestamp,
) -> Verdict {
    let (Some(retry), Some(rotated_at)) = (policy.retry, standing.rotated_at) else {
        return Verdict::Refused(Refusal::Reuse);
    };
    let is = |digest: crate::token::Digest, stored: &Option<Vec<u8>>| {
        stored.as_ref().is_some_and(|stored| digest.is(stored))
    };
    let rotated_last = presented.generation.checked_add(1) == Some(standing.generation)
        && is(presented.secret.digest(), &standing.previous_digest);
    let same_attempt = rotated_last
        && attempt.is_some_and(|key| is(presented.secret.attempt(key), &standing.attempt_digest));
    if retry.exclusive && standing.keyed && !same_attempt {
        return Verdict::Refused(Refusal::Reuse);
    }
    let in_window = now <= rotated_at.after(retry.window);
    let recoverable = same_attempt && now <= rotated_at.after(retry.recovery);
    let excused = rotated_last || presented.generation >= standing.floor;
    match (rotated_last, in_window || recoverable) {
        (true, true) if standing.salt.is_some() => Verdict::Repeat,
        // A rotation a moment ago, a thief's too, excuses no token that was already
        // old before: only one that was itself current in the last windows.
        (_, true) if excused => Verdict::Refused(Refusal::Superseded),
        _ => Verdict::Refused(Refusal::Reuse),
    }
}

/// The live token, from the one before it, which was just shown, and the salt.
/// Its tag is under the same pepper as it was, so that it is the same text.
fn say_again(presented: &RefreshToken, standing: &Standing, peppers: &Peppers) -> Option<String> {
    let salt = Salt::from_bytes(standing.salt.as_deref()?)?;
    peppers.all().find_map(|pepper| {
        let secret = presented.secret.successor(&salt, pepper);
        if !secret.digest().is(&standing.secret_digest) {
            return None;
        }
        let (session, generation) = (presented.session, standing.generation);
        Some(RefreshToken { session, generation, secret }.encode(pepper))
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
    device: &Device,
    event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<bool> {
    conn.transaction(|conn| {
        let user = end(conn, session, EndReason::LoggedOut, policy, now)?;
        if user.is_some() {
            let subject = Subject { session, user, generation: None };
            record(conn, What::LoggedOut, None, &subject, device, event, now)?;
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
    device: &Device,
    event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<(usize, Vec<SessionId>)> {
    conn.write(|conn| {
        let ended = store::sessions::end_all(conn, user, keep, EndReason::LoggedOut.as_str(), now)?;
        for ((session, access_until), n) in ended.iter().copied().zip(0..) {
            note_end(conn, session, access_until, policy, now)?;
            let subject = Subject { session, user: Some(user), generation: None };
            record(conn, What::LoggedOut, None, &subject, device, event.nth(n), now)?;
        }
        Ok((ended.len(), ends::of_user(conn, user)?))
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
    let Some((user, access_until)) = ended else { return Ok(None) };
    note_end(conn, session, access_until, policy, now)?;
    Ok(Some(user))
}

fn note_end(
    conn: &mut Conn,
    session: SessionId,
    access_until: Option<Timestamp>,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<()> {
    // What an older version granted lives as long as what is granted now.
    let access_until = access_until.unwrap_or(now.after(policy.access_lifetime));
    ends::insert(conn, &End { session_id: session, access_until })
}

/// Takes away, of the `limit` sessions that follow on `after`, salts that are not
/// needed any more and rows of sessions that are long over.
///
/// # Errors
/// When a statement fails.
pub fn sweep(
    conn: &mut Conn,
    after: SessionId,
    limit: i64,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<Swept> {
    store::sessions::sweep(conn, after, limit, |dust| chore(dust, policy, now))
}

fn chore(dust: &Dust, policy: &Policy, now: Timestamp) -> Chore {
    let expires_at = dust.idle_expires_at.min(dust.expires_at);
    let over_at = dust.ended_at.map_or(expires_at, |ended_at| ended_at.min(expires_at));
    if over_at.after(policy.retention) <= now {
        return Chore::Delete;
    }
    let salt_ends = dust.rotated_at.unwrap_or(now).after(policy.salt_lifetime(dust.keyed));
    if dust.salted && (over_at <= now || salt_ends < now) { Chore::Clear } else { Chore::Leave }
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
    what: What,
    reason: Option<Reason>,
    subject: &Subject,
    device: &Device,
    id: EventId,
    now: Timestamp,
) -> QueryResult<()> {
    let event = Event {
        id,
        at: now,
        what: what.as_str(),
        reason: reason.map(Reason::as_str),
        session: subject.session,
        user: subject.user,
        generation: subject.generation,
        ip: device.ip,
        user_agent: device.user_agent.as_deref(),
    };
    match what {
        What::SignedIn | What::LoggedOut => events::insert(conn, &event),
        // Anybody who has a token, a dead one too, can have these happen at will.
        _ => events::count(conn, &event),
    }
}

/// Writes what a rejection has to write.
fn refuse(
    conn: &mut Conn,
    shown: &Presentation,
    refusal: Refusal,
    standing: Option<&Standing>,
    event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<Rotation> {
    let RefreshToken { session, generation, .. } = shown.token;
    let user = standing.map(|standing| standing.user);
    let elsewhere = standing.is_some_and(|standing| {
        standing.ip.map(|ip| ip.0) != shown.device.ip
            || standing.user_agent != shown.device.user_agent
    });
    let subject = Subject { session, user, generation: Some(generation) };
    let reason = Some(refusal.reason());
    // An end and its entry are committed together.
    conn.write(|conn| {
        let what = match refusal {
            Refusal::Reuse if end(conn, session, EndReason::Reuse, policy, now)?.is_some() => {
                What::ReuseDetected
            }
            Refusal::Superseded if elsewhere => What::SupersededElsewhere,
            _ => What::RefreshRefused,
        };
        record(conn, what, reason, &subject, &shown.device, event, now)
    })?;
    Ok(Rotation::Refused { refusal, user, elsewhere })
}

fn grant(
    user: UserId,
    session: SessionId,
    refresh_token: String,
    access: AccessId,
    issued: Timestamp,
    session_ends: Timestamp,
    policy: &Policy,
) -> Grant {
    let issued_at = Timestamp::from_secs(issued.as_secs());
    let access_expires_at = issued_at.after(policy.access_lifetime).min(session_ends);
    Grant { user, session, refresh_token, access, issued_at, access_expires_at }
}

/// What was granted with the live token. It never outlives `access_until`, by which
/// the end of the session is remembered: lifetimes may have become longer since.
fn grant_again(
    session: SessionId,
    refresh_token: String,
    standing: &Standing,
    policy: &Policy,
) -> Grant {
    let issued = standing.access_issued_at;
    let until = standing.access_until.unwrap_or(issued.after(policy.access_lifetime));
    let ends = standing.expires_at.min(until);
    grant(standing.user, session, refresh_token, standing.access, issued, ends, policy)
}
