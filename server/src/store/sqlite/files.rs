//! The files of a SQLite database.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use diesel::result::Error as QueryError;
use diesel::{Connection, SqliteConnection};

use super::Error;

/// Returns the path of a file beside `path`, whose name has more letters.
pub(super) fn beside(path: &Path, suffix: impl AsRef<OsStr>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the path that SQLite uses: absolute, with symbolic links resolved. The files beside
/// the database are beside the target of a link.
pub(super) fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
}

/// Opens a file as a database, without any setting.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, Error> {
    let name = path.to_str().ok_or_else(|| Error::Path(path.to_owned()))?;
    SqliteConnection::establish(name)
        .map_err(|source| Error::Open { path: path.to_owned(), source })
}

/// Waits until a file and its name are on disk.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.and_then(|()| sync_name(path)).map_err(failed(path, "written"))
}

/// Waits until the name of a file is on disk.
pub(super) fn sync_name(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file if it exists.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, "removed")(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn failed(path: &Path, verb: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), verb, source }
}

pub(super) fn query_failed(path: &Path) -> impl FnOnce(QueryError) -> Error {
    move |source| Error::Query { path: path.to_owned(), source }
}
