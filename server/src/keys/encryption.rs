//! What is derived from the server's secret, and how private keys are sealed.

use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey::Id;
use openssl::pkey_ctx::PkeyCtx;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use secrecy::{ExposeSecret, SecretString};

use super::Error;
use crate::crypto::{TokenKey, TokenKeys};
use crate::store::signing_keys::StoredKey;

/// The keys that the server's secrets stand for. They are derived under
/// labels of their own (HKDF, RFC 5869), so that none tells anything of another.
pub struct DerivedKeys {
    /// Tag refresh tokens.
    pub token_keys: TokenKeys,
    /// Seal private keys in the database.
    pub sealing: KeyEncryptionKeys,
}

/// The sealing key in force, and those before it that still open.
pub struct KeyEncryptionKeys {
    current: KeyEncryptionKey,
    old: Vec<KeyEncryptionKey>,
}

impl DerivedKeys {
    /// Derives all of them, from the secret in force and from old ones that
    /// are still good.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn from_secrets(secret: &SecretString, old: &[SecretString]) -> Result<Self, ErrorStack> {
        Ok(Self {
            token_keys: TokenKeys {
                current: token_key(secret)?,
                old: old.iter().map(token_key).collect::<Result<_, _>>()?,
            },
            sealing: KeyEncryptionKeys {
                current: sealing_key(secret)?,
                old: old.iter().map(sealing_key).collect::<Result<_, _>>()?,
            },
        })
    }
}

fn token_key(secret: &SecretString) -> Result<TokenKey, ErrorStack> {
    Ok(TokenKey::new(&derive(secret, b"matchbook refresh token tag")?))
}

fn sealing_key(secret: &SecretString) -> Result<KeyEncryptionKey, ErrorStack> {
    derive(secret, b"matchbook signing key seal").map(KeyEncryptionKey)
}

fn derive(secret: &SecretString, label: &[u8]) -> Result<[u8; 32], ErrorStack> {
    let mut context = PkeyCtx::new_id(Id::HKDF)?;
    context.derive_init()?;
    context.set_hkdf_md(Md::sha256())?;
    context.set_hkdf_key(secret.expose_secret().as_bytes())?;
    context.add_hkdf_info(label)?;
    let mut key = [0; 32];
    context.derive(Some(&mut key))?;
    Ok(key)
}

/// Encrypts private keys for the database: AES-256-GCM, with the key's
/// thumbprint as associated data, so that rows cannot be swapped.
pub(super) struct KeyEncryptionKey([u8; 32]);

const NONCE: usize = 12;
const GCM_TAG: usize = 16;

impl KeyEncryptionKey {
    /// nonce 12 ‖ ciphertext ‖ tag 16
    fn seal(&self, kid: &str, plain: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let mut nonce = [0; NONCE];
        openssl::rand::rand_bytes(&mut nonce)?;
        let mut tag = [0; GCM_TAG];
        let cipher = Cipher::aes_256_gcm();
        let text = encrypt_aead(cipher, &self.0, Some(&nonce), kid.as_bytes(), plain, &mut tag)?;
        Ok([&nonce[..], &text, &tag].concat())
    }

    /// `None` when it was not sealed by this key for this `kid`.
    fn open(&self, kid: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE)?;
        let (text, tag) = rest.split_at_checked(rest.len().checked_sub(GCM_TAG)?)?;
        decrypt_aead(Cipher::aes_256_gcm(), &self.0, Some(nonce), kid.as_bytes(), text, tag).ok()
    }
}

impl KeyEncryptionKeys {
    /// Encrypts the private half of `kid` under the key in force.
    pub(super) fn seal(&self, kid: &str, pkcs8: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        self.current.seal(kid, pkcs8)
    }

    /// The private half (PKCS #8), and whether the key in force had sealed it.
    pub(super) fn open(&self, key: &StoredKey) -> Result<(Vec<u8>, bool), Error> {
        let StoredKey { kid, sealed, .. } = key;
        let open = |key: &KeyEncryptionKey| key.open(kid, sealed);
        if let Some(pkcs8) = open(&self.current) {
            return Ok((pkcs8, true));
        }
        match self.old.iter().find_map(open) {
            Some(pkcs8) => Ok((pkcs8, false)),
            None => Err(Error::WrongSecret { kid: kid.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_only_under_its_secret_and_its_name() {
        let sealing = |byte| KeyEncryptionKey([byte; 32]);
        let sealed = sealing(1).seal("a", b"private").unwrap();
        assert_eq!(sealing(1).open("a", &sealed).as_deref(), Some(&b"private"[..]));
        assert_eq!(sealing(2).open("a", &sealed), None);
        assert_eq!(sealing(1).open("b", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(sealing(1).open("a", &sealed[..length]), None);
        }
    }
}
