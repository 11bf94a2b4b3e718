//! The server's secret: its source, its strength, and the keys derived from it.

mod derived_keys;
mod strength;

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::crypto::{RngError, Secret};
use crate::data_dir::{self, DataDir};

pub use derived_keys::{AccountKeys, DerivedKeys, KeyEncryptionKeys};
pub use strength::{check, check_form};

/// The file in the data folder that holds the generated secret.
const FILE: &str = "secret";

/// The reasons why no secret can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    /// The file with the generated secret was truncated.
    #[error(
        "{} holds no secret: restore the secret that it held, or, if the database is empty, \
         delete the file", .0.display()
    )]
    Missing(PathBuf),
    /// The secret in the file can be guessed.
    #[error("the secret in {} {problem}", path.display())]
    Weak { path: PathBuf, problem: String },
    #[error(transparent)]
    Randomness(#[from] RngError),
}

/// Returns the configured secret, or the one that the first start generated.
pub fn get_or_create(
    configured: Option<&SecretString>,
    data_dir: &DataDir,
) -> Result<SecretString, Error> {
    if let Some(secret) = configured {
        return Ok(secret.clone());
    }
    let create = || Ok::<_, Error>(generate()?.expose_secret().to_owned());
    let generated = data_dir.get_or_create(FILE, create)?;
    check_file(data_dir, &generated)
}

/// Generates a secret.
pub fn generate() -> Result<SecretString, RngError> {
    Ok(Secret::random()?.to_base64().into())
}

/// Replaces the generated secret by `secret`. Returns the path of its file. Fails if no start
/// has generated a secret.
pub fn replace(data_dir: &DataDir, secret: &SecretString) -> Result<PathBuf, Error> {
    data_dir.read(FILE)?;
    data_dir.replace(FILE, secret.expose_secret(), 0o600)?;
    Ok(data_dir.path(FILE))
}

/// Returns the secret of a server that was started before, for commands, which create no
/// secret.
pub fn existing(
    configured: Option<&SecretString>,
    data_dir: &DataDir,
) -> Result<SecretString, Error> {
    match configured {
        Some(secret) => Ok(secret.clone()),
        None => check_file(data_dir, &data_dir.read(FILE)?),
    }
}

fn check_file(data_dir: &DataDir, content: &str) -> Result<SecretString, Error> {
    let secret = content.trim_end();
    if secret.chars().count() < strength::MIN_LEN {
        return Err(Error::Missing(data_dir.path(FILE)));
    }
    if let Err(problem) = check(secret) {
        return Err(Error::Weak { path: data_dir.path(FILE), problem });
    }
    data_dir.check_private(FILE)?;
    Ok(secret.into())
}
