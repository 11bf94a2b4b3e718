//! `matchbook-server keys …`: for whoever looks after the signing keys.

use std::fmt::Write;

use openssl::error::ErrorStack;

use crate::clock;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::keys::{self, DerivedKeys, KeyEncryptionKeys, REFRESH_INTERVAL};
use crate::secrets;
use crate::store::{self, Conn, OpenError, signing_keys};

/// Why a command cannot be carried out. Each is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no secret to seal a key with.
    #[error("{0}; run this where the server runs, with the settings that it has")]
    NoSecret(#[from] secrets::Error),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database does not answer.
    #[error("the database failed: {0}; a server that starts on it makes its tables")]
    Query(#[from] diesel::result::Error),
    /// The keys are not as they should be.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// OpenSSL refused.
    #[error("a key operation failed: {0}")]
    Crypto(#[from] ErrorStack),
}

/// The keys that there are, a line for each. Blocks.
///
/// # Errors
/// When the database does not answer.
pub fn list(config: &Config) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let keys = signing_keys::all(&mut conn)?;
    let phases = keys::phases(&keys, config.keys.access_lifetime, clock::now());
    let mut lines = String::new();
    for (key, phase) in keys.iter().zip(phases) {
        let (phase, from) = (phase.as_str(), key.active_from);
        let _ = write!(lines, "{}  {:<5}  {phase:<8}  signs from {from}", key.kid, key.algorithm);
        if let Some(at) = key.revoked_at {
            let _ = write!(lines, ", revoked {at}");
        }
        lines.push('\n');
    }
    Ok(lines)
}

/// Makes the next key. Blocks.
///
/// # Errors
/// When one is pending, or the secret or the database is not to be had.
pub fn rotate(config: &Config) -> Result<String, Error> {
    let (mut conn, sealing) = open(config)?;
    let key = keys::rotate(&mut conn, &sealing, &config.keys, clock::now())?;
    let (kid, algorithm, from) = (key.kid, key.algorithm, key.active_from);
    Ok(format!("{kid} ({algorithm}) is published, and signs from {from} on\n"))
}

/// Revokes a key, and waits until every server that reaches the database knows.
/// Blocks.
///
/// # Errors
/// When there is no such key, or the secret or the database is not to be had.
pub fn revoke(config: &Config, kid: &str) -> Result<String, Error> {
    let (mut conn, sealing) = open(config)?;
    let heir = keys::revoke(&mut conn, &sealing, &config.keys, kid, clock::now())?;
    std::thread::sleep(2 * REFRESH_INTERVAL);
    let mut said = format!("{kid} is revoked: access tokens that it signed are refused from now ");
    said.push_str("on, and their sessions get new ones with their next refresh\n");
    if let Some(heir) = heir {
        let _ = writeln!(said, "{heir} signs now; whoever caches the key set has to fetch it anew");
    }
    Ok(said)
}

fn open(config: &Config) -> Result<(Conn, KeyEncryptionKeys), Error> {
    let secret = secrets::existing(config.secret.as_ref(), &DataDir::at(&config.data_dir))?;
    let derived = DerivedKeys::from_secrets(&secret, &config.old_secrets)?;
    Ok((store::connect_to_change(&config.database.url)?, derived.sealing))
}
