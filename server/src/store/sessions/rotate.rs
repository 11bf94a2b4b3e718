//! The rotation of a session: one `UPDATE` that compares and swaps.

mod statements;

use std::collections::HashMap;
use std::net::IpAddr;

use diesel::prelude::*;

use self::statements::{RotateBatch, RotateOne};
use super::{Session, StoredGrant};
use crate::clock::{self, Timestamp};
use crate::crypto::{Digest, Salt};
use crate::ids::{AccessTokenId, SessionId, UserId};
use crate::store::Conn;
use crate::store::engine::is_citus;

/// The values that a rotation compares and writes.
pub struct RotationUpdate {
    pub session: SessionId,
    /// The generation of the presented token.
    pub generation: i64,
    /// The digest of its secret.
    pub presented: Digest,
    /// The digest of its successor's secret.
    pub successor: Digest,
    /// The salt of the successor, if it may be reissued.
    pub salt: Option<Salt>,
    /// The digest of the idempotency key, if the client sent one.
    pub idempotency_key_digest: Option<Digest>,
    /// Whether to rotate the session only if it has never used an idempotency key: the
    /// client sent none, and `same_key_only` requires the keys of a session that uses them.
    pub only_if_no_key_used: bool,
    /// The access token that is issued with the successor.
    pub access: AccessTokenId,
    /// When the access token expires at the latest.
    pub access_expires_at: Timestamp,
    pub now: Timestamp,
    /// The time `now` minus the grace period. The grace period of earlier rotations is
    /// over.
    pub grace_from: Timestamp,
    /// When the caller gives up, by the database's clock. The rotation is not executed
    /// later.
    pub deadline: Timestamp,
    pub idle_expires_at: Timestamp,
    pub user_agent: Option<String>,
    pub ip: Option<IpAddr>,
}

/// The columns of a session that its rotation returns.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct RotatedSession {
    pub user: UserId,
    /// The absolute expiry.
    pub expires_at: Timestamp,
    /// Further claims of the access tokens, as JSON.
    pub claims: Option<String>,
    pub grant: StoredGrant,
}

/// Rotates one session in one statement. Of several concurrent calls, one succeeds.
pub fn rotate(conn: &mut Conn, next: &RotationUpdate) -> QueryResult<Option<RotatedSession>> {
    swap_committed(conn, next.generation, next.presented.as_bytes(), next)
}

/// Rotates distinct sessions with one commit: in one statement on PostgreSQL, which skips
/// locked rows, and on Citus in one for each place; in one transaction on SQLite. The results
/// are in the order of `all`. If a statement fails, no session is rotated.
pub fn rotate_batch(
    conn: &mut Conn,
    all: &[&RotationUpdate],
) -> QueryResult<Vec<Option<RotatedSession>>> {
    match (conn, all) {
        (Conn::Postgres(conn), [next]) => {
            let one = RotateOne::<true>::new(next.generation, next.presented.as_bytes(), next);
            Ok(vec![one.get_result(conn).optional()?])
        }
        (Conn::Postgres(conn), all) => {
            let mut rows: HashMap<SessionId, RotatedSession> = HashMap::new();
            if is_citus() && all.iter().any(|next| next.session.place() != all[0].session.place()) {
                let mut sorted = all.to_vec();
                sorted.sort_by_key(|next| next.session.place());
                conn.transaction(|conn| {
                    for all in sorted.chunk_by(|a, b| a.session.place() == b.session.place()) {
                        rows.extend(rotate_in_one_statement(conn, all)?);
                    }
                    QueryResult::Ok(())
                })?;
            } else {
                rows.extend(rotate_in_one_statement(conn, all)?);
            }
            Ok(all.iter().map(|next| rows.remove(&next.session)).collect())
        }
        (conn @ Conn::Sqlite(_), all) => conn.write(|conn| {
            let swap = |next: &&RotationUpdate| {
                swap(conn, next.generation, next.presented.as_bytes(), next)
            };
            all.iter().map(swap).collect()
        }),
    }
}

/// On Citus all sessions must have the same place.
fn rotate_in_one_statement(
    conn: &mut PgConnection,
    all: &[&RotationUpdate],
) -> QueryResult<Vec<(SessionId, RotatedSession)>> {
    RotateBatch::new(all).load(conn)
}

/// Rotates a session whose row is behind the presented token, unless the row has changed
/// since it was `seen`.
pub fn rotate_from(
    conn: &mut Conn,
    seen: &Session,
    next: &RotationUpdate,
) -> QueryResult<Option<RotatedSession>> {
    swap_committed(conn, seen.generation, seen.secret_digest.as_bytes(), next)
}

fn swap_committed(
    conn: &mut Conn,
    generation: i64,
    secret_digest: &[u8],
    next: &RotationUpdate,
) -> QueryResult<Option<RotatedSession>> {
    match conn {
        Conn::Postgres(_) => swap(conn, generation, secret_digest, next),
        // Without a transaction SQLite commits when the statement is reset, after its row
        // was read, and diesel drops the error of the reset.
        Conn::Sqlite(_) => conn.write(|conn| swap(conn, generation, secret_digest, next)),
    }
}

/// Runs the statement. SQLite needs a transaction around it.
fn swap(
    conn: &mut Conn,
    generation: i64,
    secret_digest: &[u8],
    next: &RotationUpdate,
) -> QueryResult<Option<RotatedSession>> {
    let one = RotateOne::<false>::new(generation, secret_digest, next);
    match conn {
        Conn::Postgres(conn) => one.get_result(conn).optional(),
        // SQLite runs in this process, so this process's clock is exact enough.
        Conn::Sqlite(_) if clock::now() > next.deadline => Ok(None),
        Conn::Sqlite(conn) => one.get_result(conn).optional(),
    }
}
