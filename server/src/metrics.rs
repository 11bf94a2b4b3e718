//! Metrics for Prometheus (`OpenMetrics` 1.0).

mod process;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use matchbook_shared::InvalidGrantReason;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::limits::Limit;
use crate::store::sessions::EndReason;
use crate::store::{ErrorClass, Store};
use process::ProcessMetrics;

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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: Label,
}

/// The metrics of a server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Histogram, fn() -> Histogram>,
    /// One for each of [`RESPONSE_CLASSES`].
    responses: [Counter; RESPONSE_CLASSES.len()],
    refreshes: Family<Outcome, Counter>,
    opened: Counter,
    ended: Family<Reason, Counter>,
    checks: Family<CheckSource, Counter>,
    limited: Family<LimitLabel, Counter>,
    signing: Histogram,
    notices: Family<Outcome, Counter>,
    pending_notices: Gauge,
    pool: Family<State, Gauge>,
    database_up: Gauge,
    database_errors: Family<Class, Counter>,
    clock_offset: Gauge<f64, AtomicU64>,
    redis_up: Gauge,
    redis_evicting: Gauge,
    unpublished_revocations: Gauge,
    key_active_from: Gauge<f64, AtomicU64>,
    key_next_from: Gauge<f64, AtomicU64>,
    certificate_expiry: Gauge<f64, AtomicU64>,
    process: ProcessMetrics,
}

/// The values of gauges that are read when the metrics are.
pub struct Readings<'a> {
    pub store: &'a Store,
    /// Whether the database accepts writes.
    pub database_up: bool,
    pub redis_up: bool,
    pub redis_evicting: bool,
    pub unpublished_revocations: usize,
    /// When the key of access tokens began to sign, in Unix time; 0 without such a key.
    pub key_active_from: f64,
    /// When the next key is to sign, in Unix time; infinite if keys are only rotated by command.
    pub key_next_from: f64,
}

/// The classes of responses, by their status.
const RESPONSE_CLASSES: [&str; 5] =
    ["success", "redirect", "client_error", "unavailable", "server_error"];

/// Returns the index of the class of a response in [`RESPONSE_CLASSES`].
fn response_class(status: u16) -> usize {
    match status {
        ..300 => 0,
        300..400 => 1,
        400..500 => 2,
        503 => 3,
        _ => 4,
    }
}

/// The requests whose histograms exist from the start.
const MAIN_REQUESTS: [(&str, &str); 3] =
    [("GET", "/user"), ("POST", "/refresh"), ("POST", "/oauth/token")];

/// The outcomes of refreshes that are not reasons of a rejection.
const REFRESH_OUTCOMES: [&str; 4] = ["rotated", "reissued", "timed_out", "unrecognized"];

