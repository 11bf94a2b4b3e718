//! The rules of sessions: open, rotate, end.
//!
//! No HTTP, no async, no clock in here: time and randomness are arguments. A refusal is a value, since what it has to write must be
//! committed.

use std::net::IpAddr;
use std::time::Duration;

use diesel::{Connection, QueryResult};
use matchbook_shared::Reason;

use crate::clock::Timestamp;
use crate::store::sessions::{Advance, NewSession, Standing};
use crate::store::{self, Conn, users};
use crate::token::{AccessId, Dice, RefreshToken, SessionId, UserId};

/// How long things live.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// An access token, from its issue.
    pub access_lifetime: Duration,
    /// A session that is not refreshed.
    pub idle_lifetime: Duration,
    /// A session, however often it is refreshed.
    pub absolute_lifetime: Duration,
}

/// Where a sign-in came from, for the list of sessions.
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
    /// The refresh token, live from now on.
    pub refresh: RefreshToken,
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

/// What became of a refresh.
pub enum Rotation {
    /// The session has a new live token.
    Granted(Grant),
    /// The token is not good.
    Refused(Refusal),
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
    Ended(Reason),
    /// The token had been rotated: it was copied. The session ends with this.
    Reuse,
}

/// How the database spells why a session ended.
const REUSE: &str = "reuse";

/// Opens the one session of a guest.
///
/// # Errors
/// When a statement fails.
pub fn open(
    conn: &mut Conn,
    user: UserId,
    id: SessionId,
    device: &Device,
    dice: Dice,
    now: Timestamp,
    policy: &Policy,
) -> QueryResult<Opening> {
    conn.transaction(|conn| {
        // The write comes first: of several at once, one gets past it.
        if !users::use_sign_in(conn, user, now)? {
            return Ok(match users::exists(conn, user)? {
                false => Opening::UnknownUser,
                true if store::sessions::any_live(conn, user, now)? => Opening::AlreadyActive,
                true => Opening::SignInUsed,
            });
        }
        let expires_at = now.after(policy.absolute_lifetime);
        store::sessions::insert(
            conn,
            &NewSession {
                id,
                user,
                secret: dice.secret.digest(),
                access: dice.access,
                now,
                idle_expires_at: now.after(policy.idle_lifetime),
                expires_at,
                user_agent: device.user_agent.as_deref(),
                ip: device.ip,
            },
        )?;
        let refresh = RefreshToken { session: id, generation: 0, secret: dice.secret };
        Ok(Opening::Granted(grant(user, refresh, dice.access, expires_at, now, policy)))
    })
}

/// Trades a refresh token for its successor.
///
/// A refusal is an `Ok` value: ending the session of a copied token has to be
/// committed, and an `Err` would roll it back.
///
/// # Errors
/// When a statement fails.
pub fn rotate(
    conn: &mut Conn,
    presented: &RefreshToken,
    dice: Dice,
    now: Timestamp,
    policy: &Policy,
) -> QueryResult<Rotation> {
    let next = Advance {
        secret: dice.secret.digest(),
        access: dice.access,
        now,
        idle_expires_at: now.after(policy.idle_lifetime),
    };
    if let Some((user, expires_at)) = store::sessions::advance(conn, presented, &next)? {
        let refresh = RefreshToken {
            session: presented.session,
            generation: presented.generation.saturating_add(1),
            secret: dice.secret,
        };
        return Ok(Rotation::Granted(grant(user, refresh, dice.access, expires_at, now, policy)));
    }
    let refusal = match store::sessions::find(conn, presented.session)? {
        None => Refusal::Unknown,
        Some(standing) => judge(presented, &standing, now),
    };
    if refusal == Refusal::Reuse {
        store::sessions::end(conn, presented.session, REUSE, now)?;
    }
    Ok(Rotation::Refused(refusal))
}

/// Why a token did not rotate its session.
fn judge(presented: &RefreshToken, standing: &Standing, now: Timestamp) -> Refusal {
    match standing.end_reason.as_deref() {
        Some(REUSE) => return Refusal::Ended(Reason::Reuse),
        Some(_) => return Refusal::Ended(Reason::Other),
        None => {}
    }
    if standing.expires_at <= now {
        Refusal::ExpiredAbsolute
    } else if standing.idle_expires_at <= now {
        Refusal::ExpiredIdle
    } else if presented.generation < standing.generation {
        Refusal::Reuse
    } else {
        Refusal::Unknown
    }
}

fn grant(
    user: UserId,
    refresh: RefreshToken,
    access: AccessId,
    session_ends: Timestamp,
    now: Timestamp,
    policy: &Policy,
) -> Grant {
    let issued_at = Timestamp::from_secs(now.as_secs());
    let access_expires_at = issued_at.after(policy.access_lifetime).min(session_ends);
    Grant { user, refresh, access, issued_at, access_expires_at }
}
