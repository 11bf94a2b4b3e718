//! Rotations in batches: one statement and one commit for all that queued while
//! the last commit ran.
//!
//! Sessions are spread over lanes by their ids, and a lane has one batch under way
//! at a time, so that two batches never wait for each other's rows. Whoever finds
//! a lane free goes by itself, at once; those who come meanwhile go together
//! after it. Nobody waits for a batch to fill.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::sessions::{Advance, Advanced, advance, advance_all};
use super::{Error, Store};
use crate::token::SessionId;

/// The most rotations in one statement: enough to make the commit cheap, and few
/// enough that those who queue behind it do not notice.
const LARGEST_BATCH: usize = 128;

type Outcome = Result<Option<Advanced>, Error>;

/// The lanes of one [`Store`].
pub(super) struct Lanes(Vec<Lane>);

#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    /// Told when those who wait have nobody to go before them.
    left: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether a batch is under way.
    taken: bool,
}

struct Waiting {
    advance: Arc<Advance>,
    tell: oneshot::Sender<Outcome>,
}

enum Place<'a> {
    /// The lane was free.
    First(Turn<'a>),
    /// It goes with the next batch.
    Queued(oneshot::Receiver<Outcome>),
    /// Too many wait.
    Full,
}

/// The lane is the holder's until this is dropped.
struct Turn<'a>(&'a Lane);

impl Lanes {
    pub(super) fn new(lanes: usize) -> Self {
        Self((0..lanes.max(1)).map(|_| Lane::default()).collect())
    }

    fn of(&self, session: SessionId) -> &Lane {
        // Ids that were given out in a row are to be spread over all lanes.
        let mixed = session.0.as_u64_pair().1.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.0[usize::try_from(mixed).unwrap_or(0) % self.0.len()]
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.iter().map(|lane| lane.queue().waiting.len()).sum()
    }
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds this lock can panic halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, advance: &Arc<Advance>, most: usize) -> Place<'_> {
        let mut queue = self.queue();
        if !queue.taken {
            queue.taken = true;
            return Place::First(Turn(self));
        }
        if queue.waiting.len() >= most {
            return Place::Full;
        }
        let (tell, told) = oneshot::channel();
        queue.waiting.push(Waiting { advance: advance.clone(), tell });
        Place::Queued(told)
    }

    /// Gives up waiting; `false` where its batch is under way.
    fn leave(&self, advance: &Arc<Advance>) -> bool {
        let mut queue = self.queue();
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.advance, advance));
        queue.waiting.len() < before
    }

    /// Those who go next, by id, none of them twice. The lane is free where
    /// nobody waits.
    fn next(&self) -> Vec<Waiting> {
        let mut queue = self.queue();
        let mut sessions = HashSet::new();
        let fits = |waiting: &mut Waiting| {
            sessions.len() < LARGEST_BATCH && sessions.insert(waiting.advance.session)
        };
        let mut batch: Vec<Waiting> = queue.waiting.extract_if(.., fits).collect();
        // All who lock several rows do so in this order.
        batch.sort_unstable_by_key(|waiting| waiting.advance.session.0);
        queue.taken = !batch.is_empty();
        batch
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.taken = !queue.waiting.is_empty();
        if queue.taken {
            self.0.left.notify_one();
        }
    }
}

impl Store {
    /// Moves a session from the presented token to its successor, together with
    /// others that are asked for meanwhile; `None` where the token is not the
    /// live one. Answers when it is committed.
    ///
    /// # Errors
    /// As [`Store::run`].
    pub async fn advance(&self, next: Arc<Advance>) -> Result<Option<Advanced>, Error> {
        let lane = self.lanes.of(next.session);
        match lane.enter(&next, self.queue as usize) {
            Place::First(turn) => {
                let done = self.run(move |conn| advance(conn, &next)).await;
                drop(turn);
                done
            }
            Place::Full => Err(Error::Overloaded(self.queue)),
            Place::Queued(mut told) => {
                if let Ok(told) = timeout(self.wait, &mut told).await {
                    return told.unwrap_or(Err(Error::Interrupted));
                }
                if lane.leave(&next) {
                    return Err(Error::Busy(self.wait));
                }
                match timeout(self.wait + self.timeout, told).await {
                    Ok(told) => told.unwrap_or(Err(Error::Interrupted)),
                    Err(_) => Err(Error::Silent(self.timeout)),
                }
            }
        }
    }

    /// Takes those who wait through their lanes, until it is dropped.
    pub async fn serve_lanes(self) {
        let lanes = 0..self.lanes.0.len();
        futures_util::future::join_all(lanes.map(|lane| self.serve(lane))).await;
    }

    async fn serve(&self, lane: usize) {
        let lane = &self.lanes.0[lane];
        loop {
            lane.left.notified().await;
            loop {
                let batch = lane.next();
                if batch.is_empty() {
                    break;
                }
                self.advance_batch(batch).await;
            }
        }
    }

    async fn advance_batch(&self, batch: Vec<Waiting>) {
        let advances: Vec<Arc<Advance>> =
            batch.iter().map(|waiting| waiting.advance.clone()).collect();
        let all = self.run(move |conn| {
            let advances: Vec<&Advance> = advances.iter().map(AsRef::as_ref).collect();
            advance_all(conn, &advances)
        });
        match all.await {
            Ok(rows) => {
                for (waiting, row) in batch.into_iter().zip(rows) {
                    let _ = waiting.tell.send(Ok(row));
                }
            }
            // On a sound connection: nothing was changed, and it may have been the
            // fault of one.
            Err(Error::Query(error)) if batch.len() > 1 => {
                tracing::warn!(%error, rotations = batch.len(), "a batch failed: one by one now");
                for Waiting { advance: next, tell } in batch {
                    let _ = tell.send(self.run(move |conn| advance(conn, &next)).await);
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for waiting in batch {
                    let _ = waiting.tell.send(Err(Error::Shared(error.clone())));
                }
            }
        }
    }
}
