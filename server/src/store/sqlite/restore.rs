//! Replaces a SQLite database by a copy.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::result::Error as QueryError;
use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, RunQueryDsl, SqliteConnection, sql_query};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::backup::{cannot, copy};
use super::files::{self, beside, failed, real_path};
use super::{Content, Error, inspect};
use crate::clock::Timestamp;
use crate::store::Conn;
use crate::store::connection::is_locked;

/// A database that was replaced.
#[derive(Debug)]
pub struct Restored {
    /// The former database, if there was one.
    pub former: Option<PathBuf>,
    /// The content of the database now.
    pub content: Content,
}

/// Replaces a database by a copy of the file `source`. Blocks.
///
/// `source` stays as it is, unless there is a `-shm` file beside it. Then a program may have it
/// open: SQLite reads it in place, and may write its log into it.
///
/// Fails, and changes nothing, if a program uses the database, or if `source` is not an intact
/// database of a known schema. The name of the former database gets the time `now`.
///
/// A crash leaves the former database or the new one, never a mixture: the copy is completed
/// under another name, the log of the former database is emptied, and then a rename replaces
/// the file. On a file system without hard links there are two renames, and a crash between
/// them leaves the former database under its new name alone.
pub fn restore(database: &Path, source: &Path, now: Timestamp) -> Result<Restored, Error> {
    let database = real_path(database);
    let source = real_path(source);
    if !source.is_file() {
        return Err(Error::Missing(source));
    }
    if source == database {
        return Err(Error::Same(source));
    }
    let replacement = beside(&database, "-restoring");
    let content = copy_checked(&source, &replacement)?;
    let former = replace(&database, &replacement, now);
    if former.is_err() {
        let _ = files::remove(&replacement);
    }
    Ok(Restored { former: former?, content })
}

/// Copies a database after it was checked.
fn copy_checked(source: &Path, to: &Path) -> Result<Content, Error> {
    inspect::check_kind(source)?;
    super::check_wal(source).map_err(|problem| Error::Unusable {
        path: source.to_owned(),
        problem: cannot(&problem),
    })?;
    // SQLite would create files beside a database in WAL mode, and write its log into it.
    if inspect::is_in_wal_mode(source)? && !beside(source, "-shm").exists() {
        let raw = beside(to, "-source");
        let content = copy_raw(source, &raw).and_then(|()| copy_opened(&raw, source, to));
        let removed = ["", "-wal", "-shm"].map(|suffix| files::remove(&beside(&raw, suffix)));
        let content = content?;
        removed.into_iter().collect::<Result<(), Error>>()?;
        return Ok(content);
    }
    copy_opened(source, source, to)
}

/// Copies a database that no program has open, with its log.
fn copy_raw(source: &Path, to: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal"] {
        let (source, to) = (beside(source, suffix), beside(to, suffix));
        files::remove(&to)?;
        if source.exists() {
            let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to);
            let mut to = created.map_err(failed(&to, "created"))?;
            let copied = File::open(&source).and_then(|mut file| io::copy(&mut file, &mut to));
            copied.map_err(failed(&source, "copied"))?;
        }
    }
    Ok(())
}

/// Copies the database `opened` after it was checked. Errors name `source`.
fn copy_opened(opened: &Path, source: &Path, to: &Path) -> Result<Content, Error> {
    let mut conn = Conn::Sqlite(files::open(opened)?);
    inspect::check_content(source, &mut conn)?;
    copy(&mut conn, source, to)
}

/// Replaces the database, and keeps the former one under another name, which is returned.
fn replace(database: &Path, by: &Path, now: Timestamp) -> Result<Option<PathBuf>, Error> {
    let log = beside(database, "-wal");
    if !database.exists() {
        let has_log = log.exists();
        if has_log {
            move_leftovers(database, &former_name(database, now))?;
        }
        put(by, database)?;
        return Ok(None);
    }
    keep_owner(database, by)?;
    let former = former_name(database, now);
    // Its leftover log would be applied.
    let is_sound = super::check_wal(database).is_ok() && inspect::check_kind(database).is_ok();
    let lock = if is_sound { Lock::of_sound(database) } else { Lock::of_unsound(database) };
    let lock = match lock {
        Err(Error::Query { .. }) => Lock::of_unsound(database)?,
        lock => lock?,
    };
    keep(database, &former).map_err(failed(&former, "created"))?;
    if let Lock::Unsound(_) = lock {
        move_leftovers(database, &former)?;
    }
    put(by, database).inspect_err(|_| {
        if !database.exists() {
            let _ = fs::rename(&former, database);
        }
    })?;
    Ok(Some(former))
}

