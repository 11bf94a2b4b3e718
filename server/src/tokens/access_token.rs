//! The claims of an access token.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AccessTokenId, SessionId, UserId};

/// The claims of an access token (RFC 9068 §2.2, and `sid`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims<'a> {
    /// The issuer: `tokens.issuer`.
    pub iss: Cow<'a, str>,
    /// The audience: `tokens.audience`.
    pub aud: Cow<'a, str>,
    /// The user.
    pub sub: UserId,
    /// The client that requested the token.
    pub client_id: Cow<'a, str>,
    /// The time of issue, in seconds since the Unix epoch.
    pub iat: i64,
    /// The expiry time, in seconds since the Unix epoch.
    pub exp: i64,
    /// The id of the token.
    pub jti: AccessTokenId,
    /// The session that the token belongs to.
    pub sid: SessionId,
}

/// The parts of a verified access token that requests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The user.
    pub user: UserId,
    /// The session that the token belongs to.
    pub session: SessionId,
    /// The id of the token.
    pub id: AccessTokenId,
    /// The expiry time: a whole second.
    pub expires_at: Timestamp,
}

impl Claims<'_> {
    /// Returns the claims that requests use.
    #[must_use]
    pub fn verified(&self) -> VerifiedToken {
        let expires_at = Timestamp::from_secs(self.exp);
        VerifiedToken { user: self.sub, session: self.sid, id: self.jti, expires_at }
    }
}
