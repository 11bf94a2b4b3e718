//! Randomness, secrets, digests, message authentication codes and encryption. Everything
//! here uses aws-lc-rs; OpenSSL is used for TLS only.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{constant_time, hkdf, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The system's random number generator failed.
#[derive(Debug, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct RngError;

/// A cryptographic operation failed. The library gives no reason.
#[derive(Debug, thiserror::Error)]
#[error("a cryptographic operation failed")]
pub struct CryptoError;

impl From<Unspecified> for CryptoError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// Derives a key from `secret` (HKDF-SHA256 without a salt, RFC 5869). Keys with different
/// labels are independent of each other.
pub(crate) fn derive_key(secret: &[u8], label: &[u8]) -> Result<[u8; 32], CryptoError> {
    let pseudorandom_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret);
    let mut key = [0; 32];
    pseudorandom_key.expand(&[label], hkdf::HKDF_SHA256)?.fill(&mut key)?;
    Ok(key)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], RngError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| RngError)?;
    Ok(bytes)
}

/// The secret part of a refresh token: 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// NEVER CHANGE THIS LABEL once a version is released: the grace period of every token
/// that was rotated before the change would end at once.
const SUCCESSOR_LABEL: &[u8] = b"successor";

/// NEVER CHANGE THIS LABEL once a version is released: stored digests of idempotency keys
/// would no longer match, and lost responses could not be sent again.
const IDEMPOTENCY_LABEL: &[u8] = b"attempt";

/// NEVER CHANGE THIS LABEL once a version is released: exchanged tokens of another server
/// would no longer be recognized.
const IMPORTED_LABEL: &[u8] = b"imported refresh token";

/// NEVER CHANGE THIS LABEL once a version is released: a device whose response was lost would
/// not get its tokens.
const DEVICE_LABEL: &[u8] = b"device code";

impl Secret {
    /// Returns the secret of a refresh token that another server issued. It cannot be
    /// computed from the digest that the database stores.
    #[must_use]
    pub fn of_imported_token(token: &str) -> Self {
        Self(Digest::of(&[IMPORTED_LABEL, token.as_bytes()]).0)
    }

    /// Derives the secret of the authorization code that replaces a device code with this
    /// secret. It cannot be computed from the digest that the database stores.
    #[must_use]
    pub fn of_approved_device(&self) -> Self {
        Self(Digest::of(&[DEVICE_LABEL, &self.0]).0)
    }

    /// Returns a new random secret.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn random() -> Result<Self, RngError> {
        random().map(Self)
    }

    /// Returns the secret with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives the secret of the next generation. It cannot be computed without all three
    /// of this secret, the salt and the token key.
    #[must_use]
    pub fn successor(&self, salt: &Salt, token_key: &TokenKey) -> Self {
        let mut mac = hmac::Context::with_key(&token_key.0);
        mac.update(SUCCESSOR_LABEL);
        mac.update(&self.0);
        mac.update(&salt.0);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(mac.sign().as_ref());
        Self(bytes)
    }

    /// Encodes the secret for a file that only the server may read.
    #[must_use]
    pub fn to_base64(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Returns the digest that the database stores.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&[&self.0])
    }

    /// Returns the digest of an idempotency key that the database stores. It includes
    /// this secret, so that a short key cannot be found by trying.
    #[must_use]
    pub fn idempotency_key_digest(&self, key: &IdempotencyKey) -> Digest {
        Digest::of(&[IDEMPOTENCY_LABEL, &self.0, key.0.as_bytes()])
    }
}

/// The random part of a successor's derivation: 32 bytes. The database stores it only
/// while the same successor may be issued again.
pub struct Salt([u8; 32]);

impl Salt {
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes that the database stores.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Parses the bytes that the database stored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// The value of an `Idempotency-Key` header: the client's name for one refresh. A retry
/// with the same key gets the response that was lost.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The minimum number of characters. A shorter key could be guessed.
    pub const MIN_LEN: usize = 16;
    /// The maximum number of characters.
    pub const MAX_LEN: usize = 128;

    /// Parses [`Self::MIN_LEN`] to [`Self::MAX_LEN`] visible ASCII characters, with or
    /// without double quotes around them (a string of RFC 9651 §3.3.3).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let key = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        let length = Self::MIN_LEN..=Self::MAX_LEN;
        let good = length.contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        good.then(|| Self(key.to_owned()))
    }
}

/// A SHA-256 digest, in most cases of a [`Secret`]. A secret has 256 bits of entropy, so
/// neither a salt nor a slow hash would add security.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of no known text.
    pub(crate) const ZERO: Self = Self([0; 32]);

    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }

    /// Parses the bytes that the database stored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Compares with a stored digest, in constant time.
    #[must_use]
    pub fn matches(&self, stored: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.0, stored).is_ok()
    }

    /// Returns the 32 bytes that the database stores.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

