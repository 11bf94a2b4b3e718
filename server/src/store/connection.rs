//! A connection to either database, and how the pool opens and checks it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::dsl::sql;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel::sql_types::Bool;
use diesel::{
    Connection, ConnectionError, ConnectionResult, PgConnection, QueryResult, RunQueryDsl,
    SqliteConnection,
};
use secrecy::ExposeSecret;

use super::availability::{Availability, one_line};
use super::hosts::{Host, Hosts};
use super::session_settings::{Examination, SessionSettings};
use super::socket::Mark;
use super::watchdog::{self, Watch};
use super::{Url, sqlite};

/// A connection to either database.
#[derive(diesel::MultiConnection)]
pub enum Conn {
    /// PostgreSQL, through libpq.
    Postgres(PgConnection),
    /// SQLite, linked in.
    Sqlite(SqliteConnection),
}

impl Conn {
    /// Runs `work` in a transaction that may read before it writes. On SQLite it takes the
    /// write lock at once: a reader cannot become a writer after another has written.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> QueryResult<T>,
    ) -> QueryResult<T> {
        let Self::Sqlite(sqlite) = self else { return self.transaction(work) };
        AnsiTransactionManager::begin_transaction_sql(sqlite, "BEGIN IMMEDIATE")?;
        let done = work(self).and_then(|done| Self::commit_transaction(self).map(|()| done));
        if done.is_err() {
            // A failed commit has rolled back by itself.
            let _ = Self::rollback_transaction(self);
        }
        done
    }
}

/// How long PostgreSQL may take for the statements that set up a connection.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long PostgreSQL may take to validate a connection: `database.acquire_timeout`, within
/// these limits.
const MIN_VALIDATION_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_VALIDATION_TIMEOUT: Duration = Duration::from_secs(5);

/// An open connection, and the watch over it.
pub(super) struct Established {
    pub(super) conn: Conn,
    pub(super) watch: Watch,
}

/// Whether a connection has to accept writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Any,
    Write,
}

enum Target {
    Postgres(Hosts),
    Sqlite(PathBuf),
}

/// The time limits of pooled connections.
#[derive(Clone, Copy, Default)]
pub(super) struct Timeouts {
    /// The `statement_timeout`.
    pub(super) query: Duration,
    /// How long a request waits for a connection.
    pub(super) acquire: Duration,
}

/// Opens connections. The URL decides on the driver.
pub(super) struct Connector {
    target: Target,
    settings: SessionSettings,
    timeouts: Timeouts,
    availability: Arc<Availability>,
}

impl Connector {
    pub(super) fn new(url: &Url, timeouts: Timeouts) -> Self {
        let target = match url {
            Url::Postgres(url) => Target::Postgres(Hosts::of(url)),
            Url::Sqlite(path) => Target::Sqlite(path.clone()),
        };
        let settings = SessionSettings::new(timeouts.query);
        Self { target, settings, timeouts, availability: Arc::default() }
    }

    /// The availability of the database to pooled connections.
    pub(super) fn availability(&self) -> &Arc<Availability> {
        &self.availability
    }

    /// Connects to a database that accepts writes, whatever the URL says.
    pub(super) fn establish_writable(&self) -> ConnectionResult<Established> {
        self.establish_with(Access::Write)
    }

    /// Connects to a database that may be read-only if the URL says so.
    pub(super) fn establish(&self) -> ConnectionResult<Established> {
        self.establish_with(Access::Any)
    }

    fn establish_with(&self, access: Access) -> ConnectionResult<Established> {
        match &self.target {
            Target::Sqlite(path) => {
                let conn = open_file(path).map(Conn::Sqlite)?;
                Ok(Established { conn, watch: Watch::default() })
            }
            Target::Postgres(hosts) => hosts
                .try_each(
                    |host| open_server(host, hosts.tcp_user_timeout, &self.settings, access),
                    |host| watchdog::close_all(&host.name),
                )
                .map_err(of_all_hosts),
        }
    }
}

/// Returns one error for the errors of all hosts.
fn of_all_hosts(mut errors: Vec<(&Host, ConnectionError)>) -> ConnectionError {
    if errors.len() == 1
        && let Some((_, error)) = errors.pop()
    {
        return error;
    }
    let errors = errors.iter().map(|(host, error)| {
        let error = one_line(&error.to_string());
        format!("{}: {error}", host.name)
    });
    ConnectionError::BadConnection(errors.collect::<Vec<_>>().join("; "))
}

fn open_server(
    host: &Host,
    tcp_user_timeout: Duration,
    settings: &SessionSettings,
    access: Access,
) -> ConnectionResult<Established> {
    let mark = Mark::take(tcp_user_timeout);
    let timeout = mark.as_ref().map_or(tcp_user_timeout, Mark::timeout);
    let url = host.url_with(timeout);
    let mut conn = settings.connect(url.expose_secret())?;
    let watch = match mark.and_then(Mark::socket) {
        Some(socket) => Watch::over(socket, &host.name),
        None => Watch::default(),
    };
    let limit = watch.limit(SETUP_TIMEOUT, Instant::now());
    if settings.examine(&mut conn).map_err(ConnectionError::CouldntSetupConfiguration)?
        == Examination::Reconnect
    {
        drop(limit);
        drop(conn);
        return open_server(host, tcp_user_timeout, settings, access);
    }
    let mut conn = Conn::Postgres(conn);
    if access == Access::Write {
        check_writable(&mut conn)
            .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
    }
    drop(limit);
    Ok(Established { conn, watch })
}

