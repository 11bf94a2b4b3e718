//! OAuth 2.1: the standard endpoints, under `/oauth`, and their metadata.

pub(super) mod authorize;
mod cors;
mod documented;
mod error;
mod form;
pub(super) mod introspect;
pub(super) mod metadata;
mod redirect;
pub(super) mod revoke;
pub(super) mod token;

use std::sync::Arc;

use actix_web::HttpRequest;

use super::extract::client_auth::{FormCredentials, InvalidCredentials, client_credentials};
use super::state::State;
use crate::clients::{AuthenticationError, Client, ClientCredentials};
use crate::grants::RequestParameters;

pub(super) use authorize::{authorize, authorize_by_post};
pub use cors::permit_origin;
pub(super) use cors::preflight;
pub(super) use documented::OAuthErrorBody;
pub(super) use error::OAuthError;
pub(super) use introspect::introspect;
pub(super) use metadata::{metadata, metadata_of_path, metadata_preflight};
pub(super) use revoke::revoke;
pub(super) use token::token;

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
