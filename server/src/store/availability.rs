//! Whether the database is available, and the log of its outages.
//!
//! An outage is logged when it begins, once for each further reason, and when it ends. A fault
//! alone is no outage: it may concern one connection only. It requests a check of the database,
//! and only a check begins or ends an outage.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::error::is_permanent;

/// Why the database is unavailable. Each is logged once in an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reason {
    /// It cannot be reached, or does not respond.
    Unreachable,
    /// It is a standby, or was set read-only.
    ReadOnly,
    /// It does not accept this server, for example its password.
    Rejected,
}

impl Reason {
    fn of(problem: &str) -> Self {
        if problem.contains("read-only") {
            Self::ReadOnly
        } else if is_permanent(problem) {
            Self::Rejected
        } else {
            Self::Unreachable
        }
    }
}

struct Outage {
    since: Instant,
    reasons: HashSet<Reason>,
}

impl Outage {
    fn log(&mut self, problem: &str) {
        if self.reasons.insert(Reason::of(problem)) {
            tracing::error!(reason = one_line(problem), "database unavailable");
        }
    }
}

/// The outage of one database, and the signs of one.
#[derive(Default)]
struct State {
    outage: Option<Outage>,
    /// The last fault since the last successful check.
    suspected: Option<String>,
    /// The time of the last fault, or of the end of the last outage.
    last_fault_at: Option<Instant>,
}

/// The availability of one database.
#[derive(Default)]
pub(super) struct Availability {
    /// Locked only at faults, checks and new connections.
    state: Mutex<State>,
    /// Notified when a check is needed at once.
    check_wanted: Notify,
}

impl Availability {
    /// Requests a check.
    pub(super) fn request_check(&self) {
        self.check_wanted.notify_one();
    }

    /// Returns when a check has been requested since the last call.
    pub(super) async fn check_requested(&self) {
        self.check_wanted.notified().await;
    }

    pub(super) fn is_up(&self) -> bool {
        self.state().outage.is_none()
    }

    /// Returns whether a connection has failed, or the database was unavailable, within the
    /// last `period`.
    pub(super) fn had_fault_within(&self, period: Duration) -> bool {
        let state = self.state();
        state.outage.is_some() || state.last_fault_at.is_some_and(|at| at.elapsed() < period)
    }

    /// Records a fault of one connection, which a check has to confirm.
    pub(super) fn suspect(&self, problem: &str) {
        let mut state = self.state();
        state.last_fault_at = Some(Instant::now());
        if let Some(outage) = &mut state.outage {
            outage.log(problem);
            return;
        }
        tracing::debug!(reason = one_line(problem), "database connection failed");
        state.suspected = Some(problem.to_owned());
        self.request_check();
    }

    /// Records a new connection, which may be the end of an outage.
    pub(super) fn connected(&self) {
        if !self.is_up() {
            self.request_check();
        }
    }

    /// Records that a check has failed.
    pub(super) fn down(&self, problem: &str) {
        let mut state = self.state();
        // The error of the fault says more than that of a check without a connection.
        let problem = state.suspected.take().unwrap_or_else(|| problem.to_owned());
        let begin = || Outage { since: Instant::now(), reasons: HashSet::new() };
        state.outage.get_or_insert_with(begin).log(&problem);
    }

    /// Records that a check has found that the database accepts writes.
    pub(super) fn up(&self) {
        let mut state = self.state();
        state.suspected = None;
        if let Some(outage) = state.outage.take() {
            state.last_fault_at = Some(Instant::now());
            let duration = Duration::from_millis(
                u64::try_from(outage.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            );
            tracing::info!(
                after = %humantime::format_duration(duration),
                "database available again"
            );
        }
    }

    /// Ignores poisoning: no holder of the lock can panic during a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// libpq's messages have several lines.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(availability: &Availability) -> HashSet<Reason> {
        let state = availability.state();
        state.outage.as_ref().map(|outage| outage.reasons.clone()).unwrap_or_default()
    }

    #[test]
    fn outage_has_each_reason_once_and_ends_with_a_successful_check() {
        let availability = Availability::default();
        availability.suspect("connection refused");
        assert!(availability.is_up(), "no check has confirmed it");
        availability.down("timed out waiting for connection");
        availability.suspect("timeout expired");
        availability.suspect("the database is a standby or read-only");
        assert_eq!(reasons(&availability), [Reason::Unreachable, Reason::ReadOnly].into());
        availability.connected();
        assert!(!availability.is_up(), "one connection is no proof");
        assert!(availability.had_fault_within(Duration::ZERO));
        availability.up();
        assert!(availability.is_up());
        assert!(availability.had_fault_within(Duration::from_secs(600)));
        assert!(!availability.had_fault_within(Duration::ZERO));
    }

    #[test]
    fn fault_gives_the_reason_of_a_check_that_got_no_connection() {
        let availability = Availability::default();
        availability.suspect("the database is a standby or read-only");
        availability.down("timed out waiting for connection");
        assert_eq!(reasons(&availability), [Reason::ReadOnly].into());
        availability.up();
        availability.down("timed out waiting for connection");
        assert_eq!(reasons(&availability), [Reason::Unreachable].into());
    }

    #[actix_rt::test]
    async fn each_fault_and_the_first_connection_of_an_outage_request_a_check() {
        let availability = Availability::default();
        availability.connected();
        availability.suspect("connection refused");
        availability.check_requested().await;
        availability.down("connection refused");
        availability.connected();
        availability.check_requested().await;
    }
}
