//! The table `sessions`.

mod grant;
mod login_session;
mod redate;
mod rotate;
mod session;
mod sweep;

use std::net::IpAddr;

use diesel::dsl::case_when;
use diesel::prelude::*;
use uuid::Uuid;

use super::Conn;
use super::schema::sessions;
use super::types::IpAddress;
use super::types::sql::SqlTimestamp;
use crate::clock::Timestamp;
use crate::crypto::{Digest, Salt};
use crate::ids::{AccessTokenId, ClientId, LoginSessionId, Place, SessionId, UserId};
use crate::tokens::{ClientGrant, RefreshToken};

pub use grant::StoredGrant;
use grant::StoredGrantColumns;
pub(super) use grant::{decode_list, encode_list};
pub use login_session::{ending_with, reassign};
pub(super) use redate::{LATE_AFTER, late, lock_released};
pub use redate::{redate, redate_late};
pub use rotate::{RotatedSession, RotationUpdate, rotate, rotate_batch, rotate_from};
pub use session::{EndReason, Previous, Session, SessionEnd, State, find};
pub use sweep::{SweepAction, SweepCandidate, SweepReport, clear_salts, sweep};

/// `$until`, or the stored time if that is later: settings may change while access tokens
/// are valid.
macro_rules! greatest {
    ($until:expr) => {
        case_when(sessions::access_expires_at.gt($until), sessions::access_expires_at)
            .otherwise($until.into_sql::<SqlTimestamp>())
    };
}

/// The primary key of a session.
fn key(id: SessionId) -> (i16, SessionId) {
    (id.place().value(), id)
}

/// The columns of a new session.
pub struct NewSession<'a> {
    pub id: SessionId,
    pub user: UserId,
    /// The digest of the first refresh token's secret.
    pub secret: Digest,
    /// The access token that is issued with the refresh token.
    pub access: AccessTokenId,
    /// When the access token expires at the latest.
    pub access_expires_at: Timestamp,
    pub now: Timestamp,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    /// Further claims of its access tokens, as JSON.
    pub claims: Option<&'a str>,
    /// The OAuth client that opens it; `None` at the native endpoints.
    pub grant: Option<&'a ClientGrant>,
    /// The digest of the authorization code that opens it, and the salt of the derivation
    /// of `secret`.
    pub code: Option<(&'a Digest, Option<&'a Salt>)>,
    /// The login session of the browser that got the code.
    pub login_session: Option<LoginSessionId>,
    pub user_agent: Option<&'a str>,
    pub ip: Option<IpAddr>,
}

/// Inserts a session at generation 0.
pub fn insert(conn: &mut Conn, new: &NewSession<'_>) -> QueryResult<()> {
    let oldest = new.code.map_or(0, |_| RefreshToken::CODE_GENERATION);
    diesel::insert_into(sessions::table)
        .values((
            sessions::place.eq(new.id.place().value()),
            sessions::id.eq(new.id),
            sessions::user_id.eq(new.user),
            sessions::generation.eq(0),
            sessions::secret_digest.eq(new.secret.as_bytes()),
            sessions::access_jti.eq(new.access),
            sessions::access_issued_at.eq(new.now),
            sessions::access_expires_at.eq(new.access_expires_at),
            sessions::created_at.eq(new.now),
            sessions::idle_expires_at.eq(new.idle_expires_at),
            sessions::expires_at.eq(new.expires_at),
            sessions::user_agent.eq(new.user_agent),
            sessions::ip.eq(new.ip.map(IpAddress)),
            sessions::claims.eq(new.claims),
            sessions::client_id.eq(new.grant.map(|grant| grant.client.as_str())),
            sessions::scope.eq(new.grant.map(|grant| grant.scope.as_str())),
            sessions::audiences.eq(new.grant.and_then(|grant| encode_list(&grant.audiences))),
            sessions::auth_time.eq(new.grant.and_then(|grant| grant.auth_time)),
            sessions::login_session_id.eq(new.login_session),
            sessions::previous_digest.eq(new.code.map(|(digest, _)| digest.as_bytes())),
            sessions::successor_salt.eq(new.code.and_then(|(_, salt)| salt.map(Salt::as_bytes))),
            sessions::rotated_at.eq(new.code.map(|_| new.now)),
            // The code counts as a recent token.
            sessions::oldest_recent_generation.eq(oldest),
            sessions::next_oldest_recent_generation.eq(oldest),
        ))
        .execute(conn)?;
    Ok(())
}

