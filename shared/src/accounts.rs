//! The types of accounts: registration, links, login, profile, second factor.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The request of `POST /register`: an account's login name and password.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterRequest {
    /// An email address or a user name.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "ann@example.com"))]
    pub name: Option<String>,
    /// The password.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub password: Option<String>,
}

/// The response of `POST /register`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RegisteredUser {
    /// The user of the account.
    pub user_id: Uuid,
}

/// The request of `POST /invitations/accept`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AcceptInvitationRequest {
    /// The token in the link.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "mb_ln_…"))]
    pub token: Option<String>,
    /// The login name, if the invitation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, required = false, example = "ann@example.com"))]
    pub name: Option<String>,
    /// The password.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub password: Option<String>,
}

/// The request of `POST /register/confirm`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfirmRequest {
    /// The token in the link.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "mb_ln_…"))]
    pub token: Option<String>,
}

/// The request of `POST /password/forgot`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForgotPasswordRequest {
    /// A login name of the account.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "ann@example.com"))]
    pub name: Option<String>,
}

/// The request of `POST /password/reset`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetPasswordRequest {
    /// The token in the link.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "mb_ln_…"))]
    pub token: Option<String>,
    /// The password from now on.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub new: Option<String>,
}

/// The request of `POST /login`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginRequest {
    /// A login name of the account.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "ann@example.com"))]
    pub name: Option<String>,
    /// The password.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub password: Option<String>,
    /// The code of the second factor, or a recovery code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, required = false, example = "123456"))]
    pub code: Option<String>,
}

/// The request of `POST /password`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangePasswordRequest {
    /// The password until now.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub current: Option<String>,
    /// The password from now on.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub new: Option<String>,
}

/// The response of `GET /account` and `PATCH /account`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccountInfo {
    /// The user of the account.
    pub user_id: Uuid,
    /// The login names.
    pub names: Vec<AccountName>,
    /// The name that people see.
    #[cfg_attr(feature = "openapi", schema(required, example = "Ann"))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountName {
    /// The name, normalized.
    #[cfg_attr(feature = "openapi", schema(example = "ann@example.com"))]
    pub name: String,
    /// `email` or `username`.
    #[cfg_attr(feature = "openapi", schema(example = "email"))]
    pub kind: String,
    /// Whether the user proved that the email address is theirs.
    pub verified: bool,
}

/// The request of `PATCH /account`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ChangeAccountRequest {
    /// The new display name. JSON `null`, which is `Some(None)`, removes it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, required, example = "Ann", max_length = 100))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PasswordProof {
    /// The password of the account.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, format = Password))]
    pub password: Option<String>,
    /// The code of the second factor, or a recovery code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, required = false, example = "123456"))]
    pub code: Option<String>,
}

/// The response of `POST /account/totp`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewTotp {
    /// The secret of the second factor, in base 32.
    pub secret: String,
    /// The same as an `otpauth:` URI, for a QR code.
    pub uri: String,
}

/// The request of `POST /account/totp/confirm`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfirmTotpRequest {
    /// The code that the user's app shows.
    #[cfg_attr(feature = "openapi", schema(value_type = String, required, example = "123456"))]
    pub code: Option<String>,
}

/// The response of `POST /account/totp/confirm`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RecoveryCodes {
    /// Codes that replace the second factor, each once.
    pub recovery_codes: Vec<String>,
}
