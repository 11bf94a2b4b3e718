//! The verification of access tokens, without their expiry.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use serde::Deserialize;

use super::ring::KeySnapshot;
use super::{Error, Options, Purpose, TokenType};
use crate::crypto::Digest;
use crate::ids::{SessionId, UserId};
use crate::tokens::{Claims, VerifiedToken};

/// The maximum length of an access token in bytes. The longest of this server has 2048 bytes
/// of extra claims and a signature of RSA with 4096 bits, and is about half as long.
const MAX_TOKEN_LEN: usize = 8192;

/// The reasons why an access token is rejected.
#[derive(Debug)]
pub enum VerifyError {
    /// The token is malformed, or was not signed by a published key.
    Invalid,
    Expired,
    /// The token cannot be verified now. Its key may be new or revoked, but the database
    /// cannot be read, or this server's clock is wrong.
    Unavailable(Error),
}

/// Whose ID token a client presents.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IdTokenHint {
    #[serde(rename = "sub")]
    pub user: UserId,
    /// The client that it was issued to.
    #[serde(rename = "aud")]
    pub client: String,
    #[serde(rename = "sid")]
    pub session: SessionId,
}

pub(super) enum SignatureError {
    Invalid,
    UnknownKey,
}

/// The header of an access token. Members that this server does not issue are rejected.
/// `crit` (RFC 7515 §4.1.11) lists members that a verifier must understand. `b64` (RFC
/// 7797) changes the signed bytes. `jku`, `jwk`, `x5u` and `x5c` carry keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenHeader {
    typ: String,
    kid: String,
    /// The verification compares it with the key's algorithm.
    #[serde(rename = "alg")]
    _alg: String,
}

impl TokenHeader {
    fn parse(token: &str) -> Option<Self> {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
        serde_json::from_slice(&header).ok()
    }
}

