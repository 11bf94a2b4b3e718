//! One signing key, parsed once: the private key that signs, the public key that verifies.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{DecodingKey, Header};
use quick_cache::sync::Cache;

use super::{Error, TokenType};
use crate::crypto::CryptoError;
use crate::tokens::VerifiedToken;

/// The number of verified tokens that each key caches, which takes about 10 MB.
const VERIFIED_CACHE_SIZE: usize = 1 << 16;

/// The algorithm of new keys (`tokens.algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
    Rs256 {
        /// The size of the modulus: 2048, 3072 or 4096.
        bits: u32,
    },
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
    Es256,
    /// Ed25519 (RFC 8037 §3.1).
    EdDsa,
}

impl Algorithm {
    /// Returns the name of the algorithm in JWS (RFC 7518 §3.1).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 { .. } => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Generates a private key (PKCS #8). A large RSA key takes a second or more.
    pub(super) fn generate(self) -> Result<Vec<u8>, CryptoError> {
        Ok(match self {
            Self::Rs256 { bits } => {
                let size = match bits {
                    2048 => KeySize::Rsa2048,
                    3072 => KeySize::Rsa3072,
                    4096 => KeySize::Rsa4096,
                    _ => return Err(CryptoError),
                };
                RsaKeyPair::generate(size)?.as_der()?.as_ref().to_vec()
            }
            Self::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
                pair.to_pkcs8v1()?.as_ref().to_vec()
            }
            Self::EdDsa => Ed25519KeyPair::generate()?.to_pkcs8v1()?.as_ref().to_vec(),
        })
    }
}

enum PrivateKey {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key with its public key, or the reason why it cannot be parsed.
type Parsed = Result<(PrivateKey, DecodingKey), String>;

/// A key that signs access tokens. Signing does not use `jsonwebtoken`, which parses and
/// checks the private key for every signature: that takes longer than the signature itself.
/// Verification does use it, because a public key is cheap to parse.
pub(super) struct SigningKey {
    private: PrivateKey,
    random: SystemRandom,
    /// The encoded header of each kind of token that this key signs.
    headers: [String; TokenType::ALL.len()],
    pub(super) public: DecodingKey,
    /// The algorithm. The key determines it, never a token's header (RFC 8725 §3.1).
    pub(super) algorithm: jsonwebtoken::Algorithm,
    /// The public key as it is published.
    pub(super) jwk: Jwk,
    /// The thumbprint (RFC 7638).
    pub(super) kid: String,
    /// The tokens that this key verified, by their digest. The expiry and the revocation of
    /// a token are still checked for each request.
    pub(super) verified: Cache<[u8; 32], VerifiedToken>,
}

impl SigningKey {
    /// Parses a private key (PKCS #8). The error is the reason why that failed.
    pub(super) fn parse(algorithm: &str, pkcs8: &[u8]) -> Result<Self, String> {
        let (algorithm, parsed) = match algorithm {
            "RS256" => (jsonwebtoken::Algorithm::RS256, parse_rsa(pkcs8)),
            "ES256" => (jsonwebtoken::Algorithm::ES256, parse_ecdsa(pkcs8)),
            "EdDSA" => (jsonwebtoken::Algorithm::EdDSA, parse_ed25519(pkcs8)),
            other => return Err(format!("this version does not support the algorithm {other}")),
        };
        let (private, public) = parsed?;
        let jwk = jwk(&public, algorithm).map_err(|error| error.to_string())?;
        let kid = jwk.common.key_id.clone().unwrap_or_default();
        let mut headers = [const { String::new() }; TokenType::ALL.len()];
        for (encoded, kind) in headers.iter_mut().zip(TokenType::ALL) {
            let mut header = Header::new(algorithm);
            header.typ = Some(kind.name().to_owned());
            header.kid = Some(kid.clone());
            let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
            *encoded = URL_SAFE_NO_PAD.encode(header);
        }
        Ok(Self {
            private,
            random: SystemRandom::new(),
            headers,
            public,
            algorithm,
            jwk,
            kid,
            verified: Cache::new(VERIFIED_CACHE_SIZE),
        })
    }

    /// Returns the signed token with this payload (RFC 7515 §7.1).
    pub(super) fn sign(&self, kind: TokenType, payload: &[u8]) -> Result<String, Error> {
        let [access, id, logout] = &self.headers;
        let header = match kind {
            TokenType::Access => access,
            TokenType::Id => id,
            TokenType::Logout => logout,
        };
        let mut token = header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        self.append_signature(token)
    }

