//! The request and response types of Matchbook's HTTP API, shared by server and clients.
//!
//! JSON names are camelCase, and part of the API: never change them. Types with a token do not
//! implement `Debug`, so that no token can reach a log by accident.

mod accounts;
#[cfg(feature = "base-url")]
mod base_url;
mod device_name;

pub use accounts::{
    AcceptInvitationRequest, AccountInfo, AccountName, ChangeAccountRequest, ChangePasswordRequest,
    ConfirmRequest, ConfirmTotpRequest, ForgotPasswordRequest, LoginRequest, NewTotp,
    PasswordProof, RecoveryCodes, RegisterRequest, RegisteredUser, ResetPasswordRequest,
};

#[cfg(feature = "base-url")]
pub use base_url::{UrlError, base_url, web_url};
pub use device_name::device_name;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The header of every response of the server, with the value [`SERVER_MARK_VALUE`]. Never
/// change it: a response without it is that of a gateway, a proxy, or a network's login page.
pub const SERVER_MARK: &str = "matchbook-server";

/// The value of [`SERVER_MARK`].
pub const SERVER_MARK_VALUE: &str = "1";

/// The cookie by which `POST /login` recognizes a browser that has logged in to an account
/// before. Never change it. The prefix makes browsers accept the cookie only over HTTPS, for
/// this host alone.
pub const DEVICE_COOKIE: &str = "__Host-matchbook_device";

/// The query of `GET /token`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(rename_all = "camelCase")]
pub struct GuestLoginQuery {
    /// The guest id from `GET /register`, valid for one login.
    #[cfg_attr(feature = "openapi", param(value_type = Uuid, required))]
    pub user_id: Option<String>,
}

/// The form of `POST /refresh`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefreshRequest {
    /// The refresh token, which a client does not parse.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "mb_rt_…"))]
    pub refresh_token: Option<String>,
}

/// The response of `GET /token` and `POST /refresh`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// The access token, a JWT to send as `Authorization: Bearer …` (RFC 6750 §2.1).
    #[cfg_attr(feature = "openapi", schema(example = "eyJ…"))]
    pub token: String,
    /// The refresh token. Each refresh replaces it.
    #[cfg_attr(feature = "openapi", schema(example = "mb_rt_…"))]
    pub refresh_token: String,
    /// The lifetime of the access token in seconds, counted from when it was issued.
    #[cfg_attr(feature = "openapi", schema(example = 900))]
    pub expires_in: u64,
}

/// The response of `GET /user` to a valid access token.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UserInfo {
    /// The user of the access token.
    pub user_id: Uuid,
    /// The server's time of the response.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
    /// When the access token expires.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// The name of the account; absent for a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, required = false, example = "ann@example.com"))]
    pub name: Option<String>,
    /// Whether the user proved that the email address is theirs; absent for a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = bool, required = false))]
    pub email_verified: Option<bool>,
}

/// The request of `POST /sessions`, by a backend.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OpenSessionRequest {
    /// The backend's name of the user.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "customer-4711", max_length = 255))]
    pub subject: Option<String>,
    /// Further claims of the session's access tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::HashMap<String, serde_json::Value>, required = false))]
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A session of the user in the response of `GET /sessions`: one login on one device.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// The id for `DELETE /sessions/{id}`.
    pub id: Uuid,
    /// Whether the request belongs to this session.
    pub current: bool,
    /// When the user logged in.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The time of the login or of the last refresh.
    #[serde(with = "time::serde::rfc3339")]
    pub last_used_at: OffsetDateTime,
    /// When the session expires unless it is refreshed.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// The IP address of the login or of the last refresh.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, required, example = "192.0.2.7"))]
    pub ip: Option<IpAddr>,
    /// The `User-Agent` of the login or of the last refresh.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub user_agent: Option<String>,
}

/// The query of `DELETE /sessions`. Unknown parameters are rejected: a misspelt one must not
/// end more sessions than intended.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct RevokeSessionsQuery {
    /// `current` keeps the session of the request.
    #[cfg_attr(feature = "openapi", param(value_type = String, required = false, example = "current"))]
    pub keep: Option<String>,
}

