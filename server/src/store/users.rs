//! Rows of `users`.

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use super::Conn;
use super::schema::{sessions, users};
use crate::clock::Timestamp;
use crate::ids::UserId;

/// Adds a guest.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<()> {
    diesel::insert_into(users::table)
        .values((users::id.eq(id), users::created_at.eq(now)))
        .execute(conn)?;
    Ok(())
}

/// Uses up the guest's one sign-in. Of several at once, one gets `true`.
///
/// # Errors
/// When the statement fails.
pub fn use_login(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<bool> {
    let changed = diesel::update(users::table.find(id).filter(users::logged_in_at.is_null()))
        .set(users::logged_in_at.eq(now))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Gives the guest's one sign-in back.
///
/// # Errors
/// When the statement fails.
pub fn release_login(conn: &mut Conn, id: UserId) -> QueryResult<()> {
    diesel::update(users::table.find(id))
        .set(users::logged_in_at.eq(None::<Timestamp>))
        .execute(conn)?;
    Ok(())
}

/// What a sweep of users has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The last user it looked at; `None` where there was none.
    pub last: Option<UserId>,
    /// How many are gone.
    pub deleted: usize,
}

/// Deletes, of the `limit` guests that follow on `after`, those that were registered
/// before `unused` and never signed in, and those that signed in before `used` and
/// have no session left: a guest signs in once.
///
/// # Errors
/// When a statement fails.
pub fn sweep(
    conn: &mut Conn,
    after: UserId,
    limit: i64,
    unused: Timestamp,
    used: Timestamp,
) -> QueryResult<SweepReport> {
    let seen: Vec<UserId> = users::table
        .filter(users::id.gt(after))
        .order(users::id)
        .limit(limit)
        .select(users::id)
        .load(conn)?;
    let Some(last) = seen.last().copied() else { return Ok(SweepReport::default()) };
    let sessions_left = exists(sessions::table.filter(sessions::user_id.eq(users::id)));
    let never_used = users::logged_in_at.is_null().and(users::created_at.lt(unused));
    let is_over = users::logged_in_at.is_not_null().and(users::logged_in_at.lt(used));
    // Asked again by the statement that deletes: one may be signing in.
    let gone = users::table
        .filter(users::id.eq_any(seen))
        .filter(never_used.or(is_over.and(not(sessions_left)).assume_not_null()));
    let deleted = diesel::delete(gone).execute(conn)?;
    Ok(SweepReport { last: Some(last), deleted })
}

/// Whether there is such a user.
///
/// # Errors
/// When the query fails.
pub fn is_there(conn: &mut Conn, id: UserId) -> QueryResult<bool> {
    let found = users::table.find(id).select(users::id).first::<UserId>(conn).optional()?;
    Ok(found.is_some())
}
