//! The SQL statement of a refresh, for one session and for many.

use std::io::Write;

use diesel::PgConnection;
use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{
    Array, BigInt, Binary, Inet, Nullable, SmallInt, Text, Timestamptz, Uuid as Id,
};
use uuid::Uuid;

/// The bound values of a rotation, each with the SQL that precedes it in the statement for
/// one session.
macro_rules! values {
    ($($before:literal $name:ident: $sql:ty = $rust:ty;)+) => {
        /// The values that a refresh writes to its session.
        #[derive(QueryId)]
        pub(crate) struct Rotation { $(pub(crate) $name: $rust),+ }

        /// Rotations of many different sessions.
        #[derive(Default, QueryId)]
        pub(crate) struct Batch { $($name: Vec<$rust>),+ }

        impl Batch {
            /// Adds a rotation. Its result has the same position.
            pub(crate) fn push(&mut self, rotation: Rotation) {
                $(self.$name.push(rotation.$name);)+
            }
        }

        impl QueryFragment<Pg> for Rotation {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                $(
                    out.push_sql($before);
                    out.push_bind_param::<$sql, $rust>(&self.$name)?;
                )+
                out.push_sql(" RETURNING 1::bigint, user_id, expires_at");
                Ok(())
            }
        }

        impl QueryFragment<Pg> for Batch {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
                let mut before = MANY;
                $(
                    out.push_sql(std::mem::replace(&mut before, ", "));
                    out.push_bind_param::<Array<$sql>, Vec<$rust>>(&self.$name)?;
                )+
                out.push_sql(") WITH ORDINALITY AS new (");
                $(out.push_sql(concat!(stringify!($name), ", "));)+
                out.push_sql("number) WHERE old.place = new.place AND old.id = new.id ");
                out.push_sql("RETURNING new.number, old.user_id, old.expires_at");
                Ok(())
            }
        }
    };
}

values! {
    "UPDATE sessions SET generation = " generation: BigInt = i64;
    ", secret_digest = " secret: Binary = [u8; 32];
    ", previous_digest = " previous: Binary = [u8; 32];
    ", successor_salt = " salt: Binary = [u8; 32];
    ", idempotency_key_digest = " attempt: Nullable<Binary> = Option<Vec<u8>>;
    ", access_jti = " access: Id = Uuid;
    ", rotated_at = " now: Timestamptz = PgTimestamp;
    ", access_issued_at = $7, access_expires_at = CASE WHEN access_expires_at > $8 THEN access_expires_at ELSE "
        until: Timestamptz = PgTimestamp;
    " END, idle_expires_at = " idle: Timestamptz = PgTimestamp;
    ", user_agent = " agent: Nullable<Text> = Option<String>;
    ", ip = " ip: Nullable<Inet> = Option<Loopback>;
    " WHERE place = " place: SmallInt = i16;
    " AND id = " id: Id = Uuid;
}

const MANY: &str = "UPDATE sessions AS old SET generation = new.generation, \
    secret_digest = new.secret, previous_digest = new.previous, successor_salt = new.salt, \
    idempotency_key_digest = new.attempt, access_jti = new.access, rotated_at = new.now, \
    access_issued_at = new.now, idle_expires_at = new.idle, user_agent = new.agent, \
    access_expires_at = CASE WHEN old.access_expires_at > new.until THEN old.access_expires_at \
    ELSE new.until END, ip = new.ip FROM unnest(";

/// The position in the batch (from 1), the user, and the absolute expiry.
pub(crate) type Rotated = (i64, Uuid, PgTimestamp);

impl Query for Rotation {
    type SqlType = (BigInt, Id, Timestamptz);
}

impl Query for Batch {
    type SqlType = (BigInt, Id, Timestamptz);
}

impl RunQueryDsl<PgConnection> for Rotation {}
impl RunQueryDsl<PgConnection> for Batch {}

/// The address of all clients.
#[derive(Debug)]
pub(crate) struct Loopback;

impl ToSql<Inet, Pg> for Loopback {
    /// Family 2 (IPv4), prefix of 32 bits, not a network, 4 bytes.
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&[2, 32, 0, 4, 127, 0, 0, 1])?;
        Ok(IsNull::No)
    }
}

/// The PostgreSQL epoch (2000-01-01) in microseconds of Unix time.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// Lifetime of an access token, in seconds.
pub(crate) const ACCESS_LIFETIME: i64 = 15 * 60;
/// Idle lifetime of a session, in seconds.
const IDLE_LIFETIME: i64 = 30 * 24 * 60 * 60;

impl Rotation {
    /// Creates a rotation of session `id`. `now` is in microseconds of Unix time.
    pub(crate) fn new(id: Uuid, now: i64, agent: Option<String>) -> Self {
        let at = |second: i64| PgTimestamp(now - POSTGRES_EPOCH + second * 1_000_000);
        let mut random = [[0; 32]; 3];
        random.as_flattened_mut().fill_with(|| fastrand::u8(..));
        let [secret, previous, salt] = random;
        Self {
            generation: 1,
            secret,
            previous,
            salt,
            attempt: None,
            access: Uuid::new_v4(),
            now: at(0),
            until: at(ACCESS_LIFETIME),
            idle: at(IDLE_LIFETIME),
            agent,
            ip: Some(Loopback),
            place: i16::from(id.as_bytes()[8] & 63),
            id,
        }
    }
}
