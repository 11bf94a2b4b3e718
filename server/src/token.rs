//! Values without I/O: ids, secrets, their digests, the refresh token and the
//! claims of an access token.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A user. A guest's id is also the ticket for its one sign-in, so it is
    /// random and stays out of logs until it is used.
    UserId
}
id! {
    /// A session: one sign-in on one device (`sid` in an access token).
    SessionId
}
id! {
    /// An access token (`jti`, RFC 7519 §4.1.7).
    AccessId
}

impl UserId {
    /// A new id that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl AccessId {
    /// A new id.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl SessionId {
    /// A new id. Ids made later sort later (UUID version 7), so that new rows
    /// go to one end of the primary key's index, however many there are.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(now: Timestamp) -> Result<Self, ErrorStack> {
        let mut random = [0; 10];
        openssl::rand::rand_bytes(&mut random)?;
        let millis = now.as_unix_millis();
        Ok(Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()))
    }
}

/// What only the holder of a refresh token knows: 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new secret.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, ErrorStack> {
        let mut bytes = [0; 32];
        openssl::rand::rand_bytes(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// For a file that only the server may read.
    #[must_use]
    pub fn to_base64(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the database keeps of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(sha256(&self.0))
    }
}

/// SHA-256 of a [`Secret`]. The secret has 256 bits of its own, so neither
/// salt nor stretching would add anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The 32 bytes, as the database stores them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key under which refresh tokens are tagged; it never leaves the server.
#[derive(Clone)]
pub struct Pepper(PKey<Private>);

impl Pepper {
    /// Takes derived key material.
    ///
    /// # Errors
    /// When OpenSSL refuses the key.
    pub fn new(key: &[u8; 32]) -> Result<Self, ErrorStack> {
        PKey::hmac(key).map(Self)
    }

    fn tag(&self, message: &[u8]) -> Result<[u8; TAG], ErrorStack> {
        let mut mac = [0; 32];
        Signer::new(MessageDigest::sha256(), &self.0)?.sign_oneshot(&mut mac, message)?;
        let mut tag = [0; TAG];
        tag.copy_from_slice(&mac[..TAG]);
        Ok(tag)
    }
}

/// A refresh token: opaque to clients, `mb_rt_` and base64url of
/// version 1 ‖ session 16 ‖ generation 8 ‖ secret 32 ‖ tag 16 bytes.
///
/// The tag is HMAC-SHA256 under the [`Pepper`] over all before it, cut to 16
/// bytes: junk is refused without asking the database, and any generation that
/// was ever issued is recognised without a row for it.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session it belongs to.
    pub session: SessionId,
    /// How often the session's token had been rotated when this one was made.
    pub generation: i64,
    /// What proves that the bearer was given this token.
    pub secret: Secret,
}

const PREFIX: &str = "mb_rt_";
const VERSION: u8 = 1;
const TAGGED: usize = 1 + 16 + 8 + 32;
const TAG: usize = 16;

impl RefreshToken {
    /// The text that travels.
    ///
    /// # Errors
    /// When OpenSSL cannot compute the tag.
    pub fn encode(&self, pepper: &Pepper) -> Result<String, ErrorStack> {
        let mut bytes = [0; TAGGED + TAG];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(self.session.0.as_bytes());
        bytes[17..25].copy_from_slice(&self.generation.to_be_bytes());
        bytes[25..TAGGED].copy_from_slice(&self.secret.0);
        let tag = pepper.tag(&bytes[..TAGGED])?;
        bytes[TAGGED..].copy_from_slice(&tag);
        let mut text = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        Ok(text)
    }

    /// Reads a token that this server issued; `None` for anything else.
    ///
    /// # Errors
    /// When OpenSSL cannot compute the tag.
    pub fn parse(text: &str, pepper: &Pepper) -> Result<Option<Self>, ErrorStack> {
        // One byte more than a token has, since the decoder estimates upwards.
        let mut bytes = [0; TAGGED + TAG + 2];
        let Some(encoded) = text.strip_prefix(PREFIX) else { return Ok(None) };
        let Ok(length) = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) else { return Ok(None) };
        let (tagged, tag) = bytes[..length].split_at(length.min(TAGGED));
        if length != TAGGED + TAG || tagged[0] != VERSION {
            return Ok(None);
        }
        if !openssl::memcmp::eq(&pepper.tag(tagged)?, tag) {
            return Ok(None);
        }
        let mut session = [0; 16];
        session.copy_from_slice(&tagged[1..17]);
        let mut generation = [0; 8];
        generation.copy_from_slice(&tagged[17..25]);
        let mut secret = [0; 32];
        secret.copy_from_slice(&tagged[25..]);
        Ok(Some(Self {
            session: SessionId(Uuid::from_bytes(session)),
            generation: i64::from_be_bytes(generation),
            secret: Secret(secret),
        }))
    }
}

/// The randomness that one grant uses up.
pub struct Dice {
    /// Of the refresh token.
    pub secret: Secret,
    /// Of the access token.
    pub access: AccessId,
}

impl Dice {
    /// Throws them.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn throw() -> Result<Self, ErrorStack> {
        Ok(Self { secret: Secret::random()?, access: AccessId::random() })
    }
}

/// The claims of an access token (RFC 9068 §2.2, and `sid`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it: `tokens.issuer`.
    pub iss: String,
    /// Whom it is for: `tokens.audience`.
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The client that asked for it.
    pub client_id: String,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// When it ends, in seconds since the Unix epoch.
    pub exp: i64,
    /// The token's own id.
    pub jti: AccessId,
    /// The session that it was granted to.
    pub sid: SessionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper() -> Pepper {
        Pepper::new(&[7; 32]).unwrap()
    }

    fn token() -> RefreshToken {
        RefreshToken {
            session: SessionId::new(Timestamp::from_secs(1_700_000_000)).unwrap(),
            generation: 3,
            secret: Secret::random().unwrap(),
        }
    }

    #[test]
    fn a_token_survives_the_journey() {
        let token = token();
        let text = token.encode(&pepper()).unwrap();
        assert_eq!(text.len(), 6 + 98);
        assert!(RefreshToken::parse(&text, &pepper()).unwrap() == Some(token));
    }

    #[test]
    fn a_token_with_any_one_character_changed_is_not_a_token() {
        let text = token().encode(&pepper()).unwrap();
        for i in 0..text.len() {
            for other in ["A", "B", "_", "", "=", "é", "."] {
                let mut changed = text.clone();
                changed.replace_range(i..=i, other);
                if changed != text {
                    assert!(RefreshToken::parse(&changed, &pepper()).unwrap().is_none());
                }
            }
        }
    }

    #[test]
    fn a_token_of_another_server_is_not_a_token() {
        let text = token().encode(&Pepper::new(&[8; 32]).unwrap()).unwrap();
        assert!(RefreshToken::parse(&text, &pepper()).unwrap().is_none());
    }

    #[test]
    fn junk_of_every_length_is_not_a_token() {
        for length in 0..300 {
            let junk = PREFIX.to_owned() + &"A".repeat(length);
            assert!(RefreshToken::parse(&junk, &pepper()).unwrap().is_none());
        }
    }

    #[test]
    fn later_sessions_sort_later() {
        let early = SessionId::new(Timestamp::from_secs(1_700_000_000)).unwrap();
        let late = SessionId::new(Timestamp::from_secs(1_700_000_001)).unwrap();
        assert!(early.0 < late.0);
    }
}
