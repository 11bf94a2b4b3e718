//! Commits rotations in batches: one statement and one commit for all rotations that
//! queued during the last commit.
//!
//! Sessions are spread over shards by their place, and each shard commits one batch at a
//! time. The first request that finds its shard without a leader starts one. The leader
//! sends all queued rotations in one statement; rotations that arrive meanwhile form the
//! next batch. The term of a leader ends after `MAX_TERM`, and the next leader acquires a
//! connection of its own. There is no timer, so a batch never waits to fill. A rotation
//! whose row is locked is skipped, and retried alone on another connection.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::task::spawn_blocking;
use diesel::QueryResult;
use futures_util::future::join_all;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::pool::{Permit, PermitKind, Pool};
use super::sessions::{RotatedSession, RotationUpdate, redate_late, rotate_batch};
use super::unsettled::Unsettled;
use super::{Conn, Error};
use crate::ids::SessionId;

/// The maximum number of rotations in one statement. A larger batch would delay the
/// rotations that are queued behind it.
const MAX_BATCH: usize = 128;

/// How long a leader keeps its connection while other rotations are queued.
const MAX_TERM: Duration = Duration::from_millis(50);

/// The outcome of a rotation in a batch. Unless it is `Rotated`, the caller has to rotate
/// the session alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchOutcome {
    Rotated(RotatedSession),
    /// The statement matched no row: the token is not the current one, its row is locked,
    /// or the deadline has passed.
    NoMatch,
    /// The whole batch was rolled back, perhaps because of another rotation.
    RolledBack,
}

impl From<Option<RotatedSession>> for BatchOutcome {
    fn from(row: Option<RotatedSession>) -> Self {
        row.map_or(Self::NoMatch, Self::Rotated)
    }
}

/// Batches the rotations of one [`Store`](super::Store). Clones share the queues.
#[derive(Clone)]
pub(super) struct RotationBatcher {
    pool: Pool,
    shards: Arc<[Shard]>,
    unsettled: Unsettled,
}

#[derive(Default)]
struct Shard {
    queue: Mutex<Queue>,
    /// Notified when a leader's term ends while rotations are queued.
    idle: Notify,
}

#[derive(Default)]
struct Queue {
    pending: Vec<PendingRotation>,
    active: Option<ActiveBatch>,
    /// The number of terms so far, which is also the number of the current one.
    terms: u64,
}

/// The batch of the current leader.
struct ActiveBatch {
    term: u64,
    /// When the batch was taken from the queue, or when the leader began to wait for a
    /// connection.
    since: Instant,
}

struct PendingRotation {
    update: Arc<RotationUpdate>,
    reply: oneshot::Sender<Result<BatchOutcome, Error>>,
    /// Held while the rotation is queued. A rotation that finds its shard idle has
    /// none.
    slot: Option<OwnedSemaphorePermit>,
}

impl PendingRotation {
    /// Sends the outcome, unless the request has been dropped.
    fn reply(self, outcome: Result<BatchOutcome, Error>) {
        let _ = self.reply.send(outcome);
    }
}

impl Shard {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Ignores poisoning: a panic cannot leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a rotation from the queue. Returns `false` if its batch is active.
    fn cancel(&self, update: &Arc<RotationUpdate>) -> bool {
        let mut queue = self.queue();
        let before = queue.pending.len();
        queue.pending.retain(|pending| !Arc::ptr_eq(&pending.update, update));
        queue.pending.len() < before
    }
}

impl Queue {
    /// Returns whether a batch is active and has not timed out.
    fn is_busy(&self, batch_timeout: Duration) -> bool {
        self.active.as_ref().is_some_and(|batch| batch.since.elapsed() <= batch_timeout)
    }

    /// Returns the batch of this term, unless another leader has replaced this one.
    fn active(&mut self, term: u64) -> Option<&mut ActiveBatch> {
        self.active.as_mut().filter(|batch| batch.term == term)
    }
}

impl RotationBatcher {
    pub(super) fn new(pool: Pool, shards: usize) -> Self {
        let shards = (0..shards.max(1)).map(|_| Shard::default()).collect();
        Self { pool, shards, unsettled: Unsettled::default() }
    }

    /// The rotations whose connection was lost.
    pub(super) fn unsettled(&self) -> &Unsettled {
        &self.unsettled
    }

    /// Rotates a session in a batch, and waits for the commit.
    pub(super) async fn rotate(&self, update: Arc<RotationUpdate>) -> Result<BatchOutcome, Error> {
        let number = self.shard_of(update.session);
        let shard = &self.shards[number];
        let (reply, mut outcome) = oneshot::channel();
        {
            let mut queue = shard.queue();
            let has_to_wait = queue.is_busy(self.pool.total_timeout());
            let slot = has_to_wait.then(|| self.pool.queue_slot()).transpose()?;
            queue.pending.push(PendingRotation { update: update.clone(), reply, slot });
        }
        self.try_lead(number);
        let acquire_timeout = self.pool.acquire_timeout();
        if let Ok(outcome) = timeout(acquire_timeout, &mut outcome).await {
            return outcome.unwrap_or(Err(Error::Canceled));
        }
        if shard.cancel(&update) {
            return Err(Error::AcquireTimeout(acquire_timeout));
        }
        match timeout(self.pool.total_timeout(), outcome).await {
            Ok(outcome) => outcome.unwrap_or(Err(Error::Canceled)),
            Err(_) => Err(Error::QueryTimeout(self.pool.query_timeout())),
        }
    }

