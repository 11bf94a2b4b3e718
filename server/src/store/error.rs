//! Why the database could not be used: at the start, or for one request.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::task::JoinError;
use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error as QueryError};

/// Why work on the database has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("no database connection within {0:?}: {1}")]
    Connect(Duration, #[source] r2d2::Error),
    /// All connections are in use.
    #[error("no free database connection within {0:?}")]
    AcquireTimeout(Duration),
    /// All connections are in use, and too many requests wait for one.
    #[error("{0} requests already wait for a database connection")]
    QueueFull(u32),
    /// The result of the work is lost. Its connection is closed soon after.
    #[error("the database did not respond within {0:?}")]
    QueryTimeout(Duration),
    /// The connection was lost, or its server no longer accepts writes.
    #[error("database unavailable: {0}")]
    Unavailable(#[source] QueryError),
    /// The statement failed on a healthy connection, and may succeed later. Examples: a
    /// full disk, a conflicting transaction, a database that became read-only.
    #[error("statement failed temporarily: {0}")]
    Transient(#[source] QueryError),
    /// A bug, or a schema that does not fit this version.
    #[error("statement failed: {0}")]
    Query(#[source] QueryError),
    #[error("database task panicked or was canceled: {0}")]
    TaskPanicked(#[source] JoinError),
    /// This server's clock differs too much from the database's.
    #[error("{0}")]
    WrongClock(String),
    /// The caller had given up before the work began.
    #[error("the request timed out before the database could execute it")]
    TimedOut,
    /// The batch of a rotation was dropped before its result was known.
    #[error("database task dropped before its result was known")]
    Canceled,
    /// The error of the batch that contained the rotation.
    #[error(transparent)]
    Batch(Arc<Self>),
}

impl Error {
    /// Returns whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(..)
            | Self::AcquireTimeout(_)
            | Self::QueueFull(_)
            | Self::QueryTimeout(_)
            | Self::Unavailable(_)
            | Self::Transient(_)
            | Self::WrongClock(_)
            | Self::TimedOut
            | Self::Canceled => true,
            Self::Batch(error) => error.is_transient(),
            Self::Query(_) | Self::TaskPanicked(_) => false,
        }
    }
}

/// Why the database could not be opened at the start of a command or server.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the database {url}: {source}")]
    Connect {
        /// Without its password.
        url: String,
        source: ConnectionError,
    },
    #[error("cannot migrate the database {url}: {source}")]
    Migrate {
        /// Without its password.
        url: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The version or the encoding is not supported.
    #[error("cannot use the database {url}: {problem}")]
    Unsupported {
        /// Without its password.
        url: String,
        /// The problem, and how to repair it.
        problem: String,
    },
    /// This machine's clock is wrong, so rows would get wrong times.
    #[error("nothing was changed: {0}")]
    WrongClock(String),
}

impl OpenError {
    /// Returns whether waiting cannot repair this.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            // With several hosts, one line has the errors of all of them.
            Self::Connect { source, .. } => source.to_string().split("; ").all(is_permanent),
            Self::Migrate { .. } | Self::Unsupported { .. } | Self::WrongClock(_) => true,
        }
    }
}

/// The errors of a new connection that only an operator can repair. PostgreSQL sends their
/// SQLSTATE, but libpq does not return it.
const PERMANENT: [&str; 6] = [
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied for database",
    // Of a database or a role. A socket that does not exist has another message.
    "\" does not exist",
];

/// Returns whether the message of a failed connection shows that a retry would fail as well.
pub(super) fn is_permanent(message: &str) -> bool {
    PERMANENT.iter().any(|part| message.contains(part))
}

/// Returns whether a statement that failed on a healthy connection may succeed later.
///
/// Diesel has no SQLSTATE for most errors. PostgreSQL reports a position for a statement
/// that it cannot parse, or whose table or column is missing. Errors at run time have no
/// position: a deadlock, a full disk, a canceled or rejected statement.
pub(super) fn is_transient(error: &QueryError) -> bool {
    match error {
        QueryError::DatabaseError(kind, info) => match kind {
            // The row that was referred to has been deleted meanwhile: a retry finds that out.
            DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::ForeignKeyViolation => {
                true
            }
            DatabaseErrorKind::Unknown => {
                info.statement_position().is_none() && !is_sqlite_mistake(info.message())
            }
            _ => false,
        },
        QueryError::RollbackErrorOnCommit { commit_error, .. } => is_transient(commit_error),
        _ => false,
    }
}

/// Returns whether SQLite's message (`sqlite3_errmsg`) is about a statement that does not
/// fit the schema.
fn is_sqlite_mistake(message: &str) -> bool {
    let prefixes = ["no such ", "near ", "table ", "no query solution"];
    prefixes.iter().any(|prefix| message.starts_with(prefix)) || message.contains("syntax error")
}

/// Returns whether the error itself shows that the connection must not be used again.
///
/// Other lost connections show when they are checked. A connection to a standby is as
/// useless as a lost one. After a commit that cannot be rolled back, diesel's transaction
/// state is wrong.
pub(super) fn is_connection_fault(error: &QueryError) -> bool {
    matches!(
        error,
        QueryError::DatabaseError(
            DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::ReadOnlyTransaction,
            _
        ) | QueryError::BrokenTransactionManager
            | QueryError::RollbackErrorOnCommit { .. }
            | QueryError::AlreadyInTransaction
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(message: &str) -> OpenError {
        let source = ConnectionError::BadConnection(message.to_owned());
        OpenError::Connect { url: String::new(), source }
    }

    #[test]
    fn what_waiting_cannot_repair_is_told_apart() {
        for message in [
            "connection to server at \"10.0.0.1\", port 5432 failed: FATAL:  password \
             authentication failed for user \"me\"",
            "FATAL:  database \"x\" does not exist",
            "FATAL:  role \"me\" does not exist",
            "one: FATAL: role \"me\" does not exist; two: no pg_hba.conf entry for host",
        ] {
            assert!(connect(message).is_permanent(), "{message}");
        }
        for message in [
            "connection to server at \"10.0.0.1\", port 5432 failed: Connection refused",
            "FATAL:  the database system is starting up",
            "the database is a standby or read-only",
            "timeout expired",
            // The other host may have been re-created, or be the next primary.
            "one: FATAL: role \"me\" does not exist; two: timeout expired",
        ] {
            assert!(!connect(message).is_permanent(), "{message}");
        }
    }
}
