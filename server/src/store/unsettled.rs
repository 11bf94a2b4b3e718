//! Rotations whose outcome is unknown, because the connection was lost before the response.
//!
//! The database may have committed such a rotation, or commit it as soon as it responds again.
//! Meanwhile its grace period runs out, and the client that repeats the request would look like
//! a thief. So each is looked up until its outcome is known, and a late commit gets a new
//! date, as that of a rotation whose commit took long does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use tokio::sync::Notify;

use super::follow_up::Affected;
use super::sessions::{RotationUpdate, late, lock_released, redate};
use super::{Conn, Error, Store, Url};
use crate::clock::{self, Timestamp};
use crate::ids::SessionId;

/// The pause between two looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long after its deadline a rotation may still begin: the database has read its clock.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a rotation is looked up at most. Its session may have been deleted.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// The most rotations that are looked up. A server has fewer in flight.
const CAPACITY: usize = 10_000;
/// The most rotations in one look.
const BATCH: usize = 200;
/// How long a look takes at most: other work waits for its connection.
const TIME_PER_LOOK: Duration = Duration::from_secs(1);
/// How much later than its callers another server may give up, connect again and correct the
/// dates of its late commits.
const CORRECTION_TIME: Duration = Duration::from_secs(3);

struct Entry {
    update: Arc<RotationUpdate>,
    since: Instant,
}

/// The rotations of one server. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Unsettled {
    /// A `std` lock: it is never held across an `await`, and never taken for a rotation that
    /// succeeds.
    entries: Arc<Mutex<Vec<Entry>>>,
    added: Arc<Notify>,
}

impl Unsettled {
    /// Adds rotations that the database may have carried out.
    pub(super) fn add(&self, updates: impl IntoIterator<Item = Arc<RotationUpdate>>) {
        let mut entries = self.entries();
        for update in updates {
            if entries.len() < CAPACITY {
                entries.push(Entry { update, since: Instant::now() });
            }
        }
        self.added.notify_one();
    }

    fn contains(&self, session: SessionId) -> bool {
        self.entries().iter().any(|entry| entry.update.session == session)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// Returns the next rotations, in the order of their places.
    fn next(&self) -> Vec<Arc<RotationUpdate>> {
        let mut entries = self.entries();
        entries.retain(|entry| entry.since.elapsed() < MAX_AGE);
        let mut next: Vec<_> =
            entries.iter().take(BATCH).map(|entry| entry.update.clone()).collect();
        next.sort_unstable_by_key(|update| update.session.place());
        next
    }

    /// Removes settled rotations, and moves the others of a look to the end.
    fn remove(&self, looked_up: &[Arc<RotationUpdate>], settled: &[bool]) {
        let mut entries = self.entries();
        let outcome_of = |entry: &Entry| {
            let number = looked_up.iter().position(|update| Arc::ptr_eq(update, &entry.update))?;
            settled.get(number).copied()
        };
        let (mut later, mut rest) = (Vec::new(), Vec::new());
        for entry in entries.drain(..) {
            match outcome_of(&entry) {
                Some(true) => {}
                Some(false) => later.push(entry),
                None => rest.push(entry),
            }
        }
        rest.append(&mut later);
        *entries = rest;
    }

    /// Ignores poisoning: no holder of the lock can panic during a change.
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds out which rotations were carried out, and corrects the date of those that were
/// committed late. Returns for each whether its outcome is known: a row that is locked may
/// be in a transaction that is about to be committed. Leaves out the last ones if there is no
/// time for them.
fn settle(
    conn: &mut Conn,
    updates: &[Arc<RotationUpdate>],
    now: Timestamp,
) -> QueryResult<Vec<bool>> {
    let started = Instant::now();
    let mut settled = Vec::with_capacity(updates.len());
    for updates in updates.chunk_by(|a, b| a.session.place() == b.session.place()) {
        if started.elapsed() > TIME_PER_LOOK {
            break;
        }
        conn.write(|conn| {
            let ids: Vec<SessionId> = updates.iter().map(|update| update.session).collect();
            let released = lock_released(conn, updates[0].session.place(), &ids)?;
            let digest_of = |update: &RotationUpdate| {
                released.iter().find(|(id, _)| *id == update.session).map(|(_, digest)| digest)
            };
            let is_done = |update: &RotationUpdate| {
                digest_of(update).is_some_and(|digest| digest == update.successor.as_bytes())
            };
            let done = updates.iter().map(|update| &**update).filter(|next| is_done(next));
            let time = clock::now();
            let late = late(done, time);
            if !late.is_empty() {
                let rotations = redate(conn, &late, time)?;
                tracing::warn!(rotations, "commit during an outage: grace period moved");
            }
            settled.extend(updates.iter().map(|update| {
                let too_late = update.deadline.after(MARGIN) < now;
                digest_of(update).is_some() && (too_late || is_done(update))
            }));
            Ok(())
        })?;
    }
    Ok(settled)
}

impl Store {
    /// Records that a rotation has failed. The database may have carried it out, unless the
    /// error shows that it has not.
    pub fn rotation_failed(&self, error: &Error, update: &Arc<RotationUpdate>) {
        if matches!(error, Error::Unavailable(_) | Error::QueryTimeout(_)) {
            self.batcher.unsettled().add([update.clone()]);
        }
    }

    /// Returns whether this server does not know the outcome of a rotation of this session, or
    /// of the exchange that opens it.
    #[must_use]
    pub fn is_unsettled(&self, session: SessionId) -> bool {
        self.batcher.unsettled().contains(session)
            || self.follow_ups.contains(Affected::Session(session))
    }

    /// Returns whether another server may still correct the dates of late commits, because the
    /// database or a connection failed a moment ago. SQLite has one server.
    #[must_use]
    pub fn failed_lately(&self) -> bool {
        let period = self.pool.total_timeout() + CORRECTION_TIME;
        matches!(self.url, Url::Postgres(_)) && self.pool.availability().had_fault_within(period)
    }

    /// Finds out the outcome of rotations whose connection was lost. Uses the connection that
    /// requests never use, because many of them follow an outage. Never returns, and may be
    /// dropped at any time.
    pub async fn settle_rotations(self) {
        let unsettled = self.batcher.unsettled().clone();
        loop {
            let updates = unsettled.next();
            if updates.is_empty() {
                unsettled.added.notified().await;
                continue;
            }
            let now = self.by_database_clock(clock::now());
            let looked_up = updates.clone();
            match self.write_reserved(move |conn| settle(conn, &looked_up, now)).await {
                Ok(settled) => {
                    unsettled.remove(&updates, &settled);
                    if settled.contains(&true) {
                        continue;
                    }
                }
                Err(error) => tracing::debug!(%error, "outcome of rotations unknown, retrying"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
