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
use super::watchdog::{self, Closing, Opening, Watch};
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
                    |host| self.open_server(hosts, host, access),
                    |host, error| watchdog::leave(&host.name, error.is_some_and(is_lost)),
                )
                .map_err(of_all_hosts),
        }
    }

    fn open_server(
        &self,
        hosts: &Hosts,
        host: &Host,
        access: Access,
    ) -> ConnectionResult<Established> {
        let mark = Mark::take(hosts.tcp_user_timeout);
        let url = host.url_with(mark.as_ref().map_or(hosts.tcp_user_timeout, Mark::timeout));
        let opening = Opening::begin(mark, hosts.connect_timeout.saturating_add(SETUP_TIMEOUT));
        let conn = match self.settings.connect(url.expose_secret()) {
            Err(_) if opening.is_silent() => return Err(no_response()),
            connected => connected?,
        };
        let watch = opening.into_watch(&host.name);
        let limit = watch.limit(SETUP_TIMEOUT, Instant::now());
        let set_up = self.set_up(conn, access);
        drop(limit);
        match set_up {
            Ok(Some(conn)) => Ok(Established { conn, watch }),
            Ok(None) => self.open_server(hosts, host, access),
            Err(_) if watch.closing() == Some(Closing::Silent) => Err(no_response()),
            Err(error) => Err(error),
        }
    }

    /// Examines and checks a new connection. Returns `None` if it needs other settings.
    fn set_up(&self, mut conn: PgConnection, access: Access) -> ConnectionResult<Option<Conn>> {
        let examined = self.settings.examine(&mut conn);
        if examined.map_err(ConnectionError::CouldntSetupConfiguration)? == Examination::Reconnect {
            return Ok(None);
        }
        let mut conn = Conn::Postgres(conn);
        if access == Access::Write {
            check_writable(&mut conn)
                .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
        }
        Ok(Some(conn))
    }
}

/// The error of a connection that was closed while it was being set up.
fn no_response() -> ConnectionError {
    ConnectionError::BadConnection("the server accepted the connection and did not respond".into())
}

/// The errors of a new connection to a host that is silent, unreachable or read-only. Each is
/// of libpq, which does not translate them here, or of this program.
const LOST: [&str; 7] = [
    "timeout expired",
    "timed out",
    "did not respond",
    "No route to host",
    "unreachable",
    "read-only",
    "hot standby",
];

/// Returns whether the error of a new connection shows that those in use are of no use either.
/// Otherwise they may continue: a pooler may only have too many.
fn is_lost(error: &ConnectionError) -> bool {
    let error = error.to_string();
    LOST.iter().any(|part| error.contains(part))
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
    /// When the database last showed on this connection that it accepts writes.
    pub(super) checked_at: Instant,
    last_used: Instant,
    broken: bool,
}

/// A connection that was idle for longer is checked before it is used. A busy one is not:
/// the check costs as much as the work.
const REVALIDATE_AFTER: Duration = Duration::from_secs(1);

impl PooledConn {
    /// Returns whether the database responds on this connection and accepts writes.
    pub(super) fn is_alive(&mut self) -> bool {
        self.watch.closing().is_none() && is_usable(&mut self.conn)
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
            Ok(_) => self.availability.connected(),
            Err(error) => self.availability.suspect(&error.to_string()),
        }
        let Established { conn, watch } = connected?;
        let now = Instant::now();
        Ok(PooledConn { conn, watch, checked_at: now, last_used: now, broken: false })
    }

    fn is_valid(&self, pooled: &mut PooledConn) -> Result<(), ConnectionError> {
        let now = Instant::now();
        let lost = || Err(ConnectionError::BadConnection("the connection was lost".into()));
        if !pooled.watch.is_usable() {
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
            pooled.checked_at = Instant::now();
        }
        pooled.last_used = now;
        Ok(())
    }

    fn has_broken(&self, pooled: &mut PooledConn) -> bool {
        // A panic may have left a transaction open.
        pooled.broken || !pooled.watch.is_usable() || std::thread::panicking()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Accepts a login and never responds to a statement, like a pooler of a PostgreSQL that is
    /// frozen. Returns its address.
    fn silent_pooler() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut length = [0; 4];
                    client.read_exact(&mut length).unwrap();
                    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
                    client.read_exact(&mut startup).unwrap();
                    // AuthenticationOk and ReadyForQuery.
                    client.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
                    let _ = std::io::copy(&mut client, &mut std::io::sink());
                });
            }
        });
        address.to_string()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn statement_of_a_new_connection_that_gets_no_response_ends_the_attempt() {
        let parameters = "sslmode=disable&gssencmode=disable&target_session_attrs=any";
        let url = format!("postgres://me@{}/x?{parameters}&connect_timeout=2", silent_pooler());
        let connector = Connector::new(&url.parse().unwrap(), Timeouts::default());
        let (result, results) = mpsc::channel();
        thread::spawn(move || result.send(connector.establish().map(drop)));
        let connected = results.recv_timeout(Duration::from_secs(120)).expect("the attempt ends");
        let error = connected.unwrap_err();
        assert!(error.to_string().contains("did not respond"), "{error}");
        assert!(is_lost(&error), "{error}");
    }

    #[test]
    fn connections_in_use_survive_the_rejection_of_a_new_one() {
        for (message, expected) in [
            ("connection to server at \"one\" failed: timeout expired", true),
            ("connection to server at \"one\" failed: session is read-only", true),
            ("the database is a standby or read-only", true),
            ("connection to server at \"one\" failed: No route to host", true),
            ("connection to server at \"one\" failed: Connection refused", false),
            ("FATAL:  no more connections allowed (max_client_conn)", false),
            ("FATAL:  sorry, too many clients already", false),
        ] {
            let error = ConnectionError::BadConnection(message.to_owned());
            assert_eq!(is_lost(&error), expected, "{message}");
        }
    }
}
