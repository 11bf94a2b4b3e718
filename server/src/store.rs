//! The database: connections, rows, and every line of SQL.
//!
//! PostgreSQL is the database; SQLite is the same thing with nothing to
//! set up. [`Conn`] is either; a query is written once for both, and what only
//! one of them can do well is a `match` in here.

mod connection;
pub mod events;
mod fit;
mod migrate;
pub mod own;
pub mod revocations;
mod rotation_batcher;
mod schema;
pub mod servers;
pub mod sessions;
pub mod signing_keys;
mod skew;
mod types;
mod url;
pub mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_rt::task::JoinError;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel::{ConnectionError, QueryResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use connection::Conn;
use connection::{Connector, PooledConn};
use own::Own;
use rotation_batcher::RotationBatcher;
pub use skew::ClockState;
use skew::Skew;
pub use types::Address;
pub use url::Url;

/// Which database, and how many connections to it.
#[derive(Clone)]
pub struct Options {
    /// Where it is.
    pub url: Url,
    /// The most connections that requests use at once; one more is the server's.
    pub pool_size: u32,
    /// How long a request waits for one of them before it is told to come back.
    pub wait: Duration,
    /// How many requests wait at once; those beyond are told so at once.
    pub queue: u32,
    /// How long the database may take over a request's work.
    pub timeout: Duration,
}

/// Why the database did not answer a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none to be had.
    #[error("no database connection within {0:?}: {1}")]
    Connect(Duration, #[source] r2d2::Error),
    /// All are at work.
    #[error("no database connection came free within {0:?}")]
    AcquireTimeout(Duration),
    /// All are at work, and too many wait.
    #[error("{0} requests wait for a database connection")]
    QueueFull(u32),
    /// It was given up waiting for the answer.
    #[error("the database did not answer within {0:?}")]
    QueryTimeout(Duration),
    /// The connection was lost, or the database cannot do it at this moment.
    #[error("the database is away: {0}")]
    Unavailable(#[source] QueryError),
    /// The statement failed on a sound connection, and may succeed later: the disk is
    /// full, another transaction is in the way, the database turned read-only.
    #[error("the database cannot carry a statement out at this moment: {0}")]
    Unable(#[source] QueryError),
    /// The statement failed: a bug, or a database that somebody changed.
    #[error("a statement failed: {0}")]
    Query(#[source] QueryError),
    /// The work panicked or was cancelled.
    #[error("the work on the database did not finish: {0}")]
    TaskPanicked(#[source] JoinError),
    /// This server's clock is far from the database's.
    #[error("this server's clock is wrong")]
    WrongClock,
    /// Its caller had given up before the work could begin.
    #[error("the request was given up before the database could carry it out")]
    TooLate,
    /// Nobody is left who knows what came of the work.
    #[error("the work on the database was dropped before its outcome was known")]
    Canceled,
    /// What befell the batch that it was in.
    #[error(transparent)]
    Batch(Arc<Error>),
}

impl Error {
    /// Whether the same request may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(..)
            | Self::AcquireTimeout(_)
            | Self::QueueFull(_)
            | Self::QueryTimeout(_)
            | Self::Unavailable(_)
            | Self::Unable(_)
            | Self::WrongClock
            | Self::TooLate
            | Self::Canceled => true,
            Self::Batch(error) => error.is_transient(),
            Self::Query(_) | Self::TaskPanicked(_) => false,
        }
    }
}

/// Why the database could not be taken into use at the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be reached, or refuses us.
    #[error("the database {url} cannot be opened: {source}")]
    Connect {
        /// Which one, without its password.
        url: String,
        /// What the driver says.
        source: ConnectionError,
    },
    /// Its tables cannot be brought up to date.
    #[error("the database {url} cannot be migrated: {source}")]
    Migrate {
        /// Which one, without its password.
        url: String,
        /// What the migration says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is not one that can be used.
    #[error("the database {url} cannot be used: {problem}")]
    Unfit {
        /// Which one, without its password.
        url: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// What is written now would be dated wrong.
    #[error("nothing was changed: {0}")]
    WrongClock(String),
    /// The pool of connections cannot be made.
    #[error("no connection pool: {0}")]
    Pool(#[from] r2d2::Error),
}

/// One connection to a database that a server uses already. Blocks; makes and
/// changes nothing.
///
/// # Errors
/// When the database is not there or refuses us.
pub fn connect(url: &Url) -> Result<Conn, OpenError> {
    let failed = |source| OpenError::Connect { url: url.to_string(), source };
    if let Url::Sqlite(path) = url
        && !path.exists()
    {
        return Err(failed(ConnectionError::BadConnection("there is no such file".to_owned())));
    }
    Connector::new(url, Duration::ZERO).establish().map_err(failed)
}

/// Does the same for a command that writes times.
///
/// # Errors
/// When the database is not there, refuses us, or its clock is another one.
pub fn connect_to_change(url: &Url) -> Result<Conn, OpenError> {
    let mut conn = connect(url)?;
    let failed = |source| OpenError::Connect {
        url: url.to_string(),
        source: ConnectionError::CouldntSetupConfiguration(source),
    };
    match skew::wrong_clock(&mut conn).map_err(failed)? {
        Some(problem) => Err(OpenError::WrongClock(problem)),
        None => Ok(conn),
    }
}

/// How the pool of connections stands.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// Connections that are open and at work.
    pub busy: u32,
    /// Connections that are open and free.
    pub idle: u32,
    /// Requests that wait for one.
    pub waiting: u32,
}

/// The pool takes no shorter time for an answer.
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// In how many lanes sessions are rotated on PostgreSQL: one for two cores. More
/// make each batch smaller and each rotation dearer.
fn lanes() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |available_cpus| available_cpus.get().div_ceil(2))
}

/// Compares the clocks for the first time.
fn measured(skew: &Skew, conn: &mut Conn) {
    if let Err(error) = skew.measure(conn) {
        tracing::warn!(%error, "the database's clock cannot be read");
    }
}

/// A pool of connections to a database that is up to date. Clones share it.
#[derive(Clone)]
pub struct Store {
    url: Url,
    pool: r2d2::Pool<Connector>,
    /// One for each connection: who holds one blocks a thread, the others do not.
    turns: Arc<Semaphore>,
    /// The one that may write, on SQLite, which lets whoever comes by at the right
    /// moment have it, however long others have waited.
    writer: Option<Arc<Semaphore>>,
    /// The one for what the server does for itself.
    aside: Arc<Semaphore>,
    /// One for each request that may wait for its turn.
    places: Arc<Semaphore>,
    lanes: Arc<RotationBatcher>,
    skew: Arc<Skew>,
    queue: u32,
    wait: Duration,
    timeout: Duration,
}

/// Decides once between a caller that gives up and work that is done.
#[derive(Clone, Default)]
struct Handover(Arc<AtomicBool>);

impl Handover {
    /// Whether the caller of this is the first.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Takes the handover when the caller is gone.
struct GiveUp(Handover);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// A connection to be had, and, on SQLite, the right to write.
type ToWrite = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Store {
    /// Connects, brings the tables up to date, and opens the pool. Blocks.
    ///
    /// # Errors
    /// When the database cannot be reached or migrated.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let connector = Connector::new(&options.url, options.timeout);
        let url = options.url.to_string();
        let failed = |source| OpenError::Connect { url: url.clone(), source };
        let mut first = connector.establish_writable().map_err(failed)?;
        let problem = fit::problem(&mut first)
            .map_err(|error| failed(ConnectionError::CouldntSetupConfiguration(error)))?;
        if let Some(problem) = problem {
            return Err(OpenError::Unfit { url, problem });
        }
        migrate::run(&mut first).map_err(|source| OpenError::Migrate { url, source })?;
        let skew = Arc::new(Skew::default());
        measured(&skew, &mut first);
        drop(first);
        let pool = r2d2::Pool::builder()
            .max_size(options.pool_size + 1)
            .min_idle(Some(1))
            .connection_timeout(options.wait)
            .error_handler(Box::new(connection::LogErrors))
            .build(connector)?;
        Ok(Self {
            url: options.url.clone(),
            pool,
            aside: Arc::new(Semaphore::new(1)),
            turns: Arc::new(Semaphore::new(options.pool_size as usize)),
            writer: match options.url {
                Url::Postgres(_) => None,
                Url::Sqlite(_) => Some(Arc::new(Semaphore::new(1))),
            },
            places: Arc::new(Semaphore::new(options.queue as usize)),
            lanes: Arc::new(RotationBatcher::new(match options.url {
                Url::Postgres(_) => lanes(),
                // There is one writer at a time.
                Url::Sqlite(_) => 1,
            })),
            skew,
            queue: options.queue,
            wait: options.wait,
            timeout: options.timeout,
        })
    }

    /// Runs blocking `work` on a pooled connection, off the async threads. What
    /// writes is for [`Self::write`].
    ///
    /// # Errors
    /// When there is no connection, or the work fails or panics. Work that takes
    /// too long goes on, and nobody waits for it any more.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        let started = Instant::now();
        let permit = if let Ok(permit) = self.turns.clone().try_acquire_owned() {
            permit
        } else {
            let _place = self.place()?;
            self.within_wait(&self.turns).await?
        };
        self.work(permit, started, work).await
    }

    /// Does the same with `work` that writes, in the order of asking.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        self.check_clock()?;
        let started = Instant::now();
        let permits = if let Some(permits) = self.try_to_write() {
            permits
        } else {
            let _place = self.place()?;
            self.wait_to_write().await?
        };
        self.work(permits, started, work).await
    }

    /// Does the same with `work` whose outcome is lost unless the caller gets it:
    /// where the caller has given up by the time it is committed, `undo` takes it
    /// back.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn write_or_undo<T, F, U>(&self, work: F, undo: U) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
        U: FnOnce(&mut Conn, T) -> QueryResult<()> + Send + 'static,
    {
        let handover = Handover::default();
        let theirs = handover.clone();
        let outcome = self.write(move |conn| {
            let done = work(conn)?;
            if theirs.take() {
                return Ok(Some(done));
            }
            tracing::warn!("committed after the request was given up: undone");
            undo(conn, done).map(|()| None)
        });
        // Dropped with this future, where the client hangs up.
        let _given_up = GiveUp(handover);
        outcome.await?.ok_or(Error::TooLate)
    }

    /// Does the same on a connection that is kept for it, so that what all
    /// servers have to know of in time is not held up by many requests.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_aside<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        let started = Instant::now();
        let permit = self.within_wait(&self.aside).await?;
        self.work(permit, started, work).await
    }

    /// Returns a connection outside the pool, which connects when it is first used.
    #[must_use]
    pub fn own_connection(&self) -> Own {
        Own::new(&self.url, self.writer.clone())
    }

    async fn work<T, F>(
        &self,
        permits: impl Send + 'static,
        started: Instant,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        let store = self.clone();
        let span = tracing::Span::current();
        let work = actix_rt::task::spawn_blocking(move || {
            let (_inside, _permits) = (span.entered(), permits);
            if started.elapsed() > store.wait + store.timeout {
                return Err(Error::TooLate);
            }
            store.on_connection(store.wait.saturating_sub(started.elapsed()), work)
        });
        match tokio::time::timeout(self.wait + self.timeout, work).await {
            Ok(done) => done.map_err(Error::TaskPanicked)?,
            Err(_) => Err(Error::QueryTimeout(self.timeout)),
        }
    }

    /// Blocks: waits for a connection, and works on it. The caller has a permit for it.
    fn on_connection<T>(
        &self,
        wait: Duration,
        work: impl FnOnce(&mut Conn) -> QueryResult<T>,
    ) -> Result<T, Error> {
        let pooled = self.pool.get_timeout(wait.max(LEAST_WAIT));
        let mut pooled = pooled.map_err(|error| Error::Connect(self.wait, error))?;
        let PooledConn { conn, .. } = &mut *pooled;
        let began = Instant::now();
        work(conn).map_err(|error| {
            // Canceled by `statement_timeout`, whatever words the database has for it.
            let timed_out = began.elapsed() >= self.timeout;
            // Asked only after a failure, so that the usual path costs nothing.
            if is_connection_fault(&error) || !pooled.is_alive() {
                pooled.mark_broken();
                Error::Unavailable(error)
            } else if timed_out {
                Error::Unavailable(error)
            } else if is_transient(&error) {
                Error::Unable(error)
            } else {
                Error::Query(error)
            }
        })
    }

    /// A connection to be had without waiting, and the right to write.
    fn try_to_write(&self) -> Option<ToWrite> {
        let writer = self.writer.clone().map(Semaphore::try_acquire_owned).transpose().ok()?;
        Some((self.turns.clone().try_acquire_owned().ok()?, writer))
    }

    /// Waits until it may write, and then for a connection: those who read have them
    /// meanwhile. A request that waits here needs a place; the turn of a lane does not.
    async fn wait_to_write(&self) -> Result<ToWrite, Error> {
        let writer = match &self.writer {
            Some(writer) => Some(self.within_wait(writer).await?),
            None => None,
        };
        Ok((self.within_wait(&self.turns).await?, writer))
    }

    /// A place for a request that waits, if not too many do.
    fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.places.clone().try_acquire_owned().map_err(|_| Error::QueueFull(self.queue))
    }

    async fn within_wait(&self, permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
        match tokio::time::timeout(self.wait, permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::AcquireTimeout(self.wait)),
        }
    }

    /// How the pool stands.
    #[must_use]
    pub fn pool(&self) -> Pool {
        let state = self.pool.state();
        let waiting = self.queue as usize - self.places.available_permits();
        Pool {
            busy: state.connections.saturating_sub(state.idle_connections),
            idle: state.idle_connections,
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
        }
    }

    /// Checks that the database can be written to.
    ///
    /// # Errors
    /// When it does not respond, is a standby or is read-only.
    pub async fn check_writable(&self) -> Result<(), Error> {
        match self.url {
            Url::Postgres(_) => self.run(connection::check_writable).await,
            Url::Sqlite(_) => self.write(connection::check_writable).await,
        }
    }
}

