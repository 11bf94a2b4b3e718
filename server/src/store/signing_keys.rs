//! Rows of `signing_keys`.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as QueryError};

use super::Conn;
use super::schema::signing_keys;
use crate::clock::Timestamp;

/// A key as it is stored.
#[derive(Clone, Queryable)]
pub struct SealedKey {
    /// Its thumbprint (RFC 7638).
    pub kid: String,
    /// Its algorithm by the name that JWS has for it (RFC 7518 §3.1).
    pub algorithm: String,
    /// The private half (PKCS #8), encrypted.
    pub private_key: Vec<u8>,
}

/// The key that signs now, if there is one yet.
///
/// # Errors
/// When the query fails.
pub fn find_active(conn: &mut Conn) -> QueryResult<Option<SealedKey>> {
    signing_keys::table
        .filter(signing_keys::retired_at.is_null())
        .select((signing_keys::kid, signing_keys::algorithm, signing_keys::sealed_private_key))
        .first(conn)
        .optional()
}

/// Adds `key`, unless another server has just added one; `false` then.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, key: &SealedKey, now: Timestamp) -> QueryResult<bool> {
    let inserted = diesel::insert_into(signing_keys::table)
        .values((
            signing_keys::kid.eq(&key.kid),
            signing_keys::algorithm.eq(&key.algorithm),
            signing_keys::sealed_private_key.eq(&key.private_key),
            signing_keys::created_at.eq(now),
        ))
        .execute(conn);
    match inserted {
        Ok(_) => Ok(true),
        Err(QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts another encryption of the same key in the place of `old`, unless
/// another server has done so.
///
/// # Errors
/// When the statement fails.
pub fn reseal(conn: &mut Conn, old: &SealedKey, private_key: &[u8]) -> QueryResult<()> {
    let same = signing_keys::table
        .find(&old.kid)
        .filter(signing_keys::sealed_private_key.eq(&old.private_key));
    diesel::update(same).set(signing_keys::sealed_private_key.eq(private_key)).execute(conn)?;
    Ok(())
}
