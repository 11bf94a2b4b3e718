//! One signing key, parsed once: what it signs with, what others verify with.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{DecodingKey, Header};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use quick_cache::sync::Cache;

use super::{ACCESS_TOKEN, Error};
use crate::tokens::VerifiedToken;

/// How many verified tokens are remembered for each key: some 10 MB.
const MOST_VERIFIED: usize = 1 << 16;

/// What new keys are made for (`tokens.algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
    Rs256 {
        /// The size of the modulus: 2048 at least.
        bits: u32,
    },
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
    Es256,
    /// Ed25519 (RFC 8037 §3.1).
    EdDsa,
}

impl Algorithm {
    /// By the name that JWS has for it (RFC 7518 §3.1).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 { .. } => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// A new private half (PKCS #8). Takes a second or more for a large RSA key.
    pub(super) fn generate(self) -> Result<Vec<u8>, ErrorStack> {
        let key = match self {
            Self::Rs256 { bits } => PKey::from_rsa(Rsa::generate(bits)?)?,
            Self::Es256 => {
                let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
                PKey::from_ec_key(EcKey::generate(&curve)?)?
            }
            Self::EdDsa => PKey::generate_ed25519()?,
        };
        key.private_key_to_pkcs8()
    }
}

enum Private {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key that signs access tokens. `jsonwebtoken` would parse and check it at
/// every signature, which takes longer than the signature itself; it does
/// verify, where a public key costs next to nothing to read.
pub(super) struct SigningKey {
    private: Private,
    random: SystemRandom,
    /// The header of every token that it signs, encoded.
    header: String,
    /// The public half, for us.
    pub(super) public: DecodingKey,
    /// The algorithm that this key, and no header, decides on (RFC 8725 §3.1).
    pub(super) algorithm: jsonwebtoken::Algorithm,
    /// The public half, as it is published.
    pub(super) jwk: Jwk,
    /// Its thumbprint (RFC 7638).
    pub(super) kid: String,
    /// What was verified with it, by the digest of the token: whether it has
    /// expired, and whether it is active, is asked each time.
    pub(super) verified: Cache<[u8; 32], VerifiedToken>,
}

impl SigningKey {
    /// Reads a private half (PKCS #8); the error says what is wrong with it.
    pub(super) fn parse(algorithm: &str, pkcs8: &[u8]) -> Result<Self, String> {
        let (private, algorithm, public) = match algorithm {
            "RS256" => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|e| e.to_string())?;
                let key = pair.public_key();
                let public = DecodingKey::from_rsa_raw_components(
                    key.modulus().big_endian_without_leading_zero(),
                    key.exponent().big_endian_without_leading_zero(),
                );
                (Private::Rsa(pair), jsonwebtoken::Algorithm::RS256, Ok(public))
            }
            "ES256" => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                    .map_err(|e| e.to_string())?;
                // An uncompressed point: 4 ‖ x 32 ‖ y 32 (SEC 1 §2.3.3).
                let point = pair.public_key().as_ref();
                let (x, y) = point
                    .get(1..)
                    .and_then(|point| point.split_at_checked(32))
                    .ok_or("its public half is not a point on P-256")?;
                let coordinate = |bytes| URL_SAFE_NO_PAD.encode(bytes);
                let public = DecodingKey::from_ec_components(&coordinate(x), &coordinate(y));
                (Private::Ecdsa(pair), jsonwebtoken::Algorithm::ES256, public)
            }
            "EdDSA" => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|e| e.to_string())?;
                let x = URL_SAFE_NO_PAD.encode(pair.public_key());
                let public = DecodingKey::from_ed_components(&x);
                (Private::Ed25519(pair), jsonwebtoken::Algorithm::EdDSA, public)
            }
            other => return Err(format!("this version knows no algorithm {other}")),
        };
        let unusable = |error: jsonwebtoken::errors::Error| error.to_string();
        let public = public.map_err(unusable)?;
        let jwk = jwk(&public, algorithm).map_err(unusable)?;
        let kid = jwk.common.key_id.clone().unwrap_or_default();
        let mut header = Header::new(algorithm);
        header.typ = Some(ACCESS_TOKEN.to_owned());
        header.kid = Some(kid.clone());
        let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
        let (header, random) = (URL_SAFE_NO_PAD.encode(header), SystemRandom::new());
        let verified = Cache::new(MOST_VERIFIED);
        Ok(Self { private, random, header, public, algorithm, jwk, kid, verified })
    }

    /// The token with this payload (RFC 7515 §7.1).
    pub(super) fn sign(&self, payload: &[u8]) -> Result<String, Error> {
        let mut token = self.header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        self.append_signature(token)
    }

    fn append_signature(&self, mut token: String) -> Result<String, Error> {
        let refused = |_| Error::Signature;
        let message = token.as_bytes();
        let signature = match &self.private {
            Private::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature)
                    .map_err(refused)?;
                signature
            }
            Private::Ecdsa(pair) => {
                pair.sign(&self.random, message).map_err(refused)?.as_ref().to_vec()
            }
            Private::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Whether it is what `algorithm` would make.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        match (&self.private, algorithm) {
            (Private::Rsa(pair), Algorithm::Rs256 { bits }) => {
                pair.public_modulus_len() * 8 == bits as usize
            }
            (Private::Ecdsa(_), Algorithm::Es256) | (Private::Ed25519(_), Algorithm::EdDsa) => true,
            _ => false,
        }
    }
}

/// The public key as JWKS publishes it; `kid` is its thumbprint (RFC 7638).
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
    /// Signs this payload under another header than its own.
    pub(super) fn sign_under(&self, header: &str, payload: &str) -> String {
        let token = URL_SAFE_NO_PAD.encode(header) + "." + &URL_SAFE_NO_PAD.encode(payload);
        self.append_signature(token).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_the_standard() {
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
    fn a_key_that_is_none_or_of_another_kind_is_refused_with_a_reason() {
        let edwards = Algorithm::EdDsa.generate().unwrap();
        for algorithm in ["RS256", "ES256", "HS256"] {
            assert!(SigningKey::parse(algorithm, &edwards).is_err_and(|why| !why.is_empty()));
        }
        assert!(SigningKey::parse("EdDSA", b"junk").is_err());
    }

    #[test]
    fn a_key_knows_what_it_was_made_for() {
        let all = [Algorithm::Rs256 { bits: 2048 }, Algorithm::Es256, Algorithm::EdDsa];
        for made in all {
            let key = SigningKey::parse(made.name(), &made.generate().unwrap()).unwrap();
            for algorithm in all {
                assert_eq!(key.is_for(algorithm), made == algorithm);
            }
            assert!(!key.is_for(Algorithm::Rs256 { bits: 4096 }));
        }
    }
}
