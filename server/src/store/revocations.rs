//! The table `session_revocations`: revoked sessions whose access tokens have not all
//! expired.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::Conn;
use super::engine::is_citus;
use super::schema::{session_revocations, sessions};
use crate::clock::Timestamp;
use crate::ids::{SessionId, UserId};

/// The revocation of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct Revocation {
    pub session_id: SessionId,
    /// When the last access token of the session has expired, and the end of the session need
    /// not be remembered any more.
    pub access_expires_at: Timestamp,
}

/// Where the next poll for new revocations begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    transaction: i64,
    /// When the database server was started, in microseconds since 1970; 0 on SQLite. It
    /// identifies the server, because each counts transactions for itself.
    started: i64,
}

impl Cursor {
    /// Before every revocation.
    pub const START: Self = Self { transaction: 0, started: 0 };

    /// Returns the cursor for the poll after the one that begins now. Take it
    /// before the rows are read.
    ///
    /// On PostgreSQL it is the oldest transaction that is still running. A revocation
    /// that the read does not see yet belongs to that transaction or to a later one. On Citus,
    /// whose nodes count transactions for themselves, it is a time before which no running
    /// transaction has begun. SQLite numbers no transactions; a poll reads all unexpired
    /// revocations there.
    pub fn next(conn: &mut Conn) -> QueryResult<Self> {
        let Conn::Postgres(conn) = conn else { return Ok(Self::START) };
        let oldest = if is_citus() {
            sql::<BigInt>(LONGEST_TRANSACTION_AGO)
        } else {
            sql::<BigInt>("pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        };
        let started =
            sql::<BigInt>("(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint");
        let (transaction, started) = diesel::select((oldest, started)).get_result(conn)?;
        Ok(Self { transaction, started })
    }

    /// Returns whether both cursors are of one run of one database server, as far as that
    /// can be seen: a pooler may lead one connection to several.
    #[must_use]
    pub fn is_of_same_server(self, other: Self) -> bool {
        self.started == other.started
    }
}

/// The time of a node of Citus, which takes the place of a transaction number there.
const MICROSECONDS: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The same, earlier by more than the longest transaction that ends sessions and the
/// differences between the clocks of nodes.
const LONGEST_TRANSACTION_AGO: &str =
    "(extract(epoch FROM clock_timestamp() - interval '5 minutes') * 1000000)::bigint";

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_absent {
    ($conn:expr, $revocation:expr, $transaction_id:expr) => {
        diesel::insert_into(session_revocations::table)
            .values((
                session_revocations::place.eq($revocation.session_id.place().value()),
                session_revocations::session_id.eq($revocation.session_id),
                session_revocations::access_expires_at.eq($revocation.access_expires_at),
                session_revocations::transaction_id.eq(sql::<BigInt>($transaction_id)),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
            .map(drop)
    };
}

/// Inserts a revocation, in the transaction that ends the session. Keeps one that exists.
pub fn insert(conn: &mut Conn, revocation: &Revocation) -> QueryResult<()> {
    match conn {
        Conn::Postgres(conn) => {
            let transaction_id =
                if is_citus() { MICROSECONDS } else { "pg_current_xact_id()::text::bigint" };
            insert_if_absent!(conn, revocation, transaction_id)
        }
        Conn::Sqlite(conn) => insert_if_absent!(conn, revocation, "0"),
    }
}

/// Returns the revocations of these sessions.
pub fn for_sessions(conn: &mut Conn, sessions: &[SessionId]) -> QueryResult<Vec<Revocation>> {
    let places = sessions.iter().map(|session| session.place().value());
    session_revocations::table
        .filter(session_revocations::place.eq_any(places))
        .filter(session_revocations::session_id.eq_any(sessions))
        .select((session_revocations::session_id, session_revocations::access_expires_at))
        .load(conn)
}

/// Returns the revoked sessions of a user.
pub fn for_user(conn: &mut Conn, user: UserId) -> QueryResult<Vec<SessionId>> {
    let revocation = session_revocations::place
        .eq(sessions::place)
        .and(session_revocations::session_id.eq(sessions::id));
    sessions::table
        .inner_join(session_revocations::table.on(revocation))
        .filter(sessions::place.eq(user.place().value()))
        .filter(sessions::user_id.eq(user))
        .select(sessions::id)
        .load(conn)
}

/// Returns the revocations from `cursor` on whose access tokens expire after
/// `time`. Consecutive polls overlap.
pub fn since(conn: &mut Conn, cursor: Cursor, time: Timestamp) -> QueryResult<Vec<Revocation>> {
    session_revocations::table
        .filter(session_revocations::transaction_id.ge(cursor.transaction))
        .filter(session_revocations::access_expires_at.gt(time))
        .select((session_revocations::session_id, session_revocations::access_expires_at))
        .load(conn)
}

/// Deletes revocations whose access tokens have all expired at `time`. Returns how many.
pub fn delete_old(conn: &mut Conn, time: Timestamp) -> QueryResult<usize> {
    diesel::delete(
        session_revocations::table.filter(session_revocations::access_expires_at.le(time)),
    )
    .execute(conn)
}
