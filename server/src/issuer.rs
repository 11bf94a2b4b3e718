//! The use cases of the server: log in, refresh, revoke, verify.
//!
//! Each way into the server calls these methods. They alone use the database, the
//! keys, the token status and the metrics together. They know no HTTP: a front end
//! parses its request, calls one method and writes the response.

mod exchange;
mod health;
mod log_in;
mod refresh;
mod revoke;
mod verify;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tracing::Instrument;

use crate::clock::Timestamp;
use crate::crypto::{RngError, TokenKeys};
use crate::keys::{self, KeyRing, KeySet};
use crate::metrics::Metrics;
use crate::sessions::{Policy, TokenGrant};
use crate::store::{self, Store};
use crate::sweeper::SaltExpiry;
use crate::token_status::TokenStatus;
use crate::tokens::Claims;
use exchange::ImportedTokens;

pub use crate::store::sessions::SessionSummary;
pub use exchange::UnrecognizedToken;
pub use health::HealthReport;
pub use refresh::RefreshError;
pub use verify::VerifyError;

/// The `client_id` (RFC 9068 §2.2) of access tokens that the native endpoints issue.
const FIRST_PARTY_CLIENT_ID: &str = "matchbook";

/// Issues, refreshes, revokes and verifies tokens.
pub struct Issuer {
    store: Store,
    keys: Arc<KeyRing>,
    status: Arc<TokenStatus>,
    token_keys: Arc<TokenKeys>,
    policy: Policy,
    salt_expiry: SaltExpiry,
    imported_tokens: ImportedTokens,
    metrics: Arc<Metrics>,
    name: String,
    audience: String,
}

/// The parts of an [`Issuer`].
pub struct Parts {
    pub store: Store,
    pub keys: Arc<KeyRing>,
    pub status: Arc<TokenStatus>,
    pub token_keys: TokenKeys,
    pub policy: Policy,
    pub salt_expiry: SaltExpiry,
    pub metrics: Arc<Metrics>,
    /// `iss` of access tokens.
    pub name: String,
    /// `aud` of access tokens.
    pub audience: String,
}

/// An access token and a refresh token for a client.
pub struct IssuedTokens {
    pub access_token: String,
    pub refresh_token: String,
    /// The remaining lifetime of the access token.
    pub expires_in: Duration,
}

/// A failure of the server, not of the request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Keys(keys::Error),
    #[error(transparent)]
    Rng(#[from] RngError),
}

/// The kind of a failure, as the client needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The database is unavailable. A retry may succeed.
    DatabaseUnavailable,
    /// The server's clock and the database's differ. A retry may succeed.
    WrongClock,
    /// The server has no key to sign with: another secret encrypted the keys.
    NoKey,
    /// The keys have not been read from the database for too long.
    StaleKeys,
    /// A defect. A retry fails as well.
    Internal,
}

impl Error {
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(store::Error::WrongClock(_)) => ErrorKind::WrongClock,
            Self::Store(error) if error.is_transient() => ErrorKind::DatabaseUnavailable,
            Self::Keys(keys::Error::NoKey) => ErrorKind::NoKey,
            Self::Keys(keys::Error::Stale(_)) => ErrorKind::StaleKeys,
            Self::Store(_) | Self::Keys(_) | Self::Rng(_) => ErrorKind::Internal,
        }
    }
}

impl From<keys::Error> for Error {
    fn from(error: keys::Error) -> Self {
        match error {
            keys::Error::Store(error) => Self::Store(error),
            error => Self::Keys(error),
        }
    }
}

impl Issuer {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            store: parts.store,
            keys: parts.keys,
            status: parts.status,
            token_keys: Arc::new(parts.token_keys),
            policy: parts.policy,
            salt_expiry: parts.salt_expiry,
            imported_tokens: ImportedTokens::default(),
            metrics: parts.metrics,
            name: parts.name,
            audience: parts.audience,
        }
    }

    /// Returns the lifetimes of tokens and sessions.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the claim `iss` of access tokens: the URL of this server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the public keys that verify access tokens (RFC 7517 §5).
    pub async fn jwks(&self) -> Result<KeySet, Error> {
        Ok(self.keys.jwks().await?)
    }

    /// Signs the access token of a grant, and caches it as active meanwhile.
    async fn issue(&self, grant: TokenGrant, now: Timestamp) -> Result<IssuedTokens, Error> {
        let claims = Claims {
            iss: self.name.as_str().into(),
            aud: self.audience.as_str().into(),
            sub: grant.user,
            client_id: FIRST_PARTY_CLIENT_ID.into(),
            iat: grant.access.issued_at.as_secs(),
            exp: grant.access.expires_at.as_secs(),
            jti: grant.access.id,
            sid: grant.session,
        };
        let verified = claims.verified();
        let sign = async {
            // Lets the command to Redis leave first.
            tokio::task::yield_now().await;
            let start = Instant::now();
            let token = self.keys.sign(&claims, grant.claims.as_ref(), now);
            self.metrics.record_signing(start.elapsed());
            token
        };
        let ((), access_token) = join(self.status.cache_active(&verified, now), sign).await;
        Ok(IssuedTokens {
            access_token: access_token?,
            refresh_token: grant.refresh_token,
            // Less than a lifetime where a grant is reissued.
            expires_in: verified.expires_at.since(now),
        })
    }

    /// Runs `work` to its end on a task of its own. The client may disconnect, but a
    /// revocation that is committed has to be published.
    async fn detached<T: 'static>(
        work: impl Future<Output = Result<T, store::Error>> + 'static,
    ) -> Result<T, Error> {
        let task = actix_rt::spawn(work.in_current_span());
        Ok(task.await.map_err(store::Error::TaskPanicked)??)
    }
}
