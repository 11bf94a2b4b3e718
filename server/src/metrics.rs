//! Metrics for Prometheus (`OpenMetrics` 1.0).

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::limits::Limit;
use crate::store::Store;

/// Upper bounds in seconds: from a cached response to the timeout of a client.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds in seconds: from Ed25519 to RSA with 4096 bits on a busy machine.
const SIGNING_BUCKETS: [f64; 9] =
    [0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02];

/// A label value. It is always a constant, so that clients cannot create time series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label(pub &'static str);

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// The labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The method; `other` for a method that no route has.
    pub method: Label,
    /// The pattern of the route; empty if no route matches.
    pub route: String,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckSource {
    /// The label's name, which must not change once a version is released.
    source: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: Label,
}

/// The metrics of a server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Histogram, fn() -> Histogram>,
    refreshes: Family<Outcome, Counter>,
    opened: Counter,
    ended: Family<Reason, Counter>,
    checks: Family<CheckSource, Counter>,
    limited: Family<LimitLabel, Counter>,
    signing: Histogram,
    notices: Family<Outcome, Counter>,
    pending_notices: Gauge,
    pool: Family<State, Gauge>,
    clock_offset: Gauge<f64, AtomicU64>,
    redis_up: Gauge,
    redis_evicting: Gauge,
}

/// The values of the label `limit` that are not those of a rate limit: open connections,
/// passwords and codes that are guessed.
const OTHER_LIMITS: [&str; 3] = [TOO_MANY_CONNECTIONS, GUESSED_PASSWORDS, GUESSED_CODES];

/// The outcomes of attempts to notify a client.
const NOTICE_OUTCOMES: [&str; 3] = ["sent", "failed", "given_up"];

/// The label of connections that are closed because their address has too many.
pub const TOO_MANY_CONNECTIONS: &str = "connections";
/// The label of requests that are rejected because a password is guessed.
pub const GUESSED_PASSWORDS: &str = "guessed_passwords";
/// The label of requests that are rejected because a code is guessed.
pub const GUESSED_CODES: &str = "guessed_codes";

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("matchbook");
        let requests: Family<Request, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        let metrics = Self {
            requests: requests.clone(),
            refreshes: Family::default(),
            opened: Counter::default(),
            ended: Family::default(),
            checks: Family::default(),
            limited: Family::default(),
            signing: Histogram::new(SIGNING_BUCKETS),
            notices: Family::default(),
            pending_notices: Gauge::default(),
            pool: Family::default(),
            clock_offset: Gauge::default(),
            redis_up: Gauge::default(),
            redis_evicting: Gauge::default(),
            registry: Registry::default(),
        };
        // An alert needs the time series before the first failure or rejection.
        for outcome in NOTICE_OUTCOMES {
            drop(metrics.notices.get_or_create(&Outcome { outcome: Label(outcome) }));
        }
        for limit in Limit::LABELS.into_iter().chain(OTHER_LIMITS) {
            drop(metrics.limited.get_or_create(&LimitLabel { limit: Label(limit) }));
        }
        registry.register_with_unit(
            "request_duration",
            "Time from the head of a request to its response",
            Unit::Seconds,
            requests,
        );
        registry.register("refreshes", "Refreshes by outcome", metrics.refreshes.clone());
        registry.register("sessions_opened", "Sessions opened", metrics.opened.clone());
        registry.register("sessions_ended", "Sessions ended by reason", metrics.ended.clone());
        registry.register(
            "access_checks",
            "Checks whether an access token is active, by source: hit (Redis), miss (the database, \
             because Redis had no entry), fallback (the database, because Redis was unavailable)",
            metrics.checks.clone(),
        );
        registry.register("limited", "Requests rejected by a rate limit", metrics.limited.clone());
        registry.register_with_unit(
            "signing_duration",
            "Time to sign an access token",
            Unit::Seconds,
            metrics.signing.clone(),
        );
        registry.register(
            "logout_notices",
            "Attempts to notify a client of the end of a session, by outcome: sent, failed, \
             given_up (no further attempt)",
            metrics.notices.clone(),
        );
        registry.register(
            "logout_notices_pending",
            "Ended sessions of which a client has not been notified, at all servers",
            metrics.pending_notices.clone(),
        );
        registry.register(
            "database_connections",
            "Database connections, busy and idle, and requests waiting for one",
            metrics.pool.clone(),
        );
        registry.register_with_unit(
            "database_clock_offset",
            "The clock of the database minus that of this server",
            Unit::Seconds,
            metrics.clock_offset.clone(),
        );
        registry.register(
            "redis_up",
            "Whether Redis is in use: 0 while it is unavailable or not configured",
            metrics.redis_up.clone(),
        );
        registry.register(
            "redis_evicting",
            "Whether Redis may evict revocations: 1 if its maxmemory-policy is not noeviction",
            metrics.redis_evicting.clone(),
        );
        Self { registry, ..metrics }
    }

    pub fn record_request(&self, request: &Request, after: Duration) {
        self.requests.get_or_create(request).observe(after.as_secs_f64());
    }

    pub fn record_refresh(&self, outcome: &'static str) {
        self.refreshes.get_or_create(&Outcome { outcome: Label(outcome) }).inc();
    }

    pub fn record_login(&self) {
        self.opened.inc();
    }

    pub fn record_revocations(&self, reason: &'static str, sessions: usize) {
        let sessions = u64::try_from(sessions).unwrap_or(u64::MAX);
        self.ended.get_or_create(&Reason { reason: Label(reason) }).inc_by(sessions);
    }

    pub fn record_check(&self, source: &'static str) {
        self.checks.get_or_create(&CheckSource { source: Label(source) }).inc();
    }

    pub fn record_rate_limit(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabel { limit: Label(limit) }).inc();
    }

    pub fn record_signing(&self, after: Duration) {
        self.signing.observe(after.as_secs_f64());
    }

    pub fn record_notice(&self, outcome: &'static str) {
        self.notices.get_or_create(&Outcome { outcome: Label(outcome) }).inc();
    }

    pub fn set_pending_notices(&self, notices: i64) {
        self.pending_notices.set(notices);
    }

    /// Encodes all metrics as text, with the current values of the gauges.
    #[must_use]
    pub fn encode(&self, store: &Store, redis_up: bool, redis_evicting: bool) -> String {
        let pool = store.pool_stats();
        for (state, count) in [("busy", pool.busy), ("idle", pool.idle), ("waiting", pool.waiting)]
        {
            self.pool.get_or_create(&State { state: Label(state) }).set(count.into());
        }
        self.clock_offset.set(store.clock_offset());
        self.redis_up.set(redis_up.into());
        self.redis_evicting.set(redis_evicting.into());
        let mut output = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut output, &self.registry);
        output
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
