//! Work that follows other work: reverses it if its caller has given up, or corrects its date
//! if it may have been committed late.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use tokio::sync::Notify;

use super::connection::is_usable;
use super::error::is_connection_fault;
use super::sessions::LATE_AFTER;
use super::{Conn, Error, Store};
use crate::ids::{SessionId, UserId};

/// The pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The most follow-ups that wait for the database.
const CAPACITY: usize = 10_000;

/// The rows that a follow-up changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affected {
    /// What a login of this user has changed.
    User(UserId),
    /// The session that a code has opened.
    Session(SessionId),
}

type Work = Arc<dyn Fn(&mut Conn) -> QueryResult<bool> + Send + Sync>;

/// Work that can run at any time and repeatedly. It returns `false` if another transaction has
/// locked its rows, because this may be the transaction that it follows. It changes nothing if
/// that one was rolled back.
#[derive(Clone)]
pub struct FollowUp {
    affected: Affected,
    work: Work,
}

impl FollowUp {
    pub fn new(
        affected: Affected,
        work: impl Fn(&mut Conn) -> QueryResult<bool> + Send + Sync + 'static,
    ) -> Self {
        Self { affected, work: Arc::new(work) }
    }
}

/// The follow-ups that wait for the database. Clones share them.
#[derive(Clone, Default)]
pub(super) struct FollowUps {
    /// A `std` lock: it is never held across an `await`. The first one stays in the queue while
    /// it runs.
    waiting: Arc<Mutex<VecDeque<FollowUp>>>,
    added: Arc<Notify>,
}

impl FollowUps {
    fn add(&self, follow_up: FollowUp) {
        let mut waiting = self.waiting();
        if waiting.len() < CAPACITY {
            waiting.push_back(follow_up);
        } else {
            let affected = follow_up.affected;
            tracing::error!(?affected, "too much work to undo or to correct, given up");
        }
        self.added.notify_one();
    }

    /// Runs `work`, and adds `follow_up` if the connection is lost: the database may have
    /// committed the work.
    fn watch<T>(
        &self,
        conn: &mut Conn,
        follow_up: &FollowUp,
        work: impl FnOnce(&mut Conn) -> QueryResult<T>,
    ) -> QueryResult<T> {
        work(conn).inspect_err(|error| {
            if is_connection_fault(error) || !is_usable(conn) {
                self.add(follow_up.clone());
            }
        })
    }

    fn next(&self) -> Option<FollowUp> {
        self.waiting().front().cloned()
    }

    /// Removes the first one, or moves it to the end.
    fn finish(&self, is_over: bool) {
        let mut waiting = self.waiting();
        let first = waiting.pop_front();
        if !is_over {
            waiting.extend(first);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    pub(super) fn contains(&self, affected: Affected) -> bool {
        self.waiting().iter().any(|waiting| waiting.affected == affected)
    }

    /// Ignores poisoning: no holder of the lock can panic during a change.
    fn waiting(&self) -> MutexGuard<'_, VecDeque<FollowUp>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const OVER: u8 = 2;

/// The state of work whose caller may give up. The commit and the caller race: the first of the
/// two ends it.
#[derive(Clone, Default)]
struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Returns whether the work may begin: its caller still waits.
    fn begin(&self) -> bool {
        self.0.compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Returns whether the work was running until now.
    fn end(&self) -> bool {
        self.0.swap(OVER, Ordering::AcqRel) == RUNNING
    }
}

/// Gives up when it is dropped. The undo waits from then on, so that a request that follows
/// finds it.
struct GiveUpOnDrop {
    progress: Progress,
    follow_ups: FollowUps,
    undo: FollowUp,
}

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        if self.progress.end() {
            tracing::debug!("caller gave up before the commit, work is undone");
            self.follow_ups.add(self.undo.clone());
        }
    }
}

impl Store {
    /// Runs `work` that writes, and whose result must not be lost. `undo` reverses it later if
    /// the caller has given up by the time it is committed, or if the connection is lost.
    pub async fn write_or_undo<T, F>(&self, work: F, undo: FollowUp) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        let progress = Progress::default();
        let follow_ups = self.follow_ups.clone();
        // Dropped with this future if the client disconnects.
        let _give_up = GiveUpOnDrop {
            progress: progress.clone(),
            follow_ups: follow_ups.clone(),
            undo: undo.clone(),
        };
        let outcome = self.write_once(move |conn| {
            if !progress.begin() {
                return Ok(None);
            }
            let done = follow_ups.watch(conn, &undo, work);
            let is_awaited = progress.end();
            let done = done?;
            if !is_awaited {
                // It may have run already, before the commit.
                follow_ups.add(undo);
            }
            Ok(is_awaited.then_some(done))
        });
        outcome.await?.ok_or(Error::TimedOut)
    }

    /// Runs `work` that writes, and that a client can repeat for a while after its date.
    /// `correction` moves the date later if the commit is late, or if the connection is lost.
    pub async fn write_or_correct<T, F>(&self, work: F, correction: FollowUp) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        let began_at = Instant::now();
        let follow_ups = self.follow_ups.clone();
        self.write_once(move |conn| {
            let done = follow_ups.watch(conn, &correction, work)?;
            if began_at.elapsed() > LATE_AFTER {
                follow_ups.add(correction);
            }
            Ok(done)
        })
        .await
    }

    /// Returns whether a login of this user is about to be undone.
    #[must_use]
    pub fn is_being_undone(&self, user: UserId) -> bool {
        self.follow_ups.contains(Affected::User(user))
    }

    /// Undoes and corrects work once the database responds. Never returns.
    pub async fn run_follow_ups(self) {
        loop {
            let Some(next) = self.follow_ups.next() else {
                self.follow_ups.added.notified().await;
                continue;
            };
            let affected = next.affected;
            let is_over = match self.write_reserved(move |conn| (next.work)(conn)).await {
                Ok(is_over) => is_over,
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, ?affected, "work not undone or corrected, retrying");
                    false
                }
                Err(error) => {
                    tracing::error!(%error, ?affected, "work not undone or corrected, given up");
                    true
                }
            };
            self.follow_ups.finish(is_over);
            if !is_over {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
