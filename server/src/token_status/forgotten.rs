//! Sessions whose end was acknowledged, and which are live in the database again.
//!
//! A failover to a replica that lagged, or a restored backup, undoes commits. Redis and the
//! servers' memories outlive them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::ids::SessionId;

/// The sessions that are to be ended again.
#[derive(Default)]
pub(super) struct ForgottenEnds {
    sessions: Mutex<BTreeSet<SessionId>>,
    added: Notify,
}

impl ForgottenEnds {
    pub(super) fn add(&self, sessions: impl IntoIterator<Item = SessionId>) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).extend(sessions);
        self.added.notify_one();
    }

    /// Waits until there are such sessions, and takes them.
    pub(super) async fn take(&self) -> BTreeSet<SessionId> {
        loop {
            let sessions =
                std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
            if !sessions.is_empty() {
                return sessions;
            }
            self.added.notified().await;
        }
    }
}
