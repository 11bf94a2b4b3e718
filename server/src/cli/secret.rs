//! `matchbook-server secret …`: replaces the server's secret.

use std::{io, thread};

use clap::Subcommand;

use super::propagation::{PROPAGATION_TIME, await_servers};
use crate::clock;
use crate::config::Config;
use crate::crypto::{CryptoError, RngError};
use crate::data_dir::DataDir;
use crate::ids::EventId;
use crate::keys::{self, KeyContext};
use crate::secrets::{self, DerivedKeys};
use crate::sessions::{ClientInfo, Context, end_selected};
use crate::store::sessions::Selection;
use crate::store::signing_keys::StoredKey;
use crate::store::{self, Conn, OpenError};

#[derive(Clone, Subcommand)]
pub enum Command {
    /// Revoke all signing keys, end all sessions, and replace a generated secret, so that the
    /// old secret is of no use. A configured secret must be the new one already.
    Rotate {
        /// Confirm that the old secret may have leaked. A planned change needs no command:
        /// see `old_secrets`.
        #[arg(long, required = true)]
        compromised: bool,
    },
}

/// The reasons why the secret is not replaced, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}; run this command where the server runs, with the server's settings")]
    Secret(#[from] secrets::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed: {0}; run this command again")]
    Query(#[from] diesel::result::Error),
    #[error(transparent)]
    Keys(#[from] keys::Error),
    #[error("a key operation failed: {0}")]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Carries out a command and prints its result. Blocks.
pub fn run(config: &Config, command: &Command) -> Result<(), Error> {
    let output = match command {
        Command::Rotate { .. } => rotate_compromised(config)?,
    };
    Ok(super::print(&output)?)
}

/// Ends everything that an attacker with the old secret, and perhaps a copy of the database,
/// could use: revokes all signing keys and all sessions. Replaces a generated secret; a
/// configured one must be the new one already. Can be run again after a failure.
fn rotate_compromised(config: &Config) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let secret = match &config.secret {
        Some(configured) => configured.clone(),
        None => secrets::generate()?,
    };
    let encryption = DerivedKeys::from_secrets(&secret, &config.old_secrets)?.key_encryption_keys;
    keys::check_new_secret(&mut conn, &encryption)?;
    let replaced = if config.secret.is_some() {
        "the configured secret is in use".to_owned()
    } else {
        let path = secrets::replace(&DataDir::at(&config.data_dir), &secret)?;
        format!("{} holds a new secret", path.display())
    };

    let before = end_all(config, &mut conn)?;
    let cx = KeyContext { encryption: &encryption, options: &config.keys, now: clock::now() };
    let (created, revoked) = keys::replace_all(&mut conn, &cx)?;
    // Sessions that were opened before the keys changed.
    let ended = before + end_all(config, &mut conn)?;
    thread::sleep(PROPAGATION_TIME);
    await_servers(&mut conn, config);
    let signs = |key: &StoredKey| format!("{} ({})", key.kid, key.algorithm);
    let (verb, created) = match created.as_slice() {
        [key] => ("signs", signs(key)),
        keys => ("sign", keys.iter().map(signs).collect::<Vec<_>>().join(" and ")),
    };
    Ok(format!(
        "{replaced}\n{revoked} signing keys are revoked, and {created} {verb} from now on\n{ended} \
         sessions have ended\nnow restart every server with the new secret: a server with the old \
         secret cannot sign\n"
    ))
}

fn end_all(config: &Config, conn: &mut Conn) -> Result<usize, Error> {
    let now = clock::now();
    let event = EventId::new(now)?;
    let client = ClientInfo::command_line();
    let cx = Context { policy: &config.policy, client: &client, event, now };
    Ok(end_selected(conn, &Selection::default(), &cx)?)
}
