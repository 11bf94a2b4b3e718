//! Keys: what is derived from the server's secret, and the key that signs
//! access tokens.
//!
//! The signing key is parsed once. `jsonwebtoken` would parse and check it at
//! every signature, which takes longer than the signature itself; it does
//! verify, where a public key costs next to nothing to read.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey::{Id, PKey};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Rsa;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::Timestamp;
use crate::store::{self, Store, signing_keys, signing_keys::SealedKey};
use crate::token::{Claims, Pepper, Peppers};

/// The size of a new RSA key in bits (RFC 7518 §3.3: at least 2048).
const RSA_BITS: u32 = 2048;
/// The media type of access tokens (RFC 9068 §2.1).
const ACCESS_TOKEN: &str = "at+jwt";
/// No access token of ours comes near this many bytes.
const LONGEST_TOKEN: usize = 4096;

/// Why the key ring cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OpenSSL refused.
    #[error("a key operation failed: {0}")]
    Crypto(#[from] ErrorStack),
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
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
    /// A signature could not be made.
    #[error("an access token could not be signed")]
    Signature,
}

/// The keys that the server's secrets stand for. They are derived under
/// labels of their own (HKDF, RFC 5869), so that none tells anything of another.
pub struct Derived {
    /// Tag refresh tokens.
    pub peppers: Peppers,
    /// Seal private keys in the database.
    pub sealing: SealingKeys,
}

/// The sealing key in force, and those before it that still open.
pub struct SealingKeys {
    current: SealingKey,
    old: Vec<SealingKey>,
}

impl Derived {
    /// Derives all of them, from the secret in force and from old ones that
    /// are still good.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn from_secrets(secret: &SecretString, old: &[SecretString]) -> Result<Self, ErrorStack> {
        Ok(Self {
            peppers: Peppers {
                current: pepper(secret)?,
                old: old.iter().map(pepper).collect::<Result<_, _>>()?,
            },
            sealing: SealingKeys {
                current: sealing_key(secret)?,
                old: old.iter().map(sealing_key).collect::<Result<_, _>>()?,
            },
        })
    }
}

fn pepper(secret: &SecretString) -> Result<Pepper, ErrorStack> {
    Ok(Pepper::new(&derive(secret, b"matchbook refresh token tag")?))
}

