//! The rotation of a session: one `UPDATE` that compares and swaps.
//!
//! Its columns and its guard are written down once, in [`SET`] and [`GUARD`], and
//! serve both statements: the one for a single session and the one for a batch.
//! They are query types of their own so that diesel prepares each once per
//! connection; it does not prepare updates of its own language, nor `sql_query`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use diesel::backend::Backend;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Array, BigInt, Binary, Bool, HasSqlType, Nullable, Text};
use diesel::sqlite::Sqlite;

use super::SessionRow;
use crate::clock::{self, Timestamp};
use crate::crypto::{Digest, Salt};
use crate::ids::{AccessTokenId, SessionId, UserId};
use crate::store::Conn;
use crate::store::types::Address;
use crate::store::types::sql::{Id, IpAddress, PointInTime};

/// What a rotation compares, and what it writes.
pub struct RotationUpdate {
    /// The session.
    pub session: SessionId,
    /// The generation of the token that is rotated.
    pub generation: i64,
    /// Digest of its secret.
    pub presented: Digest,
    /// Digest of its successor's secret.
    pub successor: Digest,
    /// What the successor was derived with, if it may be reissued.
    pub salt: Option<Salt>,
    /// Digest of the idempotency key, if the client sent one.
    pub attempt: Option<Digest>,
    /// Whether a session that was ever rotated with a key needs one again.
    pub key_required: bool,
    /// The access token granted with it.
    pub access: AccessTokenId,
    /// When that expires, at the latest.
    pub access_expires_at: Timestamp,
    /// When it happens.
    pub now: Timestamp,
    /// Rotations before this time are out of their grace period.
    pub grace_from: Timestamp,
    /// From when on nobody waits for the rotation, by the database's clock: it is not
    /// carried out later.
    pub deadline: Timestamp,
    /// When the session ends unless it is refreshed again before.
    pub idle_expires_at: Timestamp,
    /// The `User-Agent` that refreshes.
    pub user_agent: Option<String>,
    /// The address that refreshes.
    pub ip: Option<IpAddr>,
}

/// Whose session was rotated, and when it ends in any case.
pub type Rotated = (UserId, Timestamp);

/// Rotates one session, in one statement: of several at once, one gets the row.
///
/// # Errors
/// When the statement fails.
pub fn rotate(conn: &mut Conn, next: &RotationUpdate) -> QueryResult<Option<Rotated>> {
    advance_from(conn, next.generation, next.presented.as_bytes(), next)
}

/// Rotates many sessions, no two the same, with one commit: in one statement on
/// PostgreSQL, which skips locked rows; in one transaction on SQLite. The results
/// are in the order of `all`.
///
/// # Errors
/// When a statement fails: none of them is rotated then.
pub fn rotate_batch(conn: &mut Conn, all: &[&RotationUpdate]) -> QueryResult<Vec<Option<Rotated>>> {
    match (conn, all) {
        (Conn::Postgres(conn), [next]) => {
            let one = RotateOne::<true>::new(next.generation, next.presented.as_bytes(), next);
            Ok(vec![one.get_result(conn).optional()?])
        }
        (Conn::Postgres(conn), all) => {
            let rows: Vec<(SessionId, UserId, Timestamp)> = RotateBatch::new(all).load(conn)?;
            let rows: HashMap<SessionId, Rotated> =
                rows.into_iter().map(|(session, user, end)| (session, (user, end))).collect();
            Ok(all.iter().map(|next| rows.get(&next.session).copied()).collect())
        }
        (conn @ Conn::Sqlite(_), all) => conn.write(|conn| {
            let swap = |next: &&RotationUpdate| {
                swap(conn, next.generation, next.presented.as_bytes(), next)
            };
            all.iter().map(swap).collect()
        }),
    }
}

/// Rotates a session whose row is behind the presented token: if the row is still
/// as it was `seen`.
///
/// # Errors
/// When the statement fails.
pub fn rotate_from(
    conn: &mut Conn,
    seen: &SessionRow,
    next: &RotationUpdate,
) -> QueryResult<Option<Rotated>> {
    advance_from(conn, seen.generation, &seen.secret_digest, next)
}

