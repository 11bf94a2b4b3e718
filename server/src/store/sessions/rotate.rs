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
use diesel::sql_types::{Array, BigInt, Binary, Bool, HasSqlType, Nullable, SmallInt, Text};
use diesel::sqlite::Sqlite;

use super::Session;
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
    seen: &Session,
    next: &RotationUpdate,
) -> QueryResult<Option<Rotated>> {
    advance_from(conn, seen.generation, seen.secret_digest.as_bytes(), next)
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
    let places = rotations.iter().map(|(id, _)| id.place().value());
    let ids = rotations.iter().map(|(id, _)| *id);
    let secrets = rotations.iter().map(|(_, secret)| *secret);
    let those = sessions::table
        .filter(sessions::place.eq_any(places))
        .filter(sessions::id.eq_any(ids))
        .filter(sessions::secret_digest.eq_any(secrets))
        .filter(sessions::rotated_at.lt(now));
    diesel::update(those).set(sessions::rotated_at.eq(now)).execute(conn)
}

/// Declares the parameters of a rotation once for both statements: the name of each,
/// its SQL type, its Rust type and its value for a [`RotationUpdate`].
macro_rules! parameters {
    ($($field:ident $name:ident: $sql:ty = $rust:ty, |$next:ident| $value:expr;)+) => {
        /// A value in the text of a rotation.
        #[derive(Clone, Copy)]
        enum Field {
            $($field,)+
            NextGeneration,
            /// The digest that the row must hold.
            Current,
        }

        /// The parameters of one rotation.
        struct Parameters<'a> {
            $($name: $rust,)+
        }

        impl<'a> Parameters<'a> {
            fn new(next: &'a RotationUpdate) -> Self {
                Self { $($name: { let $next = next; $value },)+ }
            }
        }

        impl<'a, DB, const SKIP_LOCKED: bool> Values<DB> for RotateOne<'a, SKIP_LOCKED>
        where
            DB: Backend $(+ HasSqlType<$sql>)+,
            $($rust: ToSql<$sql, DB>,)+
            &'a [u8]: ToSql<Binary, DB>,
        {
            fn push<'b>(&'b self, field: Field, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()> {
                match field {
                    $(Field::$field => out.push_bind_param::<$sql, $rust>(&self.values.$name),)+
                    Field::NextGeneration => out.push_bind_param::<BigInt, _>(&self.next_generation),
                    Field::Current => out.push_bind_param::<Binary, &'a [u8]>(&self.current),
                }
            }
        }

        /// The rotation of many sessions on PostgreSQL. Each parameter is an array, and
        /// each array is a column of `next`.
        struct RotateBatch<'a> {
            $($name: Vec<$rust>,)+
        }

        impl<'a> RotateBatch<'a> {
            fn new(all: &[&'a RotationUpdate]) -> Self {
                Self { $($name: all.iter().map(|$next| $value).collect(),)+ }
            }

            /// Writes the arrays and the names of their columns.
            fn push_table<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                let mut before = "unnest(";
                $(
                    out.push_sql(std::mem::replace(&mut before, ", "));
                    out.push_bind_param::<Array<$sql>, Vec<$rust>>(&self.$name)?;
                )+
                let mut before = ") AS next (";
                $(
                    out.push_sql(std::mem::replace(&mut before, ", "));
                    out.push_sql(stringify!($name));
                )+
                out.push_sql(")");
                Ok(())
            }
        }

        impl Values<Pg> for RotateBatch<'_> {
            fn push<'b>(&'b self, field: Field, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                out.push_sql(match field {
                    $(Field::$field => concat!("next.", stringify!($name)),)+
                    Field::NextGeneration => "next.generation + 1",
                    Field::Current => "next.presented",
                });
                Ok(())
            }
        }
    };
}