fn sealing_key(secret: &SecretString) -> Result<SealingKey, ErrorStack> {
    derive(secret, b"matchbook signing key seal").map(SealingKey)
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
struct SealingKey([u8; 32]);

const NONCE: usize = 12;
const GCM_TAG: usize = 16;

impl SealingKey {
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

impl SealingKeys {
    /// The private half (PKCS #8), and whether the key in force had sealed it.
    fn open(&self, sealed: &SealedKey) -> Result<(Vec<u8>, bool), Error> {
        let open = |key: &SealingKey| key.open(&sealed.kid, &sealed.private_key);
        if let Some(pkcs8) = open(&self.current) {
            return Ok((pkcs8, true));
        }
        match self.old.iter().find_map(open) {
            Some(pkcs8) => Ok((pkcs8, false)),
            None => Err(Error::WrongSecret { kid: sealed.kid.clone() }),
        }
    }
}

/// Why an access token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is none of ours: malformed, for others, or not signed by our key.
    NotOurs,
    /// It was good once.
    Expired,
}

/// The signing key, and what others need to verify with.
pub struct KeyRing {
    header: String,
    private: RsaKeyPair,
    random: SystemRandom,
    kid: String,
    public: DecodingKey,
    validation: Validation,
    jwks: JwkSet,
}

impl KeyRing {
    /// Takes the signing key from the database, and makes it where there is
    /// none. Of several servers that start at once, all get the same. A key
    /// that an old secret has sealed is sealed anew under the one in force.
    ///
    /// # Errors
    /// When the database does not answer, or no secret fits it.
    pub async fn load(
        store: &Store,
        sealing: &SealingKeys,
        issuer: &str,
        audience: &str,
        now: Timestamp,
    ) -> Result<Self, Error> {
        if let Some(sealed) = store.run(signing_keys::find_active).await? {
            let (pkcs8, is_current) = sealing.open(&sealed)?;
            if !is_current {
                let resealed = sealing.current.seal(&sealed.kid, &pkcs8)?;
                let old = sealed.clone();
                store.run(move |conn| signing_keys::reseal(conn, &old, &resealed)).await?;
                tracing::info!(kid = %sealed.kid, "signing key sealed under the new secret");
            }
            return Self::unseal(&sealed, &pkcs8, issuer, audience);
        }
        let made = generate(&sealing.current)?;
        tracing::info!(kid = %made.kid, algorithm = %made.algorithm, "signing key made");
        let in_force = store
            .run(move |conn| {
                if signing_keys::insert(conn, &made, now)? {
                    return Ok(Some(made));
                }
                signing_keys::find_active(conn)
            })
            .await?;
        let sealed = in_force.ok_or(Error::Signature)?;
        let (pkcs8, _) = sealing.open(&sealed)?;
        Self::unseal(&sealed, &pkcs8, issuer, audience)
    }

    fn unseal(
        sealed: &SealedKey,
        pkcs8: &[u8],
        issuer: &str,
        audience: &str,
    ) -> Result<Self, Error> {
        let kid = sealed.kid.clone();
        let unusable = |problem: &str| Error::Unusable {
            kid: sealed.kid.clone(),
            problem: problem.to_owned(),
        };
        if sealed.algorithm != "RS256" {
            return Err(unusable("its algorithm is not RS256"));
        }
        let private = RsaKeyPair::from_pkcs8(pkcs8).map_err(|e| unusable(&e.to_string()))?;
        let rsa = PKey::private_key_from_pkcs8(pkcs8)?.rsa()?;
        let public = public_half(&rsa);
        let jwk = jwk(&public).map_err(|e| unusable(&e.to_string()))?;

        let mut header = Header::new(Algorithm::RS256);
        header.typ = Some(ACCESS_TOKEN.to_owned());
        header.kid = Some(kid.clone());
        let header = serde_json::to_vec(&header).map_err(|e| unusable(&e.to_string()))?;

        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // Checked against the caller's `now`, and to the second.
        validation.validate_exp = false;

        Ok(Self {
            header: URL_SAFE_NO_PAD.encode(header),
            private,
            random: SystemRandom::new(),
            kid,
            public,
            validation,
            jwks: JwkSet { keys: vec![jwk] },
        })
    }

    /// The access token that carries `claims`.
    ///
    /// # Errors
    /// When the key refuses to sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let claims = serde_json::to_vec(claims).map_err(|_| Error::Signature)?;
        let mut token = self.header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let mut signature = vec![0; self.private.public_modulus_len()];
        self.private
            .sign(&RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut signature)
            .map_err(|_| Error::Signature)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of an access token that this ring signed and that has not
    /// expired. The algorithm is the key's, whatever the header says (RFC 8725
    /// §3.1), and there is no leeway.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Fault> {
        if token.len() > LONGEST_TOKEN {
            return Err(Fault::NotOurs);
        }
        let read = jsonwebtoken::decode::<Claims>(token, &self.public, &self.validation)
            .map_err(|_| Fault::NotOurs)?;
        if read.header.typ.as_deref() != Some(ACCESS_TOKEN)
            || read.header.kid.as_ref() != Some(&self.kid)
        {
            return Err(Fault::NotOurs);
        }
        if Timestamp::from_secs(read.claims.exp) <= now {
            return Err(Fault::Expired);
        }
        Ok(read.claims)
    }

    /// The public halves (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> &JwkSet {
        &self.jwks
    }
}

fn generate(sealing: &SealingKey) -> Result<SealedKey, Error> {
    let rsa = Rsa::generate(RSA_BITS)?;
    let kid = jwk(&public_half(&rsa))
        .and_then(|jwk| jwk.thumbprint(ThumbprintHash::SHA256))
        .map_err(|_| Error::Signature)?;
    let pkcs8 = PKey::from_rsa(rsa)?.private_key_to_pkcs8()?;
    let private_key = sealing.seal(&kid, &pkcs8)?;
    Ok(SealedKey { kid, algorithm: "RS256".to_owned(), private_key })
}

fn public_half(rsa: &Rsa<openssl::pkey::Private>) -> DecodingKey {
    DecodingKey::from_rsa_raw_components(&rsa.n().to_vec(), &rsa.e().to_vec())
}

