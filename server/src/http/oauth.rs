//! OAuth 2.1: the standard endpoints, under `/oauth`, and their metadata.

pub(super) mod authorize;
mod cors;
pub(super) mod device;
mod documented;
mod error;
mod form;
pub(super) mod introspect;
pub(super) mod metadata;
pub(super) mod redirect;
pub(super) mod revoke;
pub(super) mod token;
pub(super) mod userinfo;

use std::sync::Arc;

use actix_web::HttpRequest;

use super::error::Error;
use super::extract::client_auth::{FormCredentials, InvalidCredentials, client_credentials};
use super::state::State;
use crate::clients::{AuthenticationError, Client, ClientCredentials};
use crate::grants::RequestParameters;
use crate::limits::Limit;

pub(super) use authorize::{authorize, authorize_by_post};
pub use cors::permit_origin;
pub(super) use cors::preflight;
pub(super) use device::authorize_device;
pub(super) use documented::OAuthErrorBody;
pub(super) use error::OAuthError;
pub(super) use introspect::introspect;
pub(super) use metadata::{
    metadata, metadata_of_path, metadata_preflight, openid_configuration,
    openid_configuration_of_path,
};
pub(super) use revoke::revoke;
pub(super) use token::token;
pub(super) use userinfo::{userinfo, userinfo_by_post};

/// Returns the credentials of a request, not verified.
fn credentials(
    request: &HttpRequest,
    parameters: &RequestParameters,
) -> Result<ClientCredentials, OAuthError> {
    let form = FormCredentials {
        client_id: parameters.get("client_id"),
        client_secret: parameters.get("client_secret"),
    };
    client_credentials(request, form).map_err(|invalid| match invalid {
        InvalidCredentials::Missing => OAuthError::InvalidClient { is_basic: false },
        InvalidCredentials::Header => OAuthError::InvalidClient { is_basic: true },
        InvalidCredentials::SeveralMethods => {
            OAuthError::InvalidRequest("Authenticate the client by one method.")
        }
        InvalidCredentials::OtherClient => {
            OAuthError::InvalidRequest("client_id is not the client of the Authorization header.")
        }
    })
}

/// Authenticates the client of a request.
async fn authenticate(
    state: &State,
    credentials: &ClientCredentials,
) -> Result<Arc<Client>, OAuthError> {
    state.clients.authenticate(credentials).await.map_err(|error| match error {
        AuthenticationError::Invalid => {
            OAuthError::InvalidClient { is_basic: credentials.is_basic() }
        }
        AuthenticationError::Failed(error) => OAuthError::Failed(error.into()),
    })
}

/// Authenticates the client of a request, within the rate limit of its address. The server of a
/// confidential client acts for all its users from one address, so the limit does not apply to
/// it. `has_token`: the request has a token that this server issued to this client.
async fn admit(
    state: &State,
    credentials: &ClientCredentials,
    has_token: bool,
    limit: Option<Limit>,
) -> Result<Arc<Client>, OAuthError> {
    let Err(error) = state.check_limit(limit) else {
        return authenticate(state, credentials).await;
    };
    // Beyond the limit, invented ids cause no query.
    if !has_token && !state.clients.is_known(credentials.id()) {
        return Err(limited(error, false));
    }
    match authenticate(state, credentials).await {
        Ok(client) if !client.is_public() => Ok(client),
        Ok(_) => Err(limited(error, has_token)),
        Err(OAuthError::InvalidClient { .. }) if !has_token => Err(limited(error, false)),
        Err(other) => Err(other),
    }
}

/// Returns the error of an exceeded rate limit. A client must not take it for the end of its
/// session.
fn limited(error: Error, has_token: bool) -> OAuthError {
    match error {
        Error::RateLimited(wait) if has_token => OAuthError::Busy(wait),
        Error::RateLimited(wait) => OAuthError::RateLimited(wait),
        error => OAuthError::Form(error),
    }
}
