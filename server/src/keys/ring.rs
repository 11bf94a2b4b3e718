//! The key ring: a cache of the published keys, kept current with the database.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix_rt::task::spawn_blocking;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use serde::Serialize;

use super::encryption::Decrypted;
use super::lifecycle::{Phase, UNSCHEDULED, needs_id_keys, phases, with_purpose};
use super::rotation::{KeyContext, NewKey};
use super::signing_key::SigningKey;
use super::verification::SignatureError;
use super::{Error, IdTokenHint, Options, Purpose, TokenType, VerifyError};
use crate::clock::{self, Timestamp};
use crate::crypto::Digest;
use crate::secrets::KeyEncryptionKeys;
use crate::store::signing_keys::StoredKey;
use crate::store::{self, Conn, Store, signing_keys};
use crate::tokens::{Claims, ExtraClaims, VerifiedToken};

/// The interval at which a server reads the keys.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum time between two reads. A token with an unknown key causes a read at once.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// Signs and verifies with the keys in the database.
pub struct KeyRing {
    store: Store,
    encryption: KeyEncryptionKeys,
    pub(super) options: Options,
    /// The keys that were read last. A `std` lock: it is held only to clone or to replace
    /// the `Arc`, never across an `await`.
    snapshot: RwLock<Arc<KeySnapshot>>,
    /// Limits reads on demand to one at a time, so that many tokens with an unknown key
    /// cause one query.
    refresh_lock: tokio::sync::Mutex<()>,
}

/// The published keys at the time of one read.
pub(super) struct KeySnapshot {
    pub(super) keys: Vec<PublishedKey>,
    /// The errors of keys that this server's secrets do not decrypt.
    unreadable: Vec<String>,
    set: KeySet,
    read_at: Instant,
}

#[derive(Clone)]
pub(super) struct PublishedKey {
    pub(super) purpose: Purpose,
    pub(super) key: Arc<SigningKey>,
    pub(super) active_from: Timestamp,
}

/// The public keys as they are published (RFC 7517 §5).
#[derive(Clone)]
pub struct KeySet {
    /// JSON.
    pub body: String,
    /// A strong entity tag (RFC 9110 §8.8.3).
    pub etag: String,
    /// The time for which it may be cached.
    pub max_age: Duration,
}

/// The published keys that could be read, and the errors of the others.
struct OpenedKeys {
    keys: Vec<PublishedKey>,
    unreadable: Vec<Error>,
}

impl KeySnapshot {
    pub(super) fn empty() -> Self {
        let set = KeySet { body: String::new(), etag: String::new(), max_age: Duration::ZERO };
        Self { keys: vec![], unreadable: vec![], set, read_at: Instant::now() }
    }

    fn active_key(&self, purpose: Purpose, now: Timestamp) -> Result<&SigningKey, Error> {
        let mut keys = self.keys.iter().filter(|key| key.purpose == purpose);
        let first = keys.clone().next();
        let active = keys.rfind(|key| key.active_from <= now);
        // After the clock was set back, no key may be active yet.
        Ok(&active.or(first).ok_or(Error::NoKey)?.key)
    }
}

impl KeyRing {
    /// Reads the keys from the database, and creates those that are missing. Servers that
    /// start at the same time get the same keys. Keys that were encrypted under an old secret
    /// are encrypted again under the current one. If the newest key of a purpose has another
    /// algorithm than new keys shall have, the next key is created.
    pub async fn open(
        store: Store,
        encryption: KeyEncryptionKeys,
        options: Options,
    ) -> Result<Self, Error> {
        let snapshot = RwLock::new(Arc::new(KeySnapshot::empty()));
        let refresh_lock = tokio::sync::Mutex::default();
        let ring = Self { store, encryption, options, snapshot, refresh_lock };
        let now = clock::now();
        // The keys of access tokens first: they decide whether others are needed.
        for purpose in Purpose::ALL {
            let stored = ring.stored().await?;
            if ring.lacks_keys(purpose, &stored, now) && ring.store.check_clock().is_ok() {
                ring.create_key(purpose, 1, now).await?;
            }
            let read_at = Instant::now();
            let stored = ring.stored().await?;
            let mut opened = ring.open_published(&stored, now).await?;
            if let Some(error) = opened.unreadable.pop() {
                return Err(error);
            }
            let newest = opened.keys.iter().rfind(|newest| newest.purpose == purpose).cloned();
            ring.replace(opened, read_at);
            let algorithm = ring.options.algorithm(purpose);
            if newest.is_some_and(|newest| !newest.key.matches_algorithm(algorithm)) {
                let newest = with_purpose(&stored, purpose).last();
                ring.create_key(purpose, newest.map_or(1, |key| key.sequence + 1), now).await?;
            }
        }
        Ok(ring)
    }

