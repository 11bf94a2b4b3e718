//! The authentication of clients (RFC 6749 §2.3).

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::{Client, ClientKind, ClientRegistry};
use crate::ids::ClientId;
use crate::store;
use crate::tokens::{SecretDigests, client_secret_digest};

/// What a request presents to authenticate its client.
pub enum ClientCredentials {
    /// The form has a `client_id` and no secret.
    None { id: ClientId },
    /// HTTP Basic (`client_secret_basic`).
    Basic { id: ClientId, secret: SecretString },
    /// The form has a secret as well (`client_secret_post`).
    Post { id: ClientId, secret: SecretString },
}

/// Why a client is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// Unknown client, wrong secret, no secret, or a secret of a public client
    /// (`invalid_client`, RFC 6749 §5.2).
    #[error("unknown client or wrong secret")]
    Invalid,
    #[error(transparent)]
    Failed(#[from] store::Error),
}

impl ClientCredentials {
    #[must_use]
    pub fn id(&self) -> &ClientId {
        match self {
            Self::None { id } | Self::Basic { id, .. } | Self::Post { id, .. } => id,
        }
    }

    /// Returns whether a rejection needs `401` with `WWW-Authenticate: Basic`.
    #[must_use]
    pub fn is_basic(&self) -> bool {
        matches!(self, Self::Basic { .. })
    }

    /// Returns the secret, or `None` for an empty one: some libraries send Basic for every
    /// client.
    fn secret(&self) -> Option<&SecretString> {
        match self {
            Self::None { .. } => None,
            Self::Basic { secret, .. } | Self::Post { secret, .. } => {
                Some(secret).filter(|secret| !secret.expose_secret().is_empty())
            }
        }
    }
}

impl ClientRegistry {
    /// Authenticates the client of a request. A confidential client needs one of its secrets,
    /// by either method; a public client must not present one. An unknown client takes as long
    /// as a wrong secret.
    pub async fn authenticate(
        &self,
        credentials: &ClientCredentials,
    ) -> Result<Arc<Client>, AuthenticationError> {
        let client = self.get(credentials.id()).await?;
        let is_valid = is_authentic(client.as_deref(), credentials);
        client.filter(|_| is_valid).ok_or(AuthenticationError::Invalid)
    }
}

fn is_authentic(client: Option<&Client>, credentials: &ClientCredentials) -> bool {
    let kind = client.map(|client| client.kind);
    let Some(secret) = credentials.secret() else { return kind == Some(ClientKind::Public) };
    let secrets = match kind {
        Some(ClientKind::Confidential(secrets)) => secrets,
        Some(ClientKind::Public) | None => SecretDigests::UNMATCHED,
    };
    secrets.accept(&client_secret_digest(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::clients::{GracePeriod, LogoutSettings};
    use crate::tokens::Scope;

    fn client(kind: ClientKind) -> Client {
        Client {
            id: "web".into(),
            name: "Web".to_owned(),
            kind,
            redirect_uris: Vec::new(),
            scope: Scope::default(),
            audiences: Vec::new(),
            is_first_party: false,
            require_pkce: true,
            is_machine: false,
            is_device: false,
            logout: LogoutSettings::default(),
            grace_period: GracePeriod::Default,
            created_at: Timestamp::from_secs(0),
        }
    }

    fn none() -> ClientCredentials {
        ClientCredentials::None { id: "web".into() }
    }

    fn basic(secret: &str) -> ClientCredentials {
        ClientCredentials::Basic { id: "web".into(), secret: secret.into() }
    }

    fn post(secret: &str) -> ClientCredentials {
        ClientCredentials::Post { id: "web".into(), secret: secret.into() }
    }

    #[test]
    fn confidential_client_needs_one_of_its_secrets_by_either_method() {
        let [new, old] = ["new", "old"].map(|secret| client_secret_digest(&secret.into()));
        let secrets = SecretDigests { current: new, previous: Some(old) };
        let client = client(ClientKind::Confidential(secrets));
        for secret in ["new", "old"] {
            assert!(is_authentic(Some(&client), &basic(secret)));
            assert!(is_authentic(Some(&client), &post(secret)));
        }
        for credentials in [none(), basic(""), post(""), basic("wrong"), post("wrong"), post("ne")]
        {
            assert!(!is_authentic(Some(&client), &credentials));
        }
    }

    #[test]
    fn public_client_must_not_present_a_secret_but_may_present_an_empty_one() {
        let client = client(ClientKind::Public);
        for credentials in [none(), basic(""), post("")] {
            assert!(is_authentic(Some(&client), &credentials));
        }
        for credentials in [basic("x"), post("x")] {
            assert!(!is_authentic(Some(&client), &credentials));
        }
    }

    #[test]
    fn unknown_client_is_not_authentic() {
        for credentials in [none(), basic(""), basic("x"), post("x")] {
            assert!(!is_authentic(None, &credentials));
        }
    }
}
