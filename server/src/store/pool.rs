//! The connection pool and its admission control.
//!
//! A request acquires a permit before it gets a blocking thread, so that waiting requests
//! hold no thread. At most `database.max_queue` requests wait for a permit, each for at
//! most `database.acquire_timeout`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use futures_util::future::select_ok;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::availability::Availability;
use super::connection::{Connector, PooledConn, check_writable};
use super::error::{is_connection_fault, is_transient};
use super::watchdog::Closing;
use super::{Conn, Error, Options, Url};

/// The purpose of a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PermitKind {
    /// Statements that only read.
    Read,
    /// Statements that write. SQLite has one writer at a time.
    Write,
    /// Work of the server itself, on a connection that requests never use. Many requests
    /// cannot delay it.
    Reserved,
}

/// The right to use one connection of the pool.
pub(super) struct Permit {
    _connection: OwnedSemaphorePermit,
    _write: Option<OwnedSemaphorePermit>,
}

/// The state of the connection pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolStats {
    /// Open connections in use.
    pub busy: u32,
    /// Open connections that are free.
    pub idle: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
}

/// How much longer than `database.query_timeout` a call may take before its connection is
/// closed. A healthy server ends the statement before.
const CLOSING_MARGIN: Duration = Duration::from_millis(500);

/// How long the database may take for a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the database may take for work of the server itself. It is short, and other work
/// waits for it.
const RESERVED_TIMEOUT: Duration = Duration::from_secs(5);

/// r2d2 accepts no shorter timeout.
const MIN_ACQUIRE_TIMEOUT: Duration = Duration::from_millis(10);

/// A pool of connections to one database. Clones share it.
#[derive(Clone)]
pub(super) struct Pool {
    connections: r2d2::Pool<Connector>,
    /// One permit per connection for requests, taken before a blocking thread is used.
    connection_permits: Arc<Semaphore>,
    /// SQLite only: serializes writers in FIFO order, because SQLite's own lock is not
    /// fair.
    write_permit: Option<Arc<Semaphore>>,
    /// One permit, for the connection of the server itself.
    reserved_permit: Arc<Semaphore>,
    /// One slot per request that may wait for a permit.
    queue_slots: Arc<Semaphore>,
    /// The number of all connection permits.
    size: usize,
    queue_limit: u32,
    acquire_timeout: Duration,
    query_timeout: Duration,
    availability: Arc<Availability>,
}

impl Pool {
    pub(super) fn new(options: &Options, connector: Connector) -> Self {
        let availability = connector.availability().clone();
        // The connector logs its errors itself.
        let connections = r2d2::Pool::builder()
            .max_size(options.pool_size + 1)
            .min_idle(Some(1))
            .connection_timeout(options.acquire_timeout)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(connector);
        let write_permit = match options.url {
            Url::Postgres(_) => None,
            Url::Sqlite(_) => Some(Arc::new(Semaphore::new(1))),
        };
        Self {
            connections,
            connection_permits: Arc::new(Semaphore::new(options.pool_size as usize)),
            write_permit,
            reserved_permit: Arc::new(Semaphore::new(1)),
            queue_slots: Arc::new(Semaphore::new(options.max_queue as usize)),
            size: options.pool_size as usize,
            queue_limit: options.max_queue,
            acquire_timeout: options.acquire_timeout,
            query_timeout: options.query_timeout,
            availability,
        }
    }

    /// Opens the first connection, and waits for it. A failure is logged.
    pub(super) fn open_first(&self) {
        let _ = self.connections.get();
    }

    pub(super) fn availability(&self) -> &Availability {
        &self.availability
    }

    /// The semaphore that serializes writers, on SQLite.
    pub(super) fn write_permit(&self) -> Option<Arc<Semaphore>> {
        self.write_permit.clone()
    }

    pub(super) fn acquire_timeout(&self) -> Duration {
        self.acquire_timeout
    }

