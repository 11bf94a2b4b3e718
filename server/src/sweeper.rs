//! Takes away what has had its time: salts, sessions that are long over, old
//! entries of the security log.
//!
//! Nothing is searched for. A server remembers which sessions it has rotated and
//! clears their salts once the retry window is over. All else is found by
//! `sessions.sweep_at`, an index that no rotation touches: each row says when it
//! has to be looked at next, which is once a day as long as its session lives.
//! So the work is proportional to what there is to do, not to the table, and a
//! server that was killed leaves salts behind for a day at most.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use tokio::sync::mpsc;

use crate::clock::{self, Timestamp};
use crate::sessions::{self, Policy};
use crate::store::{self, Conn, Store, events};
use crate::token::SessionId;

/// How often the sweeper looks whether there is anything to do.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause where the database does not answer.
const LONG_PAUSE: Duration = Duration::from_secs(10);
/// How many rows one statement takes: few milliseconds of locks.
const BATCH: usize = 100;
/// After each batch the sweeper rests this many times as long as it took, so
/// that it never has more than a tenth of one connection's time.
const REST: u32 = 9;
/// How many rotations wait to be noticed, and how many noticed ones wait for
/// their window to end. What is beyond is found by its `sweep_at`.
const NOTICED: usize = 1 << 16;
const REMEMBERED: usize = 1 << 20;

/// Tells the sweeper what was rotated. Clones tell the same sweeper.
#[derive(Clone)]
pub struct Rotations(mpsc::Sender<(Timestamp, SessionId)>);

impl Rotations {
    /// Notes that a session was rotated without an attempt key. Never waits.
    pub fn note(&self, session: SessionId, now: Timestamp) {
        // Where the sweeper is behind, the row's own date has to do.
        let _ = self.0.try_send((now, session));
    }
}

/// The sweeper of one server.
pub struct Sweeper {
    store: Store,
    policy: Policy,
    event_retention: Duration,
    noticed: mpsc::Receiver<(Timestamp, SessionId)>,
    /// Sessions and when they were rotated, oldest first.
    rotated: VecDeque<(Timestamp, SessionId)>,
}

impl Sweeper {
    /// A sweeper, and how to tell it of rotations.
    #[must_use]
    pub fn new(store: Store, policy: Policy, event_retention: Duration) -> (Self, Rotations) {
        let (note, noticed) = mpsc::channel(NOTICED);
        let rotated = VecDeque::new();
        (Self { store, policy, event_retention, noticed, rotated }, Rotations(note))
    }

    /// Sweeps until it is dropped, which it may be at any time.
    pub async fn run(mut self) {
        let mut failing = false;
        loop {
            let pause = match self.round().await {
                Ok(()) => {
                    failing = false;
                    PAUSE
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the sweeper cannot work, and will try again");
                    }
                    failing = true;
                    LONG_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Does all there is to do at this moment.
    async fn round(&mut self) -> Result<(), store::Error> {
        self.clear_salts().await?;
        let (policy, retention) = (self.policy, self.event_retention);
        loop {
            let sweep =
                move |conn: &mut Conn| sessions::sweep(conn, &policy, limit(), clock::now());
            let swept = self.batch(sweep).await?;
            if swept.cleared + swept.deleted > 0 {
                tracing::debug!(?swept, "swept");
            }
            // Rotations go on meanwhile, and their salts are not to wait.
            self.clear_salts().await?;
            if swept.seen < BATCH {
                break;
            }
        }
        loop {
            let before = clock::now().before(retention);
            let delete = move |conn: &mut Conn| events::delete_old(conn, before, limit());
            if self.batch(delete).await? < BATCH {
                return Ok(());
            }
        }
    }

    /// Clears the salts of the remembered rotations whose window is over.
    async fn clear_salts(&mut self) -> Result<(), store::Error> {
        while let Ok(rotation) = self.noticed.try_recv() {
            if self.rotated.len() < REMEMBERED {
                self.rotated.push_back(rotation);
            }
        }
        let Some(retry) = self.policy.retry else { return Ok(()) };
        loop {
            let (policy, now) = (self.policy, clock::now());
            let over = now.before(retry.window);
            let ripe = self.rotated.iter().take_while(|(rotated_at, _)| *rotated_at < over);
            let ids: Vec<SessionId> = ripe.take(BATCH).map(|(_, session)| *session).collect();
            if ids.is_empty() {
                return Ok(());
            }
            let count = ids.len();
            self.batch(move |conn| sessions::clear_salts(conn, &ids, &policy, now)).await?;
            self.rotated.drain(..count);
        }
    }

    /// Does a piece of work, and rests after it.
    async fn batch<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, store::Error> {
        let start = Instant::now();
        let done = self.store.run(work).await;
        tokio::time::sleep(start.elapsed() * REST).await;
        done
    }
}

fn limit() -> i64 {
    i64::try_from(BATCH).unwrap_or(i64::MAX)
}
