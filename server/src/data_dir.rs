//! The data folder: the files that the server itself keeps.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use matchbook_settings::is_open_to_others;
use uuid::Uuid;

/// The reasons why a file of the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be {verb} (it is in the folder that `data_dir` names): {source}", path = path.display())]
    Io {
        path: PathBuf,
        /// The operation that failed, as a past participle.
        verb: &'static str,
        source: io::Error,
    },
    #[error("cannot create the database file {path} (`database.url`): {source}", path = path.display())]
    Database { path: PathBuf, source: io::Error },
    /// Every user can write to the folder.
    #[error(
        "every user can write to the folder {path} (`data_dir`), and so replace the server's \
         files: close it with `chmod 700 {path}`", path = .0.display()
    )]
    Writable(PathBuf),
    /// Other users can read a private file.
    #[error(
        "other users can read {path}: close it with `chmod 600 {path}`; if another user may have \
         read it, replace its content", path = .0.display()
    )]
    Readable(PathBuf),
}

/// The data folder. It is created with its first file: a server that keeps no file needs no
/// folder.
pub struct DataDir(PathBuf);

impl DataDir {
    /// Returns the folder at `path`, which need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        // Errors contain the whole path: a reader may not know the working directory.
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Creates the folder, closed to other users, if it does not exist. Fails if every user
    /// can write to it.
    pub fn create(&self) -> Result<(), Error> {
        create_folder(&self.0, 0o700)?;
        let metadata = fs::metadata(&self.0).map_err(failed(&self.0, "read"))?;
        // A folder of another owner is a volume that a container platform mounted.
        let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
        let is_open = metadata.mode() & 0o002 != 0;
        if is_own && is_open { Err(Error::Writable(self.0.clone())) } else { Ok(()) }
    }

    /// Returns the path of the file `name`, which need not exist.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads the file `name`.
    pub fn read(&self, name: &str) -> Result<String, Error> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(failed(&path, "read"))
    }

    /// Reads the private file `name`. If it does not exist, it is created with the content
    /// that `create` returns. Servers that start at the same time get the same content.
    pub fn get_or_create<E: From<Error>>(
        &self,
        name: &str,
        create: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let path = self.path(name);
        if !path.exists() {
            self.create()?;
            let temp = self.write_temp(&path, &create()?, 0o600)?;
            // A hard link fails if the name exists: the first server wins.
            let linked = fs::hard_link(&temp, &path);
            let _ = fs::remove_file(&temp);
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(&path, "created")(error).into());
                }
                _ => {}
            }
            self.sync_name(&path)?;
        }
        Ok(self.read(name)?)
    }

    /// Checks that no other user can read the file `name`.
    pub fn check_private(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        let metadata = fs::metadata(&path).map_err(failed(&path, "read"))?;
        if is_open_to_others(&metadata) { Err(Error::Readable(path)) } else { Ok(()) }
    }

    /// Writes the public file `name`, unless it has this content already.
    pub fn write_public(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.path(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == content) {
            return Ok(());
        }
        self.replace(name, content, 0o644)
    }

    /// Replaces the file `name` atomically, also if the power fails: a reader sees the old
    /// or the new content.
    pub fn replace(&self, name: &str, content: &str, mode: u32) -> Result<(), Error> {
        self.create()?;
        let path = self.path(name);
        let temp = self.write_temp(&path, content, mode)?;
        fs::rename(&temp, &path).map_err(failed(&path, "written"))?;
        self.sync_name(&path)
    }

    /// Acquires an exclusive lock on the folder, which other processes wait for. It is
    /// released when the returned file is dropped.
    ///
    /// Some network file systems cannot lock a folder. The lock then has no effect: it only
    /// matters to servers that start at the same time.
    pub fn lock(&self) -> Result<File, Error> {
        self.create()?;
        let folder = File::open(&self.0).map_err(failed(&self.0, "read"))?;
        if let Err(error) = folder.lock() {
            tracing::debug!(%error, "data folder not locked");
        }
        Ok(folder)
    }

    /// Waits until the name of a file is on disk.
    fn sync_name(&self, path: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(&self.0);
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed(path, "written"))
    }

    /// Writes a temporary file in the folder of `path`, and waits until it is on disk.
    fn write_temp(&self, path: &Path, content: &str, mode: u32) -> Result<PathBuf, Error> {
        let folder = path.parent().unwrap_or(&self.0);
        create_folder(folder, 0o755)?;
        let temp = folder.join(format!(".{}", Uuid::new_v4()));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(content.as_bytes())?;
            file.sync_all()
        };
        write().map_err(failed(path, "written"))?;
        Ok(temp)
    }
}

fn create_folder(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let create = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // The process may have a umask that is too narrow.
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    create().map_err(failed(path, "created"))
}

/// Creates a database file if it does not exist, and closes it and the files that SQLite
/// keeps beside it to other users. SQLite itself would create it open to them for a moment.
pub fn close_database(path: &Path) -> Result<(), Error> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    if let Err(source) = created
        && !path.exists()
    {
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
    fn concurrent_creators_get_one_private_file() {
        let folder = std::env::temp_dir().join(format!("data-{}", Uuid::new_v4()));
        let dir = DataDir::at(&folder);
        let create =
            || dir.get_or_create::<Error>("secret", || Ok(Uuid::new_v4().to_string())).unwrap();
        let all: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        let mode = fs::metadata(dir.path("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no other file is left");
        fs::remove_dir_all(&folder).unwrap();
    }
}