impl KeySnapshot {
    /// Verifies the signature and the issuer of a token, but neither its audience nor its
    /// expiry.
    pub(super) fn verify(
        &self,
        token: &str,
        options: &Options,
    ) -> Result<VerifiedToken, SignatureError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(SignatureError::Invalid);
        }
        let digest = Digest::of(&[token.as_bytes()]).to_bytes();
        // Each key has its own cache, so that a retired key takes its entries along.
        let mut access = self.keys.iter().filter(|published| published.purpose == Purpose::Access);
        let cached = access.find_map(|published| published.key.verified.get(&digest));
        if let Some(verified) = cached {
            return Ok(verified);
        }
        let header = TokenHeader::parse(token).ok_or(SignatureError::Invalid)?;
        if header.typ != TokenType::Access.name() {
            return Err(SignatureError::Invalid);
        }
        let key = self.keys.iter().find(|published| published.key.kid == header.kid);
        let published = key.ok_or(SignatureError::UnknownKey)?;
        if published.purpose != Purpose::Access {
            return Err(SignatureError::Invalid);
        }
        let key = &published.key;
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[&options.issuer]);
        // Introspection accepts tokens for other resource servers as well.
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // The ring compares `exp` with the caller's `now`, to the second.
        validation.validate_exp = false;
        let decoded = jsonwebtoken::decode::<Claims<'_>>(token, &key.public, &validation);
        let verified =
            decoded.map_err(|_| SignatureError::Invalid)?.claims.verified(&options.audience);
        key.verified.insert(digest, verified);
        Ok(verified)
    }

    /// Verifies the signature and the issuer of an ID token, but not its expiry.
    pub(super) fn verify_id_token(
        &self,
        token: &str,
        issuer: &str,
    ) -> Result<IdTokenHint, SignatureError> {
        let header = TokenHeader::parse(token).filter(|_| token.len() <= MAX_TOKEN_LEN);
        let header = header.filter(|header| header.typ == TokenType::Id.name());
        let header = header.ok_or(SignatureError::Invalid)?;
        let published = self.keys.iter().find(|published| published.key.kid == header.kid);
        let key = &published.ok_or(SignatureError::UnknownKey)?.key;
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[issuer]);
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        validation.validate_exp = false;
        let decoded = jsonwebtoken::decode::<IdTokenHint>(token, &key.public, &validation);
        decoded.map(|decoded| decoded.claims).map_err(|_| SignatureError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::keys::Algorithm;
    use crate::keys::ring::PublishedKey;
    use crate::keys::signing_key::SigningKey;
    use crate::tokens::{Audience, RotationRandomness, Subject};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const AUDIENCE: &str = "https://audience";

    fn options() -> Options {
        Options {
            algorithm: Algorithm::EdDsa,
            rsa_bits: 2048,
            publish_ahead: Duration::from_secs(600),
            rotate_after: None,
            issuer: "https://issuer".into(),
            audience: AUDIENCE.into(),
            access_lifetime: Duration::from_secs(60),
        }
    }

    /// Returns a key of each algorithm.
    fn keys() -> Vec<SigningKey> {
        [Algorithm::Rs256 { bits: 2048 }, Algorithm::Es256, Algorithm::EdDsa]
            .into_iter()
            .map(|made| SigningKey::parse(made.name(), &made.generate().unwrap()).unwrap())
            .collect()
    }

    fn snapshot(key: SigningKey) -> KeySnapshot {
        let mut snapshot = KeySnapshot::empty();
        snapshot.keys = vec![published(Purpose::Access, key)];
        snapshot
    }

    fn published(purpose: Purpose, key: SigningKey) -> PublishedKey {
        PublishedKey { purpose, key: Arc::new(key), active_from: NOW }
    }

    fn claims() -> Claims<'static> {
        Claims {
            iss: "https://issuer".into(),
            aud: Audience::One(AUDIENCE.into()),
            sub: Subject::User(UserId::random()),
            client_id: "matchbook".into(),
            iat: NOW.as_secs(),
            exp: NOW.as_secs() + 60,
            jti: RotationRandomness::generate(NOW).unwrap().access,
            sid: SessionId::new(UserId::random(), NOW).unwrap(),
            scope: None,
            auth_time: None,
        }
    }

    fn sign(key: &SigningKey, claims: &Claims<'_>) -> String {
        key.sign(TokenType::Access, &serde_json::to_vec(claims).unwrap()).unwrap()
    }

    fn is_rejected(snapshot: &KeySnapshot, token: &str) -> bool {
        matches!(snapshot.verify(token, &options()), Err(SignatureError::Invalid))
    }

    #[test]
    fn tokens_of_every_algorithm_are_verified() {
        for key in keys() {
            let claims = claims();
            let snapshot = snapshot(key);
            let token = sign(&snapshot.keys[0].key, &claims);
            // The second time from the cache.
            for _ in 0..2 {
                let verified = snapshot.verify(&token, &options());
                assert!(verified.is_ok_and(|it| it == claims.verified(AUDIENCE)));
            }
            assert!(is_rejected(&snapshot, &format!("{token}A")));
            assert!(is_rejected(&snapshot, token.strip_suffix(|_| true).unwrap()));
        }
    }

    #[test]
    fn key_for_id_tokens_verifies_no_access_token() {
        let mut keys = keys();
        let mut snapshot = snapshot(keys.remove(1));
        snapshot.keys.push(published(Purpose::Id, keys.remove(0)));
        let access = sign(&snapshot.keys[0].key, &claims());
        assert!(snapshot.verify(&access, &options()).is_ok());
        assert!(is_rejected(&snapshot, &sign(&snapshot.keys[1].key, &claims())));
    }

    #[test]
    fn id_token_of_a_key_of_either_purpose_is_verified() {
        let [rsa, other, _] = keys().try_into().ok().unwrap();
        let mut snapshot = snapshot(rsa);
        snapshot.keys.push(published(Purpose::Id, other));
        let hint = IdTokenHint {
            user: UserId::random(),
            client: "client".to_owned(),
            session: SessionId::new(UserId::random(), NOW).unwrap(),
        };
        let payload = |issuer: &str| {
            serde_json::json!({"iss": issuer, "sub": hint.user, "aud": hint.client, "exp": 1,
                "sid": hint.session})
            .to_string()
        };
        for published in &snapshot.keys {
            let verify = |kind, issuer| {
                let token = published.key.sign(kind, payload(issuer).as_bytes()).unwrap();
                snapshot.verify_id_token(&token, "https://issuer").ok()
            };
            assert_eq!(verify(TokenType::Id, "https://issuer").as_ref(), Some(&hint), "expired");
            assert_eq!(verify(TokenType::Id, "https://elsewhere"), None);
            assert_eq!(verify(TokenType::Access, "https://issuer"), None);
            assert_eq!(verify(TokenType::Logout, "https://issuer"), None);
        }
    }

    #[test]
    fn tokens_of_another_issuer_or_key_are_rejected() {
        for key in keys() {
            let snapshot = snapshot(key);
            let key = &snapshot.keys[0].key;
            let claims_of_another = Claims { iss: "https://elsewhere".into(), ..claims() };
            assert!(is_rejected(&snapshot, &sign(key, &claims_of_another)));
            let other = self::snapshot(keys().swap_remove(0));
            let token = sign(key, &claims());
            assert!(matches!(other.verify(&token, &options()), Err(SignatureError::UnknownKey)));
        }
    }

    #[test]
    fn token_for_other_resource_servers_is_not_for_this_one() {
        let snapshot = snapshot(keys().swap_remove(2));
        let key = &snapshot.keys[0].key;
        let elsewhere = || std::borrow::Cow::from("https://elsewhere");
        for (aud, is_for_this_server) in [
            (Audience::One(elsewhere()), false),
            (Audience::One("https://audience/".into()), false),
            (Audience::Several(vec![]), false),
            (Audience::Several(vec![elsewhere(), AUDIENCE.into()]), true),
        ] {
            let token = sign(key, &Claims { aud, ..claims() });
            let verified = snapshot.verify(&token, &options()).ok().unwrap();
            assert_eq!(verified.is_for_this_server, is_for_this_server, "{token}");
        }
    }

    #[test]
    fn header_with_another_or_a_missing_member_is_rejected() {
        for key in keys() {
            let snapshot = snapshot(key);
            let key = &snapshot.keys[0].key;
            let claims = serde_json::to_string(&claims()).unwrap();
            let ours = format!(r#""typ":"at+jwt","alg":"{:?}""#, key.algorithm);
            let kid = &key.kid;
            let signed = |header: &str| key.sign_under(header, &claims);
            let good = signed(&format!(r#"{{{ours},"kid":"{kid}"}}"#));
            assert!(snapshot.verify(&good, &options()).is_ok());
            for more in [
                r#""crit":["exp"]"#,
                r#""crit":[]"#,
                r#""crit":["b64"],"b64":false"#,
                r#""b64":true"#,
                r#""jku":"https://elsewhere""#,
                r#""jwk":{}"#,
                r#""x5u":"https://elsewhere""#,
                r#""x5c":[]"#,
                r#""cty":"JWT""#,
                r#""zip":"DEF""#,
                r#""typ":"at+jwt""#,
                r#""alg":"none""#,
                r#""kid":"other""#,
                r#""":0"#,
            ] {
                let header = format!(r#"{{{ours},"kid":"{kid}",{more}}}"#);
                assert!(is_rejected(&snapshot, &signed(&header)), "{more}");
            }
            let without = [format!("{{{ours}}}"), format!(r#"{{"kid":"{kid}"}}"#), "[]".into()];
            for header in without.iter().map(String::as_str).chain(["", "null", "\u{fffd}", "{"]) {
                assert!(is_rejected(&snapshot, &signed(header)), "{header}");
            }
        }
    }

    #[test]
    fn other_type_other_algorithm_or_repeated_claim_is_rejected() {
        for key in keys() {
            let snapshot = snapshot(key);
            let key = &snapshot.keys[0].key;
            let claims = serde_json::to_string(&claims()).unwrap();
            let signed = |typ: &str, alg: &str| {
                let header = format!(r#"{{"typ":"{typ}","alg":"{alg}","kid":"{}"}}"#, key.kid);
                key.sign_under(&header, &claims)
            };
            let alg = format!("{:?}", key.algorithm);
            assert!(snapshot.verify(&signed("at+jwt", &alg), &options()).is_ok());
            assert!(is_rejected(&snapshot, &signed("JWT", &alg)));
            for other in ["none", "HS256", "RS256", "ES256", "EdDSA", "PS256"] {
                let token = signed("at+jwt", other);
                assert!(other == alg || is_rejected(&snapshot, &token), "{other}");
            }
            let twice = claims.replacen('{', r#"{"exp":99999999999,"#, 1);
            let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{}"}}"#, key.kid);
            let token = key.sign_under(&header, &twice);
            assert!(is_rejected(&snapshot, &token), "a claim appears twice");
        }
    }
}
