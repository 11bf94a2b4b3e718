//! The schemas and the errors of the OAuth endpoints, for the `OpenAPI` document.
#![expect(dead_code, reason = "the forms are only described: their fields are read by name")]

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use actix_web::http::StatusCode;
use matchbook_shared::InvalidGrantReason;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::OAuthError;
use crate::grants::DeviceError;
use crate::http::error::{Error, Format, Responses};

/// An endpoint whose errors are described.
pub(super) trait Endpoint {
    fn errors() -> Vec<OAuthError>;
}

pub(super) struct TokenEndpoint;
pub(super) struct DeviceEndpoint;
pub(super) struct RevocationEndpoint;
pub(super) struct IntrospectionEndpoint;

impl Endpoint for TokenEndpoint {
    fn errors() -> Vec<OAuthError> {
        vec![
            OAuthError::InvalidGrant(None),
            OAuthError::UnauthorizedClient("The client may not use this grant type."),
            OAuthError::UnsupportedGrantType,
            OAuthError::InvalidScope,
            OAuthError::InvalidTarget,
            OAuthError::Device(DeviceError::Pending),
            OAuthError::Device(DeviceError::SlowDown),
            OAuthError::Device(DeviceError::Denied),
            OAuthError::Device(DeviceError::Expired),
        ]
    }
}

impl Endpoint for DeviceEndpoint {
    fn errors() -> Vec<OAuthError> {
        vec![
            OAuthError::UnauthorizedClient("The client may not use this grant type."),
            OAuthError::InvalidScope,
            OAuthError::InvalidTarget,
        ]
    }
}

impl Endpoint for RevocationEndpoint {
    fn errors() -> Vec<OAuthError> {
        Vec::new()
    }
}

impl Endpoint for IntrospectionEndpoint {
    fn errors() -> Vec<OAuthError> {
        Vec::new()
    }
}

/// The error responses of an endpoint for clients.
pub(super) struct OAuthErrors<T>(PhantomData<T>);

impl<T: Endpoint> IntoResponses for OAuthErrors<T> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let second = Duration::from_secs(1);
        let common = [
            OAuthError::InvalidRequest("The request is malformed: the message says what to send."),
            OAuthError::InvalidClient { is_basic: false },
            OAuthError::InvalidClient { is_basic: true },
            OAuthError::Form(Error::BodyTimeout),
            OAuthError::Form(Error::PayloadTooLarge),
            OAuthError::RateLimited(second),
            OAuthError::Busy(second),
        ];
        let mut all = Responses::default();
        for error in common.into_iter().chain(T::errors()) {
            let (status, code, description) = error.parts();
            all.add(status, code, &description, Format::OAuth);
        }
        all.add_header(StatusCode::TOO_MANY_REQUESTS, "retry-after");
        all.add_header(StatusCode::SERVICE_UNAVAILABLE, "retry-after");
        all.add_header(StatusCode::UNAUTHORIZED, "www-authenticate");
        all.build()
    }
}

/// The body of an error of an OAuth endpoint (RFC 6749 §5.2).
#[derive(ToSchema)]
pub(in crate::http) struct OAuthErrorBody {
    #[schema(example = "invalid_grant")]
    error: String,
    /// The error, for a developer.
    error_description: String,
    /// Why a genuine refresh token is rejected.
    #[schema(value_type = InvalidGrantReason, required = false)]
    reason: Option<InvalidGrantReason>,
}

/// The form of `POST /oauth/token`. Which fields are needed depends on `grant_type`.
#[derive(ToSchema)]
pub(super) struct TokenForm {
    /// `authorization_code`, `refresh_token`, `client_credentials` or
    /// `urn:ietf:params:oauth:grant-type:device_code`.
    #[schema(example = "refresh_token")]
    grant_type: String,
    /// The code of the authorization response.
    #[schema(value_type = String, required = false)]
    code: Option<String>,
    /// The redirect URI of the authorization request.
    #[schema(value_type = String, required = false)]
    redirect_uri: Option<String>,
    /// The secret of PKCE (RFC 7636).
    #[schema(value_type = String, required = false)]
    code_verifier: Option<String>,
    #[schema(value_type = String, required = false)]
    refresh_token: Option<String>,
    /// The code of the device authorization response (RFC 8628).
    #[schema(value_type = String, required = false)]
    device_code: Option<String>,
    #[schema(value_type = String, required = false)]
    scope: Option<String>,
    /// The API for which the access token is (RFC 8707).
    #[schema(value_type = String, required = false)]
    resource: Option<String>,
    /// The client, unless it authenticates by HTTP Basic.
    #[schema(value_type = String, required = false)]
    client_id: Option<String>,
    #[schema(value_type = String, required = false)]
    client_secret: Option<String>,
}

/// The form of `POST /oauth/device`.
#[derive(ToSchema)]
pub(super) struct DeviceForm {
    #[schema(value_type = String, required = false)]
    scope: Option<String>,
    /// The API for which the access tokens are (RFC 8707).
    #[schema(value_type = String, required = false)]
    resource: Option<String>,
    /// The client, unless it authenticates by HTTP Basic.
    #[schema(value_type = String, required = false)]
    client_id: Option<String>,
    #[schema(value_type = String, required = false)]
    client_secret: Option<String>,
}

/// The form of `POST /oauth/revoke` and `POST /oauth/introspect`.
#[derive(ToSchema)]
pub(super) struct PresentedTokenForm {
    /// An access token or a refresh token.
    token: String,
    /// Not needed.
    #[schema(value_type = String, required = false)]
    token_type_hint: Option<String>,
    /// The client, unless it authenticates by HTTP Basic.
    #[schema(value_type = String, required = false)]
    client_id: Option<String>,
    #[schema(value_type = String, required = false)]
    client_secret: Option<String>,
}

/// What a token is (RFC 7662 §2.2): `active`, and for an active token its claims.
#[derive(ToSchema)]
pub(super) struct Introspection {
    active: bool,
}

/// The parameters of an authorization request.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct AuthorizationParameters {
    #[param(example = "code")]
    response_type: String,
    client_id: String,
    redirect_uri: String,
    /// The challenge of PKCE (RFC 7636).
    code_challenge: String,
    #[param(example = "S256")]
    code_challenge_method: String,
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    scope: Option<String>,
    /// Returned with the response.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    state: Option<String>,
    /// The API for which the access tokens are (RFC 8707).
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    resource: Option<String>,
    /// `query` or `form_post`.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    response_mode: Option<String>,
    /// `none`, `login`, `consent` or `select_account`.
    #[param(value_type = String, required = false)]
    #[schema(value_type = String, required = false)]
    prompt: Option<String>,
}
