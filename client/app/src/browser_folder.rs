//! The folder in which the tokens of the browsers survive a restart of the app: one encrypted
//! file for each browser that is logged in.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use matchbook_client::{StoreGuard, StoredTokens, TokenStore};
use serde::{Deserialize, Serialize};

use crate::cookie::{CookieDigest, random_id};
use crate::error::AppError;
use crate::sealed::{Key, LoadedKey, create_folder, remove_file, replace_file, set_aside};

/// The version of a file's content.
const VERSION: u32 = 1;

/// The extension of the files.
const EXTENSION: &str = "browser";

/// The name of the file of clients without a cookie.
const DEMO_NAME: &str = "demo.shared";

/// The longest wait of a login for a refresh of the same browser.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The folder. Only one app uses it at a time.
pub(crate) struct BrowserFolder {
    path: PathBuf,
    key: Arc<Key>,
    /// Locked until the end of the process.
    _lock: File,
}

/// The tokens of one browser in their file. Clones share it.
#[derive(Clone)]
pub(crate) struct BrowserFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    name: String,
    key: Arc<Key>,
    owner: Mutex<Owner>,
    /// Whether the tokens are being changed. A condition variable rather than a lock file,
    /// because no other process uses the folder.
    changing: Mutex<bool>,
    changed: Condvar,
}

/// The browser of a file.
struct Owner {
    cookie: CookieDigest,
    /// The app has forgotten the browser: a refresh in progress must not write its file again.
    forgotten: bool,
}

/// The content of a file. The names are its format: never change them.
#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    cookie: CookieDigest,
    tokens: StoredTokens,
}

/// A browser of an earlier process.
pub(crate) struct StoredBrowser {
    pub(crate) file: BrowserFile,
    pub(crate) cookie: CookieDigest,
    /// The time since its last request or refresh; up to an hour too long.
    pub(crate) unseen_for: Duration,
}

impl BrowserFolder {
    /// Opens the folder, and creates it if necessary.
    ///
    /// # Errors
    /// If the folder cannot be used, or another app uses it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        create_folder(path)?;
        let lock = File::options().create(true).append(true).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(ErrorKind::WouldBlock, "another app uses this folder"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let LoadedKey { key, damaged } = Key::load_or_create(&path.join("key"))?;
        if let Some(aside) = damaged {
            tracing::warn!(aside = %aside.display(), "key of the browser sessions damaged, new key created");
        }
        Ok(Self { path: path.to_owned(), key: Arc::new(key), _lock: lock })
    }

    /// Returns the file of a new browser. It exists once the browser logs in.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub(crate) fn new_file(&self, cookie: CookieDigest) -> Result<BrowserFile, AppError> {
        Ok(self.file(format!("{}.{EXTENSION}", random_id()?), cookie))
    }

    /// Returns the file of the tokens that all clients without a cookie share. No cookie has
    /// its digest.
    pub(crate) fn demo_file(&self) -> BrowserFile {
        self.file(DEMO_NAME.to_owned(), [0; 32])
    }

    fn file(&self, name: String, cookie: CookieDigest) -> BrowserFile {
        BrowserFile(Arc::new(Inner {
            path: self.path.join(&name),
            name,
            key: self.key.clone(),
            owner: Mutex::new(Owner { cookie, forgotten: false }),
            changing: Mutex::new(false),
            changed: Condvar::new(),
        }))
    }

    /// Returns the browsers of earlier processes. Files that cannot be decrypted are moved
    /// aside. Deletes the files of browsers that were not seen within `lifetime`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn browsers(&self, lifetime: Duration) -> io::Result<Vec<StoredBrowser>> {
        let mut browsers = Vec::new();
        let mut unreadable = 0;
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            match path.extension().and_then(OsStr::to_str) {
                Some(EXTENSION) => match self.stored_browser(&path) {
                    Some(browser) if browser.unseen_for < lifetime => browsers.push(browser),
                    Some(_) => remove_file(&path)?,
                    None => {
                        set_aside(&path)?;
                        unreadable += 1;
                    }
                },
                // The draft of a killed process.
                Some("new") => remove_file(&path)?,
                _ => {}
            }
        }
        if unreadable > 0 {
            tracing::warn!(
                unreadable,
                folder = %self.path.display(),
                "files of browser sessions damaged or of another key, renamed to *.unreadable: \
                 these browsers have to log in again"
            );
        }
        Ok(browsers)
    }

    fn stored_browser(&self, path: &Path) -> Option<StoredBrowser> {
        let name = path.file_name()?.to_str()?.to_owned();
        let Content { cookie, .. } = content(&self.key, &name, &fs::read(path).ok()?)?;
        let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        // Zero if the wall clock was set back.
        let unseen_for = written.elapsed().unwrap_or_default();
        Some(StoredBrowser { file: self.file(name, cookie), cookie, unseen_for })
    }
}

