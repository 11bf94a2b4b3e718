//! `matchbook-server secret …`: what to do when others know the secret.

use std::thread;
use std::time::Duration;

use openssl::error::ErrorStack;

use crate::clock;
use crate::config::Config;
use crate::crypto::RngError;
use crate::data_dir::DataDir;
use crate::ids::EventId;
use crate::keys::{self, DerivedKeys};
use crate::secrets;
use crate::sessions::end_selected;
use crate::store::sessions::Selection;
use crate::store::{self, Conn, OpenError};

/// Within this time every server that runs has read what was revoked.
const PUBLISHED_AFTER: Duration = Duration::from_secs(3);

/// Why the secret is not replaced. Each is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret cannot be read or written.
    #[error("{0}; run this where the server runs, with the settings that it has")]
    Secret(#[from] secrets::Error),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database does not respond.
    #[error("the database failed: {0}; run this again")]
    Query(#[from] diesel::result::Error),
    /// The keys cannot be replaced.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// OpenSSL refused.
    #[error("a key operation failed: {0}")]
    Crypto(#[from] ErrorStack),
    /// The system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RngError),
}

/// Ends everything that somebody with the old secret, and perhaps a copy of the
/// database, could make use of: all signing keys are revoked and all sessions end.
/// A generated secret is replaced; a configured one has to be the new one. Blocks.
/// It can be run again after a failure.
///
/// # Errors
/// When the configured secret is the one in use, or a part cannot be replaced.
pub fn rotate_compromised(config: &Config) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let secret = match &config.secret {
        Some(configured) => configured.clone(),
        None => secrets::generate()?,
    };
    let sealing = DerivedKeys::from_secrets(&secret, &config.old_secrets)?.sealing;
    keys::check_new_secret(&mut conn, &sealing)?;
    let place = if config.secret.is_some() {
        "the configured secret is in force".to_owned()
    } else {
        let path = secrets::replace(&DataDir::at(&config.data_dir), &secret)?;
        format!("{} holds a new secret", path.display())
    };

    let ended = end_all(config, &mut conn)?;
    let (key, revoked) = keys::replace_all(&mut conn, &sealing, &config.keys, clock::now())?;
    // Those that began before the keys changed.
    let ended = ended + end_all(config, &mut conn)?;
    thread::sleep(PUBLISHED_AFTER);
    Ok(format!(
        "{place}\n{revoked} signing keys are revoked, and {} ({}) signs from now on\n{ended} \
         sessions have ended\nnow restart every server with the new secret: one that runs with the \
         old secret can sign nothing\n",
        key.kid, key.algorithm
    ))
}

fn end_all(config: &Config, conn: &mut Conn) -> Result<usize, Error> {
    let now = clock::now();
    Ok(end_selected(conn, &Selection::default(), EventId::new(now)?, &config.policy, now)?)
}
