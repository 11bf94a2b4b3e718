//! The state that all handlers share.

use std::sync::Arc;

use crate::accounts::Accounts;
use crate::clients::ClientRegistry;
use crate::config::forward_auth;
use crate::draining::Draining;
use crate::grants::Grants;
use crate::http::error::Error;
use crate::http::openapi::ApiDescription;
use crate::http::pages::Pages;
use crate::issuer::Issuer;
use crate::limits::{Limit, Limits};
use crate::metrics::Metrics;
use crate::proxies::TrustedProxies;

/// The parts that a handler may use. The store is not among them: handlers call the
/// issuer, the accounts, the clients and the grants.
pub struct State {
    pub issuer: Arc<Issuer>,
    pub accounts: Arc<Accounts>,
    pub clients: Arc<ClientRegistry>,
    pub grants: Grants,
    /// The URL by which users and clients reach the server.
    pub public_url: String,
    /// The applications that a proxy protects, if there are any.
    pub forward_auth: Option<forward_auth::Options>,
    pub limits: Limits,
    pub proxies: TrustedProxies,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
    pub api: ApiDescription,
    pub pages: Pages,
}

impl State {
    /// Counts a request against a rate limit. `None`, for a request without a client
    /// address, is not limited.
    pub(super) fn check_limit(&self, limit: Option<Limit>) -> Result<(), Error> {
        let Some(limit) = limit else { return Ok(()) };
        self.limits.check(limit).map_err(|wait| {
            self.metrics.record_rate_limit(limit.as_str());
            tracing::debug!(?limit, "rate limit exceeded");
            Error::RateLimited(wait)
        })
    }
}
