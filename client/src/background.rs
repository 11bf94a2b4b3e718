//! The task that refreshes tokens before they expire.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_rt::time::timeout;

use crate::credentials::{Credentials, Strategy};
use crate::error::Error;
use crate::refresh::Refresher;

/// The delay of the task while there are no tokens, or their lifetime is unknown.
const IDLE: Duration = Duration::from_secs(3600);

/// The shortest delay between two refreshes of the task.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Starts the task on this thread if the strategy is [`Strategy::Background`] and no task
/// runs yet. The task ends when the last clone of the credentials is dropped.
pub(crate) fn start(refresher: &Refresher) {
    let credentials = &refresher.credentials;
    let Strategy::Background { fraction } = credentials.strategy() else { return };
    if credentials.background_running().swap(true, Ordering::AcqRel) {
        return;
    }
    let running = Running(credentials.downgrade());
    let mut changes = credentials.changes();
    // The task must not keep the credentials alive while it waits.
    let refresher = refresher.downgrade();
    actix_rt::spawn(async move {
        let _running = running;
        let mut delay = Duration::ZERO;
        while let Some(awake) = refresher() {
            let current = awake.credentials.current().await.ok();
            drop(awake);
            let due = current.as_ref().and_then(|tokens| tokens.time_until(fraction));
            let due = due.unwrap_or(IDLE);
            match timeout(due.max(delay), changes.changed()).await {
                // Other tokens are due at another time.
                Ok(Ok(())) => delay = Duration::ZERO,
                Ok(Err(_)) => return,
                Err(_) => {
                    let Some(current) = current else { continue };
                    let Some(awake) = refresher() else { continue };
                    delay = match awake.replace(&current).await {
                        Err(Error::Transient { retry_after, .. }) => {
                            retry_after.unwrap_or_default().max(MIN_RETRY_DELAY)
                        }
                        _ => MIN_RETRY_DELAY,
                    };
                    // The change by this refresh itself must not reset the delay.
                    changes.mark_unchanged();
                }
            }
        }
    });
}

/// Clears the flag when the task ends, also when its thread ends.
struct Running<F: Fn() -> Option<Credentials>>(F);

impl<F: Fn() -> Option<Credentials>> Drop for Running<F> {
    fn drop(&mut self) {
        if let Some(credentials) = (self.0)() {
            credentials.background_running().store(false, Ordering::Release);
        }
    }
}
