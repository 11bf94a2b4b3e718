//! Tokens in a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{StoreGuard, StoredTokens, TokenStore};

/// How often a lock that others have is asked for.
const POLL: Duration = Duration::from_millis(5);

/// The layout of the file.
const VERSION: u32 = 1;

/// Tokens in a file that only its owner can read (mode 0600), for any number of
/// processes on one machine. It is replaced in one step, and a lock file beside it
/// (`.lock`) makes them take turns.
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
    /// The file need not exist, nor its folder.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(extension);
        name.into()
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Says which file it is about.
    fn about(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }

    fn try_lock(&self, timeout: Duration) -> io::Result<File> {
        create_folder(self.folder())?;
        self.refuse_what_is_no_file()?;
        let lock = self.beside(".lock");
        let file = private().create(true).truncate(false).open(&lock);
        let file = file.map_err(|error| no_file(&lock).unwrap_or(error))?;
        if !file.metadata()?.is_file() {
            return Err(no_file(&lock).unwrap_or_else(|| io::ErrorKind::InvalidInput.into()));
        }
        let asked = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if asked.elapsed() >= timeout => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(TryLockError::WouldBlock) => thread::sleep(POLL),
            }
        }
    }

    /// A folder, a device or a pipe cannot be read like a file nor replaced by
    /// one, and a link would be replaced itself.
    fn refuse_what_is_no_file(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if !found.is_file() => Err(refused(found.file_type(), "it")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn try_read(&self) -> io::Result<Option<StoredTokens>> {
        self.refuse_what_is_no_file()?;
        let mut options = OpenOptions::new();
        let text = match no_links(options.read(true)).open(&self.path) {
            Ok(file) => {
                refuse_what_others_can_read(&file)?;
                io::read_to_string(file)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(no_file(&self.path).unwrap_or(error)),
        };
        // The parser's own words may quote what is in the file.
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "not a file of tokens: delete it");
        let contents: Contents = serde_json::from_str(&text).map_err(|_| damaged())?;
        if contents.version != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("made by another version of this program (layout {})", contents.version),
            ));
        }
        Ok(Some(contents.tokens))
    }

    fn try_write(&self, tokens: Option<&StoredTokens>) -> io::Result<()> {
        match tokens {
            Some(tokens) => {
                // Whoever was killed while writing had the lock that is ours now.
                let draft = self.beside(".new");
                remove(&draft)?;
                create_folder(self.folder())?;
                let mut file = private().create_new(true).open(&draft)?;
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
        let locked = self.try_lock(timeout).map_err(|error| self.about(&error))?;
        Ok(Box::new(locked))
    }

    fn read(&self) -> io::Result<Option<StoredTokens>> {
        self.try_read().map_err(|error| self.about(&error))
    }

    fn write(&self, tokens: Option<&StoredTokens>) -> io::Result<()> {
        self.try_write(tokens).map_err(|error| self.about(&error))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens for writing what is for the owner alone when it is created.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    no_links(options.write(true));
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Follows no link, which may be put there between the check and the opening, and
/// does not wait for the other end of a pipe.
fn no_links(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
    }
    options
}

/// Why `path` cannot be opened, where it is there and not a regular file.
fn no_file(path: &Path) -> Option<io::Error> {
    let found = fs::symlink_metadata(path).ok().filter(|found| !found.is_file())?;
    Some(refused(found.file_type(), &path.display().to_string()))
}

/// Names what is in the place of a regular file, and what to do about it.
fn refused(found: fs::FileType, name: &str) -> io::Error {
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

/// A rename lasts when the folder has reached the disk.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn refuse_what_others_can_read(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let others = file.metadata()?.mode() & 0o077;
    if others == 0 {
        return Ok(());
    }
    let problem =
        "others on this machine may read it; `chmod 600` it, or delete it and log in anew";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(not(unix))]
fn refuse_what_others_can_read(_: &File) -> io::Result<()> {
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
            login_id: "sign-in".to_owned(),
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
    fn what_was_written_last_is_read_and_nothing_where_nothing_is_kept() {
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
    fn a_draft_that_a_killed_process_left_is_in_nobodys_way() {
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        fs::write(store.beside(".new"), "half of").unwrap();
        assert_eq!(store.read().unwrap(), Some(tokens("a")));
        store.write(Some(&tokens("b"))).unwrap();
        assert_eq!(store.read().unwrap(), Some(tokens("b")));
    }

    #[test]
    fn one_at_a_time_has_the_lock_and_waiting_for_it_ends() {
        let (_folder, store) = store();
        let held = store.lock(Duration::ZERO).unwrap();
        let refused = store.lock(Duration::from_millis(20)).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        store.lock(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_damaged_file_is_told_and_not_taken_for_nobody_logged_in() {
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        fs::write(store.path(), "{\"access_token\":\"secret").unwrap();
        let said = store.read().unwrap_err().to_string();
        assert!(said.contains("tokens.json: not a file of tokens"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_or_a_link_is_not_taken_for_the_file() {
        let (folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(store.path(), &link).unwrap();
        for other in [FileStore::new(folder.path()), FileStore::new(link)] {
            assert_eq!(other.read().unwrap_err().kind(), io::ErrorKind::InvalidInput);
            let refused = other.lock(Duration::ZERO).err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_for_its_owner_alone_and_refused_when_it_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, store) = store();
        store.write(Some(&tokens("a"))).unwrap();
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(store.read().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
