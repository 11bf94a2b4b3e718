//! The statements of a rotation.
//!
//! Their parameters, columns and conditions are written once (`parameters!`, [`SET`],
//! [`GUARD`]). They serve all statements, for a single session and for a batch. The
//! statements are query types of their own, so that diesel prepares each once per
//! connection. It does not prepare updates of its query builder, nor `sql_query`.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, SmallInt, Text};
use diesel::sqlite::Sqlite;

use super::RotationUpdate;
use crate::clock::Timestamp;
use crate::crypto::{Digest, Salt};
use crate::ids::{AccessTokenId, SessionId};
use crate::store::engine::is_citus;
use crate::store::sessions::StoredGrantColumns;
use crate::store::types::IpAddress;
use crate::store::types::sql::{SqlInet, SqlTimestamp, SqlUuid};

/// The types of the columns of [`RotatedSession`](super::RotatedSession).
type RotatedColumns = (SqlUuid, SqlTimestamp, Nullable<Text>, StoredGrantColumns);

/// Declares the parameters of a rotation once for all statements. Each has a name, a
/// SQL type, a Rust type and its value for a [`RotationUpdate`].
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

        impl Field {
            /// The column of `next` that has the value.
            fn column(self) -> &'static str {
                match self {
                    $(Self::$field => concat!("next.", stringify!($name)),)+
                    Self::NextGeneration => "next.next_generation",
                    Self::Current => "next.row_digest",
                }
            }
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

        impl<'a, const SKIP_LOCKED: bool> RotateOne<'a, SKIP_LOCKED> {
            /// Writes the parameters as columns.
            fn push_columns<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                $(
                    out.push_bind_param::<$sql, $rust>(&self.values.$name)?;
                    out.push_sql(concat!(" AS ", stringify!($name), ", "));
                )+
                out.push_bind_param::<BigInt, _>(&self.next_generation)?;
                out.push_sql(" AS next_generation, ");
                out.push_bind_param::<Binary, &'a [u8]>(&self.current)?;
                out.push_sql(" AS row_digest");
                Ok(())
            }

            /// Writes parameters into the text of a statement. On SQLite this costs less
            /// than a subquery.
            fn push_values<'b>(
                &'b self,
                parts: &[Part],
                out: &mut AstPass<'_, 'b, Sqlite>,
            ) -> QueryResult<()> {
                for part in parts {
                    match part {
                        Sql(sql) => out.push_sql(sql),
                        $(Value(Field::$field) => {
                            out.push_bind_param::<$sql, $rust>(&self.values.$name)?;
                        })+
                        Value(Field::NextGeneration) => {
                            out.push_bind_param::<BigInt, _>(&self.next_generation)?;
                        }
                        Value(Field::Current) => {
                            out.push_bind_param::<Binary, &'a [u8]>(&self.current)?;
                        }
                    }
                }
                Ok(())
            }
        }

        /// The rotation of many sessions on PostgreSQL. Each parameter is an array.
        pub(super) struct RotateBatch<'a> {
            $($name: Vec<$rust>,)+
        }

        impl<'a> RotateBatch<'a> {
            pub(super) fn new(all: &[&'a RotationUpdate]) -> Self {
                Self { $($name: all.iter().map(|$next| $value).collect(),)+ }
            }

            /// Writes the arrays as columns. In a list of expressions PostgreSQL reads them
            /// row by row. In `FROM` it would first copy each of them.
            fn push_columns<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                let mut before = "unnest(";
                $(
                    out.push_sql(std::mem::replace(&mut before, ", unnest("));
                    out.push_bind_param::<Array<$sql>, Vec<$rust>>(&self.$name)?;
                    out.push_sql(concat!(") AS ", stringify!($name)));
                )+
                Ok(())
            }
        }
    };
}

parameters! {
    Place place: SmallInt = i16, |next| next.session.place().value();
    Session id: SqlUuid = SessionId, |next| next.session;
    Generation generation: BigInt = i64, |next| next.generation;
    Presented presented: Binary = &'a [u8], |next| next.presented.as_bytes();
    Successor successor: Binary = &'a [u8], |next| next.successor.as_bytes();
    Salt salt: Nullable<Binary> = Option<&'a [u8]>, |next| next.salt.as_ref().map(Salt::as_bytes);
    IdempotencyKeyDigest idempotency_key_digest: Nullable<Binary> = Option<&'a [u8]>,
        |next| next.idempotency_key_digest.as_ref().map(Digest::as_bytes);
    OnlyIfNoKeyUsed only_if_no_key_used: Bool = bool, |next| next.only_if_no_key_used;
    Access access: SqlUuid = AccessTokenId, |next| next.access;
    AccessExpiresAt access_expires_at: SqlTimestamp = Timestamp, |next| next.access_expires_at;
    Now now: SqlTimestamp = Timestamp, |next| next.now;
    GraceFrom grace_from: SqlTimestamp = Timestamp, |next| next.grace_from;
    Deadline deadline: SqlTimestamp = Timestamp, |next| next.deadline;
    IdleExpiresAt idle_expires_at: SqlTimestamp = Timestamp, |next| next.idle_expires_at;
    UserAgent user_agent: Nullable<Text> = Option<&'a str>, |next| next.user_agent.as_deref();
    Ip ip: Nullable<SqlInet> = Option<IpAddress>, |next| next.ip.map(IpAddress);
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
/// that was presented one grace period before. Frequent rotation, by the owner or by a
/// thief, therefore exempts no old token from reuse detection.
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
    Value(Field::IdempotencyKeyDigest),
    Sql(", has_used_idempotency_key = held.has_used_idempotency_key OR "),
    Value(Field::IdempotencyKeyDigest),
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
    &[Sql("held.place = "), Value(Field::Place), Sql(" AND held.id = "), Value(Field::Session)];

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
    Value(Field::OnlyIfNoKeyUsed),
    Sql(")"),
];

