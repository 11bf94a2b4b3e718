//! The tokens of one response, with the login and the time of their request.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use awc::http::header::HeaderValue;
use matchbook_shared::TokenResponse;
use uuid::Uuid;

use crate::store::StoredTokens;

/// The maximum lifetime. A longer one is shortened to it, so that arithmetic cannot
/// overflow.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Tokens that were issued together.
pub(crate) struct TokenSet {
    pub(crate) tokens: StoredTokens,
    /// When the request for these tokens was sent; unknown for tokens from a store.
    sent_at: Option<Instant>,
    /// The idempotency key of the refresh that returned these tokens.
    replaces: Option<String>,
    /// The idempotency key for the refresh of these tokens, generated when it starts.
    refresh_key: OnceLock<String>,
    /// The `Authorization` header of a request (RFC 6750 §2.1); `None` if the access token
    /// has characters that a header cannot have.
    pub(crate) bearer: Option<HeaderValue>,
}

/// The response to a refresh.
pub(crate) struct RefreshedTokens {
    pub(crate) access_token: String,
    /// A server that does not rotate may leave it out (RFC 6749 §6).
    pub(crate) refresh_token: Option<String>,
    /// The lifetime of the access token in seconds.
    pub(crate) expires_in: Option<u64>,
}

impl TokenSet {
    fn new(tokens: StoredTokens, sent_at: Option<Instant>, replaces: Option<String>) -> Self {
        let bearer = HeaderValue::try_from(format!("Bearer {}", tokens.access_token)).ok();
        let bearer = bearer.map(|mut bearer| {
            bearer.set_sensitive(true);
            bearer
        });
        Self { tokens, sent_at, replaces, refresh_key: OnceLock::new(), bearer }
    }

    /// Creates the set of a login whose request was sent at `sent_at`.
    pub(crate) fn from_login(tokens: TokenResponse, sent_at: Option<Instant>) -> Self {
        let tokens = StoredTokens {
            access_token: tokens.token,
            refresh_token: tokens.refresh_token,
            expires_in: Some(tokens.expires_in),
            idempotency_key: None,
            generation: 0,
            login_id: Uuid::new_v4().to_string(),
        };
        Self::new(tokens, sent_at, None)
    }

    /// Creates the set of a refresh of `before` that was sent at `sent_at`.
    pub(crate) fn from_refresh(
        before: &StoredTokens,
        refreshed: RefreshedTokens,
        sent_at: Instant,
    ) -> Self {
        let RefreshedTokens { access_token, refresh_token, expires_in } = refreshed;
        let tokens = StoredTokens {
            access_token,
            refresh_token: refresh_token.unwrap_or_else(|| before.refresh_token.clone()),
            expires_in,
            idempotency_key: None,
            generation: before.generation.saturating_add(1),
            login_id: before.login_id.clone(),
        };
        let replaces = before.idempotency_key.clone();
        Self::new(tokens, Some(sent_at), replaces)
    }

    /// Returns the idempotency key for the refresh of these tokens: the same for each try.
    pub(crate) fn idempotency_key(&self) -> String {
        self.refresh_key.get_or_init(|| Uuid::new_v4().to_string()).clone()
    }

    /// Returns whether a refresh of `stored` returned these tokens.
    pub(crate) fn is_successor_of(&self, stored: &StoredTokens) -> bool {
        self.replaces.is_some() && self.replaces == stored.idempotency_key
    }

    pub(crate) fn has_same_access_token(&self, other: &Self) -> bool {
        self.tokens.access_token == other.tokens.access_token
    }

    /// Returns when the request for these tokens was sent, if this process sent it.
    pub(crate) fn sent_at(&self) -> Option<Instant> {
        self.sent_at
    }

    /// Returns the lifetime of the access token, counted from [`Self::sent_at`].
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.tokens.expires_in.map(|seconds| Duration::from_secs(seconds).min(MAX_LIFETIME))
    }

    /// Returns the rest of the access token's lifetime.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        Some(self.lifetime()?.saturating_sub(self.sent_at?.elapsed()))
    }

    /// Returns whether expiry explains a `401` to this access token.
    pub(crate) fn may_have_expired(&self) -> bool {
        self.sent_at.is_none() || self.remaining() == Some(Duration::ZERO)
    }

    /// Returns the time until `fraction` of the lifetime has passed. It is zero if the age
    /// of the tokens is unknown.
    pub(crate) fn time_until(&self, fraction: f64) -> Option<Duration> {
        let fraction = if fraction.is_nan() { 1.0 } else { fraction.clamp(0.0, 1.0) };
        let due = self.lifetime()?.mul_f64(fraction);
        Some(self.sent_at.map_or(Duration::ZERO, |sent_at| due.saturating_sub(sent_at.elapsed())))
    }
}

impl From<StoredTokens> for TokenSet {
    fn from(tokens: StoredTokens) -> Self {
        Self::new(tokens, None, None)
    }
}