/// An access token that replaces an expired one.
pub struct AccessRenewal {
    pub access: AccessTokenId,
    pub expires_at: Timestamp,
    pub now: Timestamp,
}

/// Renews the last access token of a session. Returns `false` if the row has changed since
/// it was `seen`.
pub fn renew_access(
    conn: &mut Conn,
    id: SessionId,
    seen: &Session,
    renewal: &AccessRenewal,
) -> QueryResult<bool> {
    let unchanged = sessions::table
        .find(key(id))
        .filter(sessions::generation.eq(seen.generation))
        .filter(sessions::access_jti.eq(seen.access))
        .filter(sessions::ended_at.is_null());
    let changed = diesel::update(unchanged)
        .set((
            sessions::access_jti.eq(renewal.access),
            sessions::access_issued_at.eq(renewal.now),
            sessions::access_expires_at.eq(greatest!(renewal.expires_at)),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Ends a session. Returns its user and the time at which its last access token expires,
/// or `None` if it had already ended.
///
/// Needs a transaction: without one, diesel drops the error of SQLite's commit.
pub fn end(
    conn: &mut Conn,
    id: SessionId,
    end: SessionEnd,
) -> QueryResult<Option<(UserId, Timestamp)>> {
    diesel::update(sessions::table.find(key(id)).filter(sessions::ended_at.is_null()))
        .set((sessions::ended_at.eq(end.at), sessions::end_reason.eq(end.reason.as_str())))
        .returning((sessions::user_id, sessions::access_expires_at))
        .get_result(conn)
        .optional()
}

/// Loads rows and locks them, on SQLite by the transaction.
macro_rules! load_locked {
    ($conn:expr, $query:expr) => {
        match $conn {
            Conn::Postgres(conn) => $query.for_update().load(conn)?,
            Conn::Sqlite(conn) => $query.load(conn)?,
        }
    };
}

/// How many sessions [`end_next`] ends in one transaction.
const END_BATCH: i64 = 500;

/// Which sessions an operator ends.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only sessions of this user.
    pub user: Option<UserId>,
    /// Only sessions that were opened before this time.
    pub opened_before: Option<Timestamp>,
    /// Only sessions that this OAuth client opened.
    pub client: Option<ClientId>,
}

/// Ends the next sessions of `selection` after `after` that have not ended. Returns them
/// in the order of the primary key, each with its user and the time at which its last
/// access token expires.
pub fn end_next(
    conn: &mut Conn,
    selection: &Selection,
    after: Option<SessionId>,
    end: SessionEnd,
) -> QueryResult<Vec<(SessionId, UserId, Timestamp)>> {
    let Selection { user, opened_before, ref client } = *selection;
    let first = after.map_or(Place::MIN, SessionId::place);
    let places = first.and_later().filter(|place| user.is_none_or(|user| user.place() == *place));
    let mut ended: Vec<(SessionId, UserId, Timestamp)> = Vec::new();
    for place in places {
        let left = END_BATCH.saturating_sub(i64::try_from(ended.len()).unwrap_or(i64::MAX));
        if left == 0 {
            break;
        }
        let after = after.filter(|after| after.place() == place);
        let next = sessions::table
            .filter(sessions::place.eq(place.value()))
            .filter(sessions::id.gt(after.unwrap_or(SessionId::MIN)))
            .filter(sessions::ended_at.is_null())
            .filter(sessions::created_at.lt(opened_before.unwrap_or(Timestamp::END_OF_9999)))
            .filter(sessions::user_id.ge(user.unwrap_or(UserId(Uuid::nil()))))
            .filter(sessions::user_id.le(user.unwrap_or(UserId(Uuid::max()))))
            .order(sessions::id)
            .limit(left)
            .select((sessions::id, sessions::user_id, sessions::access_expires_at));
        let rows: Vec<(SessionId, UserId, Timestamp)> = match client {
            None => load_locked!(conn, next),
            Some(client) => {
                load_locked!(conn, next.filter(sessions::client_id.eq(client.as_str())))
            }
        };
        mark_ended(conn, place, rows.iter().map(|(id, ..)| *id), end)?;
        ended.extend(rows);
    }
    Ok(ended)
}

/// Which sessions of a user.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    All,
    Except(SessionId),
    /// Those that this OAuth client opened.
    OfClient(&'a ClientId),
}

impl Whose<'_> {
    fn includes(self, session: SessionId, client: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Except(keep) => session != keep,
            Self::OfClient(of) => client == Some(of.as_str()),
        }
    }
}

