//! Migrates the schema, also when several servers start at once, and compares it with this
//! version of the server.
//!
//! A schema may be newer than the server: while servers are upgraded one by one, old and new
//! ones use the same tables. The table `schema_compatibility` names the oldest version that
//! may do so.

use std::error::Error;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::migration::MigrationSource;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::distribution::{distribute, is_coordinator, undistributed};
use super::engine::is_citus;
use super::schema::schema_compatibility;
use super::{Conn, OpenError, Url};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// A number that no other program uses for an advisory lock on this database.
///
/// NEVER CHANGE IT once a version is released: an old and a new server that start at once
/// would migrate at the same time.
const ADVISORY_LOCK: i64 = 0x6d61_7463_6862_6f6b;

/// How long a statement of a migration waits for a lock. Statements of requests queue behind
/// it, and get 503 after `database.acquire_timeout`.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long migrations that get no lock are tried again.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// The time between two attempts, in which queued statements continue.
const PAUSE: Duration = Duration::from_secs(1);

/// A setting of `sessions` that SQLite does not have. A fifth of each page stays free, so
/// that the new version of a row fits beside the old one and no index changes (HOT).
const STORAGE: &str = "ALTER TABLE sessions SET (fillfactor = 80)";

type AnyError = Box<dyn Error + Send + Sync>;

diesel::table! {
    /// The migrations that were run. Diesel creates and writes this table.
    __diesel_schema_migrations (version) {
        version -> Text,
    }
}

/// The schema of a database, compared with the migrations of this version.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// This version can use it.
    Fits,
    /// It has no tables.
    Empty,
    /// So many migrations of this version were not run.
    Pending(usize),
    /// It is a database of Citus, whose nodes do not share the tables yet.
    Undistributed,
    /// It was migrated by a version whose tables this version cannot use.
    TooNew {
        /// The last migration that this version contains.
        known: String,
        /// The last migration of the oldest permitted version.
        required: String,
    },
}

/// Checks that this version can use the schema, and migrates it before if `migrate` is set.
/// Changes nothing if there is nothing to migrate, so the role needs no right to do so.
pub(super) fn prepare(conn: &mut Conn, url: &Url, migrate: bool) -> Result<(), OpenError> {
    let pending = match compare(conn).map_err(|source| failed(url, source))? {
        Comparison::Fits => return Ok(()),
        too_new @ Comparison::TooNew { .. } => return Err(unsupported(url, too_new.problem())),
        pending => pending.problem(),
    };
    if !migrate {
        let problem = format!(
            "{pending}, and `database.migrate` is false: run `matchbook-server migrate` with a \
             DATABASE_URL whose role owns the tables"
        );
        return Err(unsupported(url, problem));
    }
    run(conn).map(drop).map_err(|source| failed(url, source))
}

/// Checks that a command of this version can use the schema.
pub(super) fn check(conn: &mut Conn, url: &Url) -> Result<(), OpenError> {
    match compare(conn).map_err(|source| failed(url, source))? {
        Comparison::Fits => Ok(()),
        too_new @ Comparison::TooNew { .. } => Err(unsupported(url, too_new.problem())),
        pending => {
            let pending = pending.problem();
            let problem = format!(
                "{pending}: start this version of the server, or run `matchbook-server migrate`"
            );
            Err(unsupported(url, problem))
        }
    }
}

/// Runs pending migrations, also of a database without tables. Returns their versions.
pub(super) fn migrate(conn: &mut Conn, url: &Url) -> Result<Vec<String>, OpenError> {
    match compare(conn).map_err(|source| failed(url, source))? {
        Comparison::Fits => Ok(Vec::new()),
        too_new @ Comparison::TooNew { .. } => Err(unsupported(url, too_new.problem())),
        Comparison::Empty | Comparison::Pending(_) | Comparison::Undistributed => {
            run(conn).map_err(|source| failed(url, source))
        }
    }
}

fn failed(url: &Url, source: AnyError) -> OpenError {
    OpenError::Migrate { url: url.to_string(), source }
}

fn unsupported(url: &Url, problem: String) -> OpenError {
    OpenError::Unsupported { url: url.to_string(), problem }
}

impl Comparison {
    /// Returns the problem for an operator, as the beginning of a sentence.
    fn problem(&self) -> String {
        match self {
            Self::Fits => "its schema is that of this version".to_owned(),
            Self::Empty => "it has no tables of matchbook-server".to_owned(),
            Self::Undistributed => {
                "its tables are not distributed over the nodes of Citus".to_owned()
            }
            Self::Pending(1) => "one migration is pending".to_owned(),
            Self::Pending(count) => format!("{count} migrations are pending"),
            Self::TooNew { known, required } => format!(
                "a newer version of matchbook-server has migrated it (this version knows \
                 migrations up to {known}, and needs {required}): upgrade matchbook-server"
            ),
        }
    }
}

