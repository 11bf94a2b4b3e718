//! The format of refresh tokens, and the randomness that a rotation needs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::crypto::{RngError, Salt, Secret, TokenKey, TokenKeys, constant_time_eq, random};
use crate::ids::{AccessTokenId, ClientId, EventId, SessionId};

/// A refresh token: opaque to clients, `mb_rt_` and base64url of
/// version 1 ‖ session 16 ‖ generation 8 ‖ secret 32 ‖ tag 16 bytes.
///
/// The tag is the first 16 bytes of HMAC-SHA256 under the [`TokenKey`] over everything
/// before it, and over the id of the OAuth client that the token is bound to. The tag needs
/// no query: a forged token or that of another client is rejected, and a token of any
/// earlier generation is recognized although it has no row.
///
/// An authorization code has the same format with the prefix `mb_ac_`. It is the token
/// before generation 0: its exchange is the first rotation of its session.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session that the token belongs to.
    pub session: SessionId,
    /// The number of rotations before this token was issued, or
    /// [`CODE_GENERATION`](Self::CODE_GENERATION).
    pub generation: i64,
    /// The secret that proves possession of this token.
    pub secret: Secret,
    /// The OAuth client that the token is bound to; `None` for the native endpoints.
    pub client: Option<ClientId>,
}

/// NEVER CHANGE THE PREFIX once a version is released: every issued token would be
/// rejected, and secret scanners would no longer find leaked tokens.
const PREFIX: &str = "mb_rt_";
const CODE_PREFIX: &str = "mb_ac_";
/// NEVER REUSE OR CHANGE A VERSION'S FORMAT once it is released: every issued token
/// would be rejected. A new format gets the next number, and the parser accepts all.
const VERSION: u8 = 1;
/// The version of tokens that are bound to a client.
const CLIENT_VERSION: u8 = 2;
const PAYLOAD_LEN: usize = 1 + 16 + 8 + 32;
const TAG_LEN: usize = 16;

impl RefreshToken {
    /// The generation of an authorization code.
    pub const CODE_GENERATION: i64 = -1;

    /// Encodes the token as clients receive it.
    #[must_use]
    pub fn encode(&self, token_key: &TokenKey) -> String {
        let mut bytes = [0; PAYLOAD_LEN + TAG_LEN];
        bytes[0] = version_for(self.client.as_ref());
        bytes[1..17].copy_from_slice(self.session.0.as_bytes());
        bytes[17..25].copy_from_slice(&self.generation.to_be_bytes());
        bytes[25..PAYLOAD_LEN].copy_from_slice(self.secret.as_bytes());
        let tag = tag(&bytes[..PAYLOAD_LEN], self.client.as_ref(), token_key);
        bytes[PAYLOAD_LEN..].copy_from_slice(&tag);
        let is_code = self.generation == Self::CODE_GENERATION;
        let mut text = if is_code { CODE_PREFIX } else { PREFIX }.to_owned();
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        text
    }

