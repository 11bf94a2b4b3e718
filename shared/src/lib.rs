//! What travels between Matchbook's server and its clients: the request and
//! response types, once, for both sides.
//!
//! JSON names are camelCase. Types that carry a token have no `Debug`, so that
//! none can reach a log by accident.

#[cfg(feature = "base-url")]
mod base_url;

#[cfg(feature = "base-url")]
pub use base_url::{UrlError, base_url, web_url};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The header that every response of the server has, with the value
/// [`SERVER_MARK_VALUE`]. A response without it is from something in between: a
/// gateway, a proxy, or the page of a network that wants a log-in of its own.
pub const SERVER_MARK: &str = "matchbook-server";

/// The value of [`SERVER_MARK`].
pub const SERVER_MARK_VALUE: &str = "1";

/// The query of `GET /token`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestLoginQuery {
    /// The guest id that `GET /register` answered: a ticket for one sign-in.
    pub user_id: Option<String>,
}

/// The form of `POST /refresh`.
#[derive(Serialize, Deserialize)]
pub struct RefreshRequest {
    /// The refresh token, sent back unread.
    pub refresh_token: Option<String>,
}

/// What `GET /token` and `POST /refresh` grant.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// The access token: a JWT to send as `Authorization: Bearer …`.
    pub token: String,
    /// The refresh token: opaque, replaced by a new one at each refresh.
    pub refresh_token: String,
    /// How long the access token lives, in seconds from when it was issued.
    pub expires_in: u64,
}

/// What `GET /user` answers to a good access token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserInfo {
    /// Whose access token it was.
    pub user_id: Uuid,
    /// The server's time when it answered.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
    /// When the access token ends.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// A session of mine, in the answer of `GET /sessions`: one sign-in on one device.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// Its id, for `DELETE /sessions/{id}`.
    pub id: Uuid,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When it was opened.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was opened or refreshed last.
    #[serde(with = "time::serde::rfc3339")]
    pub last_used_at: OffsetDateTime,
    /// When it ends unless it is refreshed before.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// The address that opened or refreshed it last.
    pub ip: Option<IpAddr>,
    /// The `User-Agent` that opened or refreshed it last.
    pub user_agent: Option<String>,
}

/// The query of `DELETE /sessions`. What is misspelt must not end more than was
/// meant.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeSessionsQuery {
    /// `current`: the session that asks goes on.
    pub keep: Option<String>,
}

/// What `DELETE /sessions` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevokedSessions {
    /// How many sessions ended with this.
    pub ended: usize,
}

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong: a code of RFC 6749 §5.2 or RFC 6750 §3.1 where one fits.
    pub error: String,
    /// What to do about it, for a person.
    pub message: String,
    /// Why a genuine refresh token is no longer good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Why a refresh token that this server did issue is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The session was not refreshed for its idle lifetime.
    ExpiredIdle,
    /// The session reached the end that no refresh extends.
    ExpiredAbsolute,
    /// The session was ended by its user.
    LoggedOut,
    /// The token had been rotated before: somebody holds a copy.
    Reuse,
    /// A newer token was granted a moment ago; the session goes on with it.
    Superseded,
    /// The server has no such session (any more).
    Unknown,
    /// Another reason, or one that this version does not know.
    #[serde(other)]
    Other,
}

impl Reason {
    /// As it travels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExpiredIdle => "expired_idle",
            Self::ExpiredAbsolute => "expired_absolute",
            Self::LoggedOut => "logged_out",
            Self::Reuse => "reuse",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
            Self::Other => "other",
        }
    }
}

/// What `GET /health/ready` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// The whole: the worst that the parts amount to.
    pub status: ServerStatus,
    /// The database: without it nothing can be granted.
    pub database: Health,
    /// Redis, when the server is configured to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Health>,
    /// What is wrong, for a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether the server can do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// Everything answers.
    Ready,
    /// Slower than usual, and correct.
    Degraded,
    /// A part is away without which nothing can be granted.
    Unavailable,
}

/// Whether a part answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It answered.
    Up,
    /// It did not.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_travel_under_the_names_of_the_article() {
        let tokens = TokenResponse { token: "t".into(), refresh_token: "r".into(), expires_in: 60 };
        assert_eq!(
            serde_json::to_string(&tokens).unwrap(),
            r#"{"token":"t","refreshToken":"r","expiresIn":60}"#
        );
    }

    #[test]
    fn a_reason_is_spelled_one_way() {
        use Reason::{ExpiredAbsolute, ExpiredIdle, LoggedOut, Other, Reuse, Superseded, Unknown};
        for reason in [ExpiredIdle, ExpiredAbsolute, LoggedOut, Reuse, Superseded, Unknown, Other] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn a_reason_that_is_not_known_yet_does_not_break_an_old_client() {
        let body = r#"{"error":"invalid_grant","message":"…","reason":"from_the_future"}"#;
        let body: ErrorBody = serde_json::from_str(body).unwrap();
        assert_eq!(body.reason, Some(Reason::Other));
    }
}
