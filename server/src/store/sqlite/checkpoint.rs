//! Restarts the write-ahead log of a SQLite database, and renews the id of the database.
//! [`super::wal`] describes the ids.
//!
//! By default SQLite itself checkpoints during a commit, and restarts the log during a later
//! one. Here a background task does both, because the id has to be renewed in between.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::result::Error as QueryError;
use diesel::sql_types::Integer;
use diesel::{QueryResult, QueryableByName, RunQueryDsl, SqliteConnection, sql_query};

use crate::crypto;
use crate::store::dedicated_connection::{DedicatedConnection, Error as DedicatedError};
use crate::store::{Conn, Error, Store};

/// The number of pages after which the log is restarted.
const MAX_PAGES: i32 = 1000;

/// The number of pages after which SQLite checkpoints by itself, where no server does.
pub(in crate::store) const MAX_PAGES_WITHOUT_SERVER: u32 = 10_000;

/// How often the length of the log is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time until the next attempt if the log cannot be restarted because of a long read, for
/// example by a backup.
const INTERVAL_IF_BUSY: Duration = Duration::from_secs(5);

/// How long a restart waits for readers. Writers wait meanwhile.
const BUSY_TIMEOUT: Duration = Duration::from_millis(50);

/// The time limit of a restart.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the log was not restarted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Pool(#[from] Error),
    #[error(transparent)]
    Dedicated(#[from] DedicatedError),
    #[error("it is still being read")]
    Busy,
}

/// The result of a checkpoint. `PRAGMA wal_checkpoint` names the columns.
#[derive(QueryableByName)]
struct Progress {
    /// Whether it was not completed.
    #[diesel(sql_type = Integer)]
    busy: i32,
    /// The number of pages in the log.
    #[diesel(sql_type = Integer)]
    log: i32,
    /// How many of them are in the database.
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}

/// Restarts the log each time that it is long enough, until the future is dropped.
pub(in crate::store) async fn run(store: &Store) {
    // Its connection stays open, so that no other one is the last, which removes the log.
    let writer = store.dedicated_connection();
    let mut done = restart_log(&writer).await;
    let mut pause = INTERVAL;
    loop {
        if let Err(error) = done {
            tracing::debug!(%error, "write-ahead log not restarted");
        }
        actix_rt::time::sleep(pause).await;
        done = restart_if_long(store, &writer).await;
        pause = if done.is_ok() { INTERVAL } else { INTERVAL_IF_BUSY };
    }
}

async fn restart_if_long(store: &Store, writer: &DedicatedConnection) -> Result<(), Failure> {
    // Most of the work needs no permit to write.
    let copied = store.run_reserved(|conn| match conn {
        Conn::Postgres(_) => Ok(None),
        Conn::Sqlite(conn) => {
            // NOOP only reads the length.
            let is_long = checkpoint(conn, "NOOP")?.log >= MAX_PAGES;
            is_long.then(|| checkpoint(conn, "PASSIVE")).transpose()
        }
    });
    let Some(copied) = copied.await? else { return Ok(()) };
    if copied.log - copied.checkpointed >= MAX_PAGES {
        return Err(Failure::Busy);
    }
    restart_log(writer).await
}

async fn restart_log(writer: &DedicatedConnection) -> Result<(), Failure> {
    let is_restarted = writer.run(TIMEOUT, |conn| match conn {
        Conn::Postgres(_) => Ok(true),
        Conn::Sqlite(conn) => restart(conn),
    });
    if is_restarted.await? { Ok(()) } else { Err(Failure::Busy) }
}

/// Renews the id, restarts the log and renews the id again. Returns whether the log was
/// restarted: a reader of an old state prevents it.
pub(in crate::store) fn restart(conn: &mut SqliteConnection) -> QueryResult<bool> {
    let timeout = BUSY_TIMEOUT.as_millis();
    conn.batch_execute(&format!("PRAGMA busy_timeout = {timeout}"))?;
    renew_id(conn)?;
    let is_restarted = checkpoint(conn, "RESTART")?.busy == 0;
    renew_id(conn)?;
    Ok(is_restarted)
}

/// Gives the database a new id, and keeps the id before it.
pub(in crate::store) fn renew_id(conn: &mut SqliteConnection) -> QueryResult<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Integer)]
        user_version: i32,
    }
    let id = random_id()?;
    conn.immediate_transaction(|conn| {
        let previous: Row = sql_query("PRAGMA user_version").get_result(conn)?;
        set_ids(conn, id, previous.user_version)
    })
}

/// Gives a copy of a database new ids, so that no log of the original belongs to it.
pub(super) fn replace_ids(conn: &mut SqliteConnection) -> QueryResult<()> {
    let ids = (random_id()?, random_id()?);
    conn.immediate_transaction(|conn| set_ids(conn, ids.0, ids.1))
}

fn set_ids(conn: &mut SqliteConnection, current: i32, previous: i32) -> QueryResult<()> {
    conn.batch_execute(&format!(
        "PRAGMA user_version = {current}; PRAGMA application_id = {previous}"
    ))
}

fn random_id() -> QueryResult<i32> {
    let bytes = crypto::random::<4>();
    bytes
        .map(i32::from_ne_bytes)
        .map_err(|error| QueryError::QueryBuilderError(error.to_string().into()))
}

fn checkpoint(conn: &mut SqliteConnection, mode: &str) -> QueryResult<Progress> {
    sql_query(format!("PRAGMA wal_checkpoint({mode})")).get_result(conn)
}