/// The deadline on PostgreSQL, whose clock continues while a statement waits.
const BEFORE_DEADLINE: &[Part] = &[Sql(" AND clock_timestamp() < "), Value(Field::Deadline)];

/// The deadline on Citus, which accepts no volatile function here. `statement_timeout` limits
/// the wait of the statement.
const BEGUN_BEFORE_DEADLINE: &[Part] =
    &[Sql(" AND statement_timestamp() < "), Value(Field::Deadline)];

/// Writes a part of a statement on PostgreSQL, where `next` has the parameters. Each is
/// sent once.
fn push_parts(parts: &[Part], out: &mut AstPass<'_, '_, Pg>) {
    for part in parts {
        out.push_sql(match part {
            Sql(sql) => sql,
            Value(field) => field.column(),
        });
    }
}

fn push_deadline(out: &mut AstPass<'_, '_, Pg>) {
    push_parts(if is_citus() { BEGUN_BEFORE_DEADLINE } else { BEFORE_DEADLINE }, out);
}

/// The rotation of one session. `SKIP_LOCKED` is for PostgreSQL alone.
pub(super) struct RotateOne<'a, const SKIP_LOCKED: bool> {
    values: Parameters<'a>,
    next_generation: i64,
    current: &'a [u8],
}

impl<'a, const SKIP_LOCKED: bool> RotateOne<'a, SKIP_LOCKED> {
    /// Rotates the row only if it has this generation and digest.
    pub(super) fn new(generation: i64, current: &'a [u8], next: &'a RotationUpdate) -> Self {
        Self {
            values: Parameters { generation, ..Parameters::new(next) },
            next_generation: next.generation.saturating_add(1),
            current,
        }
    }
}

impl<const SKIP_LOCKED: bool> QueryFragment<Pg> for RotateOne<'_, SKIP_LOCKED> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("UPDATE sessions AS held SET ");
        push_parts(SET, &mut out);
        out.push_sql(" FROM (SELECT ");
        self.push_columns(&mut out)?;
        out.push_sql(") AS next WHERE ");
        if SKIP_LOCKED {
            out.push_sql("held.place = next.place AND held.id = ");
            out.push_sql("(SELECT id FROM sessions AS held WHERE ");
        }
        push_parts(KEY, &mut out);
        push_parts(GUARD, &mut out);
        push_deadline(&mut out);
        if SKIP_LOCKED {
            out.push_sql(" FOR NO KEY UPDATE SKIP LOCKED)");
        }
        out.push_sql(" RETURNING user_id, expires_at, claims, scope, audiences, auth_time");
        Ok(())
    }
}

impl QueryFragment<Sqlite> for RotateOne<'_, false> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("UPDATE sessions AS held SET ");
        self.push_values(SET, &mut out)?;
        out.push_sql(" WHERE ");
        self.push_values(KEY, &mut out)?;
        self.push_values(GUARD, &mut out)?;
        out.push_sql(" RETURNING user_id, expires_at, claims, scope, audiences, auth_time");
        Ok(())
    }
}

impl<const SKIP_LOCKED: bool> QueryId for RotateOne<'_, SKIP_LOCKED> {
    type QueryId = RotateOne<'static, SKIP_LOCKED>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const SKIP_LOCKED: bool> Query for RotateOne<'_, SKIP_LOCKED> {
    type SqlType = RotatedColumns;
}

impl<const SKIP_LOCKED: bool, C> RunQueryDsl<C> for RotateOne<'_, SKIP_LOCKED> {}

impl RotateBatch<'_> {
    /// Writes the condition on the key. On Citus the place is a value of its own, by which the
    /// statement finds its node.
    fn push_key<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let Some(place) = self.place.first().filter(|_| is_citus()) else {
            push_parts(KEY, out);
            return Ok(());
        };
        out.push_sql("held.place = ");
        out.push_bind_param::<SmallInt, i16>(place)?;
        out.push_sql(" AND held.id = next.id");
        Ok(())
    }
}

impl QueryFragment<Pg> for RotateBatch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("UPDATE sessions AS held SET ");
        push_parts(SET, &mut out);
        out.push_sql(" FROM (SELECT *, generation + 1 AS next_generation, ");
        out.push_sql("presented AS row_digest FROM (SELECT ");
        self.push_columns(&mut out)?;
        out.push_sql(") AS arrays) AS next, ");
        out.push_sql("LATERAL (SELECT 1 FROM sessions AS held WHERE ");
        self.push_key(&mut out)?;
        push_parts(GUARD, &mut out);
        push_deadline(&mut out);
        out.push_sql(" FOR NO KEY UPDATE SKIP LOCKED) AS locked WHERE ");
        self.push_key(&mut out)?;
        out.push_sql(" RETURNING held.id, held.user_id, held.expires_at, held.claims, held.scope, held.audiences, held.auth_time");
        Ok(())
    }
}

impl QueryId for RotateBatch<'_> {
    type QueryId = RotateBatch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for RotateBatch<'_> {
    type SqlType = (SqlUuid, RotatedColumns);
}

impl RunQueryDsl<PgConnection> for RotateBatch<'_> {}
