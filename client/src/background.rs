//! The task that refreshes before anybody has to wait for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_rt::time::timeout;

use crate::credentials::Strategy;
use crate::{Client, Credentials, Error};

/// How long it waits where nothing tells it when to refresh.
const IDLE: Duration = Duration::from_secs(3600);

/// Its shortest pause after a refresh that failed.
const BREATH: Duration = Duration::from_secs(1);

/// Starts the task on this thread, where the strategy wants one and none runs
/// yet. It ends with the last clone of the credential.
pub(crate) fn start(client: &Client) {
    let credentials = client.credentials();
    let Strategy::Background { fraction } = credentials.strategy() else { return };
    if credentials.kept().swap(true, Ordering::AcqRel) {
        return;
    }
    let kept = Kept(credentials.downgrade());
    let mut changes = credentials.changes();
    let client = client.downgrade();
    actix_rt::spawn(async move {
        let _kept = kept;
        let mut pause = Duration::ZERO;
        while let Some(awake) = client() {
            let held = awake.credentials().held().await.ok();
            drop(awake);
            let due = held.as_ref().and_then(|held| held.due_in(fraction)).unwrap_or(IDLE);
            // Other tokens have another time.
            match timeout(due.max(pause), changes.changed()).await {
                Ok(Ok(())) => pause = Duration::ZERO,
                Ok(Err(_)) => return,
                Err(_) => {
                    let (Some(held), Some(awake)) = (held, client()) else { continue };
                    pause = match awake.renew(&held).await {
                        Err(Error::Transient { retry_after, .. }) => {
                            retry_after.unwrap_or_default().max(BREATH)
                        }
                        _ => BREATH,
                    };
                    // Its own doing is no news.
                    changes.mark_unchanged();
                }
            }
        }
    });
}

/// Notes that the task is gone, also when its thread ends.
struct Kept<F: Fn() -> Option<Credentials>>(F);

impl<F: Fn() -> Option<Credentials>> Drop for Kept<F> {
    fn drop(&mut self) {
        if let Some(credentials) = (self.0)() {
            credentials.kept().store(false, Ordering::Release);
        }
    }
}
