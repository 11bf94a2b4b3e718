//! A database connection outside the pool, for one task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::task::JoinError;
use diesel::connection::SimpleConnection;
use diesel::result::Error as QueryError;
use diesel::{ConnectionError, QueryResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::{Connector, Established, Timeouts, is_usable};
use super::error::is_connection_fault;
use super::watchdog::Closing;
use super::{Conn, Url};

/// One connection, opened when it is first used and again after it was lost. The task
/// never waits for other work.
#[derive(Clone)]
pub struct DedicatedConnection {
    connector: Arc<Connector>,
    /// Held during work on SQLite, which has one writer.
    writer: Option<Arc<Semaphore>>,
    /// One permit, for the thread of the work. Work that has timed out keeps it until its
    /// connection is closed, so that no second thread waits for the same server.
    turn: Arc<Semaphore>,
    /// `None` while the connection is in use.
    idle: Arc<Mutex<Option<Established>>>,
    connections: Arc<AtomicU64>,
}

/// Why work on the connection has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no database connection: {0}")]
    Connect(#[from] ConnectionError),
    #[error("database connection lost: {0}")]
    Lost(#[source] QueryError),
    /// The connection itself is healthy.
    #[error("statement failed: {0}")]
    Query(#[source] QueryError),
    #[error("the database did not respond within {0:?}")]
    Slow(Duration),
    #[error("database task panicked or was canceled: {0}")]
    Unfinished(#[from] JoinError),
}

impl Error {
    /// Returns whether the database has responded, with an error.
    #[must_use]
    pub fn is_response(&self) -> bool {
        matches!(self, Self::Query(_))
    }
}

impl DedicatedConnection {
    pub(super) fn new(url: &Url, writer: Option<Arc<Semaphore>>) -> Self {
        Self {
            connector: Arc::new(Connector::new(url, Timeouts::default())),
            writer,
            turn: Arc::new(Semaphore::new(1)),
            idle: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// Returns how many connections were opened so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Runs blocking `work` on this connection, off the async threads. Runs it twice if the
    /// connection turns out to be lost. Fails if it takes longer than `time_limit`, and then
    /// closes the connection.
    pub async fn run<T: Send + 'static>(
        &self,
        time_limit: Duration,
        work: impl Fn(&mut Conn) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let run = async {
            let permits = [Some(self.turn.clone()), self.writer.clone()].into_iter().flatten();
            let mut held: Vec<OwnedSemaphorePermit> = Vec::new();
            for permit in permits {
                // The semaphores are never closed.
                held.extend(permit.acquire_owned().await.ok());
            }
            let dedicated = self.clone();
            let work = actix_rt::task::spawn_blocking(move || {
                let _permits = held;
                dedicated.on_connection(time_limit.saturating_sub(started.elapsed()), work)
            });
            work.await?
        };
        tokio::time::timeout(time_limit, run).await.unwrap_or(Err(Error::Slow(time_limit)))
    }

    fn on_connection<T>(
        &self,
        time_limit: Duration,
        work: impl Fn(&mut Conn) -> QueryResult<T>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(conn) = idle.filter(|idle| idle.watch.is_usable()) {
            match self.work_on(conn, time_limit, &work) {
                // The connection may have been lost while it was idle.
                Err(Error::Lost(_)) => {}
                done => return done,
            }
        }
        let conn = self.connect()?;
        match time_limit.checked_sub(started.elapsed()) {
            Some(left) => self.work_on(conn, left, &work),
            None => Err(Error::Slow(time_limit)),
        }
    }

    fn work_on<T>(
        &self,
        mut established: Established,
        time_limit: Duration,
        work: &impl Fn(&mut Conn) -> QueryResult<T>,
    ) -> Result<T, Error> {
        let Established { conn, watch } = &mut established;
        let limit = watch.limit(time_limit, Instant::now());
        let done = work(conn).map_err(|error| {
            if watch.closing() == Some(Closing::Silent) {
                Error::Slow(time_limit)
            } else if is_connection_fault(&error) || !is_usable(conn) {
                Error::Lost(error)
            } else {
                Error::Query(error)
            }
        });
        drop(limit);
        if watch.is_usable() && !matches!(done, Err(Error::Lost(_))) {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(established);
        }
        done
    }

    fn connect(&self) -> Result<Established, Error> {
        let mut established = self.connector.establish_writable()?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        if let Conn::Sqlite(conn) = &mut established.conn {
            // A power failure may undo these writes: they matter only while the server runs.
            let pragma = conn.batch_execute("PRAGMA synchronous = NORMAL");
            pragma.map_err(Error::Query)?;
        }
        Ok(established)
    }
}
