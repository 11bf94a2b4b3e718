//! SQL types that both databases store natively: `uuid`, `timestamptz` and
//! `inet` on PostgreSQL; blobs, integers (microseconds) and text on SQLite.

use std::io::Write;
use std::net::IpAddr;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Binary, HasSqlType, Text};
use diesel::sqlite::{Sqlite, SqliteValue};
use uuid::Uuid;

use super::connection::{MultiBackend, MultiRawValue};
use crate::clock::Timestamp;
use crate::ids::{AccessTokenId, EventId, SessionId, UserId};

/// The SQL side, for `table!`, which takes names like `Time` and `Inet` for its
/// own. The numbers are the fixed type ids of PostgreSQL.
pub(super) mod sql {
    use diesel::query_builder::QueryId;
    use diesel::sql_types::SqlType;

    #[derive(Default, SqlType, QueryId)]
    #[diesel(postgres_type(oid = 2950, array_oid = 2951), sqlite_type(name = "Binary"))]
    pub struct Id;

    #[derive(Default, SqlType, QueryId)]
    #[diesel(postgres_type(oid = 1184, array_oid = 1185), sqlite_type(name = "Long"))]
    pub struct PointInTime;

    #[derive(Default, SqlType, QueryId)]
    #[diesel(postgres_type(oid = 869, array_oid = 1041), sqlite_type(name = "Text"))]
    pub struct IpAddress;
}

/// Tells the backend that is either database about a type that both have.
/// Which Rust types stand for the SQL type follows after it.
macro_rules! on_both {
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

on_both!(sql::Id: UserId, SessionId, AccessTokenId, EventId);
on_both!(sql::PointInTime: Timestamp);
on_both!(sql::IpAddress: Address);

macro_rules! id {
    ($rust:ident, $proxy:ident) => {
        #[derive(AsExpression, FromSqlRow)]
        #[diesel(foreign_derive, sql_type = sql::Id)]
        #[expect(dead_code, reason = "a stand-in that the derives take their shape from")]
        struct $proxy($rust);

        impl ToSql<sql::Id, Pg> for $rust {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                out.write_all(self.0.as_bytes())?;
                Ok(IsNull::No)
            }
        }

        impl ToSql<sql::Id, Sqlite> for $rust {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
                out.set_value(self.0.as_bytes().as_slice());
                Ok(IsNull::No)
            }
        }

        impl FromSql<sql::Id, Pg> for $rust {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                Ok(Self(Uuid::from_slice(value.as_bytes())?))
            }
        }

        impl FromSql<sql::Id, Sqlite> for $rust {
            fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
                Ok(Self(Uuid::from_slice(&<Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value)?)?))
            }
        }

        impl FromSql<sql::Id, MultiBackend> for $rust {
            fn from_sql(value: MultiRawValue<'_>) -> deserialize::Result<Self> {
                value.from_sql::<Self, sql::Id>()
            }
        }
    };
}

id!(UserId, UserIdProxy);
id!(SessionId, SessionIdProxy);
id!(AccessTokenId, AccessIdProxy);
id!(EventId, EventIdProxy);

#[derive(AsExpression, FromSqlRow)]
#[diesel(foreign_derive, sql_type = sql::PointInTime)]
#[expect(dead_code, reason = "a stand-in that the derives take their shape from")]
struct TimestampProxy(Timestamp);

/// PostgreSQL counts microseconds from the year 2000 on.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl ToSql<sql::PointInTime, Pg> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        // The far ends of the scale mean infinity there: one off is early enough.
        let micros = self.as_micros().saturating_sub(POSTGRES_EPOCH).min(i64::MAX - 1);
        out.write_all(&micros.to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<sql::PointInTime, Sqlite> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.as_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<sql::PointInTime, Pg> for Timestamp {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Pg>>::from_sql(value)?;
        Ok(Self::from_micros(micros.saturating_add(POSTGRES_EPOCH)))
    }
}

impl FromSql<sql::PointInTime, Sqlite> for Timestamp {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        <i64 as FromSql<BigInt, Sqlite>>::from_sql(value).map(Self::from_micros)
    }
}

impl FromSql<sql::PointInTime, MultiBackend> for Timestamp {
    fn from_sql(value: MultiRawValue<'_>) -> deserialize::Result<Self> {
        value.from_sql::<Self, sql::PointInTime>()
    }
}

/// An address as it is stored.
#[derive(Debug, Clone, Copy, AsExpression, FromSqlRow)]
#[diesel(sql_type = sql::IpAddress)]
pub struct Address(pub IpAddr);

/// PostgreSQL's numbers for the families of addresses.
const V4: u8 = 2;
const V6: u8 = 3;

impl ToSql<sql::IpAddress, Pg> for Address {
    /// The binary form of `inet`: family, prefix length, whether it is a
    /// `cidr`, length, address.
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

impl ToSql<sql::IpAddress, Sqlite> for Address {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.to_string());
        Ok(IsNull::No)
    }
}

impl FromSql<sql::IpAddress, Pg> for Address {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        match *value.as_bytes() {
            [V4, _, _, 4, a, b, c, d] => Ok(Self([a, b, c, d].into())),
            [V6, _, _, 16, ref octets @ ..] => Ok(Self(<[u8; 16]>::try_from(octets)?.into())),
            _ => Err("not an address".into()),
        }
    }
}

impl FromSql<sql::IpAddress, Sqlite> for Address {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self(<String as FromSql<Text, Sqlite>>::from_sql(value)?.parse()?))
    }
}

impl FromSql<sql::IpAddress, MultiBackend> for Address {
    fn from_sql(value: MultiRawValue<'_>) -> deserialize::Result<Self> {
        value.from_sql::<Self, sql::IpAddress>()
    }
}
