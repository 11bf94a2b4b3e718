//! The folder that the server keeps its own files in.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use matchbook_settings::is_open_to_others;
use uuid::Uuid;

/// Why a file there cannot be used. Each is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{path} cannot be {verb} (it is in the folder that `data_dir` names): {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was to be done with it.
        verb: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A database file cannot be made.
    #[error("the database file {path} cannot be made (`database.url`): {source}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder can be written to by every user.
    #[error(
        "every user can write to the folder {path} (`data_dir`), and replace what the server \
         keeps there: close it with `chmod 700 {path}`", path = .0.display()
    )]
    Writable(PathBuf),
    /// A private file can be read by other users.
    #[error(
        "other users can read {path}: close it with `chmod 600 {path}`; if somebody has read it, \
         replace what it holds", path = .0.display()
    )]
    Readable(PathBuf),
}

/// The folder. It is made when something is to be kept in it: a server that
/// keeps nothing needs no folder.
pub struct DataDir(PathBuf);

impl DataDir {
    /// The folder at `path`, which need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        // An error names the whole path: the working folder is not known to all.
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Makes the folder, closed to other users, where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or every user can write to it.
    pub fn make(&self) -> Result<(), Error> {
        make_folder(&self.0, 0o700)?;
        let metadata = fs::metadata(&self.0).map_err(failed(&self.0, "read"))?;
        // A folder of another owner is a volume, as container platforms mount them.
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        let open = metadata.mode() & 0o002 != 0;
        if own && open { Err(Error::Writable(self.0.clone())) } else { Ok(()) }
    }

    /// Where `name` is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What the file `name` holds.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn read(&self, name: &str) -> Result<String, Error> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(failed(&path, "read"))
    }

    /// What the private file `name` holds; where it is missing, what `make`
    /// answers becomes its content. Of several servers that start at once, all
    /// get the same.
    ///
    /// # Errors
    /// When it can be neither read nor made, or `make` fails.
    pub fn once<E: From<Error>>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let path = self.path(name);
        if !path.exists() {
            self.make()?;
            let written = self.write_aside(&path, &make()?, 0o600)?;
            // A link fails where the name is taken: the first one wins.
            let linked = fs::hard_link(&written, &path);
            let _ = fs::remove_file(&written);
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(&path, "made")(error).into());
                }
                _ => {}
            }
            self.sync_name(&path)?;
        }
        Ok(self.read(name)?)
    }

    /// Checks that no other user can read the file `name`.
    ///
    /// # Errors
    /// When one can.
    pub fn check_private(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        let metadata = fs::metadata(&path).map_err(failed(&path, "read"))?;
        if is_open_to_others(&metadata) { Err(Error::Readable(path)) } else { Ok(()) }
    }

    /// Replaces the public file `name`, unless it holds `content` already. A
    /// reader sees the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.path(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == content) {
            return Ok(());
        }
        self.replace(name, content, 0o644)
    }

    /// Replaces the file `name`. A reader sees the old or the new one, after a
    /// power cut as well.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, name: &str, content: &str, mode: u32) -> Result<(), Error> {
        self.make()?;
        let path = self.path(name);
        let written = self.write_aside(&path, content, mode)?;
        fs::rename(&written, &path).map_err(failed(&path, "written"))?;
        self.sync_name(&path)
    }

    /// Waits until the disk has the name of a file.
    fn sync_name(&self, path: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(&self.0);
        let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed(path, "written"))
    }

    /// Writes a file beside `path` and waits until the disk has it.
    fn write_aside(&self, path: &Path, content: &str, mode: u32) -> Result<PathBuf, Error> {
        let folder = path.parent().unwrap_or(&self.0);
        make_folder(folder, 0o755)?;
        let aside = folder.join(format!(".{}", Uuid::new_v4()));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(content.as_bytes())?;
            file.sync_all()
        };
        write().map_err(failed(path, "written"))?;
        Ok(aside)
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // Not less either: the process may have a narrow umask.
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    make().map_err(failed(path, "made"))
}

/// Closes a database file and the files that SQLite keeps beside it to other
/// users. Makes it where it is missing, so that it is never open to them.
///
/// # Errors
/// When it cannot be made, or its permissions cannot be changed.
pub fn close_database(path: &Path) -> Result<(), Error> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    if let (Err(source), false) = (made, path.exists()) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return Err(Error::Database { path, source });
    }
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        let Ok(metadata) = fs::metadata(&file) else { continue };
        if is_open_to_others(&metadata) {
            let closed = fs::set_permissions(&file, Permissions::from_mode(0o600));
            closed.map_err(failed(&file, "closed to other users"))?;
            tracing::warn!(file = %file.display(), "database file closed to other users");
        }
    }
    Ok(())
}

fn failed(path: &Path, verb: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), verb, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_at_once_all_get_the_same_and_it_is_private() {
        let folder = std::env::temp_dir().join(format!("data-{}", Uuid::new_v4()));
        let dir = DataDir::at(&folder);
        let mine = || dir.once::<Error>("secret", || Ok(Uuid::new_v4().to_string())).unwrap();
        let all: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(mine)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        let mode = fs::metadata(dir.path("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_dir_all(&folder).unwrap();
    }
}
