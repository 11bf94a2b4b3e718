//! The encryption of private keys in the database.

use super::Error;
use crate::crypto::CryptoError;
use crate::secrets::KeyEncryptionKeys;
use crate::store::signing_keys::StoredKey;

/// A private key, decrypted.
pub(super) struct Decrypted {
    /// The private key (PKCS #8).
    pub(super) pkcs8: Vec<u8>,
    /// Whether it was encrypted under the current secret, not under an old one.
    pub(super) is_current: bool,
}

impl KeyEncryptionKeys {
    /// Encrypts the private key of `kid` under the current secret. The thumbprint is the
    /// associated data, so that two rows cannot be swapped.
    pub(super) fn encrypt(&self, kid: &str, pkcs8: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.current.encrypt(kid.as_bytes(), pkcs8)
    }

    /// Decrypts a stored private key.
    pub(super) fn decrypt(&self, key: &StoredKey) -> Result<Decrypted, Error> {
        let aad = key.kid.as_bytes();
        if let Some(pkcs8) = self.current.decrypt(aad, &key.sealed) {
            return Ok(Decrypted { pkcs8, is_current: true });
        }
        match self.old.iter().find_map(|old| old.decrypt(aad, &key.sealed)) {
            Some(pkcs8) => Ok(Decrypted { pkcs8, is_current: false }),
            None => Err(Error::WrongSecret { kid: key.kid.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::clock::Timestamp;
    use crate::crypto::{Digest, from_hex};
    use crate::keys::Purpose;
    use crate::keys::signing_key::SigningKey;
    use crate::secrets::DerivedKeys;

    /// Keys that OpenSSL generated and encrypted, before the server used aws-lc-rs: the
    /// algorithm, the thumbprint, SHA-256 of the PKCS #8 in hexadecimal, the stored bytes.
    const STORED_BY_OPENSSL: &str = include_str!("testdata/stored_by_openssl.txt");

    #[test]
    fn keys_that_openssl_encrypted_decrypt_to_the_same_keys() {
        let secret = "fixed-vector-secret-of-today-4711".to_owned().into();
        let keys = DerivedKeys::from_secrets(&secret, &[]).unwrap().key_encryption_keys;
        let mut algorithms = Vec::new();
        for line in STORED_BY_OPENSSL.lines() {
            let [algorithm, kid, sha256, sealed] =
                line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let stored = StoredKey {
                purpose: Purpose::Access,
                sequence: 1,
                kid: kid.to_owned(),
                algorithm: algorithm.to_owned(),
                sealed: STANDARD.decode(sealed).unwrap(),
                created_at: Timestamp::from_secs(0),
                active_from: Timestamp::from_secs(0),
                revoked_at: None,
            };
            let Decrypted { pkcs8, is_current } = keys.decrypt(&stored).unwrap();
            assert_eq!(Digest::of(&[&pkcs8]).as_bytes(), from_hex(sha256));
            assert!(is_current);
            assert_eq!(SigningKey::parse(algorithm, &pkcs8).unwrap().kid, kid);
            algorithms.push(algorithm);
        }
        assert_eq!(algorithms, ["RS256", "ES256", "EdDSA"]);
    }
}
