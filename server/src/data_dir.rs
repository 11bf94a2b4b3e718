//! The folder that the server keeps its own files in.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A file there could not be read or made.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be {verb}: {source}", path = path.display())]
pub struct Error {
    path: PathBuf,
    verb: &'static str,
    source: io::Error,
}

/// The folder, which exists.
pub struct DataDir(PathBuf);

impl DataDir {
    /// Makes the folder, closed to other users, where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        make_folder(path, 0o700)?;
        Ok(Self(path.to_owned()))
    }

    /// Where `name` is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder where it is, to be looked into alone.
    #[must_use]
    pub fn existing(path: &Path) -> Self {
        Self(path.to_owned())
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
            // The name, too, has to outlive a power cut.
            let folder = path.parent().unwrap_or(&self.0);
            let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(failed(&path, "made"))?;
        }
        Ok(self.read(name)?)
    }

    /// Replaces the public file `name`. A reader sees the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.path(name);
        let written = self.write_aside(&path, content, 0o644)?;
        fs::rename(&written, &path).map_err(failed(&path, "written"))
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
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed(path, "made"))
}

fn failed(path: &Path, verb: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { path: path.to_owned(), verb, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_at_once_all_get_the_same_and_it_is_private() {
        let folder = std::env::temp_dir().join(format!("data-{}", Uuid::new_v4()));
        let dir = DataDir::open(&folder).unwrap();
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
