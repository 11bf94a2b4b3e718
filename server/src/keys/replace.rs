//! Replaces every signing key, after others have come to know the secret that
//! the keys were sealed under.

use super::{Error, KeyEncryptionKeys, Options, next_key};
use crate::clock::Timestamp;
use crate::store::Conn;
use crate::store::signing_keys::{self, StoredKey};

/// Checks that the database was not used with a secret that is still in force.
///
/// # Errors
/// When a key in force can be opened, or the query fails.
pub fn check_new_secret(conn: &mut Conn, sealing: &KeyEncryptionKeys) -> Result<(), Error> {
    for key in signing_keys::all(conn)?.iter().filter(|key| key.revoked_at.is_none()) {
        match sealing.open(key) {
            Ok(_) => return Err(Error::SecretInUse),
            Err(Error::WrongSecret { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Revokes all keys and makes one under the secret in force, which signs at once.
/// Returns it with the number of those revoked.
///
/// # Errors
/// When the keys change meanwhile, or a statement fails.
pub fn replace_all(
    conn: &mut Conn,
    sealing: &KeyEncryptionKeys,
    options: &Options,
    now: Timestamp,
) -> Result<(StoredKey, usize), Error> {
    let keys = signing_keys::all(conn)?;
    let next = next_key(&keys, sealing, options, now, now)?;
    match signing_keys::replace_all(conn, &next, now)? {
        Some(revoked) => Ok((next, revoked)),
        None => Err(Error::Changed),
    }
}
