//! SQL types that each database stores natively: `uuid`, `timestamptz` and `inet` on
//! PostgreSQL; blobs, integers (microseconds) and text on SQLite.

use std::io::Write;
use std::net::IpAddr;

use diesel::QueryResult;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Binary, HasSqlType, Text};
use diesel::sqlite::{Sqlite, SqliteValue};
use uuid::Uuid;

use super::connection::{MultiBackend, MultiRawValue};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::{AccessTokenId, EventId, LoginSessionId, SessionId, UserId};
use crate::tokens::SecretDigests;

/// The SQL types, for `table!`. The numbers are the fixed type ids of PostgreSQL.
pub(super) mod sql {
    use diesel::query_builder::QueryId;
    use diesel::sql_types::SqlType;

    #[derive(Default, SqlType, QueryId)]
    #[diesel(postgres_type(oid = 2950, array_oid = 2951), sqlite_type(name = "Binary"))]
    pub struct SqlUuid;

    #[derive(Default, SqlType, QueryId)]
    #[diesel(postgres_type(oid = 1184, array_oid = 1185), sqlite_type(name = "Long"))]
    pub struct SqlTimestamp;

    impl diesel::sql_types::SqlOrd for SqlTimestamp {}

    #[derive(Default, SqlType, QueryId)]
    #[diesel(postgres_type(oid = 869, array_oid = 1041), sqlite_type(name = "Text"))]
    pub struct SqlInet;
}

/// A stored digest that has not 32 bytes.
#[derive(Debug, thiserror::Error)]
#[error("a digest in the database has not 32 bytes")]
struct InvalidDigest;

/// Parses the columns `secret_digest` and `previous_secret_digest`.
pub(super) fn secret_digests(
    current: &[u8],
    previous: Option<&[u8]>,
) -> QueryResult<SecretDigests> {
    let invalid = || diesel::result::Error::DeserializationError(Box::new(InvalidDigest));
    let parse = |bytes: &[u8]| Digest::from_bytes(bytes).ok_or_else(invalid);
    Ok(SecretDigests { current: parse(current)?, previous: previous.map(parse).transpose()? })
}

/// Implements a SQL type, and the Rust types that represent it, for the backend that is
/// either database.
macro_rules! impl_both_backends {
    ($sql:ty: $($rust:ty),+) => {
        impl HasSqlType<$sql> for MultiBackend {
            fn metadata(lookup: &mut Self::MetadataLookup) -> Self::TypeMetadata {
                MultiBackend::lookup_sql_type::<$sql>(lookup)
            }
        }
        $(
            impl ToSql<$sql, MultiBackend> for $rust {
                fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, MultiBackend>) -> serialize::Result {
                    out.set_value((<$sql>::default(), self));
                    Ok(IsNull::No)
                }
            }
        )+
    };
}

impl_both_backends!(sql::SqlUuid: UserId, SessionId, LoginSessionId, AccessTokenId, EventId);
impl_both_backends!(sql::SqlTimestamp: Timestamp);
impl_both_backends!(sql::SqlInet: IpAddress);

macro_rules! id {
    ($rust:ident, $proxy:ident) => {
        #[derive(AsExpression, FromSqlRow)]
        #[diesel(foreign_derive, sql_type = sql::SqlUuid)]
        #[expect(dead_code, reason = "the derives need a type of this crate")]
        struct $proxy($rust);

        impl ToSql<sql::SqlUuid, Pg> for $rust {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                out.write_all(self.0.as_bytes())?;
                Ok(IsNull::No)
            }
        }

        impl ToSql<sql::SqlUuid, Sqlite> for $rust {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
                out.set_value(self.0.as_bytes().as_slice());
                Ok(IsNull::No)
            }
        }

        impl FromSql<sql::SqlUuid, Pg> for $rust {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                Ok(Self(Uuid::from_slice(value.as_bytes())?))
            }
        }

        impl FromSql<sql::SqlUuid, Sqlite> for $rust {
            fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
                Ok(Self(Uuid::from_slice(&<Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value)?)?))
            }
        }

        impl FromSql<sql::SqlUuid, MultiBackend> for $rust {
            fn from_sql(value: MultiRawValue<'_>) -> deserialize::Result<Self> {
                value.from_sql::<Self, sql::SqlUuid>()
            }
        }
    };
}

id!(UserId, UserIdProxy);
id!(SessionId, SessionIdProxy);
id!(LoginSessionId, LoginSessionIdProxy);
id!(AccessTokenId, AccessIdProxy);
id!(EventId, EventIdProxy);

#[derive(AsExpression, FromSqlRow)]
#[diesel(foreign_derive, sql_type = sql::SqlTimestamp)]
#[expect(dead_code, reason = "the derives need a type of this crate")]
struct TimestampProxy(Timestamp);

/// PostgreSQL counts microseconds from the year 2000 on.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl ToSql<sql::SqlTimestamp, Pg> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        // PostgreSQL reads the largest value as infinity.
        let micros = self.as_micros().saturating_sub(POSTGRES_EPOCH).min(i64::MAX - 1);
        out.write_all(&micros.to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<sql::SqlTimestamp, Sqlite> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.as_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<sql::SqlTimestamp, Pg> for Timestamp {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Pg>>::from_sql(value)?;
        Ok(Self::from_micros(micros.saturating_add(POSTGRES_EPOCH)))
    }
}

impl FromSql<sql::SqlTimestamp, Sqlite> for Timestamp {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        <i64 as FromSql<BigInt, Sqlite>>::from_sql(value).map(Self::from_micros)
    }
}

impl FromSql<sql::SqlTimestamp, MultiBackend> for Timestamp {
    fn from_sql(value: MultiRawValue<'_>) -> deserialize::Result<Self> {
        value.from_sql::<Self, sql::SqlTimestamp>()
    }
}

/// A stored address.
#[derive(Debug, Clone, Copy, AsExpression, FromSqlRow)]
#[diesel(sql_type = sql::SqlInet)]
pub struct IpAddress(pub IpAddr);

/// PostgreSQL's numbers of the address families.
const V4: u8 = 2;
const V6: u8 = 3;

impl ToSql<sql::SqlInet, Pg> for IpAddress {
    /// Writes the binary form of `inet`: family, prefix length, whether it is a `cidr`,
    /// length, address.
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        match self.0 {
            IpAddr::V4(v4) => {
                out.write_all(&[V4, 32, 0, 4])?;
                out.write_all(&v4.octets())?;
            }
            IpAddr::V6(v6) => {
                out.write_all(&[V6, 128, 0, 16])?;
                out.write_all(&v6.octets())?;
            }
        }
        Ok(IsNull::No)
    }
}

impl ToSql<sql::SqlInet, Sqlite> for IpAddress {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.to_string());
        Ok(IsNull::No)
    }
}

impl FromSql<sql::SqlInet, Pg> for IpAddress {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        match *value.as_bytes() {
            [V4, _, _, 4, a, b, c, d] => Ok(Self([a, b, c, d].into())),
            [V6, _, _, 16, ref octets @ ..] => Ok(Self(<[u8; 16]>::try_from(octets)?.into())),
            _ => Err("not an address".into()),
        }
    }
}

impl FromSql<sql::SqlInet, Sqlite> for IpAddress {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self(<String as FromSql<Text, Sqlite>>::from_sql(value)?.parse()?))
    }
}

impl FromSql<sql::SqlInet, MultiBackend> for IpAddress {
    fn from_sql(value: MultiRawValue<'_>) -> deserialize::Result<Self> {
        value.from_sql::<Self, sql::SqlInet>()
    }
}