    pub(super) fn query_timeout(&self) -> Duration {
        self.query_timeout
    }

    /// How long work takes at most, including the wait for a connection.
    pub(super) fn total_timeout(&self) -> Duration {
        self.acquire_timeout + self.query_timeout
    }

    /// Acquires a permit, in the order of the calls. A request that has to wait takes a
    /// queue slot, or fails at once if no slot is free.
    pub(super) async fn acquire(&self, kind: PermitKind) -> Result<Permit, Error> {
        if let Some(permit) = self.try_acquire(kind) {
            return Ok(permit);
        }
        let _slot = match kind {
            PermitKind::Read | PermitKind::Write => Some(self.queue_slot()?),
            PermitKind::Reserved => None,
        };
        self.acquire_without_slot(kind).await
    }

    /// Acquires a permit if one is free.
    pub(super) fn try_acquire(&self, kind: PermitKind) -> Option<Permit> {
        let write = self.write_semaphore(kind).map(Semaphore::try_acquire_owned);
        let write = write.transpose().ok()?;
        let connection = self.connection_semaphore(kind).try_acquire_owned().ok()?;
        Some(Permit { _connection: connection, _write: write })
    }

    /// Acquires a permit for callers that hold queue slots already. Writers wait for their
    /// turn first, so that readers can use the connections meanwhile.
    pub(super) async fn acquire_without_slot(&self, kind: PermitKind) -> Result<Permit, Error> {
        let write = match self.write_semaphore(kind) {
            Some(semaphore) => Some(self.wait_for(semaphore).await?),
            None => None,
        };
        let connection = self.wait_for(self.connection_semaphore(kind)).await?;
        Ok(Permit { _connection: connection, _write: write })
    }

