//! Rows of `ends`: sessions that have ended while access tokens of theirs are out.

use diesel::prelude::*;

use super::Conn;
use super::schema::{ends, sessions};
use crate::clock::Timestamp;
use crate::token::{SessionId, UserId};

/// The end of a session, as Redis has to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct End {
    /// The session.
    pub session_id: SessionId,
    /// When the last of its access tokens expires.
    pub access_until: Timestamp,
}

/// Notes the end of a session, unpublished: in the transaction that ends it.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, end: &End) -> QueryResult<()> {
    diesel::insert_into(ends::table)
        .values((
            ends::session_id.eq(end.session_id),
            ends::access_until.eq(end.access_until),
            ends::published.eq(false),
        ))
        .execute(conn)?;
    Ok(())
}

/// The ends of these sessions.
///
/// # Errors
/// When the query fails.
pub fn of(conn: &mut Conn, sessions: &[SessionId]) -> QueryResult<Vec<End>> {
    let those = ends::table.filter(ends::session_id.eq_any(sessions));
    those.select((ends::session_id, ends::access_until)).load(conn)
}

/// Up to `limit` ends that are unpublished.
///
/// # Errors
/// When the query fails.
pub fn unpublished(conn: &mut Conn, limit: i64) -> QueryResult<Vec<End>> {
    let unpublished = ends::table.filter(diesel::dsl::not(ends::published)).limit(limit);
    unpublished.select((ends::session_id, ends::access_until)).load(conn)
}

/// Whether any of these ends is unpublished still.
///
/// # Errors
/// When the query fails.
pub fn any_unpublished(conn: &mut Conn, sessions: &[SessionId]) -> QueryResult<bool> {
    let unpublished = ends::table
        .filter(ends::session_id.eq_any(sessions))
        .filter(diesel::dsl::not(ends::published));
    let first = unpublished.select(ends::session_id).first::<SessionId>(conn);
    Ok(first.optional()?.is_some())
}

/// The sessions of this user whose end is unpublished.
///
/// # Errors
/// When the query fails.
pub fn unpublished_of(conn: &mut Conn, user: UserId) -> QueryResult<Vec<SessionId>> {
    let unpublished =
        ends::table.filter(diesel::dsl::not(ends::published)).select(ends::session_id);
    sessions::table
        .filter(sessions::user_id.eq(user))
        .filter(sessions::id.eq_any(unpublished))
        .select(sessions::id)
        .load(conn)
}

/// Notes that these ends are published.
///
/// # Errors
/// When the statement fails.
pub fn set_published(conn: &mut Conn, sessions: &[SessionId]) -> QueryResult<()> {
    let those = ends::table.filter(ends::session_id.eq_any(sessions));
    diesel::update(those).set(ends::published.eq(true)).execute(conn)?;
    Ok(())
}

/// Every end of which tokens are out at `time`.
///
/// # Errors
/// When the query fails.
pub fn that_matter(conn: &mut Conn, time: Timestamp) -> QueryResult<Vec<End>> {
    let those = ends::table.filter(ends::access_until.gt(time));
    those.select((ends::session_id, ends::access_until)).load(conn)
}

/// Deletes the ends of which no token is out at `time`; answers how many.
///
/// # Errors
/// When the statement fails.
pub fn delete_old(conn: &mut Conn, time: Timestamp) -> QueryResult<usize> {
    diesel::delete(ends::table.filter(ends::access_until.le(time))).execute(conn)
}