/// Gives the database a second name, or another one on a file system without hard links.
fn keep(database: &Path, former: &Path) -> io::Result<()> {
    match fs::hard_link(database, former) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::rename(database, former),
        linked => linked,
    }
}

/// Returns a name for the former database, which is not in use.
fn former_name(database: &Path, now: Timestamp) -> PathBuf {
    let time = now.to_string().replace([':', '-'], "");
    let names = (1..).map(|n| match n {
        1 => beside(database, format!(".before-{time}")),
        n => beside(database, format!(".before-{time}-{n}")),
    });
    let mut names = names;
    names.find(|name| !name.exists()).unwrap_or_else(|| beside(database, ".before"))
}

/// Moves a log that does not belong to the database away, under a name that SQLite does not
/// apply.
fn move_leftovers(database: &Path, former: &Path) -> Result<(), Error> {
    for suffix in ["-wal", "-journal"] {
        let leftover = beside(database, suffix);
        if leftover.exists() {
            let moved = beside(former, format!(".leftover{suffix}"));
            fs::rename(&leftover, &moved).map_err(failed(&leftover, "moved away"))?;
        }
    }
    files::remove(&beside(database, "-shm"))
}

/// Gives a file to the owner of the database: an operator may be another user.
fn keep_owner(database: &Path, file: &Path) -> Result<(), Error> {
    let of = |path: &Path| fs::metadata(path).map_err(failed(path, "read"));
    let owner = of(database)?;
    if owner.uid() == of(file)?.uid() {
        return Ok(());
    }
    let given = chown(file, Some(owner.uid()), Some(owner.gid()));
    given.map_err(failed(file, "given to the owner of the database"))
}

fn put(file: &Path, database: &Path) -> Result<(), Error> {
    let put = fs::rename(file, database).and_then(|()| files::sync_name(database));
    put.map_err(failed(database, "replaced"))
}

/// A lock on a database, which no other program has open.
enum Lock {
    /// Its log was emptied and removed.
    Sound(#[expect(dead_code, reason = "holds the lock")] SqliteConnection),
    /// It is no database, or the log beside it belongs to another one. SQLite must not open
    /// it. This is a lock on the whole file, as SQLite itself locks parts of it.
    Unsound(#[expect(dead_code, reason = "holds the lock")] File),
}

impl Lock {
    fn of_sound(database: &Path) -> Result<Self, Error> {
        let mut conn = files::open(database)?;
        match empty_log(&mut conn) {
            Ok(()) => Ok(Self::Sound(conn)),
            Err(error) if is_locked(&error) => Err(Error::InUse(database.to_owned())),
            Err(source) => Err(Error::Query { path: database.to_owned(), source }),
        }
    }

    fn of_unsound(database: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).open(database);
        let file = file.map_err(failed(database, "opened"))?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self::Unsound(file)),
            Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::InUse(database.to_owned())),
            Err(error) => Err(failed(database, "locked")(error.into())),
        }
    }
}

/// Locks a database, copies its log into it, and removes the log.
fn empty_log(conn: &mut SqliteConnection) -> QueryResult<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        journal_mode: String,
    }
    conn.batch_execute("PRAGMA busy_timeout = 1000; PRAGMA locking_mode = EXCLUSIVE")?;
    let row: Row = sql_query("PRAGMA journal_mode = DELETE").get_result(conn)?;
    if row.journal_mode != "delete" {
        let problem = format!("its journal mode stays {}", row.journal_mode);
        return Err(QueryError::QueryBuilderError(problem.into()));
    }
    conn.batch_execute("BEGIN EXCLUSIVE")
}
