//! What a handler may use.

use std::sync::Arc;

use crate::crypto::TokenKeys;
use crate::keys::KeyRing;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::proxies::TrustedProxies;
use crate::sessions::Policy;
use crate::store::Store;
use crate::sweeper::SaltExpiry;
use crate::token_status::TokenStatus;

/// Shared by all handlers of a server.
pub struct State {
    /// The database.
    pub store: Store,
    /// Signs and verifies access tokens.
    pub keys: Arc<KeyRing>,
    /// Tags and recognises refresh tokens.
    pub token_keys: Arc<TokenKeys>,
    /// Knows which access tokens are active.
    pub active: Arc<TokenStatus>,
    /// How long tokens and sessions live.
    pub policy: Policy,
    /// Counts requests against their limits.
    pub limits: Limits,
    /// Whose word is taken on who asked them.
    pub proxies: TrustedProxies,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// Tells the sweeper what was rotated.
    pub salt_expiry: SaltExpiry,
    /// `iss` in access tokens.
    pub issuer: String,
    /// `aud` in access tokens.
    pub audience: String,
}