    /// Returns whether no key for this purpose exists, but one is needed.
    fn lacks_keys(&self, purpose: Purpose, stored: &[StoredKey], now: Timestamp) -> bool {
        let is_needed = match purpose {
            Purpose::Access => true,
            Purpose::Id => {
                needs_id_keys(stored, &phases(stored, self.options.access_lifetime, now))
            }
        };
        is_needed && with_purpose(stored, purpose).is_empty()
    }

    /// Reads the keys each second and creates the next key in time. Never returns, and may
    /// be dropped at any time.
    pub async fn run(self: Arc<Self>) {
        let mut failing = false;
        loop {
            tokio::time::sleep(REFRESH_INTERVAL).await;
            let result = self.maintain().await;
            match &result {
                // The store logs that the database is unavailable.
                Err(Error::Store(error)) if error.is_transient() => {
                    tracing::debug!(%error, "signing keys not read, retrying");
                }
                Err(error) if !failing => {
                    tracing::warn!(%error, "signing keys not read, retrying");
                }
                _ => {}
            }
            failing = result.is_err();
        }
    }

    async fn maintain(&self) -> Result<(), Error> {
        let stored = self.refresh().await?;
        let now = clock::now();
        if self.store.check_clock().is_err() {
            return Ok(());
        }
        for purpose in Purpose::ALL {
            if self.lacks_keys(purpose, &stored, now) {
                return self.create_key(purpose, 1, now).await;
            }
        }
        let is_unscheduled =
            |key: &&StoredKey| key.active_from == UNSCHEDULED && key.revoked_at.is_none();
        if let Some(key) = stored.iter().find(is_unscheduled) {
            return self.schedule(key.kid.clone()).await;
        }
        let phases = phases(&stored, self.options.access_lifetime, now);
        for (key, _) in stored.iter().zip(&phases).filter(|(_, phase)| **phase == Phase::Expired) {
            let kid = key.kid.clone();
            tracing::info!(kid, "signing key deleted, all its tokens have expired");
            self.store.run_reserved(move |conn| signing_keys::delete(conn, &kid)).await?;
        }
        let Some(rotate_after) = self.options.rotate_after else { return Ok(()) };
        let published_until_then = now.after(self.options.publish_ahead);
        let needs_id_keys = needs_id_keys(&stored, &phases);
        for purpose in Purpose::ALL {
            let is_used = purpose == Purpose::Access || needs_id_keys;
            let newest = with_purpose(&stored, purpose).last().filter(|_| is_used);
            let is_due =
                |key: &&StoredKey| key.active_from.after(rotate_after) <= published_until_then;
            if let Some(newest) = newest.filter(is_due) {
                self.create_key(purpose, newest.sequence + 1, now).await?;
            }
        }
        Ok(())
    }

    /// Signs an access token with `claims`, and with those of its session.
    pub fn sign(
        &self,
        claims: &Claims<'_>,
        extra: Option<&ExtraClaims>,
        now: Timestamp,
    ) -> Result<String, Error> {
        let mut payload = serde_json::to_vec(claims).map_err(Error::Claims)?;
        if let Some(extra) = extra {
            extra.append_to(&mut payload);
        }
        self.snapshot().active_key(Purpose::Access, now)?.sign(TokenType::Access, &payload)
    }

    /// Signs a token for a client, an ID token or a logout token, with RS256.
    pub fn sign_for_client(
        &self,
        kind: TokenType,
        claims: &impl Serialize,
        now: Timestamp,
    ) -> Result<String, Error> {
        let payload = serde_json::to_vec(claims).map_err(Error::Claims)?;
        let snapshot = self.snapshot();
        let access = snapshot.active_key(Purpose::Access, now)?;
        let key = match access.algorithm {
            jsonwebtoken::Algorithm::RS256 => access,
            _ => snapshot.active_key(Purpose::Id, now)?,
        };
        key.sign(kind, &payload)
    }

