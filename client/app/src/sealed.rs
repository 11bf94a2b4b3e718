//! Files that only the owner of the app can read, encrypted with AES-256-GCM.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};

/// The first bytes of a sealed file: its format. Never change it, because the app could not
/// read its files.
const MAGIC: &[u8; 4] = b"MBB1";

const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const KEY_LEN: usize = 32;

/// The key of a folder. It has no `Debug`.
pub(crate) struct Key([u8; KEY_LEN]);

/// The key of a folder, and whether it had to be replaced.
pub(crate) struct LoadedKey {
    pub(crate) key: Key,
    /// Where a damaged key file was moved to.
    pub(crate) damaged: Option<PathBuf>,
}

impl Key {
    /// Reads the key file at `path`, or creates one. A damaged one is moved aside.
    ///
    /// # Errors
    /// If the file cannot be read or created, or other users can read it.
    pub(crate) fn load_or_create(path: &Path) -> io::Result<LoadedKey> {
        let mut damaged = None;
        match fs::read(path) {
            Ok(bytes) => {
                check_permissions(path)?;
                if let Ok(key) = bytes.try_into() {
                    return Ok(LoadedKey { key: Self(key), damaged });
                }
                damaged = Some(set_aside(path)?);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut key = [0; KEY_LEN];
        openssl::rand::rand_bytes(&mut key)?;
        replace_file(path, &key)?;
        Ok(LoadedKey { key: Self(key), damaged })
    }

    /// Encrypts the content of the file called `name`. Under another name it cannot be
    /// decrypted.
    pub(crate) fn seal(&self, name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        openssl::rand::rand_bytes(&mut nonce)?;
        let mut tag = [0; TAG_LEN];
        let cipher = Cipher::aes_256_gcm();
        let sealed =
            encrypt_aead(cipher, &self.0, Some(&nonce), &associated(name), content, &mut tag)?;
        Ok([MAGIC, &nonce[..], &sealed, &tag].concat())
    }

    /// Decrypts the content of the file called `name`. Returns `None` if this key did not
    /// encrypt it for this name, or if it has changed since.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.strip_prefix(MAGIC)?.split_at_checked(NONCE_LEN)?;
        let (content, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_LEN)?)?;
        let cipher = Cipher::aes_256_gcm();
        decrypt_aead(cipher, &self.0, Some(nonce), &associated(name), content, tag).ok()
    }
}

/// The data that is authenticated with the content of a file.
fn associated(name: &str) -> Vec<u8> {
    [MAGIC, name.as_bytes()].concat()
}

/// Writes a file that only its owner can read. A crash leaves the old content or the new one.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    remove_file(&draft)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_folder(path)
}

/// Deletes a file, if it exists.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames a file that cannot be used, so that its name is free. Returns the new path.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".unreadable");
    fs::rename(path, &aside)?;
    Ok(aside.into())
}

/// Creates a folder that only its owner can use.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Makes a rename durable: it is an entry of the folder.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|_| cfg!(unix));
    folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(unix)]
fn check_permissions(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let others = fs::metadata(path)?.mode() & 0o077;
    if others == 0 {
        return Ok(());
    }
    let problem = format!("other users can read {}: `chmod 600` it", path.display());
    Err(io::Error::new(ErrorKind::PermissionDenied, problem))
}

#[cfg(not(unix))]
fn check_permissions(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key([byte; KEY_LEN])
    }

    #[test]
    fn a_sealed_content_is_opened_only_with_its_key_and_name_and_unchanged() {
        let sealed = key(1).seal("a", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(sealed, key(1).seal("a", b"secret").unwrap(), "each has its own nonce");
        assert_eq!(key(1).open("a", &sealed).unwrap(), b"secret");
        assert_eq!(key(2).open("a", &sealed), None);
        assert_eq!(key(1).open("b", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key(1).open("a", &changed), None, "byte {at}");
            assert_eq!(key(1).open("a", &sealed[..at]), None, "truncated to {at}");
        }
    }

    #[test]
    fn a_key_is_created_once_and_a_damaged_one_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = Key::load_or_create(&path).unwrap();
        let second = Key::load_or_create(&path).unwrap();
        assert!(first.key.0 == second.key.0 && second.damaged.is_none());
        fs::write(&path, "short").unwrap();
        let third = Key::load_or_create(&path).unwrap();
        assert_ne!(third.key.0, first.key.0);
        assert_eq!(fs::read(third.damaged.unwrap()).unwrap(), b"short");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_other_users_can_read_is_rejected() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Key::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Key::load_or_create(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
}
