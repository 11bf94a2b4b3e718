//! The database: connections, rows and all SQL.
//!
//! PostgreSQL is the production database; SQLite needs no set-up. [`Conn`] is a connection
//! to either. Each query is written once for both, except where one database needs SQL of
//! its own; then a `match` in this module decides.

pub mod accounts;
pub mod authorization_codes;
mod availability;
pub mod backends;
pub mod clients;
mod connection;
pub mod consents;
pub mod dedicated_connection;
pub mod device_codes;
pub mod distribution;
mod engine;
mod error;
mod error_counts;
pub mod events;
mod follow_up;
mod hosts;
pub mod identities;
pub mod import;
pub mod imported_refresh_tokens;
pub mod login_sessions;
pub mod logout_notices;
mod migrate;
pub mod one_time_links;
mod pool;
mod probe;
pub mod recovery_codes;
mod requirements;
mod retry;
pub mod revocations;
mod rotation_batcher;
mod schema;
pub mod servers;
mod session_settings;
pub mod sessions;
pub mod signing_keys;
mod skew;
mod socket;
pub mod sqlite;
mod types;
mod unsettled;
mod url;
pub mod user_groups;
pub mod users;
mod watchdog;

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::{ConnectionError, QueryResult};

pub use connection::Conn;
use connection::{Connector, Established, Timeouts};
use dedicated_connection::DedicatedConnection;
pub use error::{Error, OpenError};
pub use error_counts::ErrorClass;
use error_counts::ErrorCounts;
use follow_up::FollowUps;
pub use follow_up::{Affected, FollowUp};
pub use pool::PoolStats;
use pool::{PermitKind, Pool};
use probe::Probe;
pub use rotation_batcher::BatchOutcome;
use rotation_batcher::RotationBatcher;
use sessions::RotationUpdate;
pub use skew::ClockState;
use skew::Skew;
pub use types::IpAddress;
pub use url::Url;

use crate::clock::Timestamp;
use crate::ids::Place;

/// Which database, and how many connections to it.
#[derive(Clone)]
pub struct Options {
    pub url: Url,
    /// The most connections that requests use at once. The server itself uses one more.
    pub pool_size: u32,
    /// How long a request waits for a connection.
    pub acquire_timeout: Duration,
    /// How many requests wait for a connection at once.
    pub max_queue: u32,
    /// How long the statements of a request may take.
    pub query_timeout: Duration,
    /// How long [`Store::open`] waits for the database.
    pub start_timeout: Duration,
    /// Whether the server migrates the schema when it starts.
    pub migrate: bool,
}

/// The pause between two attempts of a start to connect.
const START_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// The pause between two logs of a start that waits.
const START_LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The next rows of a table, in the order of its primary key.
#[derive(Debug, Clone, Copy)]
pub struct Page<T> {
    /// The last row of the previous page; `None` for the first page.
    pub after: Option<T>,
    /// The most rows that are read.
    pub limit: i64,
}

/// Opens one connection to a database that a server has set up. Blocks, and changes
/// nothing.
pub fn connect(url: &Url) -> Result<Conn, OpenError> {
    let failed = |source| OpenError::Connect { url: url.to_string(), source };
    if let Url::Sqlite(path) = url
        && !path.exists()
    {
        return Err(failed(ConnectionError::BadConnection("the file does not exist".to_owned())));
    }
    let established = Connector::new(url, Timeouts::default()).establish();
    let mut conn = established.map_err(failed)?.conn;
    migrate::check(&mut conn, url)?;
    Ok(conn)
}

/// Runs the pending migrations of a database, and creates its tables if it has none. Returns
/// the versions of the migrations. Blocks.
pub fn migrate(url: &Url) -> Result<Vec<String>, OpenError> {
    let connector = Connector::new(url, Timeouts::default());
    let mut conn = open_supported(url, &connector)?.conn;
    migrate::migrate(&mut conn, url)
}

/// Opens a connection for a command that writes times. Fails if this machine's clock
/// differs too much from the database's.
pub fn connect_to_change(url: &Url) -> Result<Conn, OpenError> {
    let mut conn = connect(url)?;
    let failed = |source| OpenError::Connect {
        url: url.to_string(),
        source: ConnectionError::CouldntSetupConfiguration(source),
    };
    if let Conn::Sqlite(conn) = &mut conn {
        sqlite::checkpoint::renew_id(conn).map_err(failed)?;
    }
    match skew::wrong_clock(&mut conn).map_err(failed)? {
        Some(problem) => Err(OpenError::WrongClock(problem)),
        None => Ok(conn),
    }
}

/// Returns the number of shards that rotate sessions on PostgreSQL: one per two cores.
/// More shards make each batch smaller and each rotation more expensive.
fn postgres_shards() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |available_cpus| available_cpus.get().div_ceil(2))
}

/// A database with the current schema, and a pool of connections to it. Clones share the
/// pool.
#[derive(Clone)]
pub struct Store {
    url: Url,
    pool: Pool,
    batcher: RotationBatcher,
    skew: Arc<Skew>,
    follow_ups: FollowUps,
    probe: Arc<Probe>,
    errors: Arc<ErrorCounts>,
}

/// Connects to a database that this version supports. Waits for it, unless waiting cannot
/// help.
fn await_database(options: &Options, connector: &Connector) -> Result<Established, OpenError> {
    let started = Instant::now();
    let mut logged_at: Option<Instant> = None;
    loop {
        let error = match open_supported(&options.url, connector) {
            Ok(established) => {
                if logged_at.is_some() {
                    tracing::info!("database available");
                }
                return Ok(established);
            }
            Err(error) => error,
        };
        let waits = matches!(options.url, Url::Postgres(_)) && !error.is_permanent();
        if !waits || started.elapsed() >= options.start_timeout {
            return Err(error);
        }
        if logged_at.is_none_or(|at| at.elapsed() >= START_LOG_INTERVAL) {
            logged_at = Some(Instant::now());
            let reason = availability::one_line(&error.to_string());
            tracing::warn!(reason, "waiting for the database");
        }
        std::thread::sleep(START_RETRY_INTERVAL);
    }
}