    /// Verifies an ID token that this server signed, whether or not it has expired. Returns
    /// `None` for any other token, and for one whose key is no longer published.
    pub async fn verify_id_token(&self, token: &str) -> Result<Option<IdTokenHint>, Error> {
        let issuer = &self.options.issuer;
        let verified = match self.current().await?.verify_id_token(token, issuer) {
            // Another server may already sign with a key that this server has not read yet.
            Err(SignatureError::UnknownKey) => {
                self.refresh_now().await?;
                self.snapshot().verify_id_token(token, issuer)
            }
            result => result,
        };
        Ok(verified.ok())
    }

    /// Verifies the signature and the expiry of an access token, without leeway.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<VerifiedToken, VerifyError> {
        self.store.check_clock().map_err(|error| VerifyError::Unavailable(error.into()))?;
        let snapshot = self.current().await.map_err(VerifyError::Unavailable)?;
        let verified = match snapshot.verify(token, &self.options) {
            // Another server may already sign with a key that this server has not read yet.
            Err(SignatureError::UnknownKey) => {
                self.refresh_now().await.map_err(VerifyError::Unavailable)?;
                self.snapshot().verify(token, &self.options)
            }
            result => result,
        };
        let verified = verified.map_err(|_| VerifyError::Invalid)?;
        if verified.expires_at <= now {
            return Err(VerifyError::Expired);
        }
        Ok(verified)
    }

    /// Returns the public keys. They may be cached for half of `publish_ahead`, and for less
    /// if the database has not been read recently.
    pub async fn jwks(&self) -> Result<KeySet, Error> {
        let snapshot = self.current().await?;
        let publish_ahead = self.options.publish_ahead;
        let until_next_key = publish_ahead.saturating_sub(snapshot.read_at.elapsed());
        Ok(KeySet { max_age: (publish_ahead / 2).min(until_next_key), ..snapshot.set.clone() })
    }

    /// Returns whether this server has a key to sign access tokens with.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        self.snapshot().keys.iter().any(|key| key.purpose == Purpose::Access)
    }

    /// Returns whether the keys were read recently enough to be used without the database.
    #[must_use]
    pub fn are_fresh(&self) -> bool {
        self.snapshot().read_at.elapsed() <= self.options.max_staleness()
    }

    /// Returns whether this server can decrypt every published key.
    #[must_use]
    pub fn all_readable(&self) -> bool {
        self.snapshot().unreadable.is_empty()
    }

    /// Returns the keys, unless they are so old that one may have been revoked meanwhile.
    async fn current(&self) -> Result<Arc<KeySnapshot>, Error> {
        let max_staleness = self.options.max_staleness();
        let snapshot = self.snapshot();
        if snapshot.read_at.elapsed() <= max_staleness {
            return Ok(snapshot);
        }
        // This process may have been suspended.
        self.refresh_now().await?;
        let snapshot = self.snapshot();
        let age = snapshot.read_at.elapsed();
        if age <= max_staleness {
            Ok(snapshot)
        } else {
            Err(Error::Stale(Duration::from_secs(age.as_secs())))
        }
    }

    pub(super) fn snapshot(&self) -> Arc<KeySnapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn stored(&self) -> Result<Vec<StoredKey>, store::Error> {
        self.store.run_reserved(signing_keys::all).await
    }

    /// Reads the keys, unless a read began after this call. Concurrent calls share one read, and
    /// a read after a recent one is delayed.
    async fn refresh_now(&self) -> Result<(), Error> {
        let called_at = Instant::now();
        let _guard = self.refresh_lock.lock().await;
        let read_at = self.snapshot().read_at;
        if read_at >= called_at {
            return Ok(());
        }
        // The recent read may have missed the key, so it is not enough.
        tokio::time::sleep(MIN_REFRESH_INTERVAL.saturating_sub(read_at.elapsed())).await;
        self.refresh().await.map(drop)
    }

    async fn refresh(&self) -> Result<Vec<StoredKey>, Error> {
        let read_at = Instant::now();
        let stored = self.stored().await?;
        let opened = self.open_published(&stored, clock::now()).await?;
        self.replace(opened, read_at);
        Ok(stored)
    }

    /// Decrypts the published keys of `stored` that are not in the snapshot already.
    async fn open_published(
        &self,
        stored: &[StoredKey],
        now: Timestamp,
    ) -> Result<OpenedKeys, Error> {
        let before = self.snapshot();
        let phases = phases(stored, self.options.access_lifetime, now);
        let published = stored.iter().zip(phases).filter(|(_, phase)| phase.is_published());
        let mut opened = OpenedKeys { keys: Vec::new(), unreadable: Vec::new() };
        for (stored, _) in published {
            let known = before.keys.iter().find(|known| known.key.kid == stored.kid);
            let key = match known {
                Some(known) => Ok(known.key.clone()),
                None => self.open_key(stored).await,
            };
            match key {
                Ok(key) => {
                    let StoredKey { purpose, active_from, .. } = *stored;
                    opened.keys.push(PublishedKey { purpose, key, active_from });
                }
                Err(error @ (Error::WrongSecret { .. } | Error::Unusable { .. })) => {
                    opened.unreadable.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(opened)
    }

    async fn open_key(&self, stored: &StoredKey) -> Result<Arc<SigningKey>, Error> {
        let Decrypted { pkcs8, is_current } = self.encryption.decrypt(stored)?;
        if !is_current {
            let seen = stored.clone();
            let sealed = self.encryption.encrypt(&stored.kid, &pkcs8)?;
            self.store.run_reserved(move |conn| signing_keys::reseal(conn, &seen, &sealed)).await?;
            tracing::info!(kid = %stored.kid, "signing key encrypted under the new secret");
        }
        let key = SigningKey::parse(&stored.algorithm, &pkcs8)
            .map_err(|problem| Error::Unusable { kid: stored.kid.clone(), problem })?;
        Ok(Arc::new(key))
    }

    fn replace(&self, opened: OpenedKeys, read_at: Instant) {
        let before = self.snapshot();
        let mut unreadable = Vec::new();
        for error in opened.unreadable {
            let message = error.to_string();
            if !before.unreadable.contains(&message) {
                tracing::error!(%error, "signing key not readable, access tokens of other servers are rejected");
            }
            unreadable.push(message);
        }
        log_changes(&before.keys, &opened.keys);
        let keys = opened.keys.iter().map(|published| published.key.jwk.clone()).collect();
        // Public keys always serialize.
        let body = serde_json::to_string(&JwkSet { keys }).unwrap_or_default();
        let digest = Digest::of(&[body.as_bytes()]);
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest.as_bytes()[..16]));
        let set = KeySet { etag, body, max_age: Duration::ZERO };
        let snapshot = KeySnapshot { keys: opened.keys, unreadable, set, read_at };
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    /// Creates the key with this sequence number, unless another server does. The first key
    /// signs at once, every other one once it was published for long enough.
    async fn create_key(
        &self,
        purpose: Purpose,
        sequence: i64,
        now: Timestamp,
    ) -> Result<(), Error> {
        let active_from = if sequence == 1 { now } else { UNSCHEDULED };
        let algorithm = self.options.algorithm(purpose);
        let new = spawn_blocking(move || NewKey::generate(purpose, algorithm)).await??;
        let cx = KeyContext { encryption: &self.encryption, options: &self.options, now };
        let key = new.into_stored(sequence, active_from, &cx)?;
        let kid = key.kid.clone();
        if self.store.run_reserved(move |conn| signing_keys::insert(conn, &key)).await? {
            let purpose = purpose.as_str();
            tracing::info!(kid, purpose, algorithm = algorithm.name(), "signing key created");
            if active_from == UNSCHEDULED {
                self.schedule(kid).await?;
            }
        }
        Ok(())
    }

    /// Sets the time from which a key signs, after its row is committed.
    async fn schedule(&self, kid: String) -> Result<(), Error> {
        let at = clock::now().after(self.options.publish_ahead);
        let schedule = move |conn: &mut Conn| signing_keys::schedule(conn, &kid, UNSCHEDULED, at);
        Ok(self.store.run_reserved(schedule).await?)
    }
}

/// Logs which keys this server began and ceased to accept, for the analysis of incidents.
fn log_changes(before: &[PublishedKey], after: &[PublishedKey]) {
    let lacks = |keys: &[PublishedKey], kid: &str| keys.iter().all(|known| known.key.kid != kid);
    for published in after.iter().filter(|k| lacks(before, &k.key.kid)) {
        let PublishedKey { purpose, key, active_from } = published;
        let purpose = purpose.as_str();
        tracing::info!(kid = key.kid, purpose, algorithm = ?key.algorithm, %active_from, "signing key published");
    }
    for PublishedKey { purpose, key, .. } in before.iter().filter(|k| lacks(after, &k.key.kid)) {
        let purpose = purpose.as_str();
        tracing::info!(kid = key.kid, purpose, "signing key retired, its tokens are rejected");
    }
}