/// Decrypts the content of a file.
fn content(key: &Key, name: &str, sealed: &[u8]) -> Option<Content> {
    let content: Content = serde_json::from_slice(&key.open(name, sealed)?).ok()?;
    (content.version == VERSION).then_some(content)
}

impl BrowserFile {
    /// Stores the digest of the browser's new cookie. May block.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn set_cookie(&self, cookie: CookieDigest) -> io::Result<()> {
        self.owner().cookie = cookie;
        let _guard = self.lock(LOCK_TIMEOUT)?;
        match self.read()? {
            Some(tokens) => self.write(Some(&tokens)),
            None => Ok(()),
        }
    }

    /// Records that the browser was seen.
    pub(crate) fn touch(&self) {
        #[cfg(unix)]
        {
            use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: now, last_modification: now };
            // There is no file if the browser is not logged in.
            let _ = utimensat(CWD, &self.0.path, &times, AtFlags::empty());
        }
    }

    /// Deletes the file, and ignores later writes.
    pub(crate) fn forget(&self) {
        let mut owner = self.owner();
        owner.forgotten = true;
        if let Err(error) = remove_file(&self.0.path) {
            tracing::warn!(%error, file = %self.0.path.display(), "file of a browser not deleted");
        }
    }

    /// Poisoning is ignored: a panic cannot leave the owner half changed.
    fn owner(&self) -> MutexGuard<'_, Owner> {
        self.0.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenStore for BrowserFile {
    fn lock(&self, timeout: Duration) -> io::Result<StoreGuard> {
        let changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(changing, timeout, |changing| *changing);
        let (mut changing, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(ErrorKind::WouldBlock.into());
        }
        *changing = true;
        Ok(Box::new(Changing(self.0.clone())))
    }

    fn read(&self) -> io::Result<Option<StoredTokens>> {
        let Inner { path, name, key, .. } = &*self.0;
        let sealed = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            sealed => sealed?,
        };
        let damaged = || io::Error::new(ErrorKind::InvalidData, "the file of a browser is damaged");
        content(key, name, &sealed).map(|content| Some(content.tokens)).ok_or_else(damaged)
    }

    fn write(&self, tokens: Option<&StoredTokens>) -> io::Result<()> {
        let Inner { path, name, key, .. } = &*self.0;
        let owner = self.owner();
        match tokens {
            Some(tokens) if !owner.forgotten => {
                let cookie = owner.cookie;
                let content = Content { version: VERSION, cookie, tokens: tokens.clone() };
                replace_file(path, &key.seal(name, &serde_json::to_vec(&content)?)?)
            }
            _ => remove_file(path),
        }
    }
}

/// Ends a change of the tokens when it is dropped.
struct Changing(Arc<Inner>);

impl Drop for Changing {
    fn drop(&mut self) {
        *self.0.changing.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: CookieDigest = [7; 32];
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn tokens(text: &str) -> StoredTokens {
        let json = serde_json::json!({
            "access_token": text, "refresh_token": text, "expires_in": 60,
            "idempotency_key": null, "generation": 0, "login_id": "a",
        });
        serde_json::from_value(json).unwrap()
    }

    fn folder() -> (tempfile::TempDir, BrowserFolder) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = BrowserFolder::open(&temporary.path().join("browsers")).unwrap();
        (temporary, folder)
    }

