//! `POST /oauth/token`: tokens for a code, for a device, for a refresh token, or for the client
//! itself.

use actix_web::HttpRequest;
use actix_web::web::{Data, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::documented::{OAuthErrors, TokenEndpoint, TokenForm};
use super::form::OAuthForm;
use super::{OAuthError, admit, authenticate, credentials, limited};
use crate::clients::ClientCredentials;
use crate::grants::{
    CodeExchange, DeviceError, DeviceGrant, MachineTokens, RefreshByClient, RequestParameters,
};
use crate::http::error::{Error, round_up_to_seconds};
use crate::http::extract::idempotency_key::OptionalKey;
use crate::http::state::State;
use crate::issuer::IssuedTokens;
use crate::limits::Limit;
use crate::sessions::ClientInfo;
use crate::tokens::Scope;

/// The grant type of devices (RFC 8628 §3.4).
pub(super) const DEVICE_GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The response to a successful request (RFC 6749 §5.1).
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OAuthTokens {
    access_token: String,
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    /// With the scope `openid` (`OpenID` Connect Core §3.1.3.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    id_token: Option<String>,
    /// Absent for a client that acts for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    scope: Option<String>,
    /// Seconds within which the refresh token has to be used
    /// (draft-ietf-oauth-refresh-token-expiration).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    refresh_token_timeout: Option<u64>,
    /// Seconds until the user has to log in again, however often the tokens are refreshed
    /// (same draft).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    authorization_expires_in: Option<u64>,
}

impl OAuthTokens {
    fn new(tokens: IssuedTokens) -> Self {
        Self {
            refresh_token: Some(tokens.refresh_token),
            // Rounded down: the client must not come too late.
            refresh_token_timeout: Some(tokens.idle_expires_in.as_secs()),
            authorization_expires_in: Some(tokens.session_expires_in.as_secs()),
            access_token: tokens.access_token,
            id_token: tokens.id_token,
            token_type: "Bearer",
            expires_in: round_up_to_seconds(tokens.expires_in),
            scope: tokens.scope.map(|scope| scope.to_string()),
        }
    }

    /// Returns the tokens of a client that acts for itself: it needs no refresh token.
    fn of_machine(tokens: IssuedTokens) -> Self {
        Self {
            refresh_token: None,
            refresh_token_timeout: None,
            authorization_expires_in: None,
            ..Self::new(tokens)
        }
    }
}

/// The parts that every grant type has.
struct TokenRequest {
    parameters: RequestParameters,
    from: ClientInfo,
}

impl TokenRequest {
    /// Returns a parameter that the grant type needs.
    fn required(&self, name: &str, missing: &'static str) -> Result<&str, OAuthError> {
        self.parameters.get(name).ok_or(OAuthError::InvalidRequest(missing))
    }

    fn scope(&self) -> Result<Option<Scope>, OAuthError> {
        let scope = self.parameters.get("scope").map(Scope::parse).transpose();
        scope.map_err(|_| OAuthError::InvalidScope)
    }
}

/// Responds to a token request (RFC 6749 §3.2).
///
/// The grant types are `authorization_code`, `refresh_token`, `client_credentials` and
/// `urn:ietf:params:oauth:grant-type:device_code`.
#[utoipa::path(
    post,
    path = "/oauth/token",
    tag = "OAuth",
    operation_id = "requestTokens",
    params((
        "Idempotency-Key" = Option<String>,
        Header,
        description = "As in `POST /refresh`, for the grant type `refresh_token`.",
    )),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The tokens", body = OAuthTokens),
        OAuthErrors<TokenEndpoint>,
    ),
    security((), ("client" = []))
)]
pub(in crate::http) async fn token(
    state: Data<State>,
    request: HttpRequest,
    form: Result<OAuthForm, OAuthError>,
    key: Result<OptionalKey, Error>,
    from: ClientInfo,
) -> Result<Json<OAuthTokens>, OAuthError> {
    let OAuthForm(parameters) = form?;
    let credentials = credentials(&request, &parameters)?;
    let token_request = TokenRequest { parameters, from };
    let grant_type = token_request.required("grant_type", "grant_type is missing.")?;
    match grant_type {
        "refresh_token" => {
            let OptionalKey(key) = key.map_err(OAuthError::Form)?;
            let refresh = Refreshing { request: token_request, key };
            refresh.run(&state, &credentials).await
        }
        // Boxed: a refresh, the most frequent request, does not need their space.
        "authorization_code" => Box::pin(exchange_code(&state, &credentials, token_request)).await,
        DEVICE_GRANT_TYPE => Box::pin(poll_device(&state, &credentials, token_request)).await,
        "client_credentials" => {
            Box::pin(issue_to_machine(&state, &credentials, token_request)).await
        }
        _ => {
            authenticate(&state, &credentials).await?;
            Err(OAuthError::UnsupportedGrantType)
        }
    }
}

