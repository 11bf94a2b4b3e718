//! Rotations in batches: one statement and one commit for all that queued while
//! the last commit ran.
//!
//! Sessions are spread over lanes by their ids, and a lane has one batch under way
//! at a time. Whoever finds a lane free has the turn: what is queued goes to the
//! database at once, and what comes meanwhile after it; a long turn leaves the rest
//! to another. Nobody waits for a batch to fill, and no batch waits for a row that
//! somebody else is at: who was not advanced is looked at alone, on another
//! connection.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::task::spawn_blocking;
use diesel::QueryResult;
use futures_util::future::join_all;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::sessions::{Rotated, RotationUpdate, redate_late, rotate_batch};
use super::{Conn, Error, Store, ToWrite};
use crate::clock::Timestamp;
use crate::ids::SessionId;

/// The most rotations in one statement: enough to make the commit cheap, and few
/// enough that those who queue behind it do not notice.
const LARGEST_BATCH: usize = 128;

/// For how long a turn keeps its connection while others queue.
const MAX_LEASE: Duration = Duration::from_millis(50);

type Outcome = Result<Option<Rotated>, Error>;

/// The lanes of one [`Store`].
pub(super) struct RotationBatcher(Vec<Shard>);

#[derive(Default)]
struct Shard {
    queue: Mutex<Queue>,
    /// Told where a turn ended while others wait.
    left: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<PendingRotation>,
    /// The turn under way.
    under_way: Option<ActiveBatch>,
    turns: u64,
}

struct ActiveBatch {
    number: u64,
    /// Since when its batch is, or what it has to wait for before.
    since: Instant,
}

struct PendingRotation {
    update: Arc<RotationUpdate>,
    tell: oneshot::Sender<Outcome>,
    /// Among those who may wait; whoever has the turn does not.
    place: Option<OwnedSemaphorePermit>,
}

impl PendingRotation {
    /// Who has hung up is not told.
    fn tell(self, outcome: Outcome) {
        let _ = self.tell.send(outcome);
    }
}

/// The right to take to the database what queues in a lane.
struct Turn {
    lanes: Arc<RotationBatcher>,
    lane: usize,
    number: u64,
}

impl RotationBatcher {
    pub(super) fn new(lanes: usize) -> Self {
        Self((0..lanes.max(1)).map(|_| Shard::default()).collect())
    }

    fn of(&self, session: SessionId) -> usize {
        // Ids that were given out in a row are to be spread over all lanes.
        let mixed = session.0.as_u64_pair().1.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).unwrap_or(0) % self.0.len()
    }
}

impl Shard {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds this lock can panic halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up waiting; `false` where its batch is under way.
    fn leave(&self, update: &Arc<RotationUpdate>) -> bool {
        let mut queue = self.queue();
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.update, update));
        queue.waiting.len() < before
    }
}

impl Queue {
    /// Whether a turn is under way that is not given up.
    fn is_busy(&self, patience: Duration) -> bool {
        self.under_way.as_ref().is_some_and(|turn| turn.since.elapsed() <= patience)
    }

    /// A new turn, where somebody waits for one.
    fn turn(
        &mut self,
        lanes: &Arc<RotationBatcher>,
        lane: usize,
        patience: Duration,
    ) -> Option<Turn> {
        if self.waiting.is_empty() || self.is_busy(patience) {
            return None;
        }
        self.turns += 1;
        self.under_way = Some(ActiveBatch { number: self.turns, since: Instant::now() });
        Some(Turn { lanes: lanes.clone(), lane, number: self.turns })
    }

    /// The turn with that number, unless it is over.
    fn under_way(&mut self, number: u64) -> Option<&mut ActiveBatch> {
        self.under_way.as_mut().filter(|turn| turn.number == number)
    }
}

impl Turn {
    fn lane(&self) -> &Shard {
        &self.lanes.0[self.lane]
    }

    /// Those who go next, no session twice. The turn is over where there are none.
    fn next(&self) -> Vec<PendingRotation> {
        let mut queue = self.lane().queue();
        let Some(turn) = queue.under_way(self.number) else { return Vec::new() };
        turn.since = Instant::now();
        let mut sessions = HashSet::new();
        let fits = |waiting: &mut PendingRotation| {
            sessions.len() < LARGEST_BATCH && sessions.insert(waiting.update.session)
        };
        // Who has been given up is not served any more.
        queue.waiting.retain(|waiting| !waiting.tell.is_closed());
        let mut batch: Vec<PendingRotation> = queue.waiting.extract_if(.., fits).collect();
        for waiting in &mut batch {
            waiting.place = None;
        }
        if batch.is_empty() {
            queue.under_way = None;
        }
        batch
    }

