//! The table `login_sessions`: browsers that are logged in at the pages of the server.

use std::net::IpAddr;

use diesel::dsl::exists;
use diesel::prelude::*;

use super::schema::login_sessions;
use super::{Conn, IpAddress, Page};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{LoginSessionId, Place, UserId};

/// The primary key of a login session.
fn key(id: LoginSessionId) -> (i16, LoginSessionId) {
    (id.place().value(), id)
}

/// The columns of a new login session.
#[derive(Clone, Copy)]
pub struct NewLoginSession<'a> {
    pub id: LoginSessionId,
    pub user: UserId,
    /// The digest of the secret in the cookie.
    pub secret: Digest,
    pub now: Timestamp,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    pub user_agent: Option<&'a str>,
    pub ip: Option<IpAddr>,
}

/// A login session that has not expired.
#[derive(Queryable)]
pub struct StoredLoginSession {
    pub user: UserId,
    pub secret_digest: Vec<u8>,
    /// When the user last proved who they are.
    pub auth_time: Timestamp,
    pub idle_expires_at: Timestamp,
}

/// Inserts a login session.
pub fn insert(conn: &mut Conn, new: &NewLoginSession<'_>) -> QueryResult<()> {
    diesel::insert_into(login_sessions::table)
        .values((
            login_sessions::place.eq(new.id.place().value()),
            login_sessions::id.eq(new.id),
            login_sessions::user_id.eq(new.user),
            login_sessions::secret_digest.eq(new.secret.as_bytes()),
            login_sessions::created_at.eq(new.now),
            login_sessions::auth_time.eq(new.now),
            login_sessions::idle_expires_at.eq(new.idle_expires_at),
            login_sessions::expires_at.eq(new.expires_at),
            login_sessions::user_agent.eq(new.user_agent),
            login_sessions::ip.eq(new.ip.map(IpAddress)),
        ))
        .execute(conn)
        .map(drop)
}

/// Returns a login session that has not expired.
pub fn find(
    conn: &mut Conn,
    id: LoginSessionId,
    now: Timestamp,
) -> QueryResult<Option<StoredLoginSession>> {
    login_sessions::table
        .find(key(id))
        .filter(login_sessions::idle_expires_at.gt(now))
        .filter(login_sessions::expires_at.gt(now))
        .select((
            login_sessions::user_id,
            login_sessions::secret_digest,
            login_sessions::auth_time,
            login_sessions::idle_expires_at,
        ))
        .first(conn)
        .optional()
}

/// Returns whether this user has this login session, expired or not.
pub fn is_of_user(
    conn: &mut Conn,
    user: UserId,
    id: LoginSessionId,
    secret: &Digest,
) -> QueryResult<bool> {
    let presented = login_sessions::table
        .find(key(id))
        .filter(login_sessions::user_id.eq(user))
        .filter(login_sessions::secret_digest.eq(secret.as_bytes()));
    diesel::select(exists(presented)).get_result(conn)
}

/// Extends the idle lifetime.
pub fn extend(conn: &mut Conn, id: LoginSessionId, until: Timestamp) -> QueryResult<()> {
    let earlier =
        login_sessions::table.find(key(id)).filter(login_sessions::idle_expires_at.lt(until));
    diesel::update(earlier).set(login_sessions::idle_expires_at.eq(until)).execute(conn).map(drop)
}

/// Locks a login session until the end of the transaction. Returns `false` if it was deleted.
pub fn lock(conn: &mut Conn, id: LoginSessionId) -> QueryResult<bool> {
    let unchanged = login_sessions::auth_time.eq(login_sessions::auth_time);
    Ok(diesel::update(login_sessions::table.find(key(id))).set(unchanged).execute(conn)? == 1)
}

/// Deletes the login session with this secret. Returns `false` if it does not exist.
pub fn delete(conn: &mut Conn, id: LoginSessionId, secret: &Digest) -> QueryResult<bool> {
    let presented = login_sessions::table
        .find(key(id))
        .filter(login_sessions::secret_digest.eq(secret.as_bytes()));
    Ok(diesel::delete(presented).execute(conn)? == 1)
}

/// Deletes the login session of a user with this secret, expired or not. Returns `false` if it
/// does not exist.
pub fn delete_of_user(
    conn: &mut Conn,
    user: UserId,
    id: LoginSessionId,
    secret: &Digest,
) -> QueryResult<bool> {
    Ok(is_of_user(conn, user, id, secret)? && delete(conn, id, secret)?)
}

/// Deletes the login sessions of a user, except `keep`.
pub fn delete_all(
    conn: &mut Conn,
    user: UserId,
    keep: Option<LoginSessionId>,
) -> QueryResult<usize> {
    let others = login_sessions::table
        .filter(login_sessions::place.eq(user.place().value()))
        .filter(login_sessions::user_id.eq(user))
        .filter(login_sessions::id.ne(keep.unwrap_or(LoginSessionId::MIN)));
    diesel::delete(others).execute(conn)
}

/// Deletes the login sessions of a user, or of all users, that were opened before a time.
/// Returns how many.
pub fn delete_selected(
    conn: &mut Conn,
    user: Option<UserId>,
    before: Option<Timestamp>,
) -> QueryResult<usize> {
    let before = before.unwrap_or(Timestamp::END_OF_9999);
    let opened = login_sessions::table.filter(login_sessions::created_at.lt(before));
    match user {
        Some(user) => diesel::delete(
            opened
                .filter(login_sessions::place.eq(user.place().value()))
                .filter(login_sessions::user_id.eq(user)),
        )
        .execute(conn),
        None => diesel::delete(opened).execute(conn),
    }
}

/// The result of one step of the sweeper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The last login session that was read, or `None` if there are no more.
    pub last: Option<LoginSessionId>,
    /// How many were deleted.
    pub deleted: usize,
}

/// Deletes the login sessions of a page that expired before `before`.
pub fn sweep(
    conn: &mut Conn,
    page: Page<LoginSessionId>,
    before: Timestamp,
) -> QueryResult<SweepReport> {
    let Page { after, limit } = page;
    let mut report = SweepReport::default();
    let mut left = limit;
    for place in after.map_or(Place::MIN, LoginSessionId::place).and_later() {
        if left <= 0 {
            break;
        }
        let after = after.filter(|after| after.place() == place);
        let seen: Vec<LoginSessionId> = login_sessions::table
            .filter(login_sessions::place.eq(place.value()))
            .filter(login_sessions::id.gt(after.unwrap_or(LoginSessionId::MIN)))
            .order(login_sessions::id)
            .limit(left)
            .select(login_sessions::id)
            .load(conn)?;
        let Some(last) = seen.last() else { continue };
        report.last = Some(*last);
        left = left.saturating_sub(i64::try_from(seen.len()).unwrap_or(i64::MAX));
        let has_expired =
            login_sessions::idle_expires_at.lt(before).or(login_sessions::expires_at.lt(before));
        let due = login_sessions::table
            .filter(login_sessions::place.eq(place.value()))
            .filter(login_sessions::id.eq_any(seen))
            .filter(has_expired);
        report.deleted += diesel::delete(due).execute(conn)?;
    }
    Ok(report)
}
