//! The table `imported_refresh_tokens`: refresh tokens that another server issued. Each
//! opens one session.

use diesel::dsl::not;
use diesel::prelude::*;

use super::schema::imported_refresh_tokens;
use super::{Conn, Page};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{SessionId, UserId};

/// A refresh token of another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct ImportedToken {
    pub user: UserId,
    pub expires_at: Timestamp,
    /// The session that it opened.
    pub session: Option<SessionId>,
}

/// Reads a token by its digest.
pub fn find(conn: &mut Conn, digest: Digest) -> QueryResult<Option<ImportedToken>> {
    imported_refresh_tokens::table
        .find(digest.as_bytes())
        .select((
            imported_refresh_tokens::user_id,
            imported_refresh_tokens::expires_at,
            imported_refresh_tokens::session_id,
        ))
        .first(conn)
        .optional()
}

/// Returns whether the table has a row.
pub fn any(conn: &mut Conn) -> QueryResult<bool> {
    let first = imported_refresh_tokens::table
        .order(imported_refresh_tokens::digest)
        .select(imported_refresh_tokens::user_id)
        .first::<UserId>(conn)
        .optional()?;
    Ok(first.is_some())
}

/// Uses a token for a new session. Of several concurrent calls, one returns `true`.
pub fn claim(
    conn: &mut Conn,
    digest: Digest,
    session: SessionId,
    now: Timestamp,
) -> QueryResult<bool> {
    let unused = imported_refresh_tokens::table
        .find(digest.as_bytes())
        .filter(imported_refresh_tokens::session_id.is_null())
        .filter(imported_refresh_tokens::expires_at.gt(now));
    let changed = diesel::update(unused)
        .set((
            imported_refresh_tokens::session_id.eq(session),
            imported_refresh_tokens::exchanged_at.eq(now),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Deletes the tokens of a user, or of all users, that have opened no session and were
/// imported before a time. Returns how many.
pub fn revoke_unused(
    conn: &mut Conn,
    user: Option<UserId>,
    before: Option<Timestamp>,
) -> QueryResult<usize> {
    let before = before.unwrap_or(Timestamp::END_OF_9999);
    let unused = imported_refresh_tokens::table
        .filter(imported_refresh_tokens::session_id.is_null())
        .filter(imported_refresh_tokens::created_at.lt(before));
    match user {
        Some(user) => {
            diesel::delete(unused.filter(imported_refresh_tokens::user_id.eq(user))).execute(conn)
        }
        None => diesel::delete(unused).execute(conn),
    }
}

/// Returns the number of a user's tokens that can open a session.
pub fn count_unused(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<i64> {
    imported_refresh_tokens::table
        .filter(imported_refresh_tokens::user_id.eq(user))
        .filter(imported_refresh_tokens::session_id.is_null())
        .filter(imported_refresh_tokens::expires_at.gt(now))
        .count()
        .get_result(conn)
}

/// The result of one step of the sweeper.
#[derive(Clone, Copy, Default)]
pub struct SweepReport {
    /// The last token that was read, or `None` if there are no more.
    pub last: Option<Digest>,
    /// How many tokens were deleted.
    pub deleted: usize,
}

/// Deletes the tokens of a page that expired unused before `now`, or were used before
/// `used`.
pub fn sweep(
    conn: &mut Conn,
    page: Page<Digest>,
    now: Timestamp,
    used: Timestamp,
) -> QueryResult<SweepReport> {
    let after: &[u8] = page.after.as_ref().map_or(&[], Digest::as_bytes);
    let seen: Vec<Vec<u8>> = imported_refresh_tokens::table
        .filter(imported_refresh_tokens::digest.gt(after))
        .order(imported_refresh_tokens::digest)
        .limit(page.limit)
        .select(imported_refresh_tokens::digest)
        .load(conn)?;
    let Some(last) = seen.last().and_then(|digest| Digest::from_bytes(digest)) else {
        return Ok(SweepReport::default());
    };
    let is_unused = imported_refresh_tokens::session_id.is_null();
    let has_expired = imported_refresh_tokens::expires_at.lt(now);
    let is_over = imported_refresh_tokens::exchanged_at.lt(used).assume_not_null();
    let due = imported_refresh_tokens::table
        .filter(imported_refresh_tokens::digest.eq_any(seen))
        .filter(is_unused.and(has_expired).or(not(is_unused).and(is_over)));
    let deleted = diesel::delete(due).execute(conn)?;
    Ok(SweepReport { last: Some(last), deleted })
}