    /// Takes a slot for a request that waits, unless too many wait already.
    pub(super) fn queue_slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        let slot = self.queue_slots.clone().try_acquire_owned();
        slot.map_err(|_| Error::QueueFull(self.queue_limit))
    }

    fn connection_semaphore(&self, kind: PermitKind) -> Arc<Semaphore> {
        match kind {
            PermitKind::Read | PermitKind::Write => self.connection_permits.clone(),
            PermitKind::Reserved => self.reserved_permit.clone(),
        }
    }

    fn write_semaphore(&self, kind: PermitKind) -> Option<Arc<Semaphore>> {
        match kind {
            PermitKind::Write => self.write_permit.clone(),
            PermitKind::Read | PermitKind::Reserved => None,
        }
    }

    async fn wait_for(&self, semaphore: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
        match tokio::time::timeout(self.acquire_timeout, semaphore.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphores are never closed.
            _ => Err(Error::AcquireTimeout(self.acquire_timeout)),
        }
    }

    /// Acquires a permit and runs blocking `work` on a connection, off the async threads.
    /// The result of work that takes too long is dropped, and its connection is closed.
    pub(super) async fn run<T, F>(&self, kind: PermitKind, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        let started = Instant::now();
        let permit = self.acquire(kind).await?;
        let pool = self.clone();
        let span = tracing::Span::current();
        let work = actix_rt::task::spawn_blocking(move || {
            let _entered = span.entered();
            let _permit = permit;
            // The caller has given up.
            if started.elapsed() > pool.total_timeout() {
                return Err(Error::TimedOut);
            }
            let left = pool.acquire_timeout.saturating_sub(started.elapsed());
            pool.with_pooled(pool.time_limit(kind), left, |pooled| work(&mut pooled.conn))
        });
        match tokio::time::timeout(self.total_timeout(), work).await {
            Ok(done) => done.map_err(Error::TaskPanicked)?,
            Err(_) => Err(Error::QueryTimeout(self.query_timeout)),
        }
    }

    /// Checks that PostgreSQL accepts writes and responds soon. Uses the connection of the
    /// server itself, or another one while that is in use.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        let permit = match self.try_acquire(PermitKind::Reserved) {
            Some(permit) => permit,
            None => self.acquire_first([PermitKind::Reserved, PermitKind::Read]).await?,
        };
        let pool = self.clone();
        let probe = actix_rt::task::spawn_blocking(move || {
            let _permit = permit;
            match pool.check_connection() {
                // This connection alone may have been lost.
                Err(Error::Unavailable(_)) => pool.check_connection(),
                done => done,
            }
        });
        probe.await.map_err(Error::TaskPanicked)?
    }

    /// Blocks: takes a connection and checks it, unless that was done when it was taken.
    fn check_connection(&self) -> Result<(), Error> {
        let began_at = Instant::now();
        self.with_pooled(PROBE_TIMEOUT, self.acquire_timeout, |pooled| {
            if pooled.checked_at >= began_at { Ok(()) } else { check_writable(&mut pooled.conn) }
        })
    }

    /// Acquires the permit of these kinds that is free first. Takes no queue slot.
    async fn acquire_first(&self, kinds: [PermitKind; 2]) -> Result<Permit, Error> {
        let acquired = kinds.map(|kind| Box::pin(self.acquire_without_slot(kind)));
        select_ok(acquired).await.map(|(permit, _)| permit)
    }

    /// Blocks: takes a connection and runs `work` on it. The caller holds a [`Permit`].
    pub(super) fn with_connection<T>(
        &self,
        acquire_timeout: Duration,
        work: impl FnOnce(&mut Conn) -> QueryResult<T>,
    ) -> Result<T, Error> {
        let time_limit = self.time_limit(PermitKind::Write);
        self.with_pooled(time_limit, acquire_timeout, |pooled| work(&mut pooled.conn))
    }

    /// How long work may take before its connection is closed.
    fn time_limit(&self, kind: PermitKind) -> Duration {
        let longest = self.query_timeout + CLOSING_MARGIN;
        match kind {
            PermitKind::Read | PermitKind::Write => longest,
            PermitKind::Reserved => longest.min(RESERVED_TIMEOUT),
        }
    }

    /// Runs `work` as [`Self::with_connection`] does. Closes the connection after
    /// `time_limit`.
    fn with_pooled<T>(
        &self,
        time_limit: Duration,
        acquire_timeout: Duration,
        work: impl FnOnce(&mut PooledConn) -> QueryResult<T>,
    ) -> Result<T, Error> {
        let pooled = self.connections.get_timeout(acquire_timeout.max(MIN_ACQUIRE_TIMEOUT));
        let mut pooled = pooled.map_err(|error| Error::Connect(self.acquire_timeout, error))?;
        let watch = pooled.watch.clone();
        let started = Instant::now();
        let _limit = watch.limit(time_limit, started);
        work(&mut pooled).map_err(|error| {
            // `statement_timeout` canceled it. Its message depends on the language.
            let timed_out = started.elapsed() >= self.query_timeout;
            // The check runs only after a failure, so that it costs nothing otherwise.
            if is_connection_fault(&error) || !pooled.is_alive() {
                pooled.mark_broken();
                let error = match watch.closing() {
                    Some(Closing::Silent) => Error::QueryTimeout(time_limit),
                    Some(Closing::HostLeft) | None => Error::Unavailable(error),
                };
                self.availability.suspect(&error.to_string());
                error
            } else if timed_out {
                Error::Unavailable(error)
            } else if is_transient(&error) {
                Error::Transient(error)
            } else {
                Error::Query(error)
            }
        })
    }

    /// Returns whether no work of requests is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.connection_permits.available_permits() == self.size
    }

    pub(super) fn stats(&self) -> PoolStats {
        let state = self.connections.state();
        let waiting = self.queue_limit as usize - self.queue_slots.available_permits();
        PoolStats {
            busy: state.connections.saturating_sub(state.idle_connections),
            idle: state.idle_connections,
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
        }
    }
}
