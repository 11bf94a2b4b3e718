//! Values without I/O: ids, secrets, their digests, the refresh token and the
//! claims of an access token.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A user. A guest's id is also the ticket for its one sign-in, so it is
    /// random and stays out of logs until it is used.
    UserId
}
id! {
    /// A session: one sign-in on one device (`sid` in an access token).
    SessionId
}
id! {
    /// An access token (`jti`, RFC 7519 §4.1.7).
    AccessTokenId
}

id! {
    /// An entry of the security log.
    EventId
}

impl UserId {
    /// Before all others.
    pub const FIRST: Self = Self(Uuid::nil());

    /// A new id that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl SessionId {
    /// Before all others.
    pub const FIRST: Self = Self(Uuid::nil());

    /// A new id. Ids made later sort later (UUID version 7), so that new rows
    /// go to one end of the primary key's index, however many there are.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(now: Timestamp) -> Result<Self, RngError> {
        Ok(Self(sorted_by_time(now, &random()?)))
    }
}

impl EventId {
    /// A new id. Ids made later sort later.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(now: Timestamp) -> Result<Self, RngError> {
        Ok(Self(sorted_by_time(now, &random()?)))
    }

    /// The id of the nth of several entries that are made at once.
    #[must_use]
    pub fn nth(self, n: u128) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().wrapping_add(n)))
    }

    /// The id before all that are made at `time` or later.
    #[must_use]
    pub fn first_at(time: Timestamp) -> Self {
        let millis = time.as_unix_millis();
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }
}

fn sorted_by_time(now: Timestamp, random: &[u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.as_unix_millis(), random).into_uuid()
}

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system has no randomness")]
pub struct RngError;

fn random<const N: usize>() -> Result<[u8; N], RngError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| RngError)?;
    Ok(bytes)
}

/// What only the holder of a refresh token knows: 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new secret.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, RngError> {
        random().map(Self)
    }

    /// A secret that is known already.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret of the next generation. Who has not this secret, the salt and
    /// the pepper together learns nothing about it.
    #[must_use]
    pub fn successor(&self, salt: &Salt, token_key: &TokenKey) -> Self {
        let mut mac = hmac::Context::with_key(&token_key.0);
        mac.update(b"successor");
        mac.update(&self.0);
        mac.update(&salt.0);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(mac.sign().as_ref());
        Self(bytes)
    }

    /// For a file that only the server may read.
    #[must_use]
    pub fn to_base64(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the database keeps of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&[&self.0])
    }

    /// What the database keeps of an attempt to rotate this secret: tells
    /// nothing of the key without the secret, however short the key is.
    #[must_use]
    pub fn attempt(&self, key: &IdempotencyKey) -> Digest {
        Digest::of(&[b"attempt", &self.0, key.0.as_bytes()])
    }
}

/// What a successor is derived with, beside the secret before it: 32 random
/// bytes, kept for as long as the same successor may be asked for.
pub struct Salt([u8; 32]);

impl Salt {
    /// The 32 bytes, as the database stores them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the database stored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// A client's own key for one attempt to refresh (`Idempotency-Key`). With it
/// the answer that was lost can be had again.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The fewest characters: less could be guessed.
    pub const MIN_LEN: usize = 16;
    /// The most characters.
    pub const MAX_LEN: usize = 128;

    /// Takes [`Self::MIN_LEN`] to [`Self::MAX_LEN`] visible ASCII characters,
    /// in double quotes (a string of RFC 9651 §3.3.3) or without.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let key = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        let length = Self::MIN_LEN..=Self::MAX_LEN;
        let good = length.contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        good.then(|| Self(key.to_owned()))
    }
}

/// SHA-256 of a [`Secret`]. The secret has 256 bits of its own, so neither
/// salt nor stretching would add anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }

    /// Whether the database stored this.
    #[must_use]
    pub fn is(&self, stored: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.0, stored).is_ok()
    }

    /// The 32 bytes, as the database stores them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key under which refresh tokens are tagged and successors derived; it
/// never leaves the server.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// Takes derived key material.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    fn tag(&self, message: &[u8]) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hmac::sign(&self.0, message).as_ref()[..TAG]);
        tag
    }
}