    fn stored(folder: &BrowserFolder) -> Vec<(CookieDigest, StoredTokens)> {
        let browsers = folder.browsers(DAY).unwrap();
        browsers.iter().map(|one| (one.cookie, one.file.read().unwrap().unwrap())).collect()
    }

    #[test]
    fn the_tokens_of_a_browser_are_read_by_the_next_process_with_its_newest_cookie() {
        let (_temporary, folder) = folder();
        let file = folder.new_file(COOKIE).unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.set_cookie([8; 32]).unwrap();
        assert!(stored(&folder).is_empty(), "a browser without tokens has no file");
        file.write(Some(&tokens("first"))).unwrap();
        file.write(Some(&tokens("second"))).unwrap();
        assert_eq!(stored(&folder), [([8; 32], tokens("second"))]);
        file.set_cookie([9; 32]).unwrap();
        assert_eq!(stored(&folder), [([9; 32], tokens("second"))]);
        file.write(None).unwrap();
        assert!(stored(&folder).is_empty());
    }

    #[test]
    fn no_token_and_no_cookie_is_legible_in_a_file_and_only_its_owner_can_read_it() {
        let (_temporary, folder) = folder();
        let file = folder.new_file(COOKIE).unwrap();
        file.write(Some(&tokens("mb_rt_secret"))).unwrap();
        let bytes = fs::read(&file.0.path).unwrap();
        for secret in [&b"mb_rt_"[..], b"secret", &COOKIE[..6], b"token"] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&file.0.path), mode(&folder.path)), (0o600, 0o700));
        }
    }

    #[test]
    fn damaged_and_exchanged_files_are_moved_aside_and_the_others_are_kept() {
        let (_temporary, folder) = folder();
        let files: Vec<_> = (0..4).map(|_| folder.new_file(COOKIE).unwrap()).collect();
        for (file, name) in files.iter().zip(["kept", "damaged", "from", "to"]) {
            file.write(Some(&tokens(name))).unwrap();
        }
        fs::write(&files[1].0.path, "MBB1 of another program").unwrap();
        fs::copy(&files[2].0.path, &files[3].0.path).unwrap();
        fs::write(folder.path.join("a.new"), "the draft of a killed process").unwrap();
        let mut found = stored(&folder);
        found.sort_by_key(|(_, tokens)| tokens.access_token.clone());
        assert_eq!(found, [(COOKIE, tokens("from")), (COOKIE, tokens("kept"))]);
        let names = || fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().path());
        let aside = names().filter(|path| path.extension() == Some(OsStr::new("unreadable")));
        assert_eq!(aside.count(), 2);
        assert!(!names().any(|path| path.ends_with("a.new")));
    }

    #[test]
    fn a_browser_that_was_not_seen_for_its_lifetime_is_deleted() {
        let (_temporary, folder) = folder();
        let file = folder.new_file(COOKIE).unwrap();
        file.write(Some(&tokens("a"))).unwrap();
        assert!(folder.browsers(Duration::ZERO).unwrap().is_empty());
        assert!(!file.0.path.exists());
    }

    #[test]
    fn a_forgotten_browser_is_not_written_again_by_a_refresh_in_progress() {
        let (_temporary, folder) = folder();
        let file = folder.new_file(COOKIE).unwrap();
        file.write(Some(&tokens("a"))).unwrap();
        file.forget();
        file.write(Some(&tokens("b"))).unwrap();
        file.set_cookie([9; 32]).unwrap();
        assert!(stored(&folder).is_empty());
    }

    #[test]
    fn changes_exclude_each_other_and_waiting_for_one_times_out() {
        let (_temporary, folder) = folder();
        let file = folder.new_file(COOKIE).unwrap();
        let guard = file.lock(Duration::ZERO).unwrap();
        let error = file.lock(Duration::from_millis(10)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let other = file.clone();
        let waiting = std::thread::spawn(move || other.lock(Duration::from_secs(10)).is_ok());
        drop(guard);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn two_apps_do_not_use_one_folder() {
        let (_temporary, folder) = folder();
        let error = BrowserFolder::open(&folder.path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let path = folder.path.clone();
        drop(folder);
        BrowserFolder::open(&path).unwrap();
    }
}
