//! Brings the tables up to date, however many servers start at once.

use std::error::Error;

use diesel::connection::SimpleConnection;
use diesel::{Connection, RunQueryDsl, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::Conn;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// Any number will do that no other program takes on this database.
const ADVISORY_LOCK: i64 = 0x6d61_7463_6862_6f6b;

/// What PostgreSQL can be told about `sessions` and SQLite cannot. A fifth
/// of each page stays free, so that a new version of a row fits beside the old
/// one and the indexes need not change (HOT).
const STORAGE: &str = "ALTER TABLE sessions SET (fillfactor = 80)";

/// Runs what has not been run yet, under a lock: of several servers one
/// migrates, and the others wait for it and find nothing left to do.
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

/// Whether there was anything to do.
fn migrate<DB: diesel::backend::Backend>(
    conn: &mut impl MigrationHarness<DB>,
) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let run = conn.run_pending_migrations(MIGRATIONS)?;
    for version in &run {
        tracing::info!(%version, "database migrated");
    }
    Ok(!run.is_empty())
}
