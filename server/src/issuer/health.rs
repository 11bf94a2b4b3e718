//! The state of the server, for monitoring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join;
use tokio::time::timeout;

use super::Issuer;
use crate::clock::{self, Timestamp};
use crate::metrics::Readings;
use crate::store::ClockState;

/// How long a health check waits for Redis, whatever `redis.timeout` is.
const REDIS_TIME_LIMIT: Duration = Duration::from_secs(2);

/// The state of the server and its problems.
pub struct HealthReport {
    /// Whether the database takes writes.
    pub database: bool,
    /// Whether Redis is in use; `None` if none is configured.
    pub redis: Option<bool>,
    /// Whether the server can issue tokens: the database accepts writes.
    pub can_issue: bool,
    /// Whether the server can verify access tokens, at least those that Redis has.
    pub can_verify: bool,
    /// Sentences for an operator.
    pub problems: Vec<String>,
}

impl Issuer {
    /// Checks the database, Redis, the clock and the keys. Takes about two seconds at most.
    pub async fn health(&self) -> HealthReport {
        let redis = timeout(REDIS_TIME_LIMIT, self.status.query_redis());
        let (writable, redis) = join(self.store.check_writable(), redis).await;
        let redis = redis.unwrap_or_else(|_| self.status.redis());
        let mut problems = redis.problems;
        self.readiness.log(writable.as_ref().err());
        if writable.is_err() {
            problems.push("The database takes no writes: no token can be issued.".to_owned());
        }
        let (clock, clock_problem) = self.store.clock();
        problems.extend(clock_problem.map(|problem| sentence(&problem)));
        if !self.keys.all_readable() {
            problems.push(
                "A signing key in the database was encrypted under another secret: this server \
                 rejects the tokens that other servers sign with it."
                    .to_owned(),
            );
        }
        let can_sign = self.keys.can_sign();
        if !can_sign {
            problems.push("There is no key to sign with: no token can be issued.".to_owned());
        }
        let can_sign = can_sign && clock != ClockState::Wrong;
        let has_cache = self.status.trusts_redis() && self.keys.are_fresh();
        HealthReport {
            database: writable.is_ok(),
            redis: redis.up,
            can_issue: can_sign && writable.is_ok(),
            can_verify: can_sign && (writable.is_ok() || has_cache),
            problems,
        }
    }

    /// Returns the metrics in the `OpenMetrics` text format. Checks the database for this, for
    /// two seconds at most.
    pub async fn encode_metrics(&self) -> String {
        let database_up = self.store.check_writable().await.is_ok();
        let redis = self.status.redis();
        let keys = self.keys.times(clock::now());
        let seconds = |time: Timestamp| Duration::from_millis(time.as_unix_millis()).as_secs_f64();
        self.metrics.encode(&Readings {
            store: &self.store,
            database_up,
            redis_up: redis.up == Some(true),
            redis_evicting: redis.evicting,
            unpublished_revocations: self.status.unpublished_revocations(),
            key_active_from: keys.active_from.map_or(0.0, seconds),
            key_next_from: keys.next_from.map_or(f64::INFINITY, seconds),
        })
    }
}

/// Logs when health checks begin to fail because of the database, and when they succeed again.
#[derive(Default)]
pub(super) struct Readiness {
    has_failed: AtomicBool,
}

impl Readiness {
    fn log(&self, problem: Option<&Arc<str>>) {
        let failed_before = self.has_failed.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(error) if !failed_before => tracing::warn!(%error, "not ready"),
            None if failed_before => tracing::info!("ready again"),
            _ => {}
        }
    }
}

/// Capitalizes a text and ends it with a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    format!("{}{}.", first.to_uppercase(), letters.as_str())
}
