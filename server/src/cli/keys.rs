//! `matchbook-server keys …`: lists, rotates and revokes signing keys.

use std::fmt::Write;
use std::io;

use clap::Subcommand;

use crate::clock;
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::data_dir::DataDir;
use crate::keys::{self, KeyContext, Purpose, REFRESH_INTERVAL};
use crate::secrets::{self, DerivedKeys, KeyEncryptionKeys};
use crate::store::{self, Conn, OpenError, signing_keys};

#[derive(Clone, Subcommand)]
pub enum Command {
    /// Print the keys: thumbprint, algorithm, current phase, purpose.
    List,
    /// Publish the next key of each purpose, which signs after `keys.publish_ahead`.
    Rotate,
    /// Revoke a key: its tokens are rejected at once, sessions continue.
    Revoke {
        /// The key's thumbprint, from `keys list`.
        // One in 64 thumbprints begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

/// The reasons why a command fails, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}; run this command where the server runs, with the server's settings")]
    NoSecret(#[from] secrets::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed: {0}")]
    Query(#[from] diesel::result::Error),
    #[error(transparent)]
    Keys(#[from] keys::Error),
    #[error("a key operation failed: {0}")]
    Crypto(#[from] CryptoError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Carries out a command and prints its result. Blocks.
pub fn run(config: &Config, command: &Command) -> Result<(), Error> {
    let output = match command {
        Command::List => list(config)?,
        Command::Rotate => rotate(config)?,
        Command::Revoke { kid } => revoke(config, kid)?,
    };
    Ok(super::print(&output)?)
}

fn list(config: &Config) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let keys = signing_keys::all(&mut conn)?;
    let phases = keys::phases(&keys, config.keys.access_lifetime, clock::now());
    let mut lines = String::new();
    for (key, phase) in keys.iter().zip(phases) {
        let phase = phase.as_str();
        let from = key.active_from;
        let _ = write!(
            lines,
            "{}  {:<5}  {phase:<8}  {:<6}  signs from {from}",
            key.kid,
            key.algorithm,
            key.purpose.as_str()
        );
        if let Some(at) = key.revoked_at {
            let _ = write!(lines, ", revoked {at}");
        }
        lines.push('\n');
    }
    Ok(lines)
}

fn rotate(config: &Config) -> Result<String, Error> {
    let (mut conn, encryption) = open(config)?;
    let cx = KeyContext { encryption: &encryption, options: &config.keys, now: clock::now() };
    let mut output = String::new();
    for key in keys::rotate(&mut conn, &cx)? {
        let what = match key.purpose {
            Purpose::Access => "signs",
            Purpose::Id => "signs ID tokens",
        };
        let _ = writeln!(
            output,
            "{} ({}) is published, and {what} from {} on",
            key.kid, key.algorithm, key.active_from
        );
    }
    Ok(output)
}

/// Revokes a key, and waits until every server that reaches the database rejects its tokens.
fn revoke(config: &Config, kid: &str) -> Result<String, Error> {
    let (mut conn, encryption) = open(config)?;
    let cx = KeyContext { encryption: &encryption, options: &config.keys, now: clock::now() };
    let revoked = keys::revoke(&mut conn, kid, &cx)?;
    std::thread::sleep(2 * REFRESH_INTERVAL);
    let what = match revoked.purpose {
        Purpose::Access => "tokens",
        Purpose::Id => "ID tokens and logout tokens",
    };
    let mut output = format!(
        "{kid} is revoked: its {what} are rejected from now on, and their sessions get new ones \
         with their next refresh\n"
    );
    if let Some(replacement) = revoked.replacement {
        let _ = writeln!(output, "{replacement} signs now; caches of the key set must be renewed");
    }
    Ok(output)
}

fn open(config: &Config) -> Result<(Conn, KeyEncryptionKeys), Error> {
    let secret = secrets::existing(config.secret.as_ref(), &DataDir::at(&config.data_dir))?;
    let derived = DerivedKeys::from_secrets(&secret, &config.old_secrets)?;
    Ok((store::connect_to_change(&config.database.url)?, derived.key_encryption_keys))
}
