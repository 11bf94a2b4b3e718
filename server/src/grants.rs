//! What users permit OAuth clients: authorization requests, codes and consents.
//!
//! [`Grants`] decides what a client gets: a code, tokens for a code, for a device, for a refresh
//! token or for itself. The issuer opens the sessions and signs.

mod authorize;
mod code_exchange;
mod consent;
mod device;
mod logout;
mod pkce;
mod progress;
mod request;
mod token;
mod user_code;

use std::sync::Arc;

use crate::clients::{self, ClientRegistry};
use crate::crypto::{RngError, TokenKeys};
use crate::issuer::{self, Issuer};
use crate::store::{self, Store};
use user_code::UserCodeGuesses;

pub use authorize::Decision;
pub use code_exchange::{CodeError, CodeExchange};
pub use consent::Application;
pub use device::{DeviceAuthorization, DeviceError, DeviceGrant, DeviceRequest};
pub use logout::{InvalidLogoutRequest, LogoutRequest};
pub use progress::Progress;
pub use request::{
    AuthorizationError, AuthorizationRequest, InvalidRequest, RedirectTarget, RejectedRequest,
    RequestParameters, ResponseMode, STANDARD_SCOPES,
};
pub use token::{MachineTokens, RefreshByClient, TokenError};
pub use user_code::{PendingDevice, PresentedUserCode, UserCodeError};

/// A failure of the server, not of the request.
pub type Error = issuer::Error;

/// Decides what OAuth clients get.
pub struct Grants {
    issuer: Arc<Issuer>,
    store: Store,
    clients: Arc<ClientRegistry>,
    options: clients::Options,
    /// The keys that authenticate the progress of authorization requests.
    progress_keys: TokenKeys,
    /// The keys that authenticate device codes and hide user codes.
    device_code_keys: TokenKeys,
    /// The user codes that users and addresses guess.
    guesses: UserCodeGuesses,
    /// The default audience of access tokens.
    audience: String,
}

/// The parts of [`Grants`].
pub struct Parts {
    pub issuer: Arc<Issuer>,
    pub store: Store,
    pub clients: Arc<ClientRegistry>,
    pub options: clients::Options,
    pub progress_keys: TokenKeys,
    pub device_code_keys: TokenKeys,
    pub audience: String,
}

impl Grants {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            issuer: parts.issuer,
            store: parts.store,
            clients: parts.clients,
            options: parts.options,
            progress_keys: parts.progress_keys,
            device_code_keys: parts.device_code_keys,
            guesses: UserCodeGuesses::default(),
            audience: parts.audience,
        }
    }
}

impl From<store::Error> for TokenError {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<RngError> for TokenError {
    fn from(error: RngError) -> Self {
        Self::Failed(error.into())
    }
}