/// The key that authenticates refresh tokens and derives successors. It never leaves the
/// server.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// Returns the key with this derived key material.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Returns the first `N` bytes of HMAC-SHA256 over `message`.
    pub(crate) fn tag<const N: usize>(&self, message: &[u8]) -> [u8; N] {
        let mut tag = [0; N];
        tag.copy_from_slice(&hmac::sign(&self.0, message).as_ref()[..N]);
        tag
    }

    /// Returns the tag of a message in two parts, as [`Self::tag`] does.
    pub(crate) fn tag_of<const N: usize>(&self, parts: [&[u8]; 2]) -> [u8; N] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut tag = [0; N];
        tag.copy_from_slice(&context.sign().as_ref()[..N]);
        tag
    }

    /// Compares the tag of `message` with `tag`, in constant time.
    pub(crate) fn verifies<const N: usize>(&self, message: &[u8], tag: &[u8]) -> bool {
        constant_time_eq(&self.tag::<N>(message), tag)
    }
}

/// Compares two values in a time that depends on their lengths only.
pub(crate) fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Encrypts private keys for the database (AES-256-GCM).
pub struct KeyEncryptionKey([u8; 32]);

impl KeyEncryptionKey {
    /// Returns the key with this derived key material.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Encrypts `plaintext`. `aad` is the associated data, which decryption has to repeat.
    /// Returns nonce 12 ‖ ciphertext ‖ tag 16.
    ///
    /// NEVER CHANGE THIS FORMAT once a version is released: servers could not read the
    /// signing keys in their database.
    pub(crate) fn encrypt(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0)?;
        let mut ciphertext = plaintext.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut ciphertext)?;
        Ok([nonce.as_ref().as_slice(), &ciphertext].concat())
    }

    /// Decrypts the output of [`Self::encrypt`]. Returns `None` if the key or the
    /// associated data differ, or if the ciphertext was altered.
    pub(crate) fn decrypt(&self, aad: &[u8], encrypted: &[u8]) -> Option<Vec<u8>> {
        let (nonce, ciphertext) = encrypted.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.0).ok()?;
        let mut buffer = ciphertext.to_vec();
        let plaintext = key.open_in_place(nonce, Aad::from(aad), &mut buffer).ok()?;
        Some(plaintext.to_vec())
    }
}

/// The current token key, and earlier ones whose tokens are still accepted.
pub struct TokenKeys {
    /// The key derived from `secret`.
    pub current: TokenKey,
    /// The keys derived from `old_secrets`.
    pub old: Vec<TokenKey>,
}

impl TokenKeys {
    /// Returns all keys, the current one first.
    pub fn all(&self) -> impl Iterator<Item = &TokenKey> {
        std::iter::once(&self.current).chain(&self.old)
    }
}

/// Encodes bytes as lower-case hexadecimal digits.
pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Decodes hexadecimal digits.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    digits.map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}

#[cfg(test)]
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    decode_hex(text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_depends_on_secret_salt_and_token_key() {
        let secret = Secret([1; 32]);
        let salt = Salt([2; 32]);
        let token_key = TokenKey::new(&[3; 32]);
        let successor = secret.successor(&salt, &token_key);
        assert!(successor == secret.successor(&salt, &token_key));
        assert!(successor != Secret([9; 32]).successor(&salt, &token_key));
        assert!(successor != secret.successor(&Salt([9; 32]), &token_key));
        assert!(successor != secret.successor(&salt, &TokenKey::new(&[9; 32])));
    }

    #[test]
    fn decryption_needs_the_same_key_and_associated_data() {
        let key = |byte| KeyEncryptionKey([byte; 32]);
        let encrypted = key(1).encrypt(b"a", b"private").unwrap();
        assert_eq!(encrypted.len(), 12 + 7 + 16);
        assert_ne!(encrypted, key(1).encrypt(b"a", b"private").unwrap());
        assert_eq!(key(1).decrypt(b"a", &encrypted).as_deref(), Some(&b"private"[..]));
        assert_eq!(key(2).decrypt(b"a", &encrypted), None);
        assert_eq!(key(1).decrypt(b"b", &encrypted), None);
        for length in 0..encrypted.len() {
            assert_eq!(key(1).decrypt(b"a", &encrypted[..length]), None);
        }
    }

    #[test]
    fn derived_keys_follow_rfc_5869() {
        // RFC 5869, test case 3: no salt and no info, the first 32 bytes.
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        let key = derive_key(&[0x0b; 22], b"").unwrap();
        assert_eq!(key.as_slice(), from_hex(expected));
    }

    #[test]
    fn idempotency_key_has_16_to_128_visible_characters_with_or_without_quotes() {
        let key = "0123456789abcdef";
        assert!(IdempotencyKey::parse(key) == IdempotencyKey::parse(&format!("\"{key}\"")));
        assert!(IdempotencyKey::parse(key).is_some());
        for bad in ["", "\"\"", "\"", "0123456789abcde", "0123456789abcde ", "0123456789abcdé"] {
            assert!(IdempotencyKey::parse(bad).is_none(), "{bad:?}");
        }
        assert!(IdempotencyKey::parse(&"k".repeat(128)).is_some());
        assert!(IdempotencyKey::parse(&"k".repeat(129)).is_none());
    }
}