/// How long a statement waits for another writer of the same SQLite file.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

fn open_file(path: &Path) -> ConnectionResult<SqliteConnection> {
    let path = path.to_str().ok_or_else(|| {
        ConnectionError::BadConnection("the path of the SQLite file is not valid UTF-8".into())
    })?;
    sqlite::check_wal(path.as_ref()).map_err(ConnectionError::BadConnection)?;
    let mut conn = SqliteConnection::establish(path)?;
    // FULL: a power failure must not undo an acknowledged rotation, which would log its
    // user out. The busy timeout comes first, because the other pragmas may have to wait.
    let pragmas = format!(
        "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = {};",
        SQLITE_BUSY_TIMEOUT.as_millis(),
        sqlite::checkpoint::MAX_PAGES_WITHOUT_SERVER
    );
    // SQLite ignores the timeout when two connections switch a new file to WAL, or when
    // one opens a file that another closes.
    let started = Instant::now();
    loop {
        match conn.batch_execute(&pragmas) {
            Err(error) if is_locked(&error) && started.elapsed() < SQLITE_BUSY_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => {
                return done.map(|()| conn).map_err(ConnectionError::CouldntSetupConfiguration);
            }
        }
    }
}

/// Returns whether another writer holds SQLite's lock.
pub(super) fn is_locked(error: &QueryError) -> bool {
    matches!(error, QueryError::DatabaseError(_, info) if info.message() == "database is locked")
}

/// Returns whether the database responds and accepts writes. SQLite has no standby, so a
/// statement that needs no lock is enough.
pub(super) fn is_usable(conn: &mut Conn) -> bool {
    match conn {
        Conn::Postgres(_) => check_writable(conn).is_ok(),
        Conn::Sqlite(conn) => conn.batch_execute("SELECT 1").is_ok(),
    }
}

/// Checks that the database accepts writes. On SQLite this takes the write lock, but
/// writes nothing.
pub(super) fn check_writable(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        Conn::Sqlite(_) => conn.write(|_| Ok(())),
        Conn::Postgres(conn) => {
            let read_only = sql::<Bool>("current_setting('transaction_read_only')::boolean");
            if diesel::select(read_only).get_result(conn)? {
                let problem = Box::new("the database is a standby or read-only".to_owned());
                let kind = DatabaseErrorKind::ReadOnlyTransaction;
                return Err(QueryError::DatabaseError(kind, problem));
            }
            Ok(())
        }
    }
}

/// A connection in the pool.
pub(super) struct PooledConn {
    pub(super) conn: Conn,
    pub(super) watch: Watch,
    last_used: Instant,
    broken: bool,
}

/// A connection that was idle for longer is checked before it is used. A busy one is not:
/// the check costs as much as the work.
const REVALIDATE_AFTER: Duration = Duration::from_secs(1);

impl PooledConn {
    /// Returns whether the database responds on this connection and accepts writes.
    pub(super) fn is_alive(&mut self) -> bool {
        !self.watch.is_closed() && is_usable(&mut self.conn)
    }

    /// Removes the connection from the pool when it is returned.
    pub(super) fn mark_broken(&mut self) {
        self.broken = true;
    }
}

impl r2d2::ManageConnection for Connector {
    type Connection = PooledConn;
    type Error = ConnectionError;

    fn connect(&self) -> Result<PooledConn, ConnectionError> {
        let connected = self.establish_writable();
        match &connected {
            Ok(_) => self.availability.up(),
            Err(error) => self.availability.down(&error.to_string()),
        }
        let Established { conn, watch } = connected?;
        Ok(PooledConn { conn, watch, last_used: Instant::now(), broken: false })
    }

    fn is_valid(&self, pooled: &mut PooledConn) -> Result<(), ConnectionError> {
        let now = Instant::now();
        let lost = || Err(ConnectionError::BadConnection("the connection was lost".into()));
        if pooled.watch.is_closed() {
            return lost();
        }
        if now.duration_since(pooled.last_used) > REVALIDATE_AFTER {
            let watch = pooled.watch.clone();
            let timeout =
                self.timeouts.acquire.clamp(MIN_VALIDATION_TIMEOUT, MAX_VALIDATION_TIMEOUT);
            let _limit = watch.limit(timeout, now);
            if !pooled.is_alive() {
                return lost();
            }
        }
        pooled.last_used = now;
        Ok(())
    }

    fn has_broken(&self, pooled: &mut PooledConn) -> bool {
        // A panic may have left a transaction open.
        pooled.broken || std::thread::panicking()
    }
}
