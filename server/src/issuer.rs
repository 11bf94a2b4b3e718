//! The use cases of the server: log in, refresh, revoke, verify.
//!
//! Each way into the server calls these methods. They alone use the database, the
//! keys, the token status and the metrics together. They know no HTTP: a front end
//! parses its request, calls one method and writes the response.

mod code;
mod exchange;
mod forgotten;
mod health;
mod id_token;
mod introspect;
mod log_in;
mod machine;
mod refresh;
mod revoke;
mod verify;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tracing::Instrument;

use crate::backchannel::LogoutNotices;
use crate::clock::Timestamp;
use crate::crypto::{RngError, TokenKeys};
use crate::keys::{self, KeyRing, KeySet};
use crate::metrics::Metrics;
use crate::sessions::{Policy, TokenGrant};
use crate::store::{self, Store};
use crate::sweeper::SaltExpiry;
use crate::token_status::{TokenStatus, Tombstone, Unconfirmed};
use crate::tokens::{Audience, Claims, ClientGrant, Scope, Subject};
use exchange::ImportedTokens;
use health::Readiness;
use id_token::IdTokenSubject;

pub use crate::store::sessions::SessionSummary;
pub use code::{FirstExchange, NewCode};
pub use exchange::UnrecognizedToken;
pub use health::HealthReport;
pub use introspect::{ActiveRefreshToken, Introspected};
pub use refresh::{RefreshError, RefreshTerms};
pub use verify::VerifyError;

/// Issues, refreshes, revokes and verifies tokens.
pub struct Issuer {
    store: Store,
    keys: Arc<KeyRing>,
    status: Arc<TokenStatus>,
    token_keys: Arc<TokenKeys>,
    policy: Policy,
    salt_expiry: SaltExpiry,
    imported_tokens: ImportedTokens,
    logout_notices: LogoutNotices,
    metrics: Arc<Metrics>,
    readiness: Readiness,
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
    pub logout_notices: LogoutNotices,
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
    /// For a client whose scope has `openid`.
    pub id_token: Option<String>,
    /// The scope of the access token; `None` at the native endpoints.
    pub scope: Option<Scope>,
    /// The remaining lifetime of the session, if it is not refreshed.
    pub idle_expires_in: Duration,
    /// The remaining lifetime of the session, however often it is refreshed.
    pub session_expires_in: Duration,
}

/// The part of its grant that a client wants in one access token.
#[derive(Debug, Clone, Default)]
pub struct Narrowing {
    /// `None`: the whole scope of the grant.
    pub scope: Option<Scope>,
    /// Empty: all audiences of the grant.
    pub audiences: Vec<String>,
}

/// What the tokens of one response are for.
pub(crate) struct ResponseTerms<'a> {
    pub(crate) narrowing: &'a Narrowing,
    /// The nonce of the authorization request.
    pub(crate) nonce: Option<&'a str>,
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
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
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
    /// Sessions have ended, but a server has not confirmed it. A retry may succeed.
    Unconfirmed,
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
            Self::Unconfirmed(_) => ErrorKind::Unconfirmed,
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
            logout_notices: parts.logout_notices,
            metrics: parts.metrics,
            readiness: Readiness::default(),
            name: parts.name,
            audience: parts.audience,
        }
    }

    /// Returns the lifetimes of tokens and sessions.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the metrics of this server.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
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

    /// Signs the access token of a new session, and caches it as active meanwhile.
    async fn issue(&self, grant: TokenGrant, now: Timestamp) -> Result<IssuedTokens, Error> {
        let terms = ResponseTerms { narrowing: &Narrowing::default(), nonce: None };
        // There is no tombstone: its id is new.
        self.issue_on(grant, &terms, now).await.map(|(tokens, _)| tokens)
    }

    /// Signs an access token on the terms of a client, as [`Self::issue`] does, and the
    /// ID token that belongs to it. Returns as well whether the session has a tombstone.
    async fn issue_on(
        &self,
        grant: TokenGrant,
        terms: &ResponseTerms<'_>,
        now: Timestamp,
    ) -> Result<(IssuedTokens, Tombstone), Error> {
        let client = grant.grant.as_ref();
        let narrowing = terms.narrowing;
        let scope = client.map(|client| narrowing.scope.as_ref().unwrap_or(&client.scope));
        let claims = Claims {
            iss: self.name.as_str().into(),
            aud: self.audience_of(client, narrowing),
            sub: match client {
                Some(ClientGrant { client, auth_time: None, .. }) => {
                    Subject::Client(client.as_str().into())
                }
                _ => Subject::User(grant.user),
            },
            client_id: client.map_or(Claims::NATIVE_CLIENT, |client| client.client.as_str()).into(),
            iat: grant.access.issued_at.as_secs(),
            exp: grant.access.expires_at.as_secs(),
            jti: grant.access.id,
            sid: grant.session,
            scope: scope.filter(|scope| !scope.is_empty()).map(|scope| scope.as_str().into()),
            auth_time: client.and_then(|client| client.auth_time).map(Timestamp::as_secs),
        };
        let verified = claims.verified(&self.audience);
        let sign = async {
            // Lets the command to Redis leave first.
            tokio::task::yield_now().await;
            let start = Instant::now();
            let token = self.keys.sign(&claims, grant.claims.as_ref(), now);
            self.metrics.record_signing(start.elapsed());
            token
        };
        let (tombstone, access_token) = join(self.status.cache_active(&verified, now), sign).await;
        let access_token = access_token?;
        let id_token = match (&claims.sub, client, scope) {
            (Subject::User(_), Some(client), Some(scope)) if scope.contains("openid") => {
                let subject = IdTokenSubject { grant: &grant, client, scope, nonce: terms.nonce };
                Some(Box::pin(self.sign_id_token(subject, &access_token, now)).await?)
            }
            _ => None,
        };
        let tokens = IssuedTokens {
            id_token,
            access_token,
            refresh_token: grant.refresh_token,
            // Less than a lifetime where a grant is reissued.
            expires_in: verified.expires_at.since(now),
            scope: scope.cloned(),
            idle_expires_in: grant.expiry.idle.min(grant.expiry.absolute).since(now),
            session_expires_in: grant.expiry.absolute.since(now),
        };
        Ok((tokens, tombstone))
    }

    fn audience_of<'a>(
        &'a self,
        client: Option<&'a ClientGrant>,
        narrowing: &'a Narrowing,
    ) -> Audience<'a> {
        let granted = client.map(|client| client.audiences.as_slice()).unwrap_or_default();
        let wanted = if narrowing.audiences.is_empty() { granted } else { &narrowing.audiences };
        match wanted {
            [] => Audience::One(self.audience.as_str().into()),
            [one] => Audience::One(one.as_str().into()),
            several => Audience::Several(several.iter().map(|one| one.as_str().into()).collect()),
        }
    }

    /// Runs `work` to its end on a task of its own. The client may disconnect, but a
    /// revocation that is committed has to be published.
    async fn detached<T: 'static>(
        work: impl Future<Output = Result<T, Error>> + 'static,
    ) -> Result<T, Error> {
        let task = actix_rt::spawn(work.in_current_span());
        task.await.map_err(store::Error::TaskPanicked)?
    }
}