/// A request with a refresh token.
struct Refreshing {
    request: TokenRequest,
    key: Option<crate::crypto::IdempotencyKey>,
}

impl Refreshing {
    async fn run(
        self,
        state: &State,
        credentials: &ClientCredentials,
    ) -> Result<Json<OAuthTokens>, OAuthError> {
        let Self { request, key } = self;
        let text = request.required("refresh_token", "refresh_token is missing.")?;
        let token = state.issuer.authenticate(text, Some(credentials.id()));
        let limit = request.from.ip.map(Limit::Refresh);
        let client = admit(state, credentials, token.is_some(), limit).await?;
        let token = token.ok_or(OAuthError::InvalidGrant(None))?;
        let limit = Some(Limit::Session(token.session));
        state.check_limit(limit).map_err(|error| limited(error, true))?;
        let refresh = RefreshByClient {
            client,
            token,
            idempotency_key: key,
            scope: request.scope()?,
            audiences: request.parameters.audiences(),
            from: request.from,
        };
        Ok(Json(OAuthTokens::new(state.grants.refresh(refresh).await?)))
    }
}

async fn exchange_code(
    state: &State,
    credentials: &ClientCredentials,
    request: TokenRequest,
) -> Result<Json<OAuthTokens>, OAuthError> {
    let code = request.required("code", "code is missing.")?.to_owned();
    let is_valid = state.grants.is_code(&code, credentials.id());
    let limit = request.from.ip.map(Limit::Refresh);
    let client = admit(state, credentials, is_valid, limit).await?;
    let parameter = |name| request.parameters.get(name).map(str::to_owned);
    let exchange = CodeExchange {
        client,
        code,
        redirect_uri: parameter("redirect_uri"),
        verifier: parameter("code_verifier"),
        audiences: request.parameters.audiences(),
        from: request.from,
    };
    Ok(Json(OAuthTokens::new(state.grants.exchange_code(exchange).await?)))
}

async fn poll_device(
    state: &State,
    credentials: &ClientCredentials,
    request: TokenRequest,
) -> Result<Json<OAuthTokens>, OAuthError> {
    let code = request.required("device_code", "device_code is missing.")?.to_owned();
    let is_valid = state.grants.is_device_code(&code, credentials.id());
    let limit = request.from.ip.map(Limit::Refresh);
    let client = admit(state, credentials, is_valid, limit).await.map_err(|error| match error {
        // Devices know how to wait (RFC 8628 §3.5).
        OAuthError::Busy(_) => OAuthError::Device(DeviceError::SlowDown),
        error => error,
    })?;
    let audiences = request.parameters.audiences();
    let grant = DeviceGrant { client, device_code: code, audiences, from: request.from };
    Ok(Json(OAuthTokens::new(state.grants.poll_device(grant).await?)))
}

async fn issue_to_machine(
    state: &State,
    credentials: &ClientCredentials,
    request: TokenRequest,
) -> Result<Json<OAuthTokens>, OAuthError> {
    let limit = request.from.ip.map(Limit::Refresh);
    let client = admit(state, credentials, false, limit).await?;
    let request = MachineTokens {
        client,
        scope: request.scope()?,
        audiences: request.parameters.audiences(),
        from: request.from,
    };
    Ok(Json(OAuthTokens::of_machine(state.grants.issue_to_machine(request).await?)))
}