fn open_supported(url: &Url, connector: &Connector) -> Result<Established, OpenError> {
    let failed = |source| OpenError::Connect { url: url.to_string(), source };
    let mut established = connector.establish_writable().map_err(failed)?;
    let problem = {
        let Established { conn, watch } = &mut established;
        let _limit = watch.limit(connection::SETUP_TIMEOUT, Instant::now());
        requirements::unmet(conn)
    };
    match problem {
        Ok(None) => Ok(established),
        Ok(Some(problem)) => Err(OpenError::Unsupported { url: url.to_string(), problem }),
        Err(error) => Err(failed(ConnectionError::CouldntSetupConfiguration(error))),
    }
}

impl Store {
    /// Waits for the database, migrates its schema if it has to, and opens the pool. Blocks.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let timeouts = Timeouts { query: options.query_timeout, acquire: options.acquire_timeout };
        let connector = Connector::new(&options.url, timeouts);
        let Established { conn: mut first, .. } = await_database(options, &connector)?;
        migrate::prepare(&mut first, &options.url, options.migrate)?;
        let skew = Arc::new(Skew::default());
        if let Err(error) = skew.measure(&mut first) {
            tracing::warn!(%error, "database clock unreadable");
        }
        if let Conn::Sqlite(conn) = &mut first
            && let Err(error) = sqlite::checkpoint::restart(conn)
        {
            tracing::warn!(%error, "write-ahead log not restarted");
        }
        let pool = Pool::new(options, connector);
        pool.open_first();
        // SQLite's last connection removes the log.
        drop(first);
        let shards = match options.url {
            // A batch is a statement on one node.
            Url::Postgres(_) if engine::is_citus() => Place::all().count(),
            Url::Postgres(_) => postgres_shards(),
            // SQLite has one writer at a time.
            Url::Sqlite(_) => 1,
        };
        let batcher = RotationBatcher::new(pool.clone(), shards);
        Ok(Self {
            follow_ups: FollowUps::default(),
            url: options.url.clone(),
            pool,
            batcher,
            skew,
            probe: Arc::default(),
            errors: Arc::default(),
        })
    }

    /// Runs blocking `work` that only reads on a pooled connection, off the async threads.
    /// The result of work that takes too long is dropped, and its connection is closed.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        self.errors.count(self.pool.run(PermitKind::Read, work).await)
    }

    /// Runs blocking `work` that writes, as [`Self::run`] does. Writers run in the order
    /// of the calls. Work that conflicts with another transaction was rolled back, and runs
    /// again.
    pub async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        self.write_once(retry::on_conflict(work, self.pool.query_timeout())).await
    }

    /// Runs `work` that writes, and that cannot run twice.
    pub async fn write_once<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        self.check_clock()?;
        self.errors.count(self.pool.run(PermitKind::Write, work).await)
    }

    /// Runs `work` of the server itself on a connection that requests never use. Many
    /// requests cannot delay it.
    pub async fn run_reserved<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        self.errors.count(self.pool.run(PermitKind::Reserved, work).await)
    }

    /// Runs `work` of the server itself that writes, as [`Self::write`] does. On PostgreSQL it
    /// uses the connection that requests never use. It must not wait for a lock for long.
    async fn write_reserved<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Conn) -> QueryResult<T> + Send + 'static,
    {
        self.check_clock()?;
        let kind = match self.url {
            Url::Postgres(_) => PermitKind::Reserved,
            Url::Sqlite(_) => PermitKind::Write,
        };
        let work = retry::on_conflict(work, self.pool.query_timeout());
        self.errors.count(self.pool.run(kind, work).await)
    }

    /// Returns a connection outside the pool, which connects when it is first used.
    #[must_use]
    pub fn dedicated_connection(&self) -> DedicatedConnection {
        DedicatedConnection::new(&self.url, self.pool.write_permit())
    }

    /// Rotates a session in a batch, and returns after the commit. Needs a running
    /// [`Self::run_batches`].
    pub async fn rotate(&self, next: Arc<RotationUpdate>) -> Result<BatchOutcome, Error> {
        self.check_clock()?;
        self.errors.count(self.batcher.rotate(next).await)
    }

    /// Returns when the caller of [`Self::rotate`] at `now` has given up, by the database's
    /// clock.
    #[must_use]
    pub fn deadline(&self, now: Timestamp) -> Timestamp {
        self.by_database_clock(now.after(self.batcher.rotation_timeout()))
    }

    /// Continues queued rotations after the end of a leader's term, until the future is dropped.
    pub async fn run_batches(self) {
        self.batcher.run().await;
    }

    /// Keeps SQLite's write-ahead log short, until the future is dropped. PostgreSQL needs no
    /// such work.
    pub async fn run_checkpoints(self) {
        if let Url::Sqlite(_) = self.url {
            sqlite::checkpoint::run(&self).await;
        }
    }

    /// Returns whether no request uses a connection, and no work is left whose outcome is
    /// unknown.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pool.is_idle() && self.batcher.unsettled().is_empty() && self.follow_ups.is_empty()
    }

    /// Returns how many errors of a class there were since the start.
    #[must_use]
    pub fn errors(&self, class: ErrorClass) -> u64 {
        self.errors.get(class)
    }

    #[must_use]
    pub fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }
}