/// The sources of the status of access tokens.
const CHECK_SOURCES: [&str; 3] = ["hit", "miss", "fallback"];

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
        let mut registry = Registry::default();
        let process = ProcessMetrics::register(&mut registry);
        let own = registry.sub_registry_with_prefix("matchbook");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        own.register("build", "The version of the server", build);
        let responses = Family::<Class, Counter>::default();
        let response = |class| responses.get_or_create_owned(&Class { class: Label(class) });
        let mut metrics = Self {
            responses: RESPONSE_CLASSES.map(response),
            requests: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            refreshes: Family::default(),
            opened: Counter::default(),
            ended: Family::default(),
            checks: Family::default(),
            limited: Family::default(),
            signing: Histogram::new(SIGNING_BUCKETS),
            notices: Family::default(),
            pending_notices: Gauge::default(),
            pool: Family::default(),
            database_up: Gauge::default(),
            database_errors: Family::default(),
            clock_offset: Gauge::default(),
            redis_up: Gauge::default(),
            redis_evicting: Gauge::default(),
            unpublished_revocations: Gauge::default(),
            key_active_from: Gauge::default(),
            key_next_from: Gauge::default(),
            certificate_expiry: Gauge::default(),
            process,
            registry: Registry::default(),
        };
        own.register(
            "responses",
            "Responses by class: success, redirect, client_error, unavailable (503), server_error \
             (other 5xx)",
            responses.clone(),
        );
        metrics.register_use(own);
        metrics.register_parts(own);
        metrics.create_series();
        metrics.certificate_expiry.set(f64::INFINITY);
        metrics.registry = registry;
        metrics
    }

    /// Registers the metrics of requests, sessions and tokens.
    fn register_use(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "request_duration",
            "Time from the head of a request to its response",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register("refreshes", "Refreshes by outcome", self.refreshes.clone());
        registry.register("sessions_opened", "Sessions opened", self.opened.clone());
        registry.register("sessions_ended", "Sessions ended by reason", self.ended.clone());
        registry.register(
            "access_checks",
            "Checks whether an access token is active, by source: hit (Redis, or this server's \
             memory of ended sessions), miss (the database, because Redis had no entry), fallback \
             (the database, because Redis was unavailable)",
            self.checks.clone(),
        );
        registry.register("limited", "Requests rejected by a rate limit", self.limited.clone());
        registry.register_with_unit(
            "signing_duration",
            "Time to sign an access token",
            Unit::Seconds,
            self.signing.clone(),
        );
        registry.register(
            "logout_notices",
            "Attempts to notify a client of the end of a session, by outcome: sent, failed, \
             given_up (no further attempt)",
            self.notices.clone(),
        );
        registry.register(
            "logout_notices_pending",
            "Ended sessions of which a client has not been notified, at all servers",
            self.pending_notices.clone(),
        );
    }

    /// Registers the metrics of the parts that the server depends on.
    fn register_parts(&self, registry: &mut Registry) {
        registry.register(
            "database_up",
            "Whether the database accepts writes",
            self.database_up.clone(),
        );
        registry.register(
            "database_errors",
            "Errors of work on the database, by class",
            self.database_errors.clone(),
        );
        registry.register(
            "database_connections",
            "Database connections, busy and idle, and requests waiting for one",
            self.pool.clone(),
        );
        registry.register_with_unit(
            "database_clock_offset",
            "The clock of the database minus that of this server",
            Unit::Seconds,
            self.clock_offset.clone(),
        );
        registry.register(
            "redis_up",
            "Whether Redis is in use: 0 while it is unavailable or not configured",
            self.redis_up.clone(),
        );
        registry.register(
            "redis_evicting",
            "Whether Redis may evict revocations: 1 if its maxmemory-policy is not noeviction",
            self.redis_evicting.clone(),
        );
        registry.register(
            "unpublished_revocations",
            "Revocations that Redis lacks, because it is full or unavailable",
            self.unpublished_revocations.clone(),
        );
        registry.register_with_unit(
            "signing_key_active_from_timestamp",
            "When the key of access tokens began to sign",
            Unit::Seconds,
            self.key_active_from.clone(),
        );
        registry.register_with_unit(
            "signing_key_rotation_timestamp",
            "When the next key of access tokens is to sign; infinite without keys.rotate_after",
            Unit::Seconds,
            self.key_next_from.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate of the server expires; infinite without TLS",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
    }

    /// Creates the time series that an alert needs before the first failure or rejection.
    fn create_series(&self) {
        let rejections = InvalidGrantReason::ALL.map(InvalidGrantReason::as_str);
        for outcome in REFRESH_OUTCOMES.into_iter().chain(rejections) {
            drop(self.refreshes.get_or_create(&Outcome { outcome: Label(outcome) }));
        }
        for reason in EndReason::ALL.map(EndReason::as_str) {
            drop(self.ended.get_or_create(&Reason { reason: Label(reason) }));
        }
        for source in CHECK_SOURCES {
            drop(self.checks.get_or_create(&CheckSource { source: Label(source) }));
        }
        for outcome in NOTICE_OUTCOMES {
            drop(self.notices.get_or_create(&Outcome { outcome: Label(outcome) }));
        }
        for limit in Limit::LABELS.into_iter().chain(OTHER_LIMITS) {
            drop(self.limited.get_or_create(&LimitLabel { limit: Label(limit) }));
        }
        for (method, route) in MAIN_REQUESTS {
            let request = Request { method: Label(method), route: route.to_owned(), status: 200 };
            drop(self.requests.get_or_create(&request));
        }
    }

    /// Sets when the certificate of the server expires, in Unix time.
    pub fn set_certificate_expiry(&self, time: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a time has less than 53 bits")]
        self.certificate_expiry.set(time as f64);
    }

    pub fn record_request(&self, request: &Request, after: Duration) {
        self.requests.get_or_create(request).observe(after.as_secs_f64());
        if let Some(responses) = self.responses.get(response_class(request.status)) {
            responses.inc();
        }
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
    pub fn encode(&self, readings: &Readings<'_>) -> String {
        let store = readings.store;
        let pool = store.pool_stats();
        for (state, count) in [("busy", pool.busy), ("idle", pool.idle), ("waiting", pool.waiting)]
        {
            self.pool.get_or_create(&State { state: Label(state) }).set(count.into());
        }
        for class in ErrorClass::ALL {
            let label = Class { class: Label(class.as_str()) };
            let errors = self.database_errors.get_or_create_owned(&label);
            errors.inner().store(store.errors(class), Ordering::Relaxed);
        }
        self.database_up.set(readings.database_up.into());
        self.clock_offset.set(store.clock_offset());
        self.redis_up.set(readings.redis_up.into());
        self.redis_evicting.set(readings.redis_evicting.into());
        let unpublished = i64::try_from(readings.unpublished_revocations).unwrap_or(i64::MAX);
        self.unpublished_revocations.set(unpublished);
        self.key_active_from.set(readings.key_active_from);
        self.key_next_from.set(readings.key_next_from);
        self.process.update();
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
