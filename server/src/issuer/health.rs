//! The state of the server, for monitoring.

use super::Issuer;
use crate::store::ClockState;

/// The state of the server and its problems.
pub struct HealthReport {
    /// Whether the database takes writes.
    pub database: bool,
    /// Whether Redis is in use; `None` if none is configured.
    pub redis: Option<bool>,
    /// Whether the server can issue tokens.
    pub can_issue: bool,
    /// Sentences for an operator.
    pub problems: Vec<String>,
}

impl Issuer {
    /// Checks the database, Redis, the clock and the keys.
    pub async fn health(&self) -> HealthReport {
        let writable = self.store.check_writable().await;
        let redis = self.status.query_redis().await;
        let mut problems = redis.problems;
        if let Err(error) = &writable {
            tracing::warn!(%error, "not ready");
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
        HealthReport {
            database: writable.is_ok(),
            redis: redis.up,
            can_issue: writable.is_ok() && can_sign && clock != ClockState::Wrong,
            problems,
        }
    }

    /// Returns the metrics in the `OpenMetrics` text format.
    #[must_use]
    pub fn encode_metrics(&self) -> String {
        let redis = self.status.redis();
        self.metrics.encode(&self.store, redis.up == Some(true), redis.evicting)
    }
}

/// Capitalizes a text and ends it with a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    format!("{}{}.", first.to_uppercase(), letters.as_str())
}