fn advance_from(
    conn: &mut Conn,
    generation: i64,
    secret_digest: &[u8],
    next: &RotationUpdate,
) -> QueryResult<Option<Rotated>> {
    match conn {
        Conn::Postgres(_) => swap(conn, generation, secret_digest, next),
        // Without a transaction SQLite commits when the statement is reset, after its row
        // is read, and diesel drops the error of the reset.
        Conn::Sqlite(_) => conn.write(|conn| swap(conn, generation, secret_digest, next)),
    }
}

/// Runs the statement. On SQLite it has to be in a transaction.
fn swap(
    conn: &mut Conn,
    generation: i64,
    secret_digest: &[u8],
    next: &RotationUpdate,
) -> QueryResult<Option<Rotated>> {
    let one = RotateOne::<false>::new(generation, secret_digest, next);
    match conn {
        Conn::Postgres(conn) => one.get_result(conn).optional(),
        // SQLite works in this process, so this process's clock is near enough.
        Conn::Sqlite(_) if clock::now() > next.deadline => Ok(None),
        Conn::Sqlite(conn) => one.get_result(conn).optional(),
    }
}

/// A commit that takes longer than this may leave no time to present the token
/// again within the grace period.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// Dates those of `rotated` that were committed late: their grace period begins
/// when a response could go out. A failure changes nothing but that, and is logged.
pub fn redate_late<'a>(conn: &mut Conn, rotated: impl Iterator<Item = &'a RotationUpdate>) {
    let now = clock::now();
    let late: Vec<_> = rotated
        .filter(|next| now.since(next.now) > LATE_AFTER)
        .map(|next| (next.session, next.successor.as_bytes()))
        .collect();
    if late.is_empty() {
        return;
    }
    match redate(conn, &late, now) {
        Ok(rotations) => tracing::warn!(rotations, "late commit: grace period moved"),
        Err(error) => tracing::warn!(%error, "late commit: grace period not moved"),
    }
}

/// Sets the date of rotations, each by its session and the digest of its successor,
/// to `now`. The access token may have been renewed since. A session that was rotated again since is
/// left as it is.
///
/// # Errors
/// When the statement fails.
pub fn redate(
    conn: &mut Conn,
    rotations: &[(SessionId, &[u8])],
    now: Timestamp,
) -> QueryResult<usize> {
    use crate::store::schema::sessions;
    let ids = rotations.iter().map(|(id, _)| *id);
    let secrets = rotations.iter().map(|(_, secret)| *secret);
    let those = sessions::table
        .filter(sessions::id.eq_any(ids))
        .filter(sessions::secret_digest.eq_any(secrets))
        .filter(sessions::rotated_at.lt(now));
    diesel::update(those).set(sessions::rotated_at.eq(now)).execute(conn)
}

/// A value of a rotation.
#[derive(Clone, Copy)]
enum Field {
    Id,
    Generation,
    NextGeneration,
    Presented,
    Current,
    Successor,
    Salt,
    Attempt,
    KeyRequired,
    Access,
    AccessExpiresAt,
    Now,
    GraceFrom,
    Deadline,
    IdleExpiresAt,
    UserAgent,
    Ip,
}

