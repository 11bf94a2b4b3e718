//! Rotations in batches: one statement and one commit for all that queued while
//! the last commit ran.
//!
//! Sessions are spread over lanes by their ids, and a lane has one batch under way
//! at a time. Whoever finds a lane free has the turn: what is queued goes to the
//! database at once, and what comes meanwhile after it, until nobody waits. Nobody
//! waits for a batch to fill, and no batch waits for a row that somebody else is
//! at: who was not advanced is looked at alone, on another connection.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use futures_util::future::join_all;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::sessions::{Advance, Advanced, advance_all};
use super::{Conn, Error, Store};
use crate::token::SessionId;

/// The most rotations in one statement: enough to make the commit cheap, and few
/// enough that those who queue behind it do not notice.
const LARGEST_BATCH: usize = 128;

/// For how long a turn keeps its connection while others queue.
const LONGEST_TURN: Duration = Duration::from_millis(50);

type Outcome = Result<Option<Advanced>, Error>;

/// The lanes of one [`Store`].
pub(super) struct Lanes(Vec<Lane>);

#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    /// Told where a turn ended while others wait.
    left: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// The number of the turn under way.
    turn: Option<u64>,
    turns: u64,
}

struct Waiting {
    advance: Arc<Advance>,
    tell: oneshot::Sender<Outcome>,
    /// Among those who may wait; whoever has the turn does not.
    place: Option<OwnedSemaphorePermit>,
}

impl Waiting {
    /// Who has hung up is not told.
    fn tell(self, outcome: Outcome) {
        let _ = self.tell.send(outcome);
    }
}

/// The right to take to the database what queues in a lane.
struct Turn {
    lanes: Arc<Lanes>,
    lane: usize,
    number: u64,
}

impl Lanes {
    pub(super) fn new(lanes: usize) -> Self {
        Self((0..lanes.max(1)).map(|_| Lane::default()).collect())
    }

    fn of(&self, session: SessionId) -> usize {
        // Ids that were given out in a row are to be spread over all lanes.
        let mixed = session.0.as_u64_pair().1.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).unwrap_or(0) % self.0.len()
    }
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds this lock can panic halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up waiting; `false` where its batch is under way.
    fn leave(&self, advance: &Arc<Advance>) -> bool {
        let mut queue = self.queue();
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.advance, advance));
        queue.waiting.len() < before
    }
}

impl Queue {
    /// A new turn, where somebody waits and none is under way.
    fn turn(&mut self, lanes: &Arc<Lanes>, lane: usize) -> Option<Turn> {
        if self.turn.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.turns += 1;
        self.turn = Some(self.turns);
        Some(Turn { lanes: lanes.clone(), lane, number: self.turns })
    }
}

impl Turn {
    fn lane(&self) -> &Lane {
        &self.lanes.0[self.lane]
    }

    /// Those who go next, no session twice. The turn is over where there are none.
    fn next(&self) -> Vec<Waiting> {
        let mut queue = self.lane().queue();
        if queue.turn != Some(self.number) {
            return Vec::new();
        }
        let mut sessions = HashSet::new();
        let fits = |waiting: &mut Waiting| {
            sessions.len() < LARGEST_BATCH && sessions.insert(waiting.advance.session)
        };
        // Who has been given up is not served any more.
        queue.waiting.retain(|waiting| !waiting.tell.is_closed());
        let mut batch: Vec<Waiting> = queue.waiting.extract_if(.., fits).collect();
        for waiting in &mut batch {
            waiting.place = None;
        }
        if batch.is_empty() {
            queue.turn = None;
        }
        batch
    }

    /// Takes batch after batch to the database. A batch that fails is left in
    /// `failed`; nothing of it was done where the connection is sound.
    fn serve(&self, conn: &mut Conn, failed: &Mutex<Vec<Waiting>>) -> QueryResult<()> {
        let started = Instant::now();
        while started.elapsed() < LONGEST_TURN {
            let batch = self.next();
            if batch.is_empty() {
                break;
            }
            let advances: Vec<&Advance> = batch.iter().map(|waiting| &*waiting.advance).collect();
            match advance_all(conn, &advances) {
                Ok(rows) => {
                    for (waiting, row) in batch.into_iter().zip(rows) {
                        waiting.tell(Ok(row));
                    }
                }
                Err(error) => {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = batch;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.lane().queue().turn != Some(self.number)
    }

    /// Lets others have the lane.
    fn end(&self) {
        let mut queue = self.lane().queue();
        if queue.turn == Some(self.number) {
            queue.turn = None;
            if !queue.waiting.is_empty() {
                self.lane().left.notify_one();
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

impl Store {
    /// Moves a session from the presented token to its successor, together with
    /// others that are asked for meanwhile. Answers when it is committed; `None`
    /// where the token is not the live one, or somebody else is at the session, or
    /// its batch has failed: what there is to say is said by looking at it alone.
    /// Somebody has to run [`Self::keep_lanes`].
    ///
    /// # Errors
    /// As [`Store::run`].
    pub async fn advance(&self, next: Arc<Advance>) -> Result<Option<Advanced>, Error> {
        let place = self.lanes.of(next.session);
        let lane = &self.lanes.0[place];
        let (tell, mut told) = oneshot::channel();
        let turn = {
            let mut queue = lane.queue();
            let may_wait = || self.places.clone().try_acquire_owned();
            let place_to_wait = queue.turn.is_some().then(may_wait).transpose();
            let place_to_wait = place_to_wait.map_err(|_| Error::Overloaded(self.queue))?;
            queue.waiting.push(Waiting { advance: next.clone(), tell, place: place_to_wait });
            queue.turn(&self.lanes, place)
        };
        if let Some(turn) = turn {
            actix_rt::spawn(self.clone().serve(turn));
        }
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

    /// Takes over the turns of threads that stop, until it is dropped.
    pub async fn keep_lanes(self) {
        join_all((0..self.lanes.0.len()).map(|place| self.keep_lane(place))).await;
    }

    async fn keep_lane(&self, place: usize) {
        let lane = &self.lanes.0[place];
        loop {
            lane.left.notified().await;
            let turn = lane.queue().turn(&self.lanes, place);
            if let Some(turn) = turn {
                self.clone().serve(turn).await;
            }
        }
    }

    async fn serve(self, turn: Turn) {
        let turn = Arc::new(turn);
        while !turn.is_over() {
            let failed = Arc::new(Mutex::new(Vec::new()));
            let (serving, left) = (turn.clone(), failed.clone());
            let served = self.run(move |conn| serving.serve(conn, &left)).await;
            let Err(error) = served else { continue };
            let mut batch =
                std::mem::take(&mut *failed.lock().unwrap_or_else(PoisonError::into_inner));
            match error {
                // On a sound connection nothing of it was done, and it may have been the
                // fault of one: each is to see for itself.
                Error::Query(error) => {
                    tracing::warn!(%error, rotations = batch.len(), "a batch failed");
                    for waiting in batch {
                        waiting.tell(Ok(None));
                    }
                }
                error => {
                    // The database was not even asked.
                    if let Error::NoConnection(..) | Error::Busy(_) | Error::Overloaded(_) = error {
                        batch = turn.next();
                    }
                    let error = Arc::new(error);
                    for waiting in batch {
                        waiting.tell(Err(Error::Shared(error.clone())));
                    }
                    // What a silent connection is still at ends with that batch.
                    turn.end();
                }
            }
        }
    }
}
