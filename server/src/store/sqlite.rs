//! What only a SQLite database needs: a check of its write-ahead log, checkpoints, and the
//! commands that copy and replace its file.

mod backup;
pub(super) mod checkpoint;
mod files;
mod inspect;
mod restore;
mod wal;

use std::io;
use std::path::PathBuf;

use diesel::{ConnectionError, result::Error as QueryError};

pub use self::backup::backup;
pub use self::inspect::Content;
pub use self::restore::{Restored, restore};
pub(super) use self::wal::check as check_wal;

use crate::crypto::RngError;

/// Why a database was not copied or not replaced, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be {verb}: {source}", path = path.display())]
    File {
        path: PathBuf,
        /// The operation that failed, as a past participle.
        verb: &'static str,
        source: io::Error,
    },
    #[error("{} exists already, and is not overwritten: name another file", .0.display())]
    Exists(PathBuf),
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{} is the database itself: name the copy that is to replace it", .0.display())]
    Same(PathBuf),
    #[error("a path is not valid UTF-8: {}", .0.display())]
    Path(PathBuf),
    #[error("cannot open {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: ConnectionError },
    /// Names the file and the problem.
    #[error("{path} {problem}", path = path.display())]
    Unusable { path: PathBuf, problem: String },
    #[error(
        "a server or another program has the database {} open: stop it, and run this command \
         again", .0.display()
    )]
    InUse(PathBuf),
    #[error("the database {path} failed: {source}", path = path.display())]
    Query { path: PathBuf, source: QueryError },
    #[error(transparent)]
    Randomness(#[from] RngError),
}
