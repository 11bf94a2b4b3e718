//! Reverses work whose caller has given up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::QueryResult;
use tokio::sync::Notify;

use super::connection::is_usable;
use super::error::is_connection_fault;
use super::{Conn, Error, Store};

/// The pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The most reversals that wait for the database.
const CAPACITY: usize = 10_000;

type Undo = Arc<dyn Fn(&mut Conn) -> QueryResult<()> + Send + Sync>;

/// Reversals that wait for the database. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Undos {
    /// A `std` lock: it is never held across an `await`.
    waiting: Arc<Mutex<VecDeque<Undo>>>,
    added: Arc<Notify>,
}

impl Undos {
    fn add(&self, undo: Undo) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < CAPACITY {
            waiting.push_back(undo);
        }
        self.added.notify_one();
    }

    fn next(&self) -> Option<Undo> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The race between the commit of work and its cancellation. The first of the two wins.
#[derive(Clone, Default)]
struct CommitRace(Arc<AtomicBool>);

impl CommitRace {
    /// Returns whether this call is the first.
    fn win(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Cancels the work when it is dropped.
struct CancelOnDrop(CommitRace);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.win();
    }
}

impl Store {
    /// Runs `work` that writes, and whose result must not be lost. If the caller has given
    /// up by the time the work is committed, `undo` reverses it. `undo` also runs later if the
    /// connection is lost, because the database may have committed the work. It has to wait
    /// for the transaction of `work`, and changes nothing if there is nothing to reverse.
    pub async fn write_or_undo<T, F, U>(&self, work: F, undo: U) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
        U: Fn(&mut Conn) -> QueryResult<()> + Send + Sync + 'static,
    {
        let race = CommitRace::default();
        let race_of_work = race.clone();
        let undos = self.undos.clone();
        let outcome = self.write_once(move |conn| {
            let done = match work(conn) {
                Ok(done) => done,
                Err(error) => {
                    if is_connection_fault(&error) || !is_usable(conn) {
                        undos.add(Arc::new(undo));
                    }
                    return Err(error);
                }
            };
            if race_of_work.win() {
                return Ok(Some(done));
            }
            tracing::warn!("request timed out before its commit, undoing it");
            undo(conn).map(|()| None)
        });
        // Dropped with this future if the client disconnects.
        let _cancel = CancelOnDrop(race);
        outcome.await?.ok_or(Error::TimedOut)
    }

    /// Reverses work whose connection was lost, once the database responds. Never returns.
    pub async fn run_undos(self) {
        loop {
            let Some(undo) = self.undos.next() else {
                self.undos.added.notified().await;
                continue;
            };
            let work = undo.clone();
            if let Err(error) = self.write(move |conn| work(conn)).await {
                tracing::debug!(%error, "work not undone, retrying");
                if error.is_transient() {
                    self.undos.add(undo);
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
