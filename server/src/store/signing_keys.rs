//! Rows of `signing_keys`.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as QueryError};

use super::Conn;
use super::schema::signing_keys;
use crate::clock::Timestamp;

/// A key as it is stored.
#[derive(Clone, PartialEq, Eq, Queryable)]
pub struct StoredKey {
    /// Its place in the sequence of keys.
    pub sequence: i64,
    /// Its thumbprint (RFC 7638).
    pub kid: String,
    /// Its algorithm by the name that JWS has for it (RFC 7518 §3.1).
    pub algorithm: String,
    /// The private half (PKCS #8), encrypted.
    pub sealed: Vec<u8>,
    /// When it was made, and published.
    pub created_at: Timestamp,
    /// When it begins to sign.
    pub active_from: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// All keys, in their order.
///
/// # Errors
/// When the query fails.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<StoredKey>> {
    signing_keys::table
        .order(signing_keys::sequence)
        .select((
            signing_keys::sequence,
            signing_keys::kid,
            signing_keys::algorithm,
            signing_keys::sealed_private_key,
            signing_keys::created_at,
            signing_keys::active_from,
            signing_keys::revoked_at,
        ))
        .load(conn)
}

/// Adds `key`, unless another server has just added one with that number;
/// `false` then.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, key: &StoredKey) -> QueryResult<bool> {
    let inserted = diesel::insert_into(signing_keys::table)
        .values((
            signing_keys::kid.eq(&key.kid),
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

/// Sets when a key begins to sign, where that is still as it was `seen`.
///
/// # Errors
/// When the statement fails.
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

/// Which key signs when the one that signed is revoked.
pub enum Replacement<'a> {
    /// The one that does so already, or will in its time.
    None,
    /// The one of this name, which was published and waits.
    Promote(&'a str),
    /// A new one.
    Create(&'a StoredKey),
}

/// Revokes a key; `false` where the keys are not as they were seen any more.
///
/// # Errors
/// When a statement fails.
pub fn revoke(
    conn: &mut Conn,
    kid: &str,
    heir: &Replacement<'_>,
    now: Timestamp,
) -> QueryResult<bool> {
    let unrevoked = || signing_keys::table.filter(signing_keys::revoked_at.is_null());
    let revoked = conn.write(|conn| {
        let key = unrevoked().filter(signing_keys::kid.eq(kid));
        let mut as_seen =
            diesel::update(key).set(signing_keys::revoked_at.eq(now)).execute(conn)? == 1;
        match heir {
            Replacement::None => {}
            Replacement::Promote(kid) => {
                let heir = unrevoked().filter(signing_keys::kid.eq(kid));
                let changed = diesel::update(heir).set(signing_keys::active_from.eq(now));
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

/// Revokes all keys and adds `key`; returns how many were revoked, or `None` where
/// another server added a key at the same time.
///
/// # Errors
/// When a statement fails.
pub fn replace_all(conn: &mut Conn, key: &StoredKey, now: Timestamp) -> QueryResult<Option<usize>> {
    let replaced = conn.write(|conn| {
        let unrevoked = signing_keys::table.filter(signing_keys::revoked_at.is_null());
        let revoked =
            diesel::update(unrevoked).set(signing_keys::revoked_at.eq(now)).execute(conn)?;
        if insert(conn, key)? { Ok(revoked) } else { Err(QueryError::RollbackTransaction) }
    });
    match replaced {
        Ok(revoked) => Ok(Some(revoked)),
        Err(QueryError::RollbackTransaction) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts another encryption of the same key in the place of the one that was
/// seen, unless another server has done so.
///
/// # Errors
/// When the statement fails.
pub fn reseal(conn: &mut Conn, seen: &StoredKey, sealed: &[u8]) -> QueryResult<()> {
    let same = signing_keys::table
        .find(&seen.kid)
        .filter(signing_keys::sealed_private_key.eq(&seen.sealed));
    diesel::update(same).set(signing_keys::sealed_private_key.eq(sealed)).execute(conn)?;
    Ok(())
}

/// Deletes a key.
///
/// # Errors
/// When the statement fails.
pub fn delete(conn: &mut Conn, kid: &str) -> QueryResult<()> {
    diesel::delete(signing_keys::table.find(kid)).execute(conn)?;
    Ok(())
}
