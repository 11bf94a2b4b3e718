//! The current problems of Redis: logged at each change, and reported by `/health/ready`.

use std::sync::{Mutex, PoisonError};

use redis::RedisError;

use super::connection::redis_message;
use super::identity::LinkError;

/// The current problems.
#[derive(Default)]
pub(super) struct Problems(Mutex<CurrentProblems>);

#[derive(Default)]
struct CurrentProblems {
    /// The reason why Redis cannot be used: the message of Redis itself, if it responded.
    unusable: Option<String>,
    has_been_up: bool,
    evicting: Option<String>,
    /// The message of Redis to a write, while its memory is full.
    full: Option<String>,
    is_split: bool,
    poll: Option<String>,
}

impl Problems {
    fn with_current<T>(&self, access: impl FnOnce(&mut CurrentProblems) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn unusable(&self, error: &LinkError) {
        let reason = error.to_string();
        let changed = self.with_current(|current| change(&mut current.unusable, Some(reason)));
        if let Some(reason) = changed {
            tracing::warn!(reason, "redis unavailable, falling back to the database");
        }
    }

    /// Records that Redis is in use, with this number of revocations.
    pub(super) fn restored(&self, revocations: usize) {
        let first = self.with_current(|current| {
            current.unusable = None;
            !std::mem::replace(&mut current.has_been_up, true)
        });
        let state =
            if first { "redis connection established" } else { "redis connection restored" };
        tracing::info!(revocations, "{state}");
    }

    pub(super) fn evicts(&self, policy: Option<&str>) {
        let before = self.with_current(|current| {
            let changed = current.evicting.as_deref() != policy;
            changed.then(|| std::mem::replace(&mut current.evicting, policy.map(str::to_owned)))
        });
        match (before, policy) {
            (Some(_), Some(policy)) => {
                tracing::warn!(
                    policy,
                    "redis may evict revocations: set maxmemory-policy noeviction"
                );
            }
            (Some(_), None) => tracing::info!("redis no longer evicts keys"),
            (None, _) => {}
        }
    }

    /// Records that Redis rejected a write because its memory is full.
    pub(super) fn full(&self, error: &RedisError) {
        let reason = redis_message(error);
        let changed = self.with_current(|current| change(&mut current.full, Some(reason)));
        if let Some(reason) = changed {
            tracing::warn!(reason, "redis out of memory, tokens are no longer cached");
        }
    }

    pub(super) fn not_full(&self) {
        if self.with_current(|current| current.full.take()).is_some() {
            tracing::info!("redis memory available again");
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.with_current(|current| current.full.is_some())
    }

    pub(super) fn split(&self, is_split: bool) {
        let was = self.with_current(|current| std::mem::replace(&mut current.is_split, is_split));
        match (was, is_split) {
            (false, true) => tracing::warn!(
                "servers on this database use different redis servers, logouts are slow"
            ),
            (true, false) => tracing::info!("all servers use the same redis again"),
            _ => {}
        }
    }

    pub(super) fn poll(&self, error: Option<String>) {
        let changed = self.with_current(|current| {
            let changed = current.poll.is_some() != error.is_some();
            current.poll.clone_from(&error);
            changed
        });
        match (changed, error) {
            (true, Some(error)) => tracing::warn!(%error, "poll for revocations failed"),
            (true, None) => tracing::info!("poll for revocations restored"),
            (false, _) => {}
        }
    }

    /// Returns whether Redis may evict keys.
    pub(super) fn is_evicting(&self) -> bool {
        self.with_current(|current| current.evicting.is_some())
    }

    /// Returns messages for an operator.
    pub(super) fn messages(&self) -> Vec<String> {
        self.with_current(|current| {
            let mut messages = Vec::new();
            if let Some(reason) = &current.unusable {
                messages.push(format!(
                    "Redis cannot be used, so the database is queried instead: {reason}"
                ));
            }
            if let Some(policy) = &current.evicting {
                messages.push(format!(
                    "Redis may evict revocations: set its maxmemory-policy to noeviction instead of \
                     {policy}."
                ));
            }
            if let Some(reason) = &current.full {
                messages.push(format!(
                    "Redis is out of memory: give it more, or raise maxmemory. It responds: {reason}"
                ));
            }
            if current.is_split {
                messages.push(
                    "Servers on this database use different Redis servers, so each logout waits for \
                     all of them: give them the same redis.url."
                        .into(),
                );
            }
            messages
        })
    }
}

/// Sets `current` to `now`. Returns the new value if it has changed.
fn change(current: &mut Option<String>, now: Option<String>) -> Option<String> {
    if *current == now {
        return None;
    }
    current.clone_from(&now);
    now
}