/// The pepper in force, and those before it whose tokens are still good.
pub struct TokenKeys {
    /// Of the server's secret.
    pub current: TokenKey,
    /// Of the old secrets.
    pub old: Vec<TokenKey>,
}

impl TokenKeys {
    /// All of them, the one in force first.
    pub fn all(&self) -> impl Iterator<Item = &TokenKey> {
        std::iter::once(&self.current).chain(&self.old)
    }
}

/// A refresh token: opaque to clients, `mb_rt_` and base64url of
/// version 1 ‖ session 16 ‖ generation 8 ‖ secret 32 ‖ tag 16 bytes.
///
/// The tag is HMAC-SHA256 under the [`TokenKey`] over all before it, cut to 16
/// bytes: junk is refused without asking the database, and any generation that
/// was ever issued is recognised without a row for it.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session it belongs to.
    pub session: SessionId,
    /// How often the session's token had been rotated when this one was made.
    pub generation: i64,
    /// What proves that the bearer was given this token.
    pub secret: Secret,
}

const PREFIX: &str = "mb_rt_";
const VERSION: u8 = 1;
const TAGGED: usize = 1 + 16 + 8 + 32;
const TAG: usize = 16;

impl RefreshToken {
    /// The text that travels.
    #[must_use]
    pub fn encode(&self, token_key: &TokenKey) -> String {
        let mut bytes = [0; TAGGED + TAG];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(self.session.0.as_bytes());
        bytes[17..25].copy_from_slice(&self.generation.to_be_bytes());
        bytes[25..TAGGED].copy_from_slice(&self.secret.0);
        let tag = token_key.tag(&bytes[..TAGGED]);
        bytes[TAGGED..].copy_from_slice(&tag);
        let mut text = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        text
    }

    /// Reads a token that this server issued; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str, token_keys: &TokenKeys) -> Option<Self> {
        // One byte more than a token has, since the decoder estimates upwards.
        let mut bytes = [0; TAGGED + TAG + 2];
        let encoded = text.strip_prefix(PREFIX)?;
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
        let (tagged, tag) = bytes[..length].split_at(length.min(TAGGED));
        if length != TAGGED + TAG || tagged[0] != VERSION {
            return None;
        }
        let genuine = |token_key: &TokenKey| {
            constant_time::verify_slices_are_equal(&token_key.tag(tagged), tag).is_ok()
        };
        if !token_keys.all().any(genuine) {
            return None;
        }
        let mut session = [0; 16];
        session.copy_from_slice(&tagged[1..17]);
        let mut generation = [0; 8];
        generation.copy_from_slice(&tagged[17..25]);
        let mut secret = [0; 32];
        secret.copy_from_slice(&tagged[25..]);
        Some(Self {
            session: SessionId(Uuid::from_bytes(session)),
            generation: i64::from_be_bytes(generation),
            secret: Secret(secret),
        })
    }
}

/// The randomness that one refresh may use up.
pub struct RotationRandomness {
    /// Of the successor.
    pub salt: Salt,
    /// Of the access token.
    pub access: AccessTokenId,
    /// Of the entry in the security log, if there is something to enter.
    pub event: EventId,
}

impl RotationRandomness {
    /// Throws them.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(now: Timestamp) -> Result<Self, RngError> {
        // In one go: asking costs more than what is asked for.
        let random: [u8; 58] = random()?;
        let (mut salt, mut access, mut event) = ([0; 32], [0; 16], [0; 10]);
        salt.copy_from_slice(&random[..32]);
        access.copy_from_slice(&random[32..48]);
        event.copy_from_slice(&random[48..]);
        let access = AccessTokenId(uuid::Builder::from_random_bytes(access).into_uuid());
        Ok(Self { salt: Salt(salt), access, event: EventId(sorted_by_time(now, &event)) })
    }
}

/// The claims of an access token (RFC 9068 §2.2, and `sid`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims<'a> {
    /// Who issued it: `tokens.issuer`.
    pub iss: Cow<'a, str>,
    /// Whom it is for: `tokens.audience`.
    pub aud: Cow<'a, str>,
    /// The user.
    pub sub: UserId,
    /// The client that asked for it.
    pub client_id: Cow<'a, str>,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// When it ends, in seconds since the Unix epoch.
    pub exp: i64,
    /// The token's own id.
    pub jti: AccessTokenId,
    /// The session that it was granted to.
    pub sid: SessionId,
}