fn compare(conn: &mut Conn) -> Result<Comparison, AnyError> {
    let known = known_versions();
    let applied = applied_migrations(conn)?;
    if applied.is_empty() {
        return Ok(Comparison::Empty);
    }
    if let Some(newest) = known.last()
        && applied.iter().any(|version| !known.contains(version))
    {
        let required: String =
            schema_compatibility::table.select(schema_compatibility::oldest_server).first(conn)?;
        if *newest < required {
            return Ok(Comparison::TooNew { known: newest.clone(), required });
        }
    }
    let pending = known.iter().filter(|version| !applied.contains(version)).count();
    if pending > 0 {
        return Ok(Comparison::Pending(pending));
    }
    if let Conn::Postgres(conn) = conn
        && is_citus()
        && !undistributed(conn)?.is_empty()
    {
        return Ok(Comparison::Undistributed);
    }
    Ok(Comparison::Fits)
}

/// Returns why this version cannot use a copy of a database, as the beginning of a sentence.
/// Pending migrations are no reason.
pub(super) fn problem_of_copy(conn: &mut Conn) -> Result<Option<String>, AnyError> {
    // Diesel's table may also be that of another program.
    let is_ours = known_versions().first() == applied_migrations(conn)?.iter().min();
    let comparison = if is_ours { compare(conn)? } else { Comparison::Empty };
    Ok(match comparison {
        Comparison::Empty | Comparison::TooNew { .. } => Some(comparison.problem()),
        Comparison::Fits | Comparison::Pending(_) | Comparison::Undistributed => None,
    })
}

/// Returns the versions of all migrations, in order.
fn known_versions() -> Vec<String> {
    let migrations = MigrationSource::<Sqlite>::migrations(&MIGRATIONS).unwrap_or_default();
    let mut versions: Vec<String> =
        migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort_unstable();
    versions
}

/// Returns the versions of the migrations that were run. Only reads, unlike diesel's harness.
fn applied_migrations(conn: &mut Conn) -> QueryResult<Vec<String>> {
    let exists = match conn {
        Conn::Postgres(_) => "to_regclass('__diesel_schema_migrations') IS NOT NULL",
        Conn::Sqlite(_) => {
            "EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '__diesel_schema_migrations')"
        }
    };
    if !diesel::select(sql::<Bool>(exists)).get_result::<bool>(conn)? {
        return Ok(Vec::new());
    }
    __diesel_schema_migrations::table.select(__diesel_schema_migrations::version).load(conn)
}

/// Runs pending migrations under a lock: one server migrates, and the others wait. Returns
/// their versions.
fn run(conn: &mut Conn) -> Result<Vec<String>, AnyError> {
    match conn {
        Conn::Postgres(conn) => {
            if is_citus() && !is_coordinator(conn)? {
                return Err("this is a worker of Citus: connect to the coordinator".into());
            }
            let started = Instant::now();
            loop {
                let mut locked_at = None;
                let done = run_on_postgres(conn, &mut locked_at);
                // Diesel's error does not say whether the reason is a lock.
                let may_be_lock = locked_at.is_some_and(|at| at.elapsed() >= LOCK_TIMEOUT);
                match done {
                    Err(error) if may_be_lock && started.elapsed() < RETRY_FOR => {
                        tracing::warn!(%error, "migration failed, trying again");
                        std::thread::sleep(PAUSE);
                    }
                    done => return done,
                }
            }
        }
        Conn::Sqlite(conn) => conn.immediate_transaction(run_pending),
    }
}

/// Sets `locked_at` when this server is the one that migrates.
fn run_on_postgres(
    conn: &mut PgConnection,
    locked_at: &mut Option<Instant>,
) -> Result<Vec<String>, AnyError> {
    conn.transaction(|conn| {
        // Without a timeout: another server may migrate for long.
        conn.batch_execute(&format!(
            "SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({ADVISORY_LOCK}); \
             SET LOCAL lock_timeout = {}",
            LOCK_TIMEOUT.as_millis()
        ))?;
        *locked_at = Some(Instant::now());
        let run = run_pending(conn)?;
        if !run.is_empty() {
            conn.batch_execute(STORAGE)?;
        }
        if is_citus() {
            distribute(conn)?;
        }
        Ok(run)
    })
}

fn run_pending<DB: diesel::backend::Backend>(
    conn: &mut impl MigrationHarness<DB>,
) -> Result<Vec<String>, AnyError> {
    let run = conn.run_pending_migrations(MIGRATIONS)?;
    for version in &run {
        tracing::info!(%version, "database migrated");
    }
    Ok(run.iter().map(ToString::to_string).collect())
}
