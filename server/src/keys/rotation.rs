//! Operator commands on the signing keys: rotate, revoke, replace all.

use super::lifecycle::{Phase, UNSCHEDULED, needs_id_keys, phases, with_purpose};
use super::signing_key::SigningKey;
use super::{Algorithm, Error, Options, Purpose};
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
    purpose: Purpose,
    algorithm: Algorithm,
    kid: String,
    pkcs8: Vec<u8>,
}

impl NewKey {
    /// Generates a key. Blocks; a large RSA key takes a second or more.
    pub(super) fn generate(purpose: Purpose, algorithm: Algorithm) -> Result<Self, Error> {
        let pkcs8 = algorithm.generate()?;
        let unusable = |problem| Error::Unusable { kid: "just generated".to_owned(), problem };
        let kid = SigningKey::parse(algorithm.name(), &pkcs8).map_err(unusable)?.kid;
        Ok(Self { purpose, algorithm, kid, pkcs8 })
    }

    /// Returns the row of the key.
    pub(super) fn into_stored(
        self,
        sequence: i64,
        active_from: Timestamp,
        cx: &KeyContext<'_>,
    ) -> Result<StoredKey, Error> {
        Ok(StoredKey {
            purpose: self.purpose,
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

/// Creates the next key of each purpose, which signs once it was published for long enough.
pub fn rotate(conn: &mut Conn, cx: &KeyContext<'_>) -> Result<Vec<StoredKey>, Error> {
    let keys = signing_keys::all(conn)?;
    check_secret(&keys, cx)?;
    let needs_id_keys = needs_id_keys(&keys, &phases(&keys, cx.options.access_lifetime, cx.now));
    let mut created = Vec::new();
    let mut already = None;
    for purpose in Purpose::ALL {
        let keys = with_purpose(&keys, purpose);
        // The servers create the first key for ID tokens.
        if purpose == Purpose::Id && (keys.is_empty() || !needs_id_keys) {
            continue;
        }
        let pending = keys.iter().find(|key| key.active_from > cx.now && key.revoked_at.is_none());
        match pending {
            Some(pending) => already = already.or(Some(pending)),
            None => created.push(publish_next(conn, keys, purpose, cx)?),
        }
    }
    match already {
        Some(pending) if created.is_empty() => {
            Err(Error::Pending { kid: pending.kid.clone(), active_from: pending.active_from })
        }
        _ => Ok(created),
    }
}

/// Publishes the key that comes after `keys`, and schedules it.
fn publish_next(
    conn: &mut Conn,
    keys: &[StoredKey],
    purpose: Purpose,
    cx: &KeyContext<'_>,
) -> Result<StoredKey, Error> {
    let mut next = next_key(keys, purpose, UNSCHEDULED, cx)?;
    if !signing_keys::insert(conn, &next)? {
        return Err(Error::Changed);
    }
    // The commit may have taken long, and other servers can publish the key only from now on.
    next.active_from = clock::now().after(cx.options.publish_ahead);
    signing_keys::schedule(conn, &next.kid, UNSCHEDULED, next.active_from)?;
    Ok(next)
}

/// A revocation of one key.
pub struct Revoked {
    pub purpose: Purpose,
    /// The thumbprint of the key that signs instead.
    pub replacement: Option<String>,
}

/// Revokes a key. If it was the active one, the pending key of the same purpose becomes active
/// at once, or a new one if no key is pending.
pub fn revoke(conn: &mut Conn, kid: &str, cx: &KeyContext<'_>) -> Result<Revoked, Error> {
    let keys = signing_keys::all(conn)?;
    check_secret(&keys, cx)?;
    let phases = phases(&keys, cx.options.access_lifetime, cx.now);
    let published = keys.iter().zip(&phases).filter(|(_, phase)| phase.is_published());
    let mut found = published.clone().filter(|(key, _)| key.kid == kid);
    let (&StoredKey { purpose, .. }, phase) =
        found.next().ok_or_else(|| Error::NoSuchKey(kid.to_owned()))?;
    let mut same = published.filter(|(key, _)| key.purpose == purpose);
    let pending = same.find(|(_, phase)| **phase == Phase::Pending);
    let created;
    let replacement = match pending {
        _ if *phase != Phase::Active => Replacement::None,
        Some((pending, _)) => Replacement::Promote(&pending.kid),
        None => {
            created = next_key(with_purpose(&keys, purpose), purpose, cx.now, cx)?;
            Replacement::Create(&created)
        }
    };
    if !signing_keys::revoke(conn, kid, &replacement, cx.now)? {
        return Err(Error::Changed);
    }
    let replacement = match replacement {
        Replacement::None => None,
        Replacement::Promote(kid) => Some(kid.to_owned()),
        Replacement::Create(key) => Some(key.kid.clone()),
    };
    Ok(Revoked { purpose, replacement })
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

/// Revokes all keys and creates one of each purpose under the current secret, which signs at
/// once. Returns the new keys, and the number of revoked ones.
pub fn replace_all(conn: &mut Conn, cx: &KeyContext<'_>) -> Result<(Vec<StoredKey>, usize), Error> {
    let keys = signing_keys::all(conn)?;
    let is_rs256 = matches!(cx.options.algorithm, Algorithm::Rs256 { .. });
    let mut created = Vec::new();
    for purpose in Purpose::ALL.into_iter().filter(|it| *it == Purpose::Access || !is_rs256) {
        created.push(next_key(with_purpose(&keys, purpose), purpose, cx.now, cx)?);
    }
    match signing_keys::replace_all(conn, &created, cx.now)? {
        Some(revoked) => Ok((created, revoked)),
        None => Err(Error::Changed),
    }
}

/// Checks that the secret decrypts the newest key of each purpose: the next one is encrypted
/// under it.
fn check_secret(keys: &[StoredKey], cx: &KeyContext<'_>) -> Result<(), Error> {
    for newest in Purpose::ALL.into_iter().filter_map(|it| with_purpose(keys, it).last()) {
        cx.encryption.decrypt(newest)?;
    }
    Ok(())
}

/// Creates the key that comes after `keys`, which are all those of its purpose.
fn next_key(
    keys: &[StoredKey],
    purpose: Purpose,
    active_from: Timestamp,
    cx: &KeyContext<'_>,
) -> Result<StoredKey, Error> {
    let sequence = keys.last().map_or(1, |newest| newest.sequence + 1);
    let new = NewKey::generate(purpose, cx.options.algorithm(purpose))?;
    new.into_stored(sequence, active_from, cx)
}
