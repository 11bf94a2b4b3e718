//! The OAuth clients (RFC 6749 §2): what may be registered, and which client a request comes
//! from.

mod authenticate;
pub mod declared;
mod origins;
mod redirect_uri;
mod registration;
mod registry;
mod remove;

use std::path::PathBuf;
use std::time::Duration;

pub use crate::store::clients::{Client, ClientKind, GracePeriod, LogoutSettings};
pub use authenticate::{AuthenticationError, ClientCredentials};
pub use redirect_uri::{InvalidRedirectUri, check as check_redirect_uri, matches as uri_matches};
pub use registration::{
    InvalidClient, InvalidGracePeriod, check, describe_grace_period, new_id, new_secret,
    parse_grace_period,
};
pub use registry::ClientRegistry;
pub use remove::{Removed, remove};

/// The settings of OAuth.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a rotated refresh token of a client can be exchanged again for the same
    /// successor, unless the client has a period of its own. `None`: never.
    pub grace_period: Option<Duration>,
    /// How long an authorization code can be exchanged again for the same tokens.
    /// `None`: never.
    pub code_retry: Option<Duration>,
    /// How long after its issue a code can be exchanged.
    pub code_lifetime: Duration,
    /// How long after its issue a device code can be approved and exchanged.
    pub device_code_lifetime: Duration,
    /// Whether redirect URIs with `http://localhost` can be registered.
    pub allow_localhost: bool,
    /// CAs in PEM that certificates of clients may be signed by, besides those of the system.
    pub backchannel_ca: Option<Vec<u8>>,
    /// The file that declares clients.
    pub file: Option<PathBuf>,
}

impl Client {
    /// Returns whether the client cannot keep a secret.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.kind == ClientKind::Public
    }

    /// Returns whether the client registered this redirect URI.
    #[must_use]
    pub fn permits_redirect(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|registered| uri_matches(registered, uri))
    }

    /// Returns how long a rotated refresh token of this client can be exchanged again.
    /// `None`: never.
    #[must_use]
    pub fn grace_period(&self, options: &Options) -> Option<Duration> {
        match self.grace_period {
            GracePeriod::Default => options.grace_period,
            GracePeriod::Strict => None,
            GracePeriod::For(period) => Some(period),
        }
    }
}
