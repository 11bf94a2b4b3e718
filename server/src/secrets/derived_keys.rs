//! The keys that are derived from the server's secret.

use secrecy::{ExposeSecret, SecretString};

use crate::crypto::{CryptoError, KeyEncryptionKey, TokenKey, TokenKeys, derive_key};

/// NEVER CHANGE THIS LABEL once a version is released: every refresh token would be rejected.
const TOKEN_KEY_LABEL: &[u8] = b"matchbook refresh token tag";

/// NEVER CHANGE THIS LABEL once a version is released: servers could not decrypt the signing
/// keys in their database.
const KEY_ENCRYPTION_LABEL: &[u8] = b"matchbook signing key seal";

/// NEVER CHANGE THIS LABEL once a version is released: no second factor could be verified.
const SECOND_FACTOR_LABEL: &[u8] = b"matchbook second factor seal";

/// NEVER CHANGE THIS LABEL once a version is released: no browser would be a known one.
const DEVICE_LABEL: &[u8] = b"matchbook known device";

/// NEVER CHANGE THIS LABEL once a version is released: a login that waits for its code would
/// have to begin again.
const LOGIN_STEP_LABEL: &[u8] = b"matchbook login step";

/// NEVER CHANGE THIS LABEL once a version is released: the browsers of protected applications
/// would be redirected once.
const FORWARD_AUTH_LABEL: &[u8] = b"matchbook forward auth";

/// NEVER CHANGE THIS LABEL once a version is released: every open form would be rejected once.
const CSRF_LABEL: &[u8] = b"matchbook csrf";

/// NEVER CHANGE THIS LABEL once a version is released: a user in the middle of a login would
/// have to log in twice.
const PROGRESS_LABEL: &[u8] = b"matchbook authorization progress";

/// NEVER CHANGE THIS LABEL once a version is released: a device that waits for its user would
/// have to begin again.
const DEVICE_CODE_LABEL: &[u8] = b"matchbook device code";

/// The keys that are derived from `secret` and `old_secrets` (HKDF, RFC 5869). Each
/// purpose has its own label, so the keys are independent of each other.
pub struct DerivedKeys {
    pub token_keys: TokenKeys,
    pub key_encryption_keys: KeyEncryptionKeys,
    pub account_keys: AccountKeys,
    /// Authenticate the forms of the pages.
    pub csrf_keys: TokenKeys,
    /// Authenticate the progress of authorization requests.
    pub progress_keys: TokenKeys,
    /// Authenticate device codes, and hide user codes in the database.
    pub device_code_keys: TokenKeys,
}

/// The keys of accounts.
pub struct AccountKeys {
    /// Encrypt the secrets of second factors.
    pub(crate) second_factor: KeyEncryptionKeys,
    /// Authenticate the cookies of known browsers.
    pub(crate) devices: TokenKeys,
    /// Authenticate the first step of a login in a browser.
    pub(crate) login_steps: TokenKeys,
    /// Authenticate the cookies of protected applications.
    pub(crate) forward_auth: TokenKeys,
}

/// The current key that encrypts private keys in the database, and earlier ones that still
/// decrypt them.
pub struct KeyEncryptionKeys {
    pub(crate) current: KeyEncryptionKey,
    pub(crate) old: Vec<KeyEncryptionKey>,
}

impl DerivedKeys {
    /// Derives the keys of the current secret and of the old ones.
    pub fn from_secrets(secret: &SecretString, old: &[SecretString]) -> Result<Self, CryptoError> {
        Ok(Self {
            token_keys: token_keys(secret, old, TOKEN_KEY_LABEL)?,
            progress_keys: token_keys(secret, old, PROGRESS_LABEL)?,
            device_code_keys: token_keys(secret, old, DEVICE_CODE_LABEL)?,
            key_encryption_keys: encryption_keys(secret, old, KEY_ENCRYPTION_LABEL)?,
            account_keys: AccountKeys {
                second_factor: encryption_keys(secret, old, SECOND_FACTOR_LABEL)?,
                devices: token_keys(secret, old, DEVICE_LABEL)?,
                login_steps: token_keys(secret, old, LOGIN_STEP_LABEL)?,
                forward_auth: token_keys(secret, old, FORWARD_AUTH_LABEL)?,
            },
            csrf_keys: token_keys(secret, old, CSRF_LABEL)?,
        })
    }
}

fn token_keys(
    secret: &SecretString,
    old: &[SecretString],
    label: &[u8],
) -> Result<TokenKeys, CryptoError> {
    let derive = |secret| Ok(TokenKey::new(&derive(secret, label)?));
    let old = old.iter().map(derive).collect::<Result<_, CryptoError>>()?;
    Ok(TokenKeys { current: derive(secret)?, old })
}

fn encryption_keys(
    secret: &SecretString,
    old: &[SecretString],
    label: &[u8],
) -> Result<KeyEncryptionKeys, CryptoError> {
    let derive = |secret| Ok(KeyEncryptionKey::new(derive(secret, label)?));
    let old = old.iter().map(derive).collect::<Result<_, CryptoError>>()?;
    Ok(KeyEncryptionKeys { current: derive(secret)?, old })
}

fn derive(secret: &SecretString, label: &[u8]) -> Result<[u8; 32], CryptoError> {
    derive_key(secret.expose_secret().as_bytes(), label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Secret, from_hex};
    use crate::ids::SessionId;
    use crate::tokens::RefreshToken;

    const SECRET: &str = "fixed-vector-secret-of-today-4711";

    /// These were derived by OpenSSL, before the server used aws-lc-rs.
    #[test]
    fn derived_keys_equal_those_that_openssl_derived() {
        for (label, expected) in [
            (TOKEN_KEY_LABEL, "381e5ea1dcfc2eb5b390cffc95d98a6006c6bd73d8a9b9a0ee2d214f5dd15e54"),
            (
                KEY_ENCRYPTION_LABEL,
                "6d9441a935cc905ad7c9c865ca8de4ac5ea93baf035babfab5ae6d69adcbecb1",
            ),
        ] {
            let key = derive_key(SECRET.as_bytes(), label).unwrap();
            assert_eq!(key.as_slice(), from_hex(expected));
        }
    }

    #[test]
    fn refresh_tokens_of_a_secret_stay_valid_across_versions() {
        let keys = DerivedKeys::from_secrets(&SECRET.to_owned().into(), &[]).unwrap().token_keys;
        let token = RefreshToken {
            session: SessionId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001)),
            generation: 42,
            secret: Secret::from_bytes([7; 32]),
            client: None,
        };
        let text = "mb_rt_AQGQAAAAAHAAgAAAAAAAAAEAAAAAAAAAKgcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHFUVx9ZHPS4Mu0Ja7oclaMA";
        assert_eq!(token.encode(&keys.current), text);
        assert!(RefreshToken::parse(text, None, &keys) == Some(token));
    }
}
