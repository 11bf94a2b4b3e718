//! Takes away what has had its time: salts, sessions that are long over, old
//! entries of the security log.
//!
//! A server remembers which sessions it has rotated and clears their salts once
//! the retry window is over. All else it comes across on its rounds: a small
//! batch each second, along the primary key, and a rest when it is through.
//! There is no index to find work by, since one on a column that rotations
//! change would make each of them dearer. A batch reads rows that lie side by
//! side and writes only where there is something to do; a round of ten million
//! sessions takes some hours.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use tokio::sync::mpsc;

use crate::clock::{self, CLOCKS_APART, Timestamp};
use crate::ids::{SessionId, UserId};
use crate::sessions::{self, Policy};
use crate::store::{self, Conn, Store, events, revocations, users};

/// The pause between two steps.
const PAUSE: Duration = Duration::from_secs(1);
/// The rest between two rounds, long enough for a database that sleeps when
/// nobody asks it.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(10 * 60);
/// The pause where the database does not answer.
const LONG_PAUSE: Duration = Duration::from_secs(10);
/// How many rows a round looks at in one step.
pub const ROWS_PER_TICK: i64 = 500;
/// How long a guest may wait before it signs in.
const UNUSED_GUEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How many of the remembered salts one statement clears: few milliseconds of
/// locks on rows that are in use.
const BATCH: usize = 100;
/// After each piece of work the sweeper rests this many times as long as that
/// took, so that it never has more than a tenth of one connection's time.
const REST: u32 = 9;
/// How many rotations wait to be noticed, and how many noticed ones wait for
/// their window to end. What is beyond is come across.
const NOTICED: usize = 1 << 16;
const REMEMBERED: usize = 1 << 18;

/// Tells the sweeper what may be rotated now. Clones tell the same sweeper.
#[derive(Clone)]
pub struct SaltExpiry(mpsc::Sender<(Timestamp, SessionId)>);

impl SaltExpiry {
    /// Notes that a session is about to be rotated without an attempt key. Never
    /// waits.
    pub fn track(&self, session: SessionId, now: Timestamp) {
        // Where the sweeper is behind, its round has to do.
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
    /// How far the round has come.
    at: SessionId,
    /// How far the round through the guests has come.
    guests_at: UserId,
    /// When the round goes on.
    resume: Instant,
}

impl Sweeper {
    /// A sweeper, and how to tell it of rotations.
    #[must_use]
    pub fn new(store: Store, policy: Policy, event_retention: Duration) -> (Self, SaltExpiry) {
        let (note, noticed) = mpsc::channel(NOTICED);
        let sweeper = Self {
            store,
            policy,
            event_retention,
            noticed,
            rotated: VecDeque::new(),
            at: SessionId::MIN,
            guests_at: UserId::MIN,
            resume: Instant::now(),
        };
        (sweeper, SaltExpiry(note))
    }

    /// Sweeps until it is dropped, which it may be at any time.
    pub async fn run(mut self) {
        let mut failing = false;
        loop {
            let done = self.tick().await;
            if let (Err(error), false) = (&done, failing) {
                tracing::warn!(%error, "the sweeper cannot work, and will try again");
            }
            failing = done.is_err();
            tokio::time::sleep(if failing { LONG_PAUSE } else { PAUSE }).await;
        }
    }

    /// Clears the salts that it was told of and the ends that nobody needs any
    /// more, and takes a step of its round.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tick(&mut self) -> Result<(), store::Error> {
        self.clear_salts().await?;
        let over = clock::now().before(CLOCKS_APART);
        self.work(move |conn| revocations::delete_old(conn, over)).await?;
        if Instant::now() < self.resume {
            return Ok(());
        }
        let (policy, at, now) = (self.policy, self.at, clock::now());
        let sweep = move |conn: &mut Conn| sessions::sweep(conn, at, ROWS_PER_TICK, &policy, now);
        let swept = self.work(sweep).await?;
        if swept.cleared + swept.deleted > 0 {
            tracing::debug!(cleared = swept.cleared, deleted = swept.deleted, "swept");
        }
        let before = now.before(self.event_retention);
        let old = self.work(move |conn| events::delete_old(conn, before, ROWS_PER_TICK)).await?;
        let (guest, retention) = (self.guests_at, self.policy.retention);
        let (unused, used) = (now.before(UNUSED_GUEST), now.before(retention));
        let guests =
            self.work(move |conn| users::sweep(conn, guest, ROWS_PER_TICK, unused, used)).await?;
        if guests.deleted > 0 {
            tracing::debug!(deleted = guests.deleted, "guests swept");
        }
        // The shorter of the two rounds waits at its end for the longer one.
        self.at = swept.last.unwrap_or(self.at);
        self.guests_at = guests.last.unwrap_or(self.guests_at);
        if swept.last.is_none() && guests.last.is_none() && old == 0 {
            self.at = SessionId::MIN;
            self.guests_at = UserId::MIN;
            self.resume = Instant::now() + BETWEEN_ROUNDS;
        }
        Ok(())
    }

    /// Clears the salts of the remembered rotations whose window is over.
    async fn clear_salts(&mut self) -> Result<(), store::Error> {
        // Strict rotations leave no salt.
        let Some(reuse) = self.policy.reuse else { return Ok(()) };
        while let Ok(rotation) = self.noticed.try_recv() {
            if self.rotated.len() < REMEMBERED {
                self.rotated.push_back(rotation);
            }
        }
        let (policy, now) = (self.policy, clock::now());
        let over = now.before(reuse.grace_period);
        loop {
            let ripe = self.rotated.iter().take_while(|(rotated_at, _)| *rotated_at < over);
            let ids: Vec<SessionId> = ripe.take(BATCH).map(|(_, session)| *session).collect();
            if ids.is_empty() {
                return Ok(());
            }
            let count = ids.len();
            let clear = move |conn: &mut Conn| sessions::clear_salts(conn, &ids, &policy, now);
            let cleared = self.work(clear).await?;
            tracing::debug!(cleared, "salts of own rotations cleared");
            self.rotated.drain(..count);
        }
    }

    /// Does a piece of work, and rests after it.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, store::Error> {
        let start = Instant::now();
        let done = self.store.write(work).await;
        tokio::time::sleep(start.elapsed() * REST).await;
        done
    }
}