/// A piece of a statement.
enum Part {
    Sql(&'static str),
    Value(Field),
}

use Part::{Sql, Value};

/// What a rotation writes. `oldest_recent_generation` follows the generations that were current in the
/// last windows: it moves at most once a window, to what was presented a window
/// before, so that neither the owner nor a thief who keeps rotating can keep an
/// old token excused. `idle_expires_at` never moves back, so that a server whose
/// clock is behind shortens nobody's session.
const SET: &[Part] = &[
    Sql("generation = "),
    Value(Field::NextGeneration),
    Sql(", secret_digest = "),
    Value(Field::Successor),
    Sql(", previous_digest = "),
    Value(Field::Presented),
    Sql(", successor_salt = "),
    Value(Field::Salt),
    Sql(", idempotency_key_digest = "),
    Value(Field::Attempt),
    Sql(", has_used_idempotency_key = held.has_used_idempotency_key OR "),
    Value(Field::Attempt),
    Sql(" IS NOT NULL, oldest_recent_generation = CASE WHEN held.rotated_at >= "),
    Value(Field::GraceFrom),
    Sql(" THEN CASE WHEN held.oldest_recent_moved_at >= "),
    Value(Field::GraceFrom),
    Sql(" THEN held.oldest_recent_generation ELSE held.next_oldest_recent_generation END ELSE "),
    Value(Field::Generation),
    Sql(" END, next_oldest_recent_generation = CASE WHEN held.oldest_recent_moved_at >= "),
    Value(Field::GraceFrom),
    Sql(" THEN held.next_oldest_recent_generation ELSE "),
    Value(Field::Generation),
    Sql(" END, oldest_recent_moved_at = CASE WHEN held.oldest_recent_moved_at >= "),
    Value(Field::GraceFrom),
    Sql(" THEN held.oldest_recent_moved_at ELSE "),
    Value(Field::Now),
    Sql(" END, rotated_at = "),
    Value(Field::Now),
    Sql(", access_jti = "),
    Value(Field::Access),
    Sql(", access_issued_at = "),
    Value(Field::Now),
    Sql(", access_expires_at = CASE WHEN held.access_expires_at > "),
    Value(Field::AccessExpiresAt),
    Sql(" THEN held.access_expires_at ELSE "),
    Value(Field::AccessExpiresAt),
    Sql(" END, idle_expires_at = CASE WHEN held.idle_expires_at > "),
    Value(Field::IdleExpiresAt),
    Sql(" THEN held.idle_expires_at ELSE "),
    Value(Field::IdleExpiresAt),
    Sql(" END, user_agent = "),
    Value(Field::UserAgent),
    Sql(", ip = "),
    Value(Field::Ip),
];

/// Which row may be rotated.
const GUARD: &[Part] = &[
    Sql("held.id = "),
    Value(Field::Id),
    Sql(" AND held.generation = "),
    Value(Field::Generation),
    Sql(" AND held.secret_digest = "),
    Value(Field::Current),
    Sql(" AND held.ended_at IS NULL AND held.idle_expires_at > "),
    Value(Field::Now),
    Sql(" AND held.expires_at > "),
    Value(Field::Now),
    Sql(" AND (NOT held.has_used_idempotency_key OR NOT "),
    Value(Field::KeyRequired),
    Sql(")"),
];

/// The deadline on PostgreSQL, whose clock goes on while a statement waits.
const IN_TIME: &[Part] = &[Sql(" AND clock_timestamp() < "), Value(Field::Deadline)];

/// Writes the values of a rotation into a statement.
trait Values<DB: Backend> {
    fn push<'b>(&'b self, field: Field, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>;

    fn push_all<'b>(&'b self, parts: &[Part], out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()> {
        for part in parts {
            match part {
                Sql(sql) => out.push_sql(sql),
                Value(field) => self.push(*field, out)?,
            }
        }
        Ok(())
    }
}

/// Whether a backend's statements carry the deadline.
trait Dialect: Backend {
    const HAS_CLOCK: bool;
}

impl Dialect for Pg {
    const HAS_CLOCK: bool = true;
}

impl Dialect for Sqlite {
    const HAS_CLOCK: bool = false;
}

/// The rotation of one session. `SKIP_LOCKED` is for PostgreSQL alone.
struct RotateOne<'a, const SKIP_LOCKED: bool> {
    generation: i64,
    current: &'a [u8],
    next_generation: i64,
    salt: Option<&'a [u8]>,
    attempt: Option<&'a [u8]>,
    user_agent: Option<&'a str>,
    ip: Option<Address>,
    next: &'a RotationUpdate,
}

impl<'a, const SKIP_LOCKED: bool> RotateOne<'a, SKIP_LOCKED> {
    /// From the row with this generation and digest.
    fn new(generation: i64, current: &'a [u8], next: &'a RotationUpdate) -> Self {
        Self {
            generation,
            current,
            next_generation: next.generation.saturating_add(1),
            salt: next.salt.as_ref().map(Salt::as_bytes),
            attempt: next.attempt.as_ref().map(Digest::as_bytes),
            user_agent: next.user_agent.as_deref(),
            ip: next.ip.map(Address),
            next,
        }
    }
}

