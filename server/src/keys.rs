//! The key ring: which keys sign and verify access tokens, published, rotated
//! and revoked for all servers on a database.
//!
//! A new key is published for [`Options::publish_ahead`] before it signs, and
//! the key set may be cached for half as long, so that whoever caches it never
//! meets a key that it does not know. Every server reads the ring anew each
//! second.

mod encryption;
mod lifecycle;
mod replace;
mod signing_key;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix_rt::task::spawn_blocking;
use aws_lc_rs::digest::{self, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use jsonwebtoken::jwk::JwkSet;
use openssl::error::ErrorStack;
use openssl::sha::sha256;
use serde::Deserialize;

use crate::clock::{self, Timestamp};
use crate::crypto::RngError;
use crate::store::signing_keys::{Replacement, StoredKey};
use crate::store::{self, Conn, Store, signing_keys};
use crate::tokens::{Claims, VerifiedToken};

pub use encryption::{DerivedKeys, KeyEncryptionKeys};
use lifecycle::UNDECIDED;
pub use lifecycle::{Phase, phases};
pub use replace::{check_new_secret, replace_all};
pub use signing_key::Algorithm;
use signing_key::SigningKey;

/// The media type of access tokens (RFC 9068 §2.1).
const ACCESS_TOKEN: &str = "at+jwt";
/// No access token of ours comes near this many bytes.
const LONGEST_TOKEN: usize = 4096;
/// How often a server reads the ring.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// A token under an unknown key makes a server read at once, but no oftener.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// How long keys are used after they were read, at least; see [`Options::trusted_for`].
const TRUSTED_FOR: Duration = Duration::from_secs(30);

/// Why the key ring cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OpenSSL refused.
    #[error("a key operation failed: {0}")]
    Crypto(#[from] ErrorStack),
    /// The system gave none.
    #[error(transparent)]
    Randomness(#[from] RngError),
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The database refused a statement.
    #[error("the signing keys cannot be read or changed: {0}")]
    Query(#[from] diesel::result::Error),
    /// The stored key was sealed under another secret, or altered.
    #[error(
        "the signing key {kid} in the database cannot be opened with this server's secret: set \
         the secret it was sealed with, name it in `old_secrets`, or start on an empty database"
    )]
    WrongSecret {
        /// The key's thumbprint.
        kid: String,
    },
    /// The stored key is none that this version can use.
    #[error("the signing key {kid} in the database cannot be used: {problem}")]
    Unusable {
        /// The key's thumbprint.
        kid: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The keys could not be read for too long, so that any of them may be revoked.
    #[error("the signing keys could not be read for too long")]
    Stale,
    /// There is no such key to revoke.
    #[error("there is no key {0:?} in force: `keys list` shows those that are")]
    NoSuchKey(String),
    /// The next key is published already.
    #[error("key {kid} is published already and signs from {active_from} on: wait until it does")]
    Pending {
        /// Its thumbprint.
        kid: String,
        /// When it begins.
        active_from: Timestamp,
    },
    /// Somebody else changed the keys at the same moment.
    #[error("the keys were changed by somebody else at this moment: look again")]
    Changed,
    /// A signature could not be made.
    #[error("an access token could not be signed")]
    Signature,
    /// No key in force can be opened with this server's secrets.
    #[error("there is no key to sign with: the keys in force were sealed under another secret")]
    NoKey,
    /// The secret that was said to be compromised is still in force.
    #[error(
        "the database is used with `secret` or with one of `old_secrets`: where that one is \
         compromised, set a new `secret` (`openssl rand -base64 32`), name the compromised one \
         nowhere, and run this again"
    )]
    SecretInUse,
    /// The work was cancelled.
    #[error("a key was not made: {0}")]
    Unfinished(#[from] actix_rt::task::JoinError),
}

/// How keys come and go.
#[derive(Clone)]
pub struct Options {
    /// What new keys are made for.
    pub algorithm: Algorithm,
    /// How long a key is published before it signs.
    pub publish_ahead: Duration,
    /// How long a key signs before the next one does; `None`: until somebody
    /// rotates it.
    pub rotate_after: Option<Duration>,
    /// `iss` in access tokens.
    pub issuer: String,
    /// `aud` in access tokens.
    pub audience: String,
    /// How long access tokens live.
    pub access_lifetime: Duration,
}

impl Options {
    /// How long keys are used after they were read. A server without its database
    /// accepts and publishes a revoked key no longer than that, which is about as long
    /// as those trust it who cache the key set.
    fn trusted_for(&self) -> Duration {
        TRUSTED_FOR.max(self.publish_ahead / 2)
    }
}

/// Why an access token is not accepted.
#[derive(Debug)]
pub enum VerifyError {
    /// It is none of ours: malformed, for others, or not signed by our key.
    Invalid,
    /// It was good once.
    Expired,
    /// It names a key that may be new or revoked, and the database cannot be asked, or
    /// this server's clock is wrong.
    Unavailable(Error),
}

/// Signs and verifies with the keys that the database holds.
pub struct KeyRing {
    store: Store,
    sealing: KeyEncryptionKeys,
    options: Options,
    read: RwLock<Arc<Ring>>,
    reading: tokio::sync::Mutex<()>,
}

/// The keys as they were read last.
struct Ring {
    keys: Vec<PublishedKey>,
    /// Keys that another server made under a secret that this one has not.
    unreadable: Vec<String>,
    set: KeySet,
    read_at: Instant,
}

#[derive(Clone)]
struct PublishedKey {
    key: Arc<SigningKey>,
    active_from: Timestamp,
}

/// The public halves, as they are published (RFC 7517 §5).
#[derive(Clone)]
pub struct KeySet {
    /// JSON.
    pub body: String,
    /// Changes when the body does: a strong entity tag (RFC 9110 §8.8.3).
    pub etag: String,
    /// For how long it may be cached.
    pub max_age: Duration,
}

impl KeyRing {
    /// Takes the keys from the database, and makes one where there is none. Of
    /// several servers that start at once, all get the same. Keys that an old
    /// secret has sealed are sealed anew under the one in force. Where new keys
    /// are to be for another algorithm than the newest is, the next is made.
    ///
    /// # Errors
    /// When the database does not answer, or no secret fits it.
    pub async fn open(
        store: Store,
        sealing: KeyEncryptionKeys,
        options: Options,
    ) -> Result<Self, Error> {
        let set = KeySet { body: String::new(), etag: String::new(), max_age: Duration::ZERO };
        let none = Ring { keys: vec![], unreadable: vec![], set, read_at: Instant::now() };
        let (read, reading) = (RwLock::new(Arc::new(none)), tokio::sync::Mutex::default());
        let ring = Self { store, sealing, options, read, reading };
        let now = clock::now();
        if ring.stored().await?.is_empty() && ring.store.check_clock().is_ok() {
            ring.add(1, now).await?;
        }
        let began = Instant::now();
        let stored = ring.stored().await?;
        let mut keys = ring.unseal(&stored, now).await?;
        if let Some(error) = keys.unreadable.pop() {
            return Err(error);
        }
        let newest = keys.keys.last().map(|newest| newest.key.clone());
        ring.replace(keys, began);
        if newest.is_some_and(|newest| !newest.is_for(ring.options.algorithm)) {
            let sequence = stored.last().map_or(1, |key| key.sequence + 1);
            ring.add(sequence, now).await?;
        }
        Ok(ring)
    }

    /// Reads the keys each second, and makes the next one in time, until it is
    /// dropped, which it may be at any time.
    pub async fn keep(self: Arc<Self>) {
        let mut failing = false;
        loop {
            tokio::time::sleep(REFRESH_INTERVAL).await;
            let done = self.tend().await;
            if let (Err(error), false) = (&done, failing) {
                tracing::warn!(%error, "the key ring cannot be read, and will be again");
            }
            failing = done.is_err();
        }
    }

    async fn tend(&self) -> Result<(), Error> {
        let (stored, now) = (self.read().await?, clock::now());
        if self.store.check_clock().is_err() {
            return Ok(());
        }
        if stored.is_empty() {
            return self.add(1, now).await;
        }
        if let Some(key) =
            stored.iter().find(|key| key.active_from == UNDECIDED && key.revoked_at.is_none())
        {
            return self.schedule(key.kid.clone()).await;
        }
        let lifetime = self.options.access_lifetime;
        let phases = phases(&stored, lifetime, now);
        for (key, _) in stored.iter().zip(&phases).filter(|(_, phase)| **phase == Phase::Gone) {
            let kid = key.kid.clone();
            tracing::info!(kid, "signing key gone: all that it signed has expired");
            self.store.run_aside(move |conn| signing_keys::delete(conn, &kid)).await?;
        }
        let (Some(newest), Some(rotate_after)) = (stored.last(), self.options.rotate_after) else {
            return Ok(());
        };
        let due = newest.active_from.after(rotate_after);
        let published = now.after(self.options.publish_ahead);
        if due <= published {
            self.add(newest.sequence + 1, now).await?;
        }
        Ok(())
    }

    /// The access token that carries `claims`.
    ///
    /// # Errors
    /// When the key refuses to sign.
    pub fn sign(&self, claims: &Claims<'_>, now: Timestamp) -> Result<String, Error> {
        let payload = serde_json::to_vec(claims).map_err(|_| Error::Signature)?;
        let ring = self.ring();
        let begun = ring.keys.iter().rfind(|key| key.active_from <= now);
        // A clock that was set back may find none that has begun.
        begun.or(ring.keys.first()).ok_or(Error::NoKey)?.key.sign(&payload)
    }

    /// What an access token says that a published key signed and that has not
    /// expired. There is no leeway.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<VerifiedToken, VerifyError> {
        self.store.check_clock().map_err(|error| VerifyError::Unavailable(error.into()))?;
        let ring = self.current().await.map_err(VerifyError::Unavailable)?;
        let access = match ring.verify(token, &self.options) {
            // Another server may sign with a key that this one has not read yet.
            Err(SignatureError::UnknownKey) => {
                let read = self.read_again().await;
                read.map_err(|error| VerifyError::Unavailable(error.into()))?;
                self.ring().verify(token, &self.options)
            }
            verified => verified,
        };
        let access = access.map_err(|_| VerifyError::Invalid)?;
        if access.expires_at <= now {
            return Err(VerifyError::Expired);
        }
        Ok(access)
    }

    /// The public halves, and for how long they may be cached: half the lead,
    /// and less where the database has not been read for some time.
    ///
    /// # Errors
    /// When it has not been read for too long.
    pub async fn published(&self) -> Result<KeySet, Error> {
        let ring = self.current().await?;
        let lead = self.options.publish_ahead;
        let max_age = (lead / 2).min(lead.saturating_sub(ring.read_at.elapsed()));
        Ok(KeySet { max_age, ..ring.set.clone() })
    }

    /// The keys, unless they are too old to be sure that none is revoked.
    async fn current(&self) -> Result<Arc<Ring>, Error> {
        let ring = self.ring();
        let trusted_for = self.options.trusted_for();
        if ring.read_at.elapsed() <= trusted_for {
            return Ok(ring);
        }
        // This process may have stood still.
        self.read_again().await?;
        let ring = self.ring();
        if ring.read_at.elapsed() <= trusted_for { Ok(ring) } else { Err(Error::Stale) }
    }

    /// Whether this server has a key to sign with.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        !self.ring().keys.is_empty()
    }

    /// Whether this server can open every key that others sign with.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ring().unreadable.is_empty()
    }

    fn ring(&self) -> Arc<Ring> {
        self.read.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn stored(&self) -> Result<Vec<StoredKey>, store::Error> {
        self.store.run_aside(signing_keys::all).await
    }

    /// Reads the ring, unless that was done a moment ago.
    async fn read_again(&self) -> Result<(), store::Error> {
        let _one_at_a_time = self.reading.lock().await;
        if self.ring().read_at.elapsed() < MIN_REFRESH_INTERVAL {
            return Ok(());
        }
        match self.read().await {
            Err(Error::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    async fn read(&self) -> Result<Vec<StoredKey>, Error> {
        let began = Instant::now();
        let stored = self.stored().await?;
        let unsealed = self.unseal(&stored, clock::now()).await?;
        self.replace(unsealed, began);
        Ok(stored)
    }

    /// Opens the published ones of `stored`, but for those that are open.
    async fn unseal(&self, stored: &[StoredKey], now: Timestamp) -> Result<Unsealed, Error> {
        let open = self.ring();
        let phases = phases(stored, self.options.access_lifetime, now);
        let published = stored.iter().zip(phases).filter(|(_, phase)| phase.is_published());
        let mut unsealed = Unsealed { keys: Vec::new(), unreadable: Vec::new() };
        for (stored, _) in published {
            let known = open.keys.iter().find(|known| known.key.kid == stored.kid);
            let key = match known {
                Some(known) => Ok(known.key.clone()),
                None => self.unseal_one(stored).await,
            };
            match key {
                Ok(key) => {
                    unsealed.keys.push(PublishedKey { key, active_from: stored.active_from });
                }
                Err(error @ (Error::WrongSecret { .. } | Error::Unusable { .. })) => {
                    unsealed.unreadable.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(unsealed)
    }

    async fn unseal_one(&self, stored: &StoredKey) -> Result<Arc<SigningKey>, Error> {
        let (pkcs8, is_current) = self.sealing.open(stored)?;
        if !is_current {
            let (seen, sealed) = (stored.clone(), self.sealing.seal(&stored.kid, &pkcs8)?);
            self.store.run_aside(move |conn| signing_keys::reseal(conn, &seen, &sealed)).await?;
            tracing::info!(kid = %stored.kid, "signing key sealed under the new secret");
        }
        parse(stored, &pkcs8).map(Arc::new)
    }

    fn replace(&self, unsealed: Unsealed, read_at: Instant) {
        let before = self.ring();
        let mut unreadable = Vec::new();
        for error in unsealed.unreadable {
            let said = error.to_string();
            if !before.unreadable.contains(&said) {
                tracing::error!(%error, "access tokens that other servers sign are refused here");
            }
            unreadable.push(said);
        }
        log_changes(&before.keys, &unsealed.keys);
        let keys = unsealed.keys.iter().map(|published| published.key.jwk.clone()).collect();
        // Of public halves that were made a moment ago; there is nothing to go wrong.
        let body = serde_json::to_string(&JwkSet { keys }).unwrap_or_default();
        let digest = URL_SAFE_NO_PAD.encode(&sha256(body.as_bytes())[..16]);
        let set = KeySet { etag: format!("\"{digest}\""), body, max_age: Duration::ZERO };
        let ring = Ring { keys: unsealed.keys, unreadable, set, read_at };
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    /// Makes the key with that number, unless another server does. The first one signs
    /// at once, any other when it has been published for long enough.
    async fn add(&self, sequence: i64, now: Timestamp) -> Result<(), Error> {
        let active_from = if sequence == 1 { now } else { UNDECIDED };
        let algorithm = self.options.algorithm;
        let pkcs8 = spawn_blocking(move || algorithm.generate()).await??;
        let key = stored(&self.sealing, algorithm, &pkcs8, sequence, now, active_from)?;
        let kid = key.kid.clone();
        if self.store.run_aside(move |conn| signing_keys::insert(conn, &key)).await? {
            tracing::info!(kid, algorithm = algorithm.name(), "signing key made");
            if active_from == UNDECIDED {
                self.schedule(kid).await?;
            }
        }
        Ok(())
    }

    /// Sets when a key signs, now that its row is committed.
    async fn schedule(&self, kid: String) -> Result<(), Error> {
        let at = clock::now().after(self.options.publish_ahead);
        let schedule = move |conn: &mut Conn| signing_keys::schedule(conn, &kid, UNDECIDED, at);
        Ok(self.store.run_aside(schedule).await?)
    }
}

/// Who looks into an incident wants to know when this server took which keys.
fn log_changes(before: &[PublishedKey], after: &[PublishedKey]) {
    let lacks = |keys: &[PublishedKey], kid: &str| keys.iter().all(|known| known.key.kid != kid);
    for PublishedKey { key, active_from } in after.iter().filter(|k| lacks(before, &k.key.kid)) {
        tracing::info!(kid = key.kid, algorithm = ?key.algorithm, %active_from, "signing key published");
    }
    for PublishedKey { key, .. } in before.iter().filter(|k| lacks(after, &k.key.kid)) {
        tracing::info!(kid = key.kid, "signing key withdrawn: what it signed is refused");
    }
}

struct Unsealed {
    keys: Vec<PublishedKey>,
    unreadable: Vec<Error>,
}

enum SignatureError {
    Invalid,
    UnknownKey,
}

/// The header of an access token, with the members that ours have and no others:
/// `crit` (RFC 7515 §4.1.11) names what has to be understood, `b64` (RFC 7797) changes
/// what is signed, and `jku`, `jwk`, `x5u` and `x5c` bring keys along.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenHeader {
    typ: String,
    kid: String,
    /// Compared with the key's own by the verification.
    #[serde(rename = "alg")]
    _alg: String,
}

impl TokenHeader {
    fn parse(token: &str) -> Option<Self> {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
        serde_json::from_slice(&header).ok()
    }
}

impl Ring {
    /// What the token says, whether or not it has expired.
    fn verify(&self, token: &str, options: &Options) -> Result<VerifiedToken, SignatureError> {
        if token.len() > LONGEST_TOKEN {
            return Err(SignatureError::Invalid);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&SHA256, token.as_bytes()).as_ref());
        // A key that is withdrawn takes along what was verified with it.
        let seen = self.keys.iter().find_map(|published| published.key.verified.get(&digest));
        if let Some(access) = seen {
            return Ok(access);
        }
        let header = TokenHeader::parse(token).ok_or(SignatureError::Invalid)?;
        if header.typ != ACCESS_TOKEN {
            return Err(SignatureError::Invalid);
        }
        let key = self.keys.iter().find(|published| published.key.kid == header.kid);
        let key = &key.ok_or(SignatureError::UnknownKey)?.key;
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[&options.issuer]);
        validation.set_audience(&[&options.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // Checked against the caller's `now`, and to the second.
        validation.validate_exp = false;
        let read = jsonwebtoken::decode::<Claims<'_>>(token, &key.public, &validation);
        let access = read.map_err(|_| SignatureError::Invalid)?.claims.verified();
        key.verified.insert(digest, access);
        Ok(access)
    }
}

fn parse(stored: &StoredKey, pkcs8: &[u8]) -> Result<SigningKey, Error> {
    SigningKey::parse(&stored.algorithm, pkcs8)
        .map_err(|problem| Error::Unusable { kid: stored.kid.clone(), problem })
}

/// A new key as it is stored.
fn stored(
    sealing: &KeyEncryptionKeys,
    algorithm: Algorithm,
    pkcs8: &[u8],
    sequence: i64,
    now: Timestamp,
    active_from: Timestamp,
) -> Result<StoredKey, Error> {
    let unusable = |problem| Error::Unusable { kid: "just made".to_owned(), problem };
    let kid = SigningKey::parse(algorithm.name(), pkcs8).map_err(unusable)?.kid;
    Ok(StoredKey {
        sequence,
        sealed: sealing.seal(&kid, pkcs8)?,
        kid,
        algorithm: algorithm.name().to_owned(),
        created_at: now,
        active_from,
        revoked_at: None,
    })
}

/// Makes the next key, to sign when it was published for long enough: for
/// somebody at a command line.
///
/// # Errors
/// When one is pending already, or the secret does not fit the database.
pub fn rotate(
    conn: &mut Conn,
    sealing: &KeyEncryptionKeys,
    options: &Options,
    now: Timestamp,
) -> Result<StoredKey, Error> {
    let keys = signing_keys::all(conn)?;
    check_secret(&keys, sealing)?;
    if let Some(pending) = keys.iter().find(|key| key.active_from > now && key.revoked_at.is_none())
    {
        let StoredKey { kid, active_from, .. } = pending.clone();
        return Err(Error::Pending { kid, active_from });
    }
    let mut next = next_key(&keys, sealing, options, now, UNDECIDED)?;
    if !signing_keys::insert(conn, &next)? {
        return Err(Error::Changed);
    }
    // A commit may take its time: only now can other servers publish the key.
    next.active_from = clock::now().after(options.publish_ahead);
    signing_keys::schedule(conn, &next.kid, UNDECIDED, next.active_from)?;
    Ok(next)
}

/// Revokes a key. Where it signed, the pending one does so at once, or else a
/// new one, whose name is answered.
///
/// # Errors
/// When there is no such key in force, or the secret does not fit the database.
pub fn revoke(
    conn: &mut Conn,
    sealing: &KeyEncryptionKeys,
    options: &Options,
    kid: &str,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    let keys = signing_keys::all(conn)?;
    check_secret(&keys, sealing)?;
    let phases = phases(&keys, options.access_lifetime, now);
    let phase_of = |kid: &str| {
        let of = keys.iter().zip(&phases).find(|(key, _)| key.kid == kid);
        of.map(|(_, phase)| *phase).filter(|phase| phase.is_published())
    };
    let phase = phase_of(kid).ok_or_else(|| Error::NoSuchKey(kid.to_owned()))?;
    let pending = keys.iter().find(|key| phase_of(&key.kid) == Some(Phase::Pending));
    let spare;
    let heir = match pending {
        _ if phase != Phase::Active => Replacement::None,
        Some(pending) => Replacement::Promote(&pending.kid),
        None => {
            spare = next_key(&keys, sealing, options, now, now)?;
            Replacement::Create(&spare)
        }
    };
    if !signing_keys::revoke(conn, kid, &heir, now)? {
        return Err(Error::Changed);
    }
    Ok(match heir {
        Replacement::None => None,
        Replacement::Promote(kid) => Some(kid.to_owned()),
        Replacement::Create(key) => Some(key.kid.clone()),
    })
}

/// Whether the secret opens the newest key, so that it will do for the next.
fn check_secret(keys: &[StoredKey], sealing: &KeyEncryptionKeys) -> Result<(), Error> {
    keys.last().map_or(Ok(()), |newest| sealing.open(newest).map(drop))
}

/// The key that comes after `keys`.
fn next_key(
    keys: &[StoredKey],
    sealing: &KeyEncryptionKeys,
    options: &Options,
    now: Timestamp,
    active_from: Timestamp,
) -> Result<StoredKey, Error> {
    let sequence = keys.last().map_or(1, |newest| newest.sequence + 1);
    let pkcs8 = options.algorithm.generate()?;
    stored(sealing, options.algorithm, &pkcs8, sequence, now, active_from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SessionId, UserId};
    use crate::tokens::RotationRandomness;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn options() -> Options {
        Options {
            algorithm: Algorithm::EdDsa,
            publish_ahead: Duration::from_secs(600),
            rotate_after: None,
            issuer: "https://issuer".into(),
            audience: "https://audience".into(),
            access_lifetime: Duration::from_secs(60),
        }
    }

    /// A key of each kind.
    fn keys() -> Vec<SigningKey> {
        [Algorithm::Rs256 { bits: 2048 }, Algorithm::Es256, Algorithm::EdDsa]
            .into_iter()
            .map(|made| SigningKey::parse(made.name(), &made.generate().unwrap()).unwrap())
            .collect()
    }

    fn ring(key: SigningKey) -> Ring {
        let set = KeySet { body: String::new(), etag: String::new(), max_age: Duration::ZERO };
        let keys = vec![PublishedKey { key: Arc::new(key), active_from: NOW }];
        Ring { keys, unreadable: vec![], set, read_at: Instant::now() }
    }

    fn claims() -> Claims<'static> {
        Claims {
            iss: "https://issuer".into(),
            aud: "https://audience".into(),
            sub: UserId::random(),
            client_id: "matchbook".into(),
            iat: NOW.as_secs(),
            exp: NOW.as_secs() + 60,
            jti: RotationRandomness::generate(NOW).unwrap().access,
            sid: SessionId::new(UserId::random(), NOW).unwrap(),
        }
    }

    fn sign(key: &SigningKey, claims: &Claims<'_>) -> String {
        key.sign(&serde_json::to_vec(claims).unwrap()).unwrap()
    }

    fn is_refused(ring: &Ring, token: &str) -> bool {
        matches!(ring.verify(token, &options()), Err(SignatureError::Invalid))
    }

    #[test]
    fn what_a_key_of_any_kind_signs_is_verified() {
        for key in keys() {
            let (claims, ring) = (claims(), ring(key));
            let token = sign(&ring.keys[0].key, &claims);
            // The second time it is remembered.
            for _ in 0..2 {
                assert!(ring.verify(&token, &options()).is_ok_and(|it| it == claims.verified()));
            }
            assert!(is_refused(&ring, &format!("{token}A")));
            assert!(is_refused(&ring, token.strip_suffix(|_| true).unwrap()));
        }
    }

    #[test]
    fn a_token_for_others_or_of_others_is_refused() {
        for key in keys() {
            let ring = ring(key);
            let key = &ring.keys[0].key;
            for change in [
                |c: &mut Claims<'_>| c.iss = "https://elsewhere".into(),
                |c: &mut Claims<'_>| c.aud = "https://elsewhere".into(),
            ] {
                let mut claims = claims();
                change(&mut claims);
                assert!(is_refused(&ring, &sign(key, &claims)));
            }
            let stranger = self::ring(keys().swap_remove(0));
            let token = sign(key, &claims());
            assert!(matches!(stranger.verify(&token, &options()), Err(SignatureError::UnknownKey)));
        }
    }

    #[test]
    fn a_header_with_any_other_member_than_ours_is_refused() {
        for key in keys() {
            let ring = ring(key);
            let key = &ring.keys[0].key;
            let (claims, alg) = (serde_json::to_string(&claims()).unwrap(), key.algorithm);
            let (ours, kid) = (format!(r#""typ":"at+jwt","alg":"{alg:?}""#), &key.kid);
            let signed = |header: &str| key.sign_under(header, &claims);
            assert!(
                ring.verify(&signed(&format!(r#"{{{ours},"kid":"{kid}"}}"#)), &options()).is_ok()
            );
            for more in [
                r#""crit":["exp"]"#,
                r#""crit":[]"#,
                r#""crit":["b64"],"b64":false"#,
                r#""b64":true"#,
                r#""jku":"https://elsewhere""#,
                r#""jwk":{}"#,
                r#""x5u":"https://elsewhere""#,
                r#""x5c":[]"#,
                r#""cty":"JWT""#,
                r#""zip":"DEF""#,
                r#""typ":"at+jwt""#,
                r#""alg":"none""#,
                r#""kid":"other""#,
                r#""":0"#,
            ] {
                let header = format!(r#"{{{ours},"kid":"{kid}",{more}}}"#);
                assert!(is_refused(&ring, &signed(&header)), "{more}");
            }
            let without = [format!("{{{ours}}}"), format!(r#"{{"kid":"{kid}"}}"#), "[]".into()];
            for header in without.iter().map(String::as_str).chain(["", "null", "\u{fffd}", "{"]) {
                assert!(is_refused(&ring, &signed(header)), "{header}");
            }
        }
    }

    #[test]
    fn only_the_type_and_algorithm_of_an_access_token_pass_for_one() {
        for key in keys() {
            let ring = ring(key);
            let key = &ring.keys[0].key;
            let claims = serde_json::to_string(&claims()).unwrap();
            let signed = |typ: &str, alg: &str| {
                let header = format!(r#"{{"typ":"{typ}","alg":"{alg}","kid":"{}"}}"#, key.kid);
                key.sign_under(&header, &claims)
            };
            let alg = format!("{:?}", key.algorithm);
            assert!(ring.verify(&signed("at+jwt", &alg), &options()).is_ok());
            assert!(is_refused(&ring, &signed("JWT", &alg)));
            for other in ["none", "HS256", "RS256", "ES256", "EdDSA", "PS256"] {
                assert!(other == alg || is_refused(&ring, &signed("at+jwt", other)), "{other}");
            }
            let twice = claims.replacen('{', r#"{"exp":99999999999,"#, 1);
            let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{}"}}"#, key.kid);
            assert!(is_refused(&ring, &key.sign_under(&header, &twice)), "a claim named twice");
        }
    }
}
