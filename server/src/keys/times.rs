//! When keys begin to sign, for the metrics.

use super::lifecycle::UNSCHEDULED;
use super::{KeyRing, Purpose};
use crate::clock::Timestamp;

/// The times of the keys of access tokens.
#[derive(Debug, Clone, Copy)]
pub struct KeyTimes {
    /// When the current key began to sign; `None` if there is no key.
    pub active_from: Option<Timestamp>,
    /// When the next key is to sign; `None` if keys are only rotated by command.
    pub next_from: Option<Timestamp>,
}

impl KeyRing {
    /// Returns when the key of access tokens began to sign, and when the next one takes over.
    #[must_use]
    pub fn times(&self, now: Timestamp) -> KeyTimes {
        let snapshot = self.snapshot();
        let keys = snapshot.keys.iter().filter(|key| key.purpose == Purpose::Access);
        let times: Vec<Timestamp> = keys.map(|key| key.active_from).collect();
        let active_from = times.iter().rfind(|time| **time <= now).or(times.first()).copied();
        let pending = times.iter().find(|time| **time > now && **time != UNSCHEDULED).copied();
        let by_age = || Some(active_from?.after(self.options.rotate_after?));
        KeyTimes { active_from, next_from: pending.or_else(by_age) }
    }
}