impl<DB, const SKIP_LOCKED: bool> Values<DB> for RotateOne<'_, SKIP_LOCKED>
where
    DB: Backend
        + HasSqlType<Bool>
        + HasSqlType<Id>
        + HasSqlType<IpAddress>
        + HasSqlType<PointInTime>,
    i64: ToSql<BigInt, DB>,
    bool: ToSql<Bool, DB>,
    [u8]: ToSql<Binary, DB>,
    str: ToSql<Text, DB>,
    Timestamp: ToSql<PointInTime, DB>,
    SessionId: ToSql<Id, DB>,
    AccessTokenId: ToSql<Id, DB>,
    Address: ToSql<IpAddress, DB>,
{
    fn push<'b>(&'b self, field: Field, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let next = self.next;
        match field {
            Field::Id => out.push_bind_param::<Id, _>(&next.session),
            Field::Generation => out.push_bind_param::<BigInt, _>(&self.generation),
            Field::NextGeneration => out.push_bind_param::<BigInt, _>(&self.next_generation),
            Field::Presented => out.push_bind_param::<Binary, [u8]>(next.presented.as_bytes()),
            Field::Current => out.push_bind_param::<Binary, _>(&self.current),
            Field::Successor => out.push_bind_param::<Binary, [u8]>(next.successor.as_bytes()),
            Field::Salt => out.push_bind_param::<Nullable<Binary>, _>(&self.salt),
            Field::Attempt => out.push_bind_param::<Nullable<Binary>, _>(&self.attempt),
            Field::KeyRequired => out.push_bind_param::<Bool, _>(&next.key_required),
            Field::Access => out.push_bind_param::<Id, _>(&next.access),
            Field::AccessExpiresAt => {
                out.push_bind_param::<PointInTime, _>(&next.access_expires_at)
            }
            Field::Now => out.push_bind_param::<PointInTime, _>(&next.now),
            Field::GraceFrom => out.push_bind_param::<PointInTime, _>(&next.grace_from),
            Field::Deadline => out.push_bind_param::<PointInTime, _>(&next.deadline),
            Field::IdleExpiresAt => out.push_bind_param::<PointInTime, _>(&next.idle_expires_at),
            Field::UserAgent => out.push_bind_param::<Nullable<Text>, _>(&self.user_agent),
            Field::Ip => out.push_bind_param::<Nullable<IpAddress>, _>(&self.ip),
        }
    }
}

impl<DB, const SKIP_LOCKED: bool> QueryFragment<DB> for RotateOne<'_, SKIP_LOCKED>
where
    DB: Dialect,
    Self: Values<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("UPDATE sessions AS held SET ");
        self.push_all(SET, &mut out)?;
        out.push_sql(" WHERE ");
        if SKIP_LOCKED {
            out.push_sql("held.ctid = (SELECT ctid FROM sessions AS held WHERE ");
        }
        self.push_all(GUARD, &mut out)?;
        if DB::HAS_CLOCK {
            self.push_all(IN_TIME, &mut out)?;
        }
        if SKIP_LOCKED {
            out.push_sql(" FOR NO KEY UPDATE SKIP LOCKED)");
        }
        out.push_sql(" RETURNING user_id, expires_at");
        Ok(())
    }
}

impl<const SKIP_LOCKED: bool> QueryId for RotateOne<'_, SKIP_LOCKED> {
    type QueryId = RotateOne<'static, SKIP_LOCKED>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const SKIP_LOCKED: bool> Query for RotateOne<'_, SKIP_LOCKED> {
    type SqlType = (Id, PointInTime);
}

impl<const SKIP_LOCKED: bool, C> RunQueryDsl<C> for RotateOne<'_, SKIP_LOCKED> {}