    fn append_signature(&self, mut token: String) -> Result<String, Error> {
        let failed = |_| Error::Signature;
        let message = token.as_bytes();
        let signature = match &self.private {
            PrivateKey::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature)
                    .map_err(failed)?;
                signature
            }
            PrivateKey::Ecdsa(pair) => {
                pair.sign(&self.random, message).map_err(failed)?.as_ref().to_vec()
            }
            PrivateKey::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Returns whether `algorithm` generates keys like this one.
    pub(super) fn matches_algorithm(&self, algorithm: Algorithm) -> bool {
        match (&self.private, algorithm) {
            (PrivateKey::Rsa(pair), Algorithm::Rs256 { bits }) => {
                pair.public_modulus_len() * 8 == bits as usize
            }
            (PrivateKey::Ecdsa(_), Algorithm::Es256)
            | (PrivateKey::Ed25519(_), Algorithm::EdDsa) => true,
            _ => false,
        }
    }
}

fn parse_rsa(pkcs8: &[u8]) -> Parsed {
    let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|error| error.to_string())?;
    let key = pair.public_key();
    let public = DecodingKey::from_rsa_raw_components(
        key.modulus().big_endian_without_leading_zero(),
        key.exponent().big_endian_without_leading_zero(),
    );
    Ok((PrivateKey::Rsa(pair), public))
}

fn parse_ecdsa(pkcs8: &[u8]) -> Parsed {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
        .map_err(|error| error.to_string())?;
    // An uncompressed point: 4 ‖ x 32 ‖ y 32 (SEC 1 §2.3.3).
    let (x, y) = pair
        .public_key()
        .as_ref()
        .get(1..)
        .and_then(|point| point.split_at_checked(32))
        .ok_or("the public key is not a point on P-256")?;
    let x = URL_SAFE_NO_PAD.encode(x);
    let y = URL_SAFE_NO_PAD.encode(y);
    let public = DecodingKey::from_ec_components(&x, &y).map_err(|error| error.to_string())?;
    Ok((PrivateKey::Ecdsa(pair), public))
}

fn parse_ed25519(pkcs8: &[u8]) -> Parsed {
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| error.to_string())?;
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let public = DecodingKey::from_ed_components(&x).map_err(|error| error.to_string())?;
    Ok((PrivateKey::Ed25519(pair), public))
}

/// Returns the public key as JWKS publishes it, with the thumbprint as `kid` (RFC 7638).
fn jwk(
    public: &DecodingKey,
    algorithm: jsonwebtoken::Algorithm,
) -> Result<Jwk, jsonwebtoken::errors::Error> {
    let mut jwk = Jwk::from_decoding_key(public, Some(algorithm))?;
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256)?);
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok(jwk)
}

#[cfg(test)]
impl SigningKey {
    /// Signs this payload with another header.
    pub(super) fn sign_under(&self, header: &str, payload: &str) -> String {
        let token = URL_SAFE_NO_PAD.encode(header) + "." + &URL_SAFE_NO_PAD.encode(payload);
        self.append_signature(token).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprint_matches_the_example_of_rfc_7638() {
        // RFC 7638 §3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let public = DecodingKey::from_rsa_components(n, "AQAB").unwrap();
        let jwk = jwk(&public, jsonwebtoken::Algorithm::RS256).unwrap();
        assert_eq!(
            jwk.common.key_id.as_deref(),
            Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
        );
    }

    #[test]
    fn malformed_key_or_key_of_another_algorithm_is_rejected_with_a_reason() {
        let edwards = Algorithm::EdDsa.generate().unwrap();
        for algorithm in ["RS256", "ES256", "HS256"] {
            assert!(SigningKey::parse(algorithm, &edwards).is_err_and(|why| !why.is_empty()));
        }
        assert!(SigningKey::parse("EdDSA", b"junk").is_err());
    }

    #[test]
    fn key_matches_only_the_algorithm_and_size_it_was_generated_for() {
        let all = [Algorithm::Rs256 { bits: 2048 }, Algorithm::Es256, Algorithm::EdDsa];
        for made in all {
            let key = SigningKey::parse(made.name(), &made.generate().unwrap()).unwrap();
            for algorithm in all {
                assert_eq!(key.matches_algorithm(algorithm), made == algorithm);
            }
            assert!(!key.matches_algorithm(Algorithm::Rs256 { bits: 4096 }));
        }
    }
}
