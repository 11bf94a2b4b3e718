//! The request and response types of Matchbook's HTTP API, shared by server and clients.
//!
//! JSON names are camelCase, and part of the API: never change them. Types with a token do not
//! implement `Debug`, so that no token can reach a log by accident.

#[cfg(feature = "base-url")]
mod base_url;

#[cfg(feature = "base-url")]
pub use base_url::{UrlError, base_url, web_url};

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
#[serde(rename_all = "camelCase")]
pub struct GuestLoginQuery {
    /// The guest id from `GET /register`, valid for one login.
    pub user_id: Option<String>,
}

/// The form of `POST /refresh`.
#[derive(Serialize, Deserialize)]
pub struct RefreshRequest {
    /// The refresh token, which a client does not parse.
    pub refresh_token: Option<String>,
}

/// The response of `GET /token` and `POST /refresh`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// The access token, a JWT to send as `Authorization: Bearer …` (RFC 6750 §2.1).
    pub token: String,
    /// The refresh token. Each refresh replaces it.
    pub refresh_token: String,
    /// The lifetime of the access token in seconds, counted from when it was issued.
    pub expires_in: u64,
}

/// The response of `GET /user` to a valid access token.
#[derive(Debug, Serialize, Deserialize)]
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
    pub name: Option<String>,
    /// Whether the user proved that the email address is theirs; absent for a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
}

/// The request of `POST /register`: an account's login name and password.
#[derive(Default, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// An email address or a user name.
    pub name: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// The response of `POST /register`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisteredUser {
    /// The user of the account.
    pub user_id: Uuid,
}

/// The request of `POST /invitations/accept`.
#[derive(Default, Serialize, Deserialize)]
pub struct AcceptInvitationRequest {
    /// The token in the link.
    pub token: Option<String>,
    /// The login name, if the invitation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// The request of `POST /register/confirm`.
#[derive(Default, Serialize, Deserialize)]
pub struct ConfirmRequest {
    /// The token in the link.
    pub token: Option<String>,
}

/// The request of `POST /password/forgot`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ForgotPasswordRequest {
    /// A login name of the account.
    pub name: Option<String>,
}

/// The request of `POST /password/reset`.
#[derive(Default, Serialize, Deserialize)]
pub struct ResetPasswordRequest {
    /// The token in the link.
    pub token: Option<String>,
    /// The password from now on.
    pub new: Option<String>,
}

/// The request of `POST /login`.
#[derive(Default, Serialize, Deserialize)]
pub struct LoginRequest {
    /// A login name of the account.
    pub name: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The code of the second factor, or a recovery code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The request of `POST /password`.
#[derive(Default, Serialize, Deserialize)]
pub struct ChangePasswordRequest {
    /// The password until now.
    pub current: Option<String>,
    /// The password from now on.
    pub new: Option<String>,
}

/// The request of `POST /sessions`, by a backend.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSessionRequest {
    /// The backend's name of the user.
    pub subject: Option<String>,
    /// Further claims of the session's access tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The response of `GET /account` and `PATCH /account`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountInfo {
    /// The user of the account.
    pub user_id: Uuid,
    /// The login names.
    pub names: Vec<AccountName>,
    /// The name that people see.
    pub display_name: Option<String>,
    /// When the account was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Whether the account administrates the server.
    pub is_admin: bool,
    /// Whether the account can log in with a password.
    pub has_password: bool,
    /// Whether a login needs a code.
    pub second_factor: bool,
    /// The number of recovery codes that have not been used.
    pub recovery_codes_left: i64,
}

/// A login name in the response of `GET /account`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AccountName {
    /// The name, normalized.
    pub name: String,
    /// `email` or `username`.
    pub kind: String,
    /// Whether the user proved that the email address is theirs.
    pub verified: bool,
}

/// The request of `PATCH /account`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeAccountRequest {
    /// The new display name; `Some(None)`, in JSON `null`, removes it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub display_name: Option<Option<String>>,
}

/// Tells a field that is `null` from one that is missing.
fn present<'de, D, T>(field: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(field).map(Some)
}

/// The request of `DELETE /account`, `POST /account/totp` and `DELETE /account/totp`.
#[derive(Default, Serialize, Deserialize)]
pub struct PasswordProof {
    /// The password of the account.
    pub password: Option<String>,
    /// The code of the second factor, or a recovery code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The response of `POST /account/totp`.
#[derive(Serialize, Deserialize)]
pub struct NewTotp {
    /// The secret of the second factor, in base 32.
    pub secret: String,
    /// The same as an `otpauth:` URI, for a QR code.
    pub uri: String,
}

/// The request of `POST /account/totp/confirm`.
#[derive(Default, Serialize, Deserialize)]
pub struct ConfirmTotpRequest {
    /// The code that the user's app shows.
    pub code: Option<String>,
}

/// The response of `POST /account/totp/confirm`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryCodes {
    /// Codes that replace the second factor, each once.
    pub recovery_codes: Vec<String>,
}

/// A session of the user in the response of `GET /sessions`: one login on one device.
#[derive(Debug, Serialize, Deserialize)]
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
    pub ip: Option<IpAddr>,
    /// The `User-Agent` of the login or of the last refresh.
    pub user_agent: Option<String>,
}

/// The query of `DELETE /sessions`. Unknown parameters are rejected: a misspelt one must not
/// end more sessions than intended.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeSessionsQuery {
    /// `current` keeps the session of the request.
    pub keep: Option<String>,
}

/// The response of `DELETE /sessions`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevokedSessions {
    /// The number of sessions that this request ended.
    pub ended: usize,
}

/// The body of every error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A stable code: one of RFC 6749 §5.2 or RFC 6750 §3.1 if one fits.
    pub error: String,
    /// The error and its remedy, for a human.
    pub message: String,
    /// Why a genuine refresh token is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<InvalidGrantReason>,
}

/// Why a refresh token that this server issued is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// The response of `GET /health/ready`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// The state of the server, from those of its parts.
    pub status: ServerStatus,
    /// The database. Without it no token can be issued.
    pub database: Health,
    /// Redis, if the server is configured to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Health>,
    /// The problems, for a human.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether the server can serve requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// All parts respond.
    Ready,
    /// The server is slower than usual, and correct.
    Degraded,
    /// A required part does not respond.
    Unavailable,
}

/// Whether a part responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
