//! Copies a SQLite database while servers use it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use diesel::sql_types::Text;
use diesel::{RunQueryDsl, sql_query};

use super::files::{self, beside, failed, query_failed, real_path};
use super::{Content, Error, checkpoint, inspect};
use crate::store::Conn;

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
    let mut conn = Conn::Sqlite(files::open(&database)?);
    inspect::check_content(&database, &mut conn)?;
    let incomplete = beside(&target, "-incomplete");
    let content = copy(&mut conn, &database, &incomplete)?;
    name(&incomplete, &target, |from, to| fs::hard_link(from, to))?;
    Ok(content)
}

pub(super) fn cannot(problem: &str) -> String {
    format!("cannot be used: {problem}")
}

/// Writes a copy with ids of its own, complete and on disk, that only this user can read.
pub(super) fn copy(conn: &mut Conn, from: &Path, to: &Path) -> Result<Content, Error> {
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
fn name(
    incomplete: &Path,
    target: &Path,
    link: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), Error> {
    // Unlike a rename, a hard link does not replace a file.
    let named = match link(incomplete, target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // The file system may have no hard links. A new file takes the name first.
            let taken = OpenOptions::new().write(true).create_new(true).open(target);
            taken.and_then(|_| {
                fs::rename(incomplete, target).inspect_err(|_| {
                    let _ = fs::remove_file(target);
                })
            })
        }
        named => named,
    };
    files::remove(incomplete)?;
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::Exists(target.to_owned()))
        }
        named => named.and_then(|()| files::sync_name(target)).map_err(failed(target, "written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_file_is_named_on_a_file_system_without_hard_links() {
        let folder = tempfile::tempdir().unwrap();
        let (incomplete, target) = (folder.path().join("incomplete"), folder.path().join("copy"));
        let no_links = |_: &Path, _: &Path| Err(io::ErrorKind::Unsupported.into());
        fs::write(&incomplete, "content").unwrap();
        name(&incomplete, &target, no_links).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "content");
        assert!(!incomplete.exists());

        fs::write(&incomplete, "other content").unwrap();
        let error = name(&incomplete, &target, no_links).unwrap_err();
        assert!(matches!(error, Error::Exists(_)), "{error}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "content");
        assert!(!incomplete.exists());
    }
}
