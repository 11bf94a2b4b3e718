//! Migrates the schema, also when several servers start at once.

use std::error::Error;

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::sqlite::Sqlite;
use diesel::{Connection, RunQueryDsl, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::Conn;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// A number that no other program uses for an advisory lock on this database.
///
/// NEVER CHANGE IT once a version is released: an old and a new server that start at once
/// would migrate at the same time.
const ADVISORY_LOCK: i64 = 0x6d61_7463_6862_6f6b;

/// A setting of `sessions` that SQLite does not have. A fifth of each page stays free, so
/// that the new version of a row fits beside the old one and no index changes (HOT).
const STORAGE: &str = "ALTER TABLE sessions SET (fillfactor = 80)";

/// Returns the versions of all migrations, in order.
pub(super) fn known_versions() -> Vec<String> {
    let migrations = MigrationSource::<Sqlite>::migrations(&MIGRATIONS).unwrap_or_default();
    let mut versions: Vec<String> =
        migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort_unstable();
    versions
}

/// Runs pending migrations under a lock: one server migrates, and the others wait.
pub(super) fn run(conn: &mut Conn) -> Result<(), Box<dyn Error + Send + Sync>> {
    match conn {
        Conn::Postgres(conn) => conn.transaction(|conn| {
            sql_query(format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")).execute(conn)?;
            if migrate(conn)? {
                conn.batch_execute(STORAGE)?;
            }
            Ok(())
        }),
        Conn::Sqlite(conn) => conn.immediate_transaction(|conn| migrate(conn).map(drop)),
    }
}

/// Returns whether any migration was pending.
fn migrate<DB: diesel::backend::Backend>(
    conn: &mut impl MigrationHarness<DB>,
) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let run = conn.run_pending_migrations(MIGRATIONS)?;
    for version in &run {
        tracing::info!(%version, "database migrated");
    }
    Ok(!run.is_empty())
}
