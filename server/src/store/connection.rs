//! A connection to either database, and how the pool opens and checks it.

use std::path::Path;
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::dsl::sql;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel::sql_types::Bool;
use diesel::{
    Connection, ConnectionError, ConnectionResult, PgConnection, QueryResult, RunQueryDsl,
    SqliteConnection,
};
use secrecy::{ExposeSecret, SecretString};

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

/// Opens connections. The URL decides on the driver.
pub(super) struct Connector {
    url: Url,
    /// The `statement_timeout` of pooled connections.
    query_timeout: Duration,
}

impl Connector {
    pub(super) fn new(url: &Url, query_timeout: Duration) -> Self {
        let url = match url {
            Url::Postgres(url) => Url::Postgres(with_defaults(url)),
            Url::Sqlite(path) => Url::Sqlite(path.clone()),
        };
        Self { url, query_timeout }
    }

    /// Connects to a database that accepts writes, whatever the URL says.
    pub(super) fn establish_writable(&self) -> ConnectionResult<Conn> {
        let mut conn = self.establish()?;
        if let Conn::Postgres(_) = conn {
            check_writable(&mut conn)
                .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
        }
        Ok(conn)
    }

    pub(super) fn establish(&self) -> ConnectionResult<Conn> {
        match &self.url {
            Url::Postgres(url) => open_server(url.expose_secret()).map(Conn::Postgres),
            Url::Sqlite(path) => open_file(path).map(Conn::Sqlite),
        }
    }
}

/// Adds settings that libpq lacks by default: timeouts, also for a peer that has vanished,
/// and a name in `pg_stat_activity`.
fn with_defaults(url: &SecretString) -> SecretString {
    let mut url = url.expose_secret().to_owned();
    for (name, value) in [
        // A standby lags: it would accept a session that has ended.
        ("target_session_attrs", "read-write"),
        ("connect_timeout", "5"),
        ("tcp_user_timeout", "5000"),
        ("keepalives_idle", "5"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
        ("application_name", "matchbook"),
    ] {
        if !url.contains(&format!("{name}=")) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.extend([name, "=", value]);
        }
    }
    url.into()
}

/// Makes PostgreSQL plan each prepared statement once, and find rows by an index.
///
/// By default it plans short batches again each time, and scans a young table until it is
/// analyzed. A full scan, as of `session_revocations`, must not begin with compilation.
const PLANNER_SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; \
                                SET enable_seqscan = off; SET enable_hashjoin = off; \
                                SET enable_mergejoin = off; SET jit = off";

fn open_server(url: &str) -> ConnectionResult<PgConnection> {
    let mut conn = PgConnection::establish(url)?;
    conn.batch_execute(PLANNER_SETTINGS).map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
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
    last_used: Instant,
    broken: bool,
}

/// A connection that was idle for longer is checked before it is used. A busy one is not:
/// the check costs as much as the work.
const REVALIDATE_AFTER: Duration = Duration::from_secs(1);

impl PooledConn {
    /// Returns whether the database responds on this connection and accepts writes.
    pub(super) fn is_alive(&mut self) -> bool {
        is_usable(&mut self.conn)
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
        let mut conn = self.establish_writable()?;
        if let Conn::Postgres(conn) = &mut conn {
            // A request gives up after the same time, and its statement must not be executed
            // later. The timeout includes waits for locks.
            let timeout = self.query_timeout.as_millis().max(1);
            conn.batch_execute(&format!("SET statement_timeout = {timeout}"))
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
        }
        Ok(PooledConn { conn, last_used: Instant::now(), broken: false })
    }

    fn is_valid(&self, pooled: &mut PooledConn) -> Result<(), ConnectionError> {
        if pooled.last_used.elapsed() > REVALIDATE_AFTER && !pooled.is_alive() {
            return Err(ConnectionError::BadConnection("the connection was lost".into()));
        }
        pooled.last_used = Instant::now();
        Ok(())
    }

    fn has_broken(&self, pooled: &mut PooledConn) -> bool {
        // A panic may have left a transaction open.
        pooled.broken || std::thread::panicking()
    }
}

/// Logs errors of connections that the pool opens in the background, for no request.
#[derive(Debug)]
pub(super) struct LogErrors;

impl r2d2::HandleError<ConnectionError> for LogErrors {
    fn handle_error(&self, error: ConnectionError) {
        tracing::warn!(error = %error, "database connection failed");
    }
}
