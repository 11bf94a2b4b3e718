//! Checks that a file is an intact database of a known schema.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;

use super::Error;
use super::files::{failed, query_failed};
use crate::clock::Timestamp;
use crate::store::schema::{events, sessions};
use crate::store::{Conn, migrate};

/// The first bytes of each SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The content of a copy, for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The number of sessions, ended ones included.
    pub sessions: i64,
    /// The time of the newest entry of the audit log.
    pub newest_event: Option<Timestamp>,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    text: String,
}

/// Checks that a file begins like a SQLite database. SQLite itself would take an empty file
/// for an empty database.
pub(super) fn check_kind(path: &Path) -> Result<(), Error> {
    let mut start = Vec::new();
    let file = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
    file.map_err(failed(path, "read"))?;
    if start == MAGIC { Ok(()) } else { Err(unusable(path, "is not a SQLite database")) }
}

/// Returns whether a database keeps a write-ahead log beside it.
pub(super) fn is_in_wal_mode(path: &Path) -> Result<bool, Error> {
    let mut header = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.map_err(failed(path, "read"))?;
    // The version of the format that a reader needs.
    Ok(header[19] == 2)
}

/// Checks that a database is intact, and that this version can use its schema.
pub(super) fn check_content(path: &Path, conn: &mut Conn) -> Result<(), Error> {
    let check = "SELECT integrity_check AS text FROM pragma_integrity_check LIMIT 1";
    let found: Vec<Line> = sql_query(check).load(conn).map_err(query_failed(path))?;
    if let Some(Line { text }) = found.iter().find(|line| line.text != "ok") {
        return Err(unusable(path, &format!("is damaged: {text}")));
    }
    match migrate::problem_of_copy(conn) {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => Err(unusable(path, &format!("cannot be used: {problem}"))),
        Err(error) => Err(unusable(path, &format!("has an unreadable schema: {error}"))),
    }
}

/// Reads what a copy contains.
pub(super) fn content(path: &Path, conn: SqliteConnection) -> Result<Content, Error> {
    let mut conn = Conn::Sqlite(conn);
    let sessions = sessions::table.count().get_result(&mut conn).map_err(query_failed(path))?;
    let newest_event = events::table
        .select(max(events::occurred_at))
        .get_result(&mut conn)
        .map_err(query_failed(path))?;
    Ok(Content { sessions, newest_event })
}

fn unusable(path: &Path, problem: &str) -> Error {
    Error::Unusable { path: path.to_owned(), problem: problem.to_owned() }
}
