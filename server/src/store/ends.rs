//! Rows of `unpublished_ends`: ends of sessions that Redis may not know of yet.

use diesel::prelude::*;

use super::Conn;
use super::schema::{sessions, unpublished_ends};
use crate::clock::Timestamp;
use crate::token::{SessionId, UserId};

/// Marks sessions that have just ended as unpublished: in the transaction that
/// ends them.
///
/// # Errors
/// When the statement fails.
pub fn mark(conn: &mut Conn, ended: &[SessionId], now: Timestamp) -> QueryResult<()> {
    for session in ended {
        diesel::insert_into(unpublished_ends::table)
            .values((unpublished_ends::session_id.eq(session), unpublished_ends::ended_at.eq(now)))
            .execute(conn)?;
    }
    Ok(())
}

/// Up to `limit` ends that are marked.
///
/// # Errors
/// When the query fails.
pub fn unpublished(conn: &mut Conn, limit: i64) -> QueryResult<Vec<SessionId>> {
    unpublished_ends::table.select(unpublished_ends::session_id).limit(limit).load(conn)
}

/// Whether any of these ends is marked still.
///
/// # Errors
/// When the query fails.
pub fn any_unpublished(conn: &mut Conn, ended: &[SessionId]) -> QueryResult<bool> {
    let marks = unpublished_ends::table.filter(unpublished_ends::session_id.eq_any(ended));
    let first = marks.select(unpublished_ends::session_id).first::<SessionId>(conn);
    Ok(first.optional()?.is_some())
}

/// The ends of this user's sessions that are marked.
///
/// # Errors
/// When the query fails.
pub fn unpublished_of(conn: &mut Conn, user: UserId) -> QueryResult<Vec<SessionId>> {
    let marked = unpublished_ends::table.select(unpublished_ends::session_id);
    sessions::table
        .filter(sessions::user_id.eq(user))
        .filter(sessions::id.eq_any(marked))
        .select(sessions::id)
        .load(conn)
}

/// Takes the marks of these ends away.
///
/// # Errors
/// When the statement fails.
pub fn unmark(conn: &mut Conn, published: &[SessionId]) -> QueryResult<()> {
    let marks = unpublished_ends::table.filter(unpublished_ends::session_id.eq_any(published));
    diesel::delete(marks).execute(conn)?;
    Ok(())
}

/// Takes the marks away of what ended before `before`.
///
/// # Errors
/// When the statement fails.
pub fn unmark_old(conn: &mut Conn, before: Timestamp) -> QueryResult<usize> {
    diesel::delete(unpublished_ends::table.filter(unpublished_ends::ended_at.lt(before)))
        .execute(conn)
}

/// Every session that ended at `since` or later.
///
/// # Errors
/// When the query fails.
pub fn since(conn: &mut Conn, since: Timestamp) -> QueryResult<Vec<SessionId>> {
    sessions::table.filter(sessions::ended_at.ge(since)).select(sessions::id).load(conn)
}