    /// Returns whether the text has the form of this server's tokens. Only the tag proves
    /// that it is one.
    #[must_use]
    pub fn has_prefix(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Parses a refresh token that this server issued to this client. Returns `None` for any
    /// other text.
    #[must_use]
    pub fn parse(text: &str, client: Option<&ClientId>, token_keys: &TokenKeys) -> Option<Self> {
        let token = parse(text.strip_prefix(PREFIX)?, client, token_keys)?;
        (token.generation >= 0).then_some(token)
    }

    /// Parses an authorization code that this server issued to this client. Returns `None`
    /// for any other text.
    #[must_use]
    pub fn parse_code(text: &str, client: &ClientId, token_keys: &TokenKeys) -> Option<Self> {
        let code = parse(text.strip_prefix(CODE_PREFIX)?, Some(client), token_keys)?;
        (code.generation == Self::CODE_GENERATION).then_some(code)
    }

    /// Returns the session that a text names, which may be a forged refresh token or code.
    #[must_use]
    pub fn claimed_session(text: &str) -> Option<SessionId> {
        let encoded = text.strip_prefix(PREFIX).or_else(|| text.strip_prefix(CODE_PREFIX))?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
        Some(SessionId(Uuid::from_slice(bytes.get(1..17)?).ok()?))
    }
}

fn version_for(client: Option<&ClientId>) -> u8 {
    if client.is_some() { CLIENT_VERSION } else { VERSION }
}

/// Returns the tag of a payload. The payload has one length, so the client id cannot be
/// mistaken for a part of it.
fn tag(payload: &[u8], client: Option<&ClientId>, token_key: &TokenKey) -> [u8; TAG_LEN] {
    match client {
        None => token_key.tag(payload),
        Some(client) => token_key.tag_of([payload, client.as_str().as_bytes()]),
    }
}

fn parse(encoded: &str, client: Option<&ClientId>, token_keys: &TokenKeys) -> Option<RefreshToken> {
    // Two bytes more than a token has: the decoder's estimate rounds up.
    let mut bytes = [0; PAYLOAD_LEN + TAG_LEN + 2];
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
    let (payload, tag) = bytes[..length].split_at(length.min(PAYLOAD_LEN));
    if length != PAYLOAD_LEN + TAG_LEN || payload[0] != version_for(client) {
        return None;
    }
    let is_genuine = |key: &TokenKey| constant_time_eq(&self::tag(payload, client, key), tag);
    if !token_keys.all().any(is_genuine) {
        return None;
    }
    let mut session = [0; 16];
    session.copy_from_slice(&payload[1..17]);
    let mut generation = [0; 8];
    generation.copy_from_slice(&payload[17..25]);
    let mut secret = [0; 32];
    secret.copy_from_slice(&payload[25..]);
    Some(RefreshToken {
        session: SessionId(Uuid::from_bytes(session)),
        generation: i64::from_be_bytes(generation),
        secret: Secret::from_bytes(secret),
        client: client.cloned(),
    })
}

/// The randomness that one refresh may need.
pub struct RotationRandomness {
    /// The salt of the successor.
    pub salt: Salt,
    /// The id of the access token.
    pub access: AccessTokenId,
    /// The id of the audit log entry, if the refresh writes one.
    pub event: EventId,
}

impl RotationRandomness {
    /// Generates all three values.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn generate(now: Timestamp) -> Result<Self, RngError> {
        // One call: its fixed cost is higher than that of the bytes.
        let bytes: [u8; 58] = random()?;
        let mut salt = [0; 32];
        salt.copy_from_slice(&bytes[..32]);
        let mut access = [0; 16];
        access.copy_from_slice(&bytes[32..48]);
        let mut event = [0; 10];
        event.copy_from_slice(&bytes[48..]);
        Ok(Self {
            salt: Salt::new(salt),
            access: AccessTokenId::from_random_bytes(access),
            event: EventId::from_random_bytes(now, &event),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserId;

    fn token_keys(current: u8, old: &[u8]) -> TokenKeys {
        let token_key = |byte: &u8| TokenKey::new(&[*byte; 32]);
        TokenKeys { current: token_key(&current), old: old.iter().map(token_key).collect() }
    }

    fn token() -> RefreshToken {
        RefreshToken {
            session: SessionId::new(UserId::random(), Timestamp::from_secs(1_700_000_000)).unwrap(),
            generation: 3,
            secret: Secret::random().unwrap(),
            client: None,
        }
    }

    #[test]
    fn encoded_token_parses_to_the_same_token() {
        let token = token();
        let token_keys = token_keys(7, &[]);
        let text = token.encode(&token_keys.current);
        assert_eq!(text.len(), 6 + 98);
        assert!(RefreshToken::parse(&text, None, &token_keys) == Some(token));
    }

    #[test]
    fn token_with_one_changed_character_is_rejected() {
        let token_keys = token_keys(7, &[6]);
        let text = token().encode(&token_keys.current);
        for i in 0..text.len() {
            for other in ["A", "B", "_", "", "=", "é", "."] {
                let mut changed = text.clone();
                changed.replace_range(i..=i, other);
                if changed != text {
                    assert!(RefreshToken::parse(&changed, None, &token_keys).is_none());
                }
            }
        }
    }

    #[test]
    fn token_parses_only_under_current_and_old_keys() {
        let token = token();
        let text = token.encode(&token_keys(7, &[]).current);
        assert!(RefreshToken::parse(&text, None, &token_keys(8, &[])).is_none());
        assert!(RefreshToken::parse(&text, None, &token_keys(8, &[9, 7])) == Some(token));
    }

    #[test]
    fn malformed_token_of_any_length_is_rejected() {
        for length in 0..300 {
            let malformed = PREFIX.to_owned() + &"A".repeat(length);
            assert!(RefreshToken::parse(&malformed, None, &token_keys(7, &[])).is_none());
        }
    }
    #[test]
    fn token_of_a_client_parses_for_this_client_only() {
        let token_keys = token_keys(7, &[]);
        let client = ClientId::from("app");
        let bound = RefreshToken { client: Some(client.clone()), ..token() };
        let text = bound.encode(&token_keys.current);
        assert!(RefreshToken::parse(&text, Some(&client), &token_keys) == Some(bound));
        for other in [None, Some(&ClientId::from("apq")), Some(&ClientId::from("ap"))] {
            assert!(RefreshToken::parse(&text, other, &token_keys).is_none());
        }
        let native = token().encode(&token_keys.current);
        assert!(RefreshToken::parse(&native, Some(&client), &token_keys).is_none());
    }

    #[test]
    fn code_is_no_refresh_token_and_the_reverse() {
        let token_keys = token_keys(7, &[]);
        let client = ClientId::from("app");
        let code = RefreshToken {
            client: Some(client.clone()),
            generation: RefreshToken::CODE_GENERATION,
            ..token()
        };
        let text = code.encode(&token_keys.current);
        assert!(RefreshToken::parse_code(&text, &client, &token_keys) == Some(code));
        let disguised = text.replace(CODE_PREFIX, PREFIX);
        assert!(RefreshToken::parse(&disguised, Some(&client), &token_keys).is_none());
        let refresh = RefreshToken { client: Some(client.clone()), ..token() };
        let disguised = refresh.encode(&token_keys.current).replace(PREFIX, CODE_PREFIX);
        assert!(RefreshToken::parse_code(&disguised, &client, &token_keys).is_none());
    }

    #[test]
    fn claimed_session_needs_no_key() {
        let token = token();
        let text = token.encode(&token_keys(7, &[]).current);
        assert_eq!(RefreshToken::claimed_session(&text), Some(token.session));
        for malformed in ["", "mb_rt_", "mb_rt_AQ", "mb_rt_é", "another"] {
            assert_eq!(RefreshToken::claimed_session(malformed), None);
        }
    }
}
