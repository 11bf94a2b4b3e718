//! The secrets of backends and OAuth clients. A secret is random, so it needs no slow hash.

use secrecy::{ExposeSecret, SecretString};

use crate::crypto::{Digest, RngError, Secret};

/// The digests of the secrets that are valid at once: a new secret can be distributed
/// before the old one is rejected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretDigests {
    pub current: Digest,
    /// Of the secret before the last replacement.
    pub previous: Option<Digest>,
}

impl SecretDigests {
    /// Matches no secret, in the time of others.
    pub const UNMATCHED: Self = Self { current: Digest::ZERO, previous: None };

    /// Returns whether the digest is that of a valid secret, in constant time.
    #[must_use]
    pub fn accept(&self, presented: &Digest) -> bool {
        let previous = self.previous.unwrap_or(self.current);
        let is_current = presented.matches(self.current.as_bytes());
        let is_previous = presented.matches(previous.as_bytes());
        is_current | is_previous
    }
}

/// Returns a new secret of 256 bits. The prefix lets a scanner find it in published code.
pub fn new_client_secret(prefix: &str) -> Result<SecretString, RngError> {
    Ok(format!("{prefix}{}", Secret::random()?.to_base64()).into())
}

/// Returns the digest of a secret that the database stores.
#[must_use]
pub fn client_secret_digest(secret: &SecretString) -> Digest {
    Digest::of(&[secret.expose_secret().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_and_previous_secrets_are_accepted_and_no_others() {
        let [old, new, other] = ["old", "new", "other"].map(|it| client_secret_digest(&it.into()));
        let digests = SecretDigests { current: new, previous: Some(old) };
        assert!(digests.accept(&new) && digests.accept(&old));
        assert!(!digests.accept(&other));
        assert!(!SecretDigests { current: new, previous: None }.accept(&old));
        assert!(!SecretDigests::UNMATCHED.accept(&client_secret_digest(&"".into())));
    }

    #[test]
    fn new_secrets_have_256_bits_and_differ() {
        let secret = || new_client_secret("mb_cs_").unwrap().expose_secret().to_owned();
        assert_eq!(secret().len(), "mb_cs_".len() + 43);
        assert_ne!(secret(), secret());
    }
}