/// The rotation of many sessions on PostgreSQL: each parameter is a column.
struct RotateBatch<'a> {
    sessions: Vec<SessionId>,
    generations: Vec<i64>,
    presented: Vec<&'a [u8]>,
    successors: Vec<&'a [u8]>,
    salts: Vec<Option<&'a [u8]>>,
    attempts: Vec<Option<&'a [u8]>>,
    key_required: Vec<bool>,
    accesses: Vec<AccessTokenId>,
    access_expires_at: Vec<Timestamp>,
    now: Vec<Timestamp>,
    grace_from: Vec<Timestamp>,
    deadlines: Vec<Timestamp>,
    idle_expires_at: Vec<Timestamp>,
    user_agents: Vec<Option<&'a str>>,
    ips: Vec<Option<Address>>,
}

impl<'a> RotateBatch<'a> {
    fn new(all: &[&'a RotationUpdate]) -> Self {
        fn column<'a, T>(
            all: &[&'a RotationUpdate],
            of: impl Fn(&'a RotationUpdate) -> T,
        ) -> Vec<T> {
            all.iter().map(|next| of(next)).collect()
        }
        Self {
            sessions: column(all, |next| next.session),
            generations: column(all, |next| next.generation),
            presented: column(all, |next| next.presented.as_bytes()),
            successors: column(all, |next| next.successor.as_bytes()),
            salts: column(all, |next| next.salt.as_ref().map(Salt::as_bytes)),
            attempts: column(all, |next| next.attempt.as_ref().map(Digest::as_bytes)),
            key_required: column(all, |next| next.key_required),
            accesses: column(all, |next| next.access),
            access_expires_at: column(all, |next| next.access_expires_at),
            now: column(all, |next| next.now),
            grace_from: column(all, |next| next.grace_from),
            deadlines: column(all, |next| next.deadline),
            idle_expires_at: column(all, |next| next.idle_expires_at),
            user_agents: column(all, |next| next.user_agent.as_deref()),
            ips: column(all, |next| next.ip.map(Address)),
        }
    }
}

/// Each value is a column of `next`.
impl Values<Pg> for RotateBatch<'_> {
    fn push<'b>(&'b self, field: Field, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(match field {
            Field::Id => "next.id",
            Field::Generation => "next.generation",
            Field::NextGeneration => "next.generation + 1",
            Field::Presented | Field::Current => "next.presented",
            Field::Successor => "next.successor",
            Field::Salt => "next.salt",
            Field::Attempt => "next.attempt",
            Field::KeyRequired => "next.key_required",
            Field::Access => "next.access",
            Field::AccessExpiresAt => "next.access_expires_at",
            Field::Now => "next.now",
            Field::GraceFrom => "next.grace_from",
            Field::Deadline => "next.deadline",
            Field::IdleExpiresAt => "next.idle_expires_at",
            Field::UserAgent => "next.user_agent",
            Field::Ip => "next.ip",
        });
        Ok(())
    }
}

impl QueryFragment<Pg> for RotateBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("UPDATE sessions AS held SET ");
        self.push_all(SET, &mut out)?;
        out.push_sql(" FROM (SELECT held.ctid AS at, next.* FROM unnest(");
        out.push_bind_param::<Array<Id>, _>(&self.sessions)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.generations)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.presented)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.successors)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.salts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.attempts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.key_required)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Id>, _>(&self.accesses)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.access_expires_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.now)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.grace_from)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.deadlines)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<PointInTime>, _>(&self.idle_expires_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.user_agents)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<IpAddress>>, _>(&self.ips)?;
        out.push_sql(
            ") AS next (id, generation, presented, successor, salt, attempt, key_required, access, \
             access_expires_at, now, grace_from, deadline, idle_expires_at, user_agent, ip) \
             JOIN sessions AS held ON ",
        );
        self.push_all(GUARD, &mut out)?;
        self.push_all(IN_TIME, &mut out)?;
        out.push_sql(
            " FOR NO KEY UPDATE OF held SKIP LOCKED) AS next WHERE held.ctid = next.at \
             RETURNING held.id, held.user_id, held.expires_at",
        );
        Ok(())
    }
}

impl QueryId for RotateBatch<'_> {
    type QueryId = RotateBatch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for RotateBatch<'_> {
    type SqlType = (Id, Id, PointInTime);
}

impl RunQueryDsl<PgConnection> for RotateBatch<'_> {}
