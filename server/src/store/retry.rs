//! Runs work again that PostgreSQL rolled back because of another transaction.

use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error as QueryError};

use super::Conn;

/// The most attempts.
const ATTEMPTS: u32 = 5;
/// The longest pause before the second attempt. It grows with each attempt.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Returns work that repeats `work` after a conflict, as long as another attempt may end
/// within `time_limit`.
pub(super) fn on_conflict<T>(
    mut work: impl FnMut(&mut Conn) -> QueryResult<T>,
    time_limit: Duration,
) -> impl FnOnce(&mut Conn) -> QueryResult<T> {
    move |conn| {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            match work(conn) {
                Err(error)
                    if is_conflict(&error)
                        && attempt < ATTEMPTS
                        && started.elapsed() < time_limit / 2 =>
                {
                    tracing::debug!(%error, attempt, "transactions conflict, retrying");
                    std::thread::sleep(pause(started, attempt));
                    attempt += 1;
                }
                done => return done,
            }
        }
    }
}

/// Returns a pause that differs between the threads that conflict.
fn pause(started: Instant, attempt: u32) -> Duration {
    let noise = started.elapsed().subsec_nanos() % 1000;
    MAX_PAUSE * attempt * noise / 1000
}

/// Returns whether a transaction was rolled back because of another one: a serialization
/// failure, a deadlock, or a referenced row that was deleted meanwhile.
///
/// Diesel has no SQLSTATE for a deadlock. Its message depends on the language of the server:
/// in another one the request gets `503`.
fn is_conflict(error: &QueryError) -> bool {
    match error {
        QueryError::DatabaseError(kind, info) => match kind {
            DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::ForeignKeyViolation => {
                true
            }
            DatabaseErrorKind::Unknown => info.message() == "deadlock detected",
            _ => false,
        },
        QueryError::RollbackErrorOnCommit { commit_error, .. } => is_conflict(commit_error),
        _ => false,
    }
}