    /// How long a caller of [`Self::rotate`] waits at most.
    pub(super) fn rotation_timeout(&self) -> Duration {
        self.pool.acquire_timeout() + self.pool.total_timeout()
    }

    /// Continues shards whose leader's term ended while rotations were queued, until the
    /// future is dropped.
    pub(super) async fn run(&self) {
        let shards = self.shards.iter().enumerate();
        join_all(shards.map(async |(number, shard)| {
            loop {
                shard.idle.notified().await;
                self.try_lead(number);
            }
        }))
        .await;
    }

    fn shard_of(&self, session: SessionId) -> usize {
        usize::from(session.place().value().unsigned_abs()) % self.shards.len()
    }

    /// Starts a leader if the shard is idle and has pending rotations.
    fn try_lead(&self, number: usize) {
        let leader = {
            let mut queue = self.shards[number].queue();
            if queue.pending.is_empty() || queue.is_busy(self.pool.total_timeout()) {
                return;
            }
            queue.terms += 1;
            queue.active = Some(ActiveBatch { term: queue.terms, since: Instant::now() });
            BatchLeader { batcher: self.clone(), shard: number, term: queue.terms }
        };
        leader.spawn();
    }
}

/// The one task that commits the batches of a shard. Requests follow it: they queue their
/// rotations, and wait for its replies.
struct BatchLeader {
    batcher: RotationBatcher,
    shard: usize,
    /// The number of its term.
    term: u64,
}

impl BatchLeader {
    fn shard(&self) -> &Shard {
        &self.batcher.shards[self.shard]
    }

    /// Runs the batches on a blocking thread as soon as a connection is free.
    fn spawn(self) {
        if let Some(permit) = self.batcher.pool.try_acquire(PermitKind::Write) {
            // Replies go to the pending rotations, so the task is not awaited.
            spawn_blocking(move || self.run(permit));
            return;
        }
        actix_rt::spawn(async move {
            // The pending rotations hold queue slots, and cancel themselves on timeout.
            if let Ok(permit) = self.batcher.pool.acquire_without_slot(PermitKind::Write).await {
                spawn_blocking(move || self.run(permit));
            }
        });
    }

    fn run(&self, permit: Permit) {
        let pool = &self.batcher.pool;
        let mut failed = Vec::new();
        let done = pool
            .with_connection(pool.acquire_timeout(), |conn| self.run_batches(conn, &mut failed));
        drop(permit);
        if let Err(error) = done {
            self.fail(failed, error);
        }
    }

    /// Commits batch after batch. Moves a batch that fails to `failed`; on a healthy
    /// connection it was rolled back.
    fn run_batches(&self, conn: &mut Conn, failed: &mut Vec<PendingRotation>) -> QueryResult<()> {
        let started = Instant::now();
        while started.elapsed() < MAX_TERM {
            let batch = self.next_batch();
            if batch.is_empty() {
                break;
            }
            let updates: Vec<&RotationUpdate> =
                batch.iter().map(|pending| &*pending.update).collect();
            match rotate_batch(conn, &updates) {
                Ok(rows) => {
                    let rotated = updates.iter().zip(&rows).filter(|(_, row)| row.is_some());
                    redate_late(conn, rotated.map(|(update, _)| *update));
                    for (pending, row) in batch.into_iter().zip(rows) {
                        pending.reply(Ok(row.into()));
                    }
                }
                Err(error) => {
                    *failed = batch;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes the next batch from the queue, with at most one rotation per session. An
    /// empty batch ends the term.
    fn next_batch(&self) -> Vec<PendingRotation> {
        let mut queue = self.shard().queue();
        let Some(active) = queue.active(self.term) else { return Vec::new() };
        active.since = Instant::now();
        let mut sessions = HashSet::new();
        let fits = |pending: &mut PendingRotation| {
            sessions.len() < MAX_BATCH && sessions.insert(pending.update.session)
        };
        // Skip rotations whose request has been dropped.
        queue.pending.retain(|pending| !pending.reply.is_closed());
        let mut batch: Vec<PendingRotation> = queue.pending.extract_if(.., fits).collect();
        for pending in &mut batch {
            pending.slot = None;
        }
        if batch.is_empty() {
            queue.active = None;
        }
        batch
    }

    /// Reports the error to the failed batch, or to the next one if there was no connection.
    fn fail(&self, failed: Vec<PendingRotation>, error: Error) {
        let was_sent = !failed.is_empty();
        let batch = if was_sent { failed } else { self.next_batch() };
        // On a healthy connection the batch was rolled back, perhaps because of a single
        // rotation. Each rotation is then retried alone.
        if let Error::Query(error) | Error::Transient(error) = error {
            tracing::debug!(%error, rotations = batch.len(), "rotation batch failed");
            for pending in batch {
                pending.reply(Ok(BatchOutcome::RolledBack));
            }
            return;
        }
        if was_sent {
            let updates = batch.iter().map(|pending| pending.update.clone());
            self.batcher.unsettled.add(updates);
        }
        let error = Arc::new(error);
        for pending in batch {
            pending.reply(Err(Error::Batch(error.clone())));
        }
    }
}

/// Ends the term. If rotations are pending, `RotationBatcher::run` starts another leader.
impl Drop for BatchLeader {
    fn drop(&mut self) {
        let mut queue = self.shard().queue();
        if queue.active(self.term).is_some() {
            queue.active = None;
            if !queue.pending.is_empty() {
                self.shard().idle.notify_one();
            }
        }
    }
}
