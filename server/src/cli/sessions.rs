//! `matchbook-server sessions …`: ends sessions that nobody can log out of any more.

use std::thread;
use std::time::Duration;

use crate::clock;
use crate::config::Config;
use crate::crypto::RngError;
use crate::ids::EventId;
use crate::sessions::end_selected;
use crate::store::sessions::Selection;
use crate::store::{self, OpenError};

/// Within this time every server that runs has read the revocations.
const PUBLISHED_AFTER: Duration = Duration::from_secs(3);

/// Why the sessions are not ended. Each is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database failed.
    #[error("the database failed: {0}; some sessions may have ended: run this again")]
    Query(#[from] diesel::result::Error),
    /// The system gave no random bytes.
    #[error(transparent)]
    Randomness(#[from] RngError),
}

/// Ends the selected sessions, and waits until every server that reaches the database
/// refuses their access tokens. Returns a line that says how many. Blocks.
///
/// # Errors
/// When the database cannot be used. It can be run again.
pub fn end(config: &Config, selection: &Selection) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let now = clock::now();
    let ended = end_selected(&mut conn, selection, EventId::new(now)?, &config.policy, now)?;
    if ended > 0 {
        thread::sleep(PUBLISHED_AFTER);
    }
    let sessions = if ended == 1 { "session has" } else { "sessions have" };
    Ok(format!("{ended} {sessions} ended\n"))
}
