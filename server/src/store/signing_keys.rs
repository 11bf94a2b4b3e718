//! The table `signing_keys_by_purpose`.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as QueryError};

use super::Conn;
use super::schema::signing_keys_by_purpose as signing_keys;
use crate::clock::Timestamp;

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Access tokens, and tokens for clients if its algorithm is RS256.
    Access,
    /// Tokens for clients (ID tokens, logout tokens) while access tokens have another
    /// algorithm than RS256.
    Id,
}

impl Purpose {
    pub const ALL: [Self; 2] = [Self::Access, Self::Id];

    /// Returns its name in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Id => "id",
        }
    }
}

/// A stored key.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub purpose: Purpose,
    /// Its position in the sequence of the keys with the same purpose.
    pub sequence: i64,
    /// The thumbprint (RFC 7638).
    pub kid: String,
    /// The JWS name of the algorithm (RFC 7518 §3.1).
    pub algorithm: String,
    /// The encrypted private key (PKCS #8).
    pub sealed: Vec<u8>,
    /// When it was created and published.
    pub created_at: Timestamp,
    /// When it begins to sign.
    pub active_from: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Queryable)]
struct Row {
    purpose: String,
    sequence: i64,
    kid: String,
    algorithm: String,
    sealed: Vec<u8>,
    created_at: Timestamp,
    active_from: Timestamp,
    revoked_at: Option<Timestamp>,
}

impl Row {
    /// Returns `None` for a purpose of a later version.
    fn into_key(self) -> Option<StoredKey> {
        Some(StoredKey {
            purpose: Purpose::ALL.into_iter().find(|known| known.as_str() == self.purpose)?,
            sequence: self.sequence,
            kid: self.kid,
            algorithm: self.algorithm,
            sealed: self.sealed,
            created_at: self.created_at,
            active_from: self.active_from,
            revoked_at: self.revoked_at,
        })
    }
}

/// Returns all keys by purpose, and those of each purpose in the order of their sequence.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<StoredKey>> {
    let rows: Vec<Row> = signing_keys::table
        .order((signing_keys::purpose, signing_keys::sequence))
        .select((
            signing_keys::purpose,
            signing_keys::sequence,
            signing_keys::kid,
            signing_keys::algorithm,
            signing_keys::sealed_private_key,
            signing_keys::created_at,
            signing_keys::active_from,
            signing_keys::revoked_at,
        ))
        .load(conn)?;
    Ok(rows.into_iter().filter_map(Row::into_key).collect())
}

/// Inserts `key`. Returns `false` if another server has inserted a key with the same purpose
/// and sequence number.
pub fn insert(conn: &mut Conn, key: &StoredKey) -> QueryResult<bool> {
    let inserted = diesel::insert_into(signing_keys::table)
        .values((
            signing_keys::kid.eq(&key.kid),
            signing_keys::purpose.eq(key.purpose.as_str()),
            signing_keys::sequence.eq(key.sequence),
            signing_keys::algorithm.eq(&key.algorithm),
            signing_keys::sealed_private_key.eq(&key.sealed),
            signing_keys::created_at.eq(key.created_at),
            signing_keys::active_from.eq(key.active_from),
        ))
        .execute(conn);
    match inserted {
        Ok(_) => Ok(true),
        Err(QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets when a key begins to sign, unless the time has changed since it was `seen`.
pub fn schedule(
    conn: &mut Conn,
    kid: &str,
    seen: Timestamp,
    active_from: Timestamp,
) -> QueryResult<()> {
    let same = signing_keys::table
        .find(kid)
        .filter(signing_keys::active_from.eq(seen))
        .filter(signing_keys::revoked_at.is_null());
    diesel::update(same).set(signing_keys::active_from.eq(active_from)).execute(conn).map(drop)
}

/// Which key becomes active when the active one is revoked.
pub enum Replacement<'a> {
    /// No change is needed.
    None,
    /// The pending key with this id.
    Promote(&'a str),
    /// A new key.
    Create(&'a StoredKey),
}

/// Revokes a key. Returns `false` if the keys have changed since they were read.
pub fn revoke(
    conn: &mut Conn,
    kid: &str,
    replacement: &Replacement<'_>,
    now: Timestamp,
) -> QueryResult<bool> {
    let unrevoked = || signing_keys::table.filter(signing_keys::revoked_at.is_null());
    let revoked = conn.write(|conn| {
        let key = unrevoked().filter(signing_keys::kid.eq(kid));
        let mut as_seen =
            diesel::update(key).set(signing_keys::revoked_at.eq(now)).execute(conn)? == 1;
        match replacement {
            Replacement::None => {}
            Replacement::Promote(kid) => {
                let pending = unrevoked().filter(signing_keys::kid.eq(kid));
                let changed = diesel::update(pending).set(signing_keys::active_from.eq(now));
                as_seen &= changed.execute(conn)? == 1;
            }
            Replacement::Create(key) => as_seen &= insert(conn, key)?,
        }
        if as_seen { Ok(()) } else { Err(QueryError::RollbackTransaction) }
    });
    match revoked {
        Ok(()) => Ok(true),
        Err(QueryError::RollbackTransaction) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Revokes all keys and inserts `keys`. Returns how many were revoked, or `None` if another
/// server has inserted a key at the same time.
pub fn replace_all(
    conn: &mut Conn,
    keys: &[StoredKey],
    now: Timestamp,
) -> QueryResult<Option<usize>> {
    let replaced = conn.write(|conn| {
        let unrevoked = signing_keys::table.filter(signing_keys::revoked_at.is_null());
        let revoked =
            diesel::update(unrevoked).set(signing_keys::revoked_at.eq(now)).execute(conn)?;
        for key in keys {
            if !insert(conn, key)? {
                return Err(QueryError::RollbackTransaction);
            }
        }
        Ok(revoked)
    });
    match replaced {
        Ok(revoked) => Ok(Some(revoked)),
        Err(QueryError::RollbackTransaction) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the encrypted private key, unless it has changed since it was `seen`.
pub fn reseal(conn: &mut Conn, seen: &StoredKey, sealed: &[u8]) -> QueryResult<()> {
    let same = signing_keys::table
        .find(&seen.kid)
        .filter(signing_keys::sealed_private_key.eq(&seen.sealed));
    diesel::update(same).set(signing_keys::sealed_private_key.eq(sealed)).execute(conn)?;
    Ok(())
}

pub fn delete(conn: &mut Conn, kid: &str) -> QueryResult<()> {
    diesel::delete(signing_keys::table.find(kid)).execute(conn)?;
    Ok(())
}
