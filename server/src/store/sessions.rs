//! Rows of `sessions`.

use std::net::IpAddr;

use diesel::prelude::*;

use super::Conn;
use super::schema::sessions;
use super::types::Address;
use crate::clock::Timestamp;
use crate::token::{AccessId, Digest, RefreshToken, SessionId, UserId};

/// A session as it begins.
pub struct NewSession<'a> {
    /// Its id.
    pub id: SessionId,
    /// Who signed in.
    pub user: UserId,
    /// Digest of the first refresh token's secret.
    pub secret: Digest,
    /// The access token granted with it.
    pub access: AccessId,
    /// When it is opened.
    pub now: Timestamp,
    /// When it ends unless it is refreshed before.
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// The `User-Agent` that signed in.
    pub user_agent: Option<&'a str>,
    /// The address that signed in.
    pub ip: Option<IpAddr>,
}

/// Adds a session at generation 0.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, new: &NewSession<'_>) -> QueryResult<()> {
    diesel::insert_into(sessions::table)
        .values((
            sessions::id.eq(new.id),
            sessions::user_id.eq(new.user),
            sessions::generation.eq(0),
            sessions::secret_digest.eq(new.secret.as_bytes()),
            sessions::access_jti.eq(new.access),
            sessions::access_issued_at.eq(new.now),
            sessions::created_at.eq(new.now),
            sessions::idle_expires_at.eq(new.idle_expires_at),
            sessions::expires_at.eq(new.expires_at),
            sessions::user_agent.eq(new.user_agent),
            sessions::ip.eq(new.ip.map(Address)),
        ))
        .execute(conn)?;
    Ok(())
}

/// What a rotation writes.
pub struct Advance {
    /// Digest of the successor's secret.
    pub secret: Digest,
    /// The access token granted with it.
    pub access: AccessId,
    /// When it happens.
    pub now: Timestamp,
    /// When the session ends unless it is refreshed again before.
    pub idle_expires_at: Timestamp,
}

/// Moves a live session from `presented` to its successor, in one statement:
/// of several at once, one gets the row. Answers whose session it is and when
/// it ends in any case.
///
/// # Errors
/// When the statement fails.
pub fn advance(
    conn: &mut Conn,
    presented: &RefreshToken,
    next: &Advance,
) -> QueryResult<Option<(UserId, Timestamp)>> {
    let digest = presented.secret.digest();
    let live = sessions::table
        .find(presented.session)
        .filter(sessions::generation.eq(presented.generation))
        .filter(sessions::secret_digest.eq(digest.as_bytes()))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(next.now))
        .filter(sessions::expires_at.gt(next.now));
    diesel::update(live)
        .set((
            sessions::generation.eq(presented.generation.saturating_add(1)),
            sessions::secret_digest.eq(next.secret.as_bytes()),
            sessions::previous_digest.eq(digest.as_bytes()),
            sessions::rotated_at.eq(next.now),
            sessions::access_jti.eq(next.access),
            sessions::access_issued_at.eq(next.now),
            sessions::idle_expires_at.eq(next.idle_expires_at),
        ))
        .returning((sessions::user_id, sessions::expires_at))
        .get_result(conn)
        .optional()
}

/// What a refusal is judged by.
#[derive(Queryable)]
pub struct Standing {
    /// How often it has been rotated.
    pub generation: i64,
    /// When it ends unless it is refreshed before.
    pub idle_expires_at: Timestamp,
    /// When it ends in any case.
    pub expires_at: Timestamp,
    /// Why it ended, if it did.
    pub end_reason: Option<String>,
}

/// How a session stands.
///
/// # Errors
/// When the query fails.
pub fn find(conn: &mut Conn, id: SessionId) -> QueryResult<Option<Standing>> {
    sessions::table
        .find(id)
        .select((
            sessions::generation,
            sessions::idle_expires_at,
            sessions::expires_at,
            sessions::end_reason,
        ))
        .first(conn)
        .optional()
}

/// Ends a live session; `false` where it had ended already.
///
/// # Errors
/// When the statement fails.
pub fn end(conn: &mut Conn, id: SessionId, reason: &str, now: Timestamp) -> QueryResult<bool> {
    let ended = diesel::update(sessions::table.find(id).filter(sessions::ended_at.is_null()))
        .set((sessions::ended_at.eq(now), sessions::end_reason.eq(reason)))
        .execute(conn)?;
    Ok(ended == 1)
}

/// Whether the session is live: neither ended nor past its end.
///
/// # Errors
/// When the query fails.
pub fn is_live(conn: &mut Conn, id: SessionId, now: Timestamp) -> QueryResult<bool> {
    let found = sessions::table
        .find(id)
        .filter(sessions::ended_at.is_null())
        .filter(sessions::expires_at.gt(now))
        .select(sessions::id)
        .first::<SessionId>(conn)
        .optional()?;
    Ok(found.is_some())
}

/// Whether the user has a session that can still be refreshed.
///
/// # Errors
/// When the query fails.
pub fn any_live(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<bool> {
    let found = sessions::table
        .filter(sessions::user_id.eq(user))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::idle_expires_at.gt(now))
        .filter(sessions::expires_at.gt(now))
        .select(sessions::id)
        .first::<SessionId>(conn)
        .optional()?;
    Ok(found.is_some())
}