    /// Takes batch after batch to the database. A batch that fails is left in
    /// `failed`; nothing of it was done where the connection is sound.
    fn serve(&self, conn: &mut Conn, failed: &mut Vec<PendingRotation>) -> QueryResult<()> {
        let started = Instant::now();
        while started.elapsed() < MAX_LEASE {
            let batch = self.next();
            if batch.is_empty() {
                break;
            }
            let advances: Vec<&RotationUpdate> =
                batch.iter().map(|waiting| &*waiting.update).collect();
            match rotate_batch(conn, &advances) {
                Ok(rows) => {
                    let rotated = advances.iter().zip(&rows).filter(|(_, row)| row.is_some());
                    redate_late(conn, rotated.map(|(next, _)| *next));
                    for (waiting, row) in batch.into_iter().zip(rows) {
                        waiting.tell(Ok(row));
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

    /// Tells those whose batch failed, or those who would be next.
    fn fail(&self, batch: Vec<PendingRotation>, error: Error) {
        let batch = if batch.is_empty() { self.next() } else { batch };
        // On a sound connection nothing of it was done, and it may have been the
        // fault of one: each is to see for itself.
        if let Error::Query(error) | Error::Unable(error) = error {
            tracing::warn!(%error, rotations = batch.len(), "a batch failed");
            for waiting in batch {
                waiting.tell(Ok(None));
            }
            return;
        }
        let error = Arc::new(error);
        for waiting in batch {
            waiting.tell(Err(Error::Batch(error.clone())));
        }
    }
}

/// Lets others have the lane.
impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.lane().queue();
        if queue.under_way(self.number).is_some() {
            queue.under_way = None;
            if !queue.waiting.is_empty() {
                self.lane().left.notify_one();
            }
        }
    }
}

impl Store {
    /// Moves a session from the presented token to its successor, together with
    /// others that are asked for meanwhile. Answers when it is committed; `None`
    /// where the token is not the live one, or somebody else is at the session, or
    /// its batch has failed: what there is to say is said by looking at it alone.
    /// Somebody has to run [`Self::run_batches`].
    ///
    /// # Errors
    /// As [`Store::run`].
    pub async fn rotate(&self, next: Arc<RotationUpdate>) -> Result<Option<Rotated>, Error> {
        self.check_clock()?;
        let number = self.lanes.of(next.session);
        let lane = &self.lanes.0[number];
        let (tell, mut told) = oneshot::channel();
        let turn = {
            let mut queue = lane.queue();
            let has_to_wait = queue.is_busy(self.patience());
            let place = has_to_wait.then(|| self.place()).transpose()?;
            queue.waiting.push(PendingRotation { update: next.clone(), tell, place });
            queue.turn(&self.lanes, number, self.patience())
        };
        if let Some(turn) = turn {
            self.take(turn);
        }
        if let Ok(told) = timeout(self.wait, &mut told).await {
            return told.unwrap_or(Err(Error::Canceled));
        }
        if lane.leave(&next) {
            return Err(Error::AcquireTimeout(self.wait));
        }
        match timeout(self.patience(), told).await {
            Ok(told) => told.unwrap_or(Err(Error::Canceled)),
            Err(_) => Err(Error::QueryTimeout(self.timeout)),
        }
    }

    /// When nobody waits any more for a rotation that is asked for `now`, by the
    /// database's clock.
    #[must_use]
    pub fn deadline(&self, now: Timestamp) -> Timestamp {
        self.by_database_clock(now.after(self.wait + self.patience()))
    }

    /// For how long a batch may be under way, a connection to be found included.
    fn patience(&self) -> Duration {
        self.wait + self.timeout
    }

    /// Goes on with lanes whose turns ended while others waited, until it is dropped.
    pub async fn run_batches(self) {
        join_all((0..self.lanes.0.len()).map(|place| self.keep_lane(place))).await;
    }

    async fn keep_lane(&self, place: usize) {
        let lane = &self.lanes.0[place];
        loop {
            lane.left.notified().await;
            let turn = lane.queue().turn(&self.lanes, place, self.patience());
            if let Some(turn) = turn {
                self.take(turn);
            }
        }
    }

    /// Takes a turn on a thread that may block, as soon as a connection is free.
    fn take(&self, turn: Turn) {
        let store = self.clone();
        if let Some(permits) = self.try_to_write() {
            // Nobody waits for it to end: it tells all whom it concerns.
            spawn_blocking(move || store.serve(&turn, permits));
            return;
        }
        actix_rt::spawn(async move {
            // Those in the lane have their places, and leave by themselves when they have
            // waited for too long.
            if let Ok(permits) = store.wait_to_write().await {
                spawn_blocking(move || store.serve(&turn, permits));
            }
        });
    }

    fn serve(&self, turn: &Turn, permits: ToWrite) {
        let mut failed = Vec::new();
        let served = self.on_connection(self.wait, |conn| turn.serve(conn, &mut failed));
        drop(permits);
        if let Err(error) = served {
            turn.fail(failed, error);
        }
    }
}
