//! Operator commands on the signing keys: rotate, revoke, replace all.

use super::lifecycle::{Phase, UNSCHEDULED, phases};
use super::signing_key::SigningKey;
use super::{Algorithm, Error, Options};
use crate::clock::{self, Timestamp};
use crate::secrets::KeyEncryptionKeys;
use crate::store::Conn;
use crate::store::signing_keys::{self, Replacement, StoredKey};

/// The values that every key operation needs.
pub struct KeyContext<'a> {
    pub encryption: &'a KeyEncryptionKeys,
    pub options: &'a Options,
    pub now: Timestamp,
}

/// A new private key, not encrypted yet.
pub(super) struct NewKey {
    algorithm: Algorithm,
    kid: String,
    pkcs8: Vec<u8>,
}

impl NewKey {
    /// Generates a key. Blocks; a large RSA key takes a second or more.
    pub(super) fn generate(algorithm: Algorithm) -> Result<Self, Error> {
        let pkcs8 = algorithm.generate()?;
        let unusable = |problem| Error::Unusable { kid: "just generated".to_owned(), problem };
        let kid = SigningKey::parse(algorithm.name(), &pkcs8).map_err(unusable)?.kid;
        Ok(Self { algorithm, kid, pkcs8 })
    }

    /// Returns the row of the key.
    pub(super) fn into_stored(
        self,
        sequence: i64,
        active_from: Timestamp,
        cx: &KeyContext<'_>,
    ) -> Result<StoredKey, Error> {
        Ok(StoredKey {
            sequence,
            sealed: cx.encryption.encrypt(&self.kid, &self.pkcs8)?,
            kid: self.kid,
            algorithm: self.algorithm.name().to_owned(),
            created_at: cx.now,
            active_from,
            revoked_at: None,
        })
    }
}

/// Creates the next key, which signs once it was published for long enough.
pub fn rotate(conn: &mut Conn, cx: &KeyContext<'_>) -> Result<StoredKey, Error> {
    let keys = signing_keys::all(conn)?;
    check_secret(&keys, cx)?;
    let pending = keys.iter().find(|key| key.active_from > cx.now && key.revoked_at.is_none());
    if let Some(pending) = pending {
        return Err(Error::Pending { kid: pending.kid.clone(), active_from: pending.active_from });
    }
    let mut next = next_key(&keys, UNSCHEDULED, cx)?;
    if !signing_keys::insert(conn, &next)? {
        return Err(Error::Changed);
    }
    // The commit may have taken long, and other servers can publish the key only from now on.
    next.active_from = clock::now().after(cx.options.publish_ahead);
    signing_keys::schedule(conn, &next.kid, UNSCHEDULED, next.active_from)?;
    Ok(next)
}

/// Revokes a key. If it was the active one, the pending key becomes active at once, or a new
/// one if no key is pending. Returns the thumbprint of that key.
pub fn revoke(conn: &mut Conn, kid: &str, cx: &KeyContext<'_>) -> Result<Option<String>, Error> {
    let keys = signing_keys::all(conn)?;
    check_secret(&keys, cx)?;
    let phases = phases(&keys, cx.options.access_lifetime, cx.now);
    let phase_of = |kid: &str| {
        let found = keys.iter().zip(&phases).find(|(key, _)| key.kid == kid);
        found.map(|(_, phase)| *phase).filter(|phase| phase.is_published())
    };
    let phase = phase_of(kid).ok_or_else(|| Error::NoSuchKey(kid.to_owned()))?;
    let pending = keys.iter().find(|key| phase_of(&key.kid) == Some(Phase::Pending));
    let created;
    let replacement = match pending {
        _ if phase != Phase::Active => Replacement::None,
        Some(pending) => Replacement::Promote(&pending.kid),
        None => {
            created = next_key(&keys, cx.now, cx)?;
            Replacement::Create(&created)
        }
    };
    if !signing_keys::revoke(conn, kid, &replacement, cx.now)? {
        return Err(Error::Changed);
    }
    Ok(match replacement {
        Replacement::None => None,
        Replacement::Promote(kid) => Some(kid.to_owned()),
        Replacement::Create(key) => Some(key.kid.clone()),
    })
}

/// Checks that none of the current secrets decrypts a key in use.
pub fn check_new_secret(conn: &mut Conn, encryption: &KeyEncryptionKeys) -> Result<(), Error> {
    for key in signing_keys::all(conn)?.iter().filter(|key| key.revoked_at.is_none()) {
        match encryption.decrypt(key) {
            Ok(_) => return Err(Error::SecretInUse),
            Err(Error::WrongSecret { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Revokes all keys and creates one under the current secret, which signs at once. Returns
/// it, and the number of revoked keys.
pub fn replace_all(conn: &mut Conn, cx: &KeyContext<'_>) -> Result<(StoredKey, usize), Error> {
    let keys = signing_keys::all(conn)?;
    let next = next_key(&keys, cx.now, cx)?;
    match signing_keys::replace_all(conn, &next, cx.now)? {
        Some(revoked) => Ok((next, revoked)),
        None => Err(Error::Changed),
    }
}

/// Checks that the secret decrypts the newest key: the next one is encrypted under it.
fn check_secret(keys: &[StoredKey], cx: &KeyContext<'_>) -> Result<(), Error> {
    keys.last().map_or(Ok(()), |newest| cx.encryption.decrypt(newest).map(drop))
}

/// Creates the key that comes after `keys`.
fn next_key(
    keys: &[StoredKey],
    active_from: Timestamp,
    cx: &KeyContext<'_>,
) -> Result<StoredKey, Error> {
    let sequence = keys.last().map_or(1, |newest| newest.sequence + 1);
    NewKey::generate(cx.options.algorithm)?.into_stored(sequence, active_from, cx)
}