/// The public key as JWKS publishes it; `kid` is its thumbprint (RFC 7638).
fn jwk(public: &DecodingKey) -> Result<Jwk, jsonwebtoken::errors::Error> {
    let mut jwk = Jwk::from_decoding_key(public, Some(Algorithm::RS256))?;
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256)?);
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok(jwk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{AccessId, SessionId, UserId};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn sealing(byte: u8) -> SealingKey {
        SealingKey([byte; 32])
    }

    fn ring() -> KeyRing {
        let sealed = generate(&sealing(1)).unwrap();
        let pkcs8 = sealing(1).open(&sealed.kid, &sealed.private_key).unwrap();
        KeyRing::unseal(&sealed, &pkcs8, "https://issuer", "https://audience").unwrap()
    }

    fn claims() -> Claims {
        Claims {
            iss: "https://issuer".into(),
            aud: "https://audience".into(),
            sub: UserId::random(),
            client_id: "matchbook".into(),
            iat: NOW.as_secs(),
            exp: NOW.as_secs() + 60,
            jti: AccessId::random(),
            sid: SessionId::new(NOW).unwrap(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(NOW.as_secs() + second)
    }

    #[test]
    fn a_signed_token_is_verified_until_the_second_it_expires() {
        let (ring, claims) = (ring(), claims());
        let token = ring.sign(&claims).unwrap();
        assert_eq!(ring.verify(&token, at(0)), Ok(claims.clone()));
        let last = Timestamp::from_micros(at(60).as_micros() - 1);
        assert_eq!(ring.verify(&token, last), Ok(claims));
        assert_eq!(ring.verify(&token, at(60)), Err(Fault::Expired));
    }

    #[test]
    fn a_token_for_others_or_from_others_is_refused() {
        let ring = ring();
        for change in [
            |c: &mut Claims| c.iss = "https://elsewhere".into(),
            |c: &mut Claims| c.aud = "https://elsewhere".into(),
        ] {
            let mut claims = claims();
            change(&mut claims);
            let token = ring.sign(&claims).unwrap();
            assert_eq!(ring.verify(&token, NOW), Err(Fault::NotOurs));
        }
        let token = super::tests::ring().sign(&claims()).unwrap();
        assert_eq!(ring.verify(&token, NOW), Err(Fault::NotOurs));
    }

    /// Signs with the ring's own key under another header.
    fn signed_under(ring: &KeyRing, header: &str, claims: &str) -> String {
        let mut token = URL_SAFE_NO_PAD.encode(header) + "." + &URL_SAFE_NO_PAD.encode(claims);
        let mut signature = vec![0; ring.private.public_modulus_len()];
        ring.private
            .sign(&RSA_PKCS1_SHA256, &ring.random, token.as_bytes(), &mut signature)
            .unwrap();
        token = token + "." + &URL_SAFE_NO_PAD.encode(signature);
        token
    }

    #[test]
    fn only_the_type_of_an_access_token_passes_for_one() {
        let ring = ring();
        let claims = serde_json::to_string(&claims()).unwrap();
        let header = |typ: &str| format!(r#"{{"typ":"{typ}","alg":"RS256","kid":"{}"}}"#, ring.kid);
        assert!(ring.verify(&signed_under(&ring, &header("at+jwt"), &claims), NOW).is_ok());
        let plain = signed_under(&ring, &header("JWT"), &claims);
        assert_eq!(ring.verify(&plain, NOW), Err(Fault::NotOurs));
    }

    #[test]
    fn a_claim_named_twice_is_refused() {
        let ring = ring();
        let claims = serde_json::to_string(&claims()).unwrap();
        let twice = claims.replacen('{', r#"{"exp":99999999999,"#, 1);
        let header = format!(r#"{{"typ":"at+jwt","alg":"RS256","kid":"{}"}}"#, ring.kid);
        let token = signed_under(&ring, &header, &twice);
        assert_eq!(ring.verify(&token, NOW), Err(Fault::NotOurs));
    }

    #[test]
    fn a_key_opens_only_under_its_secret_and_its_name() {
        let sealed = sealing(1).seal("a", b"private").unwrap();
        assert_eq!(sealing(1).open("a", &sealed).as_deref(), Some(&b"private"[..]));
        assert_eq!(sealing(2).open("a", &sealed), None);
        assert_eq!(sealing(1).open("b", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(sealing(1).open("a", &sealed[..length]), None);
        }
    }

    #[test]
    fn the_thumbprint_is_that_of_the_standard() {
        // RFC 7638 §3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let jwk = jwk(&DecodingKey::from_rsa_components(n, "AQAB").unwrap()).unwrap();
        assert_eq!(
            jwk.common.key_id.as_deref(),
            Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
        );
    }
}