parameters! {
    Place place: SmallInt = i16, |next| next.session.place().value();
    Id id: Id = SessionId, |next| next.session;
    Generation generation: BigInt = i64, |next| next.generation;
    Presented presented: Binary = &'a [u8], |next| next.presented.as_bytes();
    Successor successor: Binary = &'a [u8], |next| next.successor.as_bytes();
    Salt salt: Nullable<Binary> = Option<&'a [u8]>, |next| next.salt.as_ref().map(Salt::as_bytes);
    IdempotencyKey idempotency_key: Nullable<Binary> = Option<&'a [u8]>,
        |next| next.attempt.as_ref().map(Digest::as_bytes);
    KeyRequired key_required: Bool = bool, |next| next.key_required;
    Access access: Id = AccessTokenId, |next| next.access;
    AccessExpiresAt access_expires_at: PointInTime = Timestamp, |next| next.access_expires_at;
    Now now: PointInTime = Timestamp, |next| next.now;
    GraceFrom grace_from: PointInTime = Timestamp, |next| next.grace_from;
    Deadline deadline: PointInTime = Timestamp, |next| next.deadline;
    IdleExpiresAt idle_expires_at: PointInTime = Timestamp, |next| next.idle_expires_at;
    UserAgent user_agent: Nullable<Text> = Option<&'a str>, |next| next.user_agent.as_deref();
    Ip ip: Nullable<IpAddress> = Option<Address>, |next| next.ip.map(Address);
}

/// A piece of a statement.
enum Part {
    Sql(&'static str),
    Value(Field),
}

use Part::{Sql, Value};

/// The columns that a rotation writes.
///
/// `oldest_recent_generation` moves at most once per grace period, to the generation
/// that was presented one grace period before. So neither the owner nor a thief who
/// keeps rotating can keep an old token out of reuse detection.
///
/// `idle_expires_at` never moves back: a server whose clock is behind shortens no
/// session.
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
    Value(Field::IdempotencyKey),
    Sql(", has_used_idempotency_key = held.has_used_idempotency_key OR "),
    Value(Field::IdempotencyKey),
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

/// The primary key of the row.
const KEY: &[Part] =
    &[Sql("held.place = "), Value(Field::Place), Sql(" AND held.id = "), Value(Field::Id)];

/// Whether the row may be rotated.
const GUARD: &[Part] = &[
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

/// The deadline on PostgreSQL, whose clock continues while a statement waits.
const BEFORE_DEADLINE: &[Part] = &[Sql(" AND clock_timestamp() < "), Value(Field::Deadline)];

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
    values: Parameters<'a>,
    next_generation: i64,
    current: &'a [u8],
}

impl<'a, const SKIP_LOCKED: bool> RotateOne<'a, SKIP_LOCKED> {
    /// Rotates the row only if it has this generation and digest.
    fn new(generation: i64, current: &'a [u8], next: &'a RotationUpdate) -> Self {
        Self {
            values: Parameters { generation, ..Parameters::new(next) },
            next_generation: next.generation.saturating_add(1),
            current,
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
            out.push_sql("held.place = ");
            self.push(Field::Place, &mut out)?;
            out.push_sql(" AND held.id = (SELECT id FROM sessions AS held WHERE ");
        }
        self.push_all(KEY, &mut out)?;
        self.push_all(GUARD, &mut out)?;
        if DB::HAS_CLOCK {
            self.push_all(BEFORE_DEADLINE, &mut out)?;
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

impl QueryFragment<Pg> for RotateBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("UPDATE sessions AS held SET ");
        self.push_all(SET, &mut out)?;
        out.push_sql(" FROM (SELECT next.* FROM ");
        self.push_table(&mut out)?;
        out.push_sql(" JOIN sessions AS held ON ");
        self.push_all(KEY, &mut out)?;
        self.push_all(GUARD, &mut out)?;
        self.push_all(BEFORE_DEADLINE, &mut out)?;
        out.push_sql(" FOR NO KEY UPDATE OF held SKIP LOCKED) AS next WHERE ");
        self.push_all(KEY, &mut out)?;
        out.push_sql(" RETURNING held.id, held.user_id, held.expires_at");
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
