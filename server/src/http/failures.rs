//! The log of failed requests. A defect is logged each time. An outage of a part of the server
//! is logged twice, when it begins and when it has ended, however many requests get `503`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::issuer::{Error, ErrorKind};

/// How long no request may have failed before an outage counts as ended.
const QUIET: Duration = Duration::from_secs(10);
/// The interval at which ended outages are looked for.
const TICK: Duration = Duration::from_secs(1);

static OUTAGES: Mutex<Outages> = Mutex::new(Outages(Vec::new()));

/// The current outages, at most one of each kind.
struct Outages(Vec<Outage>);

struct Outage {
    kind: ErrorKind,
    began_at: Instant,
    last_at: Instant,
    requests: u64,
}

impl Outages {
    /// Counts a failed request. Returns whether an outage begins with it.
    fn record(&mut self, kind: ErrorKind, now: Instant) -> bool {
        if let Some(outage) = self.0.iter_mut().find(|outage| outage.kind == kind) {
            outage.last_at = now;
            outage.requests += 1;
            return false;
        }
        self.0.push(Outage { kind, began_at: now, last_at: now, requests: 1 });
        true
    }

    /// Removes the outages that have ended.
    fn take_ended(&mut self, now: Instant) -> Vec<Outage> {
        let has_ended = |outage: &mut Outage| now.duration_since(outage.last_at) >= QUIET;
        self.0.extract_if(.., has_ended).collect()
    }
}

fn outages() -> MutexGuard<'static, Outages> {
    OUTAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs the failure of a request, unless it is one of an outage that is logged already.
pub(super) fn record(error: &Error) {
    let kind = error.kind();
    if kind == ErrorKind::Internal {
        tracing::error!(%error, "request failed");
    } else if outages().record(kind, Instant::now()) {
        tracing::warn!(%error, "requests fail with 503");
    } else {
        tracing::debug!(%error, "request failed");
    }
}

/// Logs the ends of outages. Never returns.
pub async fn log_ends_of_outages() {
    loop {
        tokio::time::sleep(TICK).await;
        let ended = outages().take_ended(Instant::now());
        for Outage { kind, began_at, last_at, requests } in ended {
            let seconds = last_at.duration_since(began_at).as_secs();
            tracing::info!(requests, seconds, cause = ?kind, "requests no longer fail with 503");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_is_reported_once_at_its_begin_and_once_at_its_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outages = Outages(Vec::new());
        assert!(outages.record(ErrorKind::DatabaseUnavailable, at(0)));
        assert!(!outages.record(ErrorKind::DatabaseUnavailable, at(9)));
        assert!(outages.record(ErrorKind::NoKey, at(9)), "an outage of its own");
        assert!(outages.take_ended(at(18)).is_empty());
        assert!(!outages.record(ErrorKind::NoKey, at(18)));
        let ended = outages.take_ended(at(19));
        let ended: Vec<_> = ended.iter().map(|outage| (outage.kind, outage.requests)).collect();
        assert_eq!(ended, [(ErrorKind::DatabaseUnavailable, 2)]);
        assert!(outages.record(ErrorKind::DatabaseUnavailable, at(19)), "the next outage");
    }
}