/// The response of `DELETE /sessions`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokedSessions {
    /// The number of sessions that this request ended.
    pub ended: usize,
}

/// The body of every error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// A stable code: one of RFC 6749 §5.2 or RFC 6750 §3.1 if one fits.
    #[cfg_attr(feature = "openapi", schema(example = "invalid_request"))]
    pub error: String,
    /// The error and its remedy, for a human.
    #[cfg_attr(feature = "openapi", schema(example = "Send the field `name`."))]
    pub message: String,
    /// Why a genuine refresh token is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = InvalidGrantReason, required = false))]
    pub reason: Option<InvalidGrantReason>,
}

/// Why a refresh token that this server issued is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InvalidGrantReason {
    /// The session was not refreshed within its idle lifetime.
    ExpiredIdle,
    /// The session reached its absolute lifetime, which no refresh extends.
    ExpiredAbsolute,
    /// The user ended the session.
    LoggedOut,
    /// The user's password was changed or reset on another device.
    PasswordChanged,
    /// An operator disabled the user, or the account was deleted.
    UserDisabled,
    /// The token was rotated before, so a copy of it exists.
    Reuse,
    /// A newer token was issued a moment ago; the session continues with it.
    Superseded,
    /// The server does not have the session, or has deleted it.
    Unknown,
    /// Another reason, such as one of a newer server.
    #[serde(other)]
    Other,
}

impl InvalidGrantReason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::ExpiredIdle,
        Self::ExpiredAbsolute,
        Self::LoggedOut,
        Self::PasswordChanged,
        Self::UserDisabled,
        Self::Reuse,
        Self::Superseded,
        Self::Unknown,
        Self::Other,
    ];

    /// Returns the JSON name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExpiredIdle => "expired_idle",
            Self::ExpiredAbsolute => "expired_absolute",
            Self::LoggedOut => "logged_out",
            Self::PasswordChanged => "password_changed",
            Self::UserDisabled => "user_disabled",
            Self::Reuse => "reuse",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
            Self::Other => "other",
        }
    }
}

/// The response of `GET /health/ready` and `GET /health/serving`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Readiness {
    /// The state of the server, from those of its parts.
    pub status: ServerStatus,
    /// The database. Without it no token can be issued.
    pub database: Health,
    /// Redis, if the server is configured to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Health, required = false))]
    pub redis: Option<Health>,
    /// The problems, for a human.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub problems: Vec<String>,
}

/// Whether the server can serve requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// All parts respond.
    Ready,
    /// The server is slower than usual, and correct.
    Degraded,
    /// A required part does not respond.
    Unavailable,
    /// The server is about to stop, and completes the requests that it still gets.
    Draining,
}

/// Whether a part responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The part responded.
    Up,
    /// The part did not respond.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_response_has_the_documented_json_names() {
        let tokens = TokenResponse { token: "t".into(), refresh_token: "r".into(), expires_in: 60 };
        assert_eq!(
            serde_json::to_string(&tokens).unwrap(),
            r#"{"token":"t","refreshToken":"r","expiresIn":60}"#
        );
    }

    #[test]
    fn a_reason_serializes_as_its_name() {
        use InvalidGrantReason::{
            ExpiredAbsolute, ExpiredIdle, LoggedOut, Other, PasswordChanged, Reuse, Superseded,
            Unknown, UserDisabled,
        };
        for reason in [
            ExpiredIdle,
            ExpiredAbsolute,
            LoggedOut,
            PasswordChanged,
            UserDisabled,
            Reuse,
            Superseded,
            Unknown,
            Other,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn an_unknown_reason_deserializes_as_other() {
        let body = r#"{"error":"invalid_grant","message":"…","reason":"from_the_future"}"#;
        let body: ErrorBody = serde_json::from_str(body).unwrap();
        assert_eq!(body.reason, Some(InvalidGrantReason::Other));
    }
}
