//! The contents of tokens, read without the server.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use uuid::Uuid;

/// A refresh token and its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefreshToken {
    pub(super) text: String,
    pub(super) session: Uuid,
    pub(super) generation: u64,
}

impl RefreshToken {
    /// Parses `mb_rt_` and base64url of: version, 16 bytes of session id, 8 of generation,
    /// and data for the server.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix("mb_rt_")?).ok()?;
        let session = Uuid::from_slice(bytes.get(1..17)?).ok()?;
        let generation = u64::from_be_bytes(bytes.get(17..25)?.try_into().ok()?);
        Some(Self { text: text.to_owned(), session, generation })
    }
}

/// An access token and its expiry in Unix time.
#[derive(Debug, Clone)]
pub(super) struct AccessToken {
    pub(super) text: String,
    pub(super) expires: Duration,
}

impl AccessToken {
    fn parse(text: &str) -> Option<Self> {
        let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let expires = Duration::from_secs(claims["exp"].as_u64()?);
        Some(Self { text: text.to_owned(), expires })
    }
}

/// The tokens of one response.
#[derive(Debug, Clone)]
pub(super) struct TokenPair {
    pub(super) access: AccessToken,
    pub(super) refresh: RefreshToken,
}

impl TokenPair {
    /// Parses the body of a response.
    pub(super) fn parse(body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        let access = AccessToken::parse(body["token"].as_str()?)?;
        let refresh = RefreshToken::parse(body["refreshToken"].as_str()?)?;
        Some(Self { access, refresh })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_pair_is_parsed() {
        let session = Uuid::new_v4();
        let mut bytes = vec![1];
        bytes.extend(session.as_bytes());
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend([0; 48]);
        let refresh = format!("mb_rt_{}", URL_SAFE_NO_PAD.encode(bytes));
        let access = format!("head.{}.signature", URL_SAFE_NO_PAD.encode(r#"{"exp":1234}"#));
        let body = serde_json::json!({"token": access, "refreshToken": refresh, "expiresIn": 15});
        let pair = TokenPair::parse(&body.to_string()).unwrap();
        assert_eq!((pair.refresh.session, pair.refresh.generation), (session, 7));
        assert_eq!(pair.access.expires, Duration::from_secs(1234));
        assert!(TokenPair::parse("{}").is_none());
    }
}