/// Ends those sessions of a user that have not ended. Returns each with the time at which its
/// last access token expires.
pub fn end_all(
    conn: &mut Conn,
    user: UserId,
    whose: Whose<'_>,
    end: SessionEnd,
) -> QueryResult<Vec<(SessionId, Timestamp)>> {
    let place = user.place();
    let live = sessions::table
        .filter(sessions::place.eq(place.value()))
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        // Concurrent requests lock the rows in one order, so that they cannot deadlock.
        .order(sessions::id)
        .select((sessions::id, sessions::access_expires_at, sessions::client_id));
    let live: Vec<(SessionId, Timestamp, Option<String>)> = load_locked!(conn, live);
    let selected = live.into_iter().filter(|(id, _, of)| whose.includes(*id, of.as_deref()));
    let ended: Vec<(SessionId, Timestamp)> = selected.map(|(id, until, _)| (id, until)).collect();
    mark_ended(conn, place, ended.iter().map(|(id, _)| *id), end)?;
    Ok(ended)
}

fn mark_ended(
    conn: &mut Conn,
    place: Place,
    ids: impl Iterator<Item = SessionId>,
    end: SessionEnd,
) -> QueryResult<()> {
    let ids: Vec<SessionId> = ids.collect();
    if ids.is_empty() {
        return Ok(());
    }
    let those =
        sessions::table.filter(sessions::place.eq(place.value())).filter(sessions::id.eq_any(ids));
    diesel::update(those)
        .set((sessions::ended_at.eq(end.at), sessions::end_reason.eq(end.reason.as_str())))
        .execute(conn)
        .map(drop)
}

/// Deletes a session that was never rotated. Returns `false` if no such session exists.
pub fn delete_unused(conn: &mut Conn, id: SessionId) -> QueryResult<bool> {
    let unused = sessions::table.find(key(id)).filter(sessions::generation.eq(0));
    Ok(diesel::delete(unused).execute(conn)? == 1)
}

/// Returns the user of a session.
pub fn owner(conn: &mut Conn, id: SessionId) -> QueryResult<Option<UserId>> {
    sessions::table.find(key(id)).select(sessions::user_id).first(conn).optional()
}

/// A session in the list that its user gets.
#[derive(Queryable)]
pub struct SessionSummary {
    pub id: SessionId,
    pub created_at: Timestamp,
    pub rotated_at: Option<Timestamp>,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    /// Of the last login or refresh.
    pub user_agent: Option<String>,
    /// Of the last login or refresh.
    pub ip: Option<IpAddress>,
    /// The OAuth client that opened it.
    pub client: Option<String>,
}

/// The most sessions that a list contains.
const MAX_LISTED: i64 = 1000;

/// Returns the live sessions of a user, the last used first.
pub fn list_live(
    conn: &mut Conn,
    user: UserId,
    now: Timestamp,
) -> QueryResult<Vec<SessionSummary>> {
    let mut live: Vec<SessionSummary> = sessions::table
        .filter(sessions::place.eq(user.place().value()))
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .order(sessions::id.desc())
        .limit(MAX_LISTED)
        .select((
            sessions::id,
            sessions::created_at,
            sessions::rotated_at,
            sessions::idle_expires_at,
            sessions::expires_at,
            sessions::user_agent,
            sessions::ip,
            sessions::client_id,
        ))
        .load(conn)?;
    live.sort_by_key(|listed| std::cmp::Reverse(listed.rotated_at.unwrap_or(listed.created_at)));
    Ok(live)
}

/// Returns whether the session has neither ended nor expired.
pub fn is_live(conn: &mut Conn, id: SessionId, now: Timestamp) -> QueryResult<bool> {
    let found = sessions::table
        .find(key(id))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .select(sessions::id)
        .first::<SessionId>(conn)
        .optional()?;
    Ok(found.is_some())
}

/// Returns whether the user has a session that has neither ended nor expired.
pub fn has_live(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<bool> {
    let found = sessions::table
        .filter(sessions::place.eq(user.place().value()))
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .select(sessions::id)
        .first::<SessionId>(conn)
        .optional()?;
    Ok(found.is_some())
}
