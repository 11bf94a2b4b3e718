//! What the requests of all threads read: the connection to Redis, and the sessions that
//! are known to have ended.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::link::IdentifiedConnection;
use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS, Timestamp};
use crate::ids::SessionId;
use crate::store::revocations::Revocation;

/// The state, behind one lock.
#[derive(Default)]
pub(super) struct SharedState(
    /// A `std` lock: it is never held across an `await`.
    RwLock<State>,
);

#[derive(Default)]
pub(super) struct State {
    /// The connection in use; `None` without Redis.
    pub(super) current: Option<IdentifiedConnection>,
    /// The revocations that this server has read or acknowledged, until they expire. They
    /// apply even if Redis or the database loses them.
    ended: HashMap<SessionId, Timestamp>,
}

impl State {
    pub(super) fn has_ended(&self, session: SessionId) -> bool {
        self.ended.contains_key(&session)
    }

    /// Remembers revocations.
    pub(super) fn remember(&mut self, ended: Vec<Revocation>) {
        self.ended.extend(ended.into_iter().map(|end| (end.session_id, end.access_expires_at)));
    }
}

impl SharedState {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers revocations, which override Redis. Returns the new ones.
    pub(super) fn add(&self, ended: Vec<Revocation>) -> Vec<Revocation> {
        if ended.is_empty() {
            return ended;
        }
        let mut state = self.write();
        let mut new = ended;
        new.retain(|end| state.ended.insert(end.session_id, end.access_expires_at).is_none());
        new
    }

    /// Removes expired revocations.
    pub(super) fn prune_expired(&self) {
        let time = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        self.write().ended.retain(|_, expires_at| *expires_at > time);
    }

    /// Returns whether no revocation is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.read().ended.is_empty()
    }

    /// Returns these revocations, which were read from the database, and those that are only
    /// remembered.
    pub(super) fn with_remembered(&self, mut read: Vec<Revocation>) -> Vec<Revocation> {
        read.extend(self.missing_from(&read));
        read
    }

    /// Returns the unexpired revocations that are remembered, and not among those that were
    /// read from the database.
    pub(super) fn missing_from(&self, read: &[Revocation]) -> Vec<Revocation> {
        let read: HashSet<SessionId> = read.iter().map(|end| end.session_id).collect();
        let now = clock::now();
        let state = self.read();
        let missing = state
            .ended
            .iter()
            .filter(|(session, expires_at)| **expires_at > now && !read.contains(session));
        missing
            .map(|(&session_id, &access_expires_at)| Revocation { session_id, access_expires_at })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::UserId;

    fn ended(expires_at: Timestamp) -> Revocation {
        let session_id = SessionId::new(UserId::random(), clock::now()).unwrap();
        Revocation { session_id, access_expires_at: expires_at }
    }

    #[test]
    fn revocation_that_the_database_lacks_is_missing_until_it_expires() {
        let (now, minute) = (clock::now(), Duration::from_secs(60));
        let (read, lost, expired) =
            (ended(now.after(minute)), ended(now.after(minute)), ended(now.before(minute)));
        let state = SharedState::default();
        assert_eq!(state.add(vec![read, lost, expired]).len(), 3);
        assert_eq!(state.add(vec![read]), [], "it is known already");
        assert_eq!(state.missing_from(&[read]), [lost]);
        assert_eq!(state.with_remembered(vec![read]), [read, lost]);
        assert!(state.read().has_ended(lost.session_id));
        state.prune_expired();
        assert!(!state.read().has_ended(expired.session_id));
    }
}