/// What is asked of an access token over and over again once it is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The user.
    pub user: UserId,
    /// The session that it was granted to.
    pub session: SessionId,
    /// The token's own id.
    pub id: AccessTokenId,
    /// When it ends: a whole second.
    pub expires_at: Timestamp,
}

impl Claims<'_> {
    /// Those that matter to who checks it.
    #[must_use]
    pub fn verified(&self) -> VerifiedToken {
        let expires_at = Timestamp::from_secs(self.exp);
        VerifiedToken { user: self.sub, session: self.sid, id: self.jti, expires_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_keys(current: u8, old: &[u8]) -> TokenKeys {
        let token_key = |byte: &u8| TokenKey::new(&[*byte; 32]);
        TokenKeys { current: token_key(&current), old: old.iter().map(token_key).collect() }
    }

    fn token() -> RefreshToken {
        RefreshToken {
            session: SessionId::new(Timestamp::from_secs(1_700_000_000)).unwrap(),
            generation: 3,
            secret: Secret::random().unwrap(),
        }
    }

    #[test]
    fn a_token_survives_the_journey() {
        let (token, token_keys) = (token(), token_keys(7, &[]));
        let text = token.encode(&token_keys.current);
        assert_eq!(text.len(), 6 + 98);
        assert!(RefreshToken::parse(&text, &token_keys) == Some(token));
    }

    #[test]
    fn a_token_with_any_one_character_changed_is_not_a_token() {
        let token_keys = token_keys(7, &[6]);
        let text = token().encode(&token_keys.current);
        for i in 0..text.len() {
            for other in ["A", "B", "_", "", "=", "é", "."] {
                let mut changed = text.clone();
                changed.replace_range(i..=i, other);
                if changed != text {
                    assert!(RefreshToken::parse(&changed, &token_keys).is_none());
                }
            }
        }
    }

    #[test]
    fn a_token_is_genuine_under_the_secret_in_force_and_the_old_ones_alone() {
        let token = token();
        let text = token.encode(&token_keys(7, &[]).current);
        assert!(RefreshToken::parse(&text, &token_keys(8, &[])).is_none());
        assert!(RefreshToken::parse(&text, &token_keys(8, &[9, 7])) == Some(token));
    }

    #[test]
    fn junk_of_every_length_is_not_a_token() {
        for length in 0..300 {
            let junk = PREFIX.to_owned() + &"A".repeat(length);
            assert!(RefreshToken::parse(&junk, &token_keys(7, &[])).is_none());
        }
    }

    #[test]
    fn a_successor_takes_the_secret_the_salt_and_the_pepper() {
        let (secret, salt, token_key) = (Secret([1; 32]), Salt([2; 32]), TokenKey::new(&[3; 32]));
        let successor = secret.successor(&salt, &token_key);
        assert!(successor == secret.successor(&salt, &token_key));
        assert!(successor != Secret([9; 32]).successor(&salt, &token_key));
        assert!(successor != secret.successor(&Salt([9; 32]), &token_key));
        assert!(successor != secret.successor(&salt, &TokenKey::new(&[9; 32])));
    }

    #[test]
    fn an_attempt_key_is_long_enough_and_visible_quoted_or_not() {
        let key = "0123456789abcdef";
        assert!(IdempotencyKey::parse(key) == IdempotencyKey::parse(&format!("\"{key}\"")));
        assert!(IdempotencyKey::parse(key).is_some());
        for bad in ["", "\"\"", "\"", "0123456789abcde", "0123456789abcde ", "0123456789abcdé"] {
            assert!(IdempotencyKey::parse(bad).is_none(), "{bad:?}");
        }
        assert!(IdempotencyKey::parse(&"k".repeat(128)).is_some());
        assert!(IdempotencyKey::parse(&"k".repeat(129)).is_none());
    }

    #[test]
    fn later_sessions_sort_later() {
        let early = SessionId::new(Timestamp::from_secs(1_700_000_000)).unwrap();
        let late = SessionId::new(Timestamp::from_secs(1_700_000_001)).unwrap();
        assert!(early.0 < late.0);
    }
}
