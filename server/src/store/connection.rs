//! One connection to either database, and how the pool makes and checks it.

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

use super::Url;

/// A connection to either database.
#[derive(diesel::MultiConnection)]
pub enum Conn {
    /// PostgreSQL, through libpq.
    Postgres(PgConnection),
    /// SQLite, linked in.
    Sqlite(SqliteConnection),
}

impl Conn {
    /// Runs `work` in a transaction that may read before it writes: on SQLite,
    /// which cannot turn a reader into a writer once another has written, it
    /// is a writer from its first moment on.
    ///
    /// # Errors
    /// Those of `work`, whose changes are undone then.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> QueryResult<T>,
    ) -> QueryResult<T> {
        let Self::Sqlite(sqlite) = self else { return self.transaction(work) };
        AnsiTransactionManager::begin_transaction_sql(sqlite, "BEGIN IMMEDIATE")?;
        let done = work(self).and_then(|done| Self::commit_transaction(self).map(|()| done));
        if done.is_err() {
            // A commit that fails has undone everything by itself.
            let _ = Self::rollback_transaction(self);
        }
        done
    }
}

/// Makes connections; picks the driver by the URL, never by trying.
pub(super) struct Connector {
    url: Url,
    /// How long a statement of a pooled connection may take.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(url: &Url, timeout: Duration) -> Self {
        let url = match url {
            Url::Postgres(url) => Url::Postgres(with_defaults(url)),
            Url::Sqlite(path) => Url::Sqlite(path.clone()),
        };
        Self { url, timeout }
    }

    /// Connects to a database that takes writes, whatever the URL asks libpq for.
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

/// libpq takes a standby by default, waits for ever, also for a peer that has vanished without a
/// word, and shows up nameless in `pg_stat_activity`.
fn with_defaults(url: &SecretString) -> SecretString {
    let mut url = url.expose_secret().to_owned();
    for (name, value) in [
        // A standby lags: it would accept a session that was ended elsewhere.
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

/// Statements are to find their rows by an index, and to be planned once where
/// they are prepared. PostgreSQL would plan short batches anew each time, and read a
/// young table whole until it is analysed. Where it has to read one whole, as
/// `ends`, it must not begin with compiling.
const PLANS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                     SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off";

fn open_server(url: &str) -> ConnectionResult<PgConnection> {
    let mut conn = PgConnection::establish(url)?;
    conn.batch_execute(PLANS).map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// How long a statement waits for another writer of the same SQLite file.
const BUSY: Duration = Duration::from_secs(5);

fn open_file(path: &Path) -> ConnectionResult<SqliteConnection> {
    let path = path.to_str().ok_or_else(|| {
        ConnectionError::BadConnection("the path of the SQLite file is not UTF-8".into())
    })?;
    let mut conn = SqliteConnection::establish(path)?;
    // FULL, since an acknowledged rotation that a power cut undoes would log
    // its owner out. The busy timeout comes first: the others may have to wait.
    let pragmas = format!(
        "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = ON;",
        BUSY.as_millis()
    );
    // Two that switch a new file to WAL at once, or one that opens it while
    // another closes it for the last time, are told so without the timeout.
    let started = Instant::now();
    loop {
        match conn.batch_execute(&pragmas) {
            Err(error) if is_locked(&error) && started.elapsed() < BUSY => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => {
                return done.map(|()| conn).map_err(ConnectionError::CouldntSetupConfiguration);
            }
        }
    }
}

/// Whether another writer has SQLite's lock.
pub(super) fn is_locked(error: &QueryError) -> bool {
    matches!(error, QueryError::DatabaseError(_, info) if info.message() == "database is locked")
}

/// Whether a database answers that takes writes. Nothing can turn a SQLite file
/// into a copy of another; there a statement that needs no lock will do.
pub(super) fn is_usable(conn: &mut Conn) -> bool {
    match conn {
        Conn::Postgres(_) => check_writable(conn).is_ok(),
        Conn::Sqlite(conn) => conn.batch_execute("SELECT 1").is_ok(),
    }
}

/// Checks that the database takes writes. On SQLite this takes the lock for it, and
/// writes nothing.
///
/// # Errors
/// When it does not.
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

/// A connection idle for longer is asked whether it still lives before it is
/// used; a busy one is not, since the question costs as much as the work.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

impl PooledConn {
    /// Whether the database still answers on it, and takes writes.
    pub(super) fn is_alive(&mut self) -> bool {
        is_usable(&mut self.conn)
    }

    /// Keeps it from being used again.
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
            // A request gives up after the same time, and what it asked for is not to be
            // carried out after that. Waits for locks count.
            let timeout = self.timeout.as_millis().max(1);
            conn.batch_execute(&format!("SET statement_timeout = {timeout}"))
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
        }
        Ok(PooledConn { conn, last_used: Instant::now(), broken: false })
    }

    fn is_valid(&self, pooled: &mut PooledConn) -> Result<(), ConnectionError> {
        if pooled.last_used.elapsed() > TRUSTED_FOR && !pooled.is_alive() {
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

/// The pool connects in the background; what goes wrong there has no request
/// to be told to.
#[derive(Debug)]
pub(super) struct LogErrors;

impl r2d2::HandleError<ConnectionError> for LogErrors {
    fn handle_error(&self, error: ConnectionError) {
        tracing::warn!(error = %error, "no connection to the database");
    }
}
