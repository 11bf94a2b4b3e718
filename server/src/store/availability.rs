//! Whether the database is available, and the log of its outages.
//!
//! An outage is logged when it begins, once for each further reason, and when it ends.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// The availability of one database.
pub(super) struct Availability {
    is_up: AtomicBool,
    /// Locked only at changes and failures.
    outage: Mutex<Option<Outage>>,
}

impl Default for Availability {
    fn default() -> Self {
        Self { is_up: AtomicBool::new(true), outage: Mutex::default() }
    }
}

impl Availability {
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Records that the database cannot be used.
    pub(super) fn down(&self, problem: &str) {
        let mut outage = self.outage();
        self.is_up.store(false, Ordering::Relaxed);
        let outage =
            outage.get_or_insert_with(|| Outage { since: Instant::now(), reasons: HashSet::new() });
        if outage.reasons.insert(Reason::of(problem)) {
            tracing::error!(reason = one_line(problem), "database unavailable");
        }
    }

    /// Records that the database accepts writes.
    pub(super) fn up(&self) {
        if self.is_up() {
            return;
        }
        let mut outage = self.outage();
        self.is_up.store(true, Ordering::Relaxed);
        if let Some(outage) = outage.take() {
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
    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// libpq's messages have several lines.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_has_each_reason_once_and_ends_with_the_first_success() {
        let availability = Availability::default();
        assert!(availability.is_up());
        availability.down("connection refused");
        availability.down("timeout expired");
        availability.down("the database is a standby or read-only");
        assert!(!availability.is_up());
        let reasons = availability.outage().as_ref().map(|outage| outage.reasons.clone());
        assert_eq!(reasons, Some([Reason::Unreachable, Reason::ReadOnly].into()));
        availability.up();
        assert!(availability.is_up());
        assert!(availability.outage().is_none());
    }
}
