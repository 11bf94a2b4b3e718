//! A token store in a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{StoreGuard, StoredTokens, TokenStore};

/// The interval at which a lock held by another process is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The version of the file format.
const VERSION: u32 = 1;

/// A token store for the processes of one machine: a file that only its owner can read (mode
/// 0600). Each write replaces the file atomically. A lock file beside it (`.lock`) serializes
/// the processes.
#[derive(Debug, Clone)]
pub struct FileStore {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    #[serde(flatten)]
    tokens: StoredTokens,
}

impl FileStore {
    /// Creates a store in the file at `path`. The file and its folder are created when necessary.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path with `extension` appended.
    fn sibling(&self, extension: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(extension);
        name.into()
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Adds the path to an error.
    fn with_path(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }

    fn try_lock(&self, timeout: Duration) -> io::Result<File> {
        create_folder(self.folder())?;
        self.check_regular_file()?;
        let lock = self.sibling(".lock");
        let file = owner_only().create(true).truncate(false).open(&lock);
        let file = file.map_err(|error| not_regular(&lock).unwrap_or(error))?;
        if !file.metadata()?.is_file() {
            return Err(not_regular(&lock).unwrap_or_else(|| io::ErrorKind::InvalidInput.into()));
        }
        let started_at = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if started_at.elapsed() >= timeout => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(TryLockError::WouldBlock) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Rejects anything but a regular file. A folder, a device or a pipe cannot be replaced by
    /// a file. Replacing a symbolic link would leave its target unchanged.
    fn check_regular_file(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if !found.is_file() => Err(not_regular_error(found.file_type(), "it")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn try_read(&self) -> io::Result<Option<StoredTokens>> {
        self.check_regular_file()?;
        let mut options = OpenOptions::new();
        let text = match no_links(options.read(true)).open(&self.path) {
            Ok(file) => {
                check_permissions(&file)?;
                io::read_to_string(file)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(not_regular(&self.path).unwrap_or(error)),
        };
        // The parser's error is not shown: it may quote a token.
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "not a file of tokens: delete it");
        let contents: Contents = serde_json::from_str(&text).map_err(|_| damaged())?;
        if contents.version != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("written by another version of this program (format {})", contents.version),
            ));
        }
        Ok(Some(contents.tokens))
    }

    fn try_write(&self, tokens: Option<&StoredTokens>) -> io::Result<()> {
        match tokens {
            Some(tokens) => {
                // This process holds the lock, so a process killed while writing has left the draft.
                let draft = self.sibling(".new");
                remove(&draft)?;
                create_folder(self.folder())?;
                let mut file = owner_only().create_new(true).open(&draft)?;
                let contents = Contents { version: VERSION, tokens: tokens.clone() };
                file.write_all(&serde_json::to_vec(&contents)?)?;
                file.sync_all()?;
                fs::rename(&draft, &self.path).inspect_err(|_| {
                    let _ = fs::remove_file(&draft);
                })?;
            }
            None => remove(&self.path)?,
        }
        sync_folder(self.folder())
    }
}

impl TokenStore for FileStore {
    fn lock(&self, timeout: Duration) -> io::Result<StoreGuard> {
        let locked = self.try_lock(timeout).map_err(|error| self.with_path(&error))?;
        Ok(Box::new(locked))
    }

    fn read(&self) -> io::Result<Option<StoredTokens>> {
        self.try_read().map_err(|error| self.with_path(&error))
    }

    fn write(&self, tokens: Option<&StoredTokens>) -> io::Result<()> {
        self.try_write(tokens).map_err(|error| self.with_path(&error))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns options to open a file for writing; a new file gets mode 0600.
fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    no_links(options.write(true));
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Follows no symbolic link, which could appear between the check and the opening, and does
/// not block on a pipe.
fn no_links(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
    }
    options
}

/// Returns the error for `path` if it exists and is not a regular file.
fn not_regular(path: &Path) -> Option<io::Error> {
    let found = fs::symlink_metadata(path).ok().filter(|found| !found.is_file())?;
    Some(not_regular_error(found.file_type(), &path.display().to_string()))
}

/// Names the kind of file, and the remedy.
fn not_regular_error(found: fs::FileType, name: &str) -> io::Error {
    let problem = if found.is_symlink() {
        format!("{name} is a symbolic link: delete the link, or name the file that it points to")
    } else if found.is_dir() {
        format!("{name} is a folder: name a file in it, or another file")
    } else {
        format!("{name} is not a regular file: delete it, or name another file")
    };
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Makes a rename durable: it is an entry of the folder.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn check_permissions(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let others = file.metadata()?.mode() & 0o077;
    if others == 0 {
        return Ok(());
    }
    let problem = "other users can read it: `chmod 600` it, or delete it and log in again";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(not(unix))]
fn check_permissions(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(name: &str) -> StoredTokens {
        StoredTokens {
            access_token: name.to_owned(),
            refresh_token: format!("{name}-r"),
            expires_in: Some(60),
            idempotency_key: Some("key".to_owned()),
            generation: 0,
            login_id: "login".to_owned(),
        }
    }

    fn store() -> (tempfile::TempDir, FileStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("deep/tokens.json"));
        (folder, store)
    }

    #[test]
    fn debug_shows_no_token() {
        let shown = format!("{:?}", tokens("secret"));
        assert_eq!(shown, "StoredTokens { generation: 0, .. }");
    }

    #[test]
    fn the_names_in_the_file_do_not_change() {
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        let text = fs::read_to_string(store.path()).unwrap();
        let expected = r#"{"version":1,"access_token":"a","refresh_token":"a-r","expires_in":60,"idempotency_key":"key","generation":0,"login_id":"login"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn the_last_write_is_read_and_an_empty_store_reads_as_none() {
        let (_folder, store) = store();
        assert_eq!(store.read().unwrap(), None);
        store.write(Some(&tokens("a"))).unwrap();
        store.write(Some(&tokens("b"))).unwrap();
        assert_eq!(store.read().unwrap(), Some(tokens("b")));
        store.write(None).unwrap();
        store.write(None).unwrap();
        assert_eq!(store.read().unwrap(), None);
    }

    #[test]
    fn a_draft_of_a_killed_process_is_ignored_and_replaced() {
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        fs::write(store.sibling(".new"), "truncated").unwrap();
        assert_eq!(store.read().unwrap(), Some(tokens("a")));
        store.write(Some(&tokens("b"))).unwrap();
        assert_eq!(store.read().unwrap(), Some(tokens("b")));
    }

    #[test]
    fn the_lock_is_exclusive_and_waiting_for_it_times_out() {
        let (_folder, store) = store();
        let guard = store.lock(Duration::ZERO).unwrap();
        let error = store.lock(Duration::from_millis(20)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        store.lock(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_store() {
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        fs::write(store.path(), "{\"access_token\":\"secret").unwrap();
        let message = store.read().unwrap_err().to_string();
        assert!(message.contains("tokens.json: not a file of tokens"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_or_a_symbolic_link_is_rejected() {
        let (folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(store.path(), &link).unwrap();
        for other in [FileStore::new(folder.path()), FileStore::new(link)] {
            assert_eq!(other.read().unwrap_err().kind(), io::ErrorKind::InvalidInput);
            let error = other.lock(Duration::ZERO).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_readable_by_its_owner_only_and_rejected_otherwise() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(store.read().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
