//! A signing key, parsed once, and the access tokens that it signs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The media type of access tokens.
const ACCESS_TOKEN: &str = "at+jwt";
/// Issuer and audience of access tokens.
pub(crate) const ISSUER: &str = "https://localhost:5001";

/// The claims of Matchbook's access tokens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) sub: Uuid,
    pub(crate) client_id: String,
    pub(crate) iat: i64,
    pub(crate) exp: i64,
    pub(crate) jti: Uuid,
    pub(crate) sid: Uuid,
}

enum PrivateKey {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key pair.
pub(crate) struct Key {
    private: PrivateKey,
    public: DecodingKey,
    algorithm: Algorithm,
    kid: String,
    /// The encoded header of every token.
    header: String,
    random: SystemRandom,
}

impl Key {
    /// Generates a key.
    pub(crate) fn generate(algorithm: Algorithm) -> Self {
        let (private, public) = match algorithm {
            Algorithm::RS256 => {
                let pkcs8 = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
                let pkcs8 = pkcs8.private_key_to_pkcs8().unwrap();
                let pair = RsaKeyPair::from_pkcs8(&pkcs8).unwrap();
                let public = DecodingKey::from_rsa_raw_components(
                    pair.public_key().modulus().big_endian_without_leading_zero(),
                    pair.public_key().exponent().big_endian_without_leading_zero(),
                );
                (PrivateKey::Rsa(pair), public)
            }
            Algorithm::ES256 => {
                let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
                let pkcs8 = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
                let pkcs8 = pkcs8.private_key_to_pkcs8().unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
                let pair = pair.unwrap();
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                let coordinate = |bytes| URL_SAFE_NO_PAD.encode(bytes);
                let public = DecodingKey::from_ec_components(&coordinate(x), &coordinate(y));
                (PrivateKey::Ecdsa(pair), public.unwrap())
            }
            Algorithm::EdDSA => {
                let pkcs8 = PKey::generate_ed25519().unwrap().private_key_to_pkcs8().unwrap();
                let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap();
                let x = URL_SAFE_NO_PAD.encode(pair.public_key());
                (PrivateKey::Ed25519(pair), DecodingKey::from_ed_components(&x).unwrap())
            }
            other => panic!("Matchbook does not sign with {other:?}"),
        };
        let kid = URL_SAFE_NO_PAD.encode([7; 32]);
        let mut header = Header::new(algorithm);
        header.typ = Some(ACCESS_TOKEN.to_owned());
        header.kid = Some(kid.clone());
        let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).unwrap());
        Self { private, public, algorithm, kid, header, random: SystemRandom::new() }
    }

    /// Signs a token.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let mut token = self.header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims).unwrap(), &mut token);
        let message = token.as_bytes();
        let signature = match &self.private {
            PrivateKey::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature).unwrap();
                signature
            }
            PrivateKey::Ecdsa(pair) => pair.sign(&self.random, message).unwrap().as_ref().to_vec(),
            PrivateKey::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// Verifies a token and returns its claims. `now` is in seconds since the Unix epoch.
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.typ.as_deref() != Some(ACCESS_TOKEN) || header.kid.as_ref() != Some(&self.kid) {
            return None;
        }
        let mut validation = Validation::new(self.algorithm);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[ISSUER]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        validation.validate_exp = false;
        let read = jsonwebtoken::decode::<Claims>(token, &self.public, &validation);
        read.ok().map(|read| read.claims).filter(|claims| claims.exp > now)
    }
}
