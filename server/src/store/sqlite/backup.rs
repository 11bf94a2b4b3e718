//! Copies a SQLite database while servers use it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use diesel::sql_types::Text;
use diesel::{RunQueryDsl, SqliteConnection, sql_query};

use super::files::{self, beside, failed, query_failed, real_path};
use super::{Content, Error, checkpoint, inspect};

/// Writes a consistent copy of a database to the new file `target`, which only this user can
/// read. Blocks.
///
/// The copy contains every commit that was acknowledged before. Requests continue meanwhile.
/// The file gets its name when it is complete and on disk.
pub fn backup(database: &Path, target: &Path) -> Result<Content, Error> {
    let database = real_path(database);
    let target = real_path(target);
    if target.exists() {
        return Err(Error::Exists(target));
    }
    if !database.exists() {
        return Err(Error::Missing(database));
    }
    super::check_wal(&database)
        .map_err(|problem| Error::Unusable { path: database.clone(), problem: cannot(&problem) })?;
    let mut conn = files::open(&database)?;
    inspect::check_content(&database, &mut conn)?;
    let incomplete = beside(&target, "-incomplete");
    let content = copy(&mut conn, &database, &incomplete)?;
    name(&incomplete, &target)?;
    Ok(content)
}

pub(super) fn cannot(problem: &str) -> String {
    format!("cannot be used: {problem}")
}

/// Writes a copy with ids of its own, complete and on disk, that only this user can read.
pub(super) fn copy(conn: &mut SqliteConnection, from: &Path, to: &Path) -> Result<Content, Error> {
    files::remove(to)?;
    let name = to.to_str().ok_or_else(|| Error::Path(to.to_owned()))?;
    // SQLite takes an empty file, and would itself create one that is open to others.
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    created.map_err(failed(to, "created"))?;
    let copied = sql_query("VACUUM INTO ?").bind::<Text, _>(name).execute(conn);
    let done = copied.map_err(query_failed(from)).and_then(|_| {
        let mut copy = files::open(to)?;
        checkpoint::replace_ids(&mut copy).map_err(query_failed(to))?;
        let content = inspect::content(to, copy)?;
        files::sync(to)?;
        Ok(content)
    });
    if done.is_err() {
        let _ = files::remove(to);
    }
    done
}

/// Gives a complete file its name. Fails if the name was taken meanwhile.
fn name(incomplete: &Path, target: &PathBuf) -> Result<(), Error> {
    // Unlike a rename, a hard link does not replace a file.
    let named = fs::hard_link(incomplete, target);
    files::remove(incomplete)?;
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::Exists(target.clone()))
        }
        named => named.and_then(|()| files::sync_name(target)).map_err(failed(target, "written")),
    }
}
