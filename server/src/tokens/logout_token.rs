//! The claims of a logout token (`OpenID` Connect Back-Channel Logout 1.0 §2.4).

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids::{SessionId, UserId};

/// The claims of a logout token. It has no `nonce`, so that it is no ID token.
#[derive(Serialize)]
pub struct LogoutTokenClaims<'a> {
    pub iss: &'a str,
    /// The client.
    pub aud: &'a str,
    /// The time of issue, in seconds since the Unix epoch.
    pub iat: i64,
    /// The expiry time, in seconds since the Unix epoch.
    pub exp: i64,
    pub jti: Uuid,
    pub sub: UserId,
    /// The session that has ended.
    pub sid: SessionId,
    events: Events,
}

#[derive(Serialize)]
struct Events {
    #[serde(rename = "http://schemas.openid.net/event/backchannel-logout")]
    logout: Empty,
}

/// An empty JSON object.
#[derive(Serialize)]
struct Empty {}

impl<'a> LogoutTokenClaims<'a> {
    /// The lifetime of a logout token.
    const LIFETIME: Duration = Duration::from_secs(120);

    /// Returns the claims of a token that is sent now.
    #[must_use]
    pub fn new(
        iss: &'a str,
        aud: &'a str,
        (sub, sid): (UserId, SessionId),
        now: Timestamp,
    ) -> Self {
        Self {
            iss,
            aud,
            iat: now.as_secs(),
            exp: Timestamp::from_secs(now.as_secs()).after(Self::LIFETIME).as_secs(),
            jti: Uuid::new_v4(),
            sub,
            sid,
            events: Events { logout: Empty {} },
        }
    }
}