/// Whether a statement that failed on a sound connection may succeed later.
///
/// Diesel has no SQLSTATE for most errors. PostgreSQL gives the position of what it
/// cannot parse or has no table or column for. What fails while a statement runs has
/// none: a deadlock, a full disk, a canceled or refused statement.
fn is_transient(error: &QueryError) -> bool {
    match error {
        QueryError::DatabaseError(kind, info) => match kind {
            DatabaseErrorKind::SerializationFailure => true,
            DatabaseErrorKind::Unknown => {
                info.statement_position().is_none() && !is_sqlite_mistake(info.message())
            }
            _ => false,
        },
        QueryError::RollbackErrorOnCommit { commit_error, .. } => is_transient(commit_error),
        _ => false,
    }
}

/// SQLite's words (`sqlite3_errmsg`) for statements that do not fit the tables.
fn is_sqlite_mistake(message: &str) -> bool {
    let begins = ["no such ", "near ", "table ", "no query solution"];
    begins.iter().any(|begin| message.starts_with(begin)) || message.contains("syntax error")
}

/// Faults that say so of themselves; others are found by asking the connection. One
/// that leads to a standby is of no more use than one that is broken. After a commit
/// that cannot be rolled back, diesel's state of the transaction is wrong.
fn is_connection_fault(error: &QueryError) -> bool {
    matches!(
        error,
        QueryError::DatabaseError(
            DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::ReadOnlyTransaction,
            _
        ) | QueryError::BrokenTransactionManager
            | QueryError::RollbackErrorOnCommit { .. }
            | QueryError::AlreadyInTransaction
    )
}
