//! How a command waits until the running servers have read its change.

use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::store::{Conn, servers};
use crate::token_status::Confirmation;

/// The time after which every running server has read a change in the database, except the end
/// of sessions.
pub(super) const PROPAGATION_TIME: Duration = Duration::from_secs(3);

/// The pause between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// The time after which the command reports why it has not ended.
const REPORT_AFTER: Duration = Duration::from_secs(4);

/// Waits until no server accepts the access tokens of the sessions that this command has ended.
/// A server that was killed, or is cut off from the database, delays this by
/// `redis.trusted_without_database`.
pub(super) fn await_servers(conn: &mut Conn, config: &Config) {
    let mut confirmation = Confirmation::new(config.trusted_without_database);
    let report_at = confirmation.remaining().saturating_sub(REPORT_AFTER);
    let mut is_reported = false;
    while !confirmation.remaining().is_zero() {
        // Without a database, the time alone decides.
        if servers::all(conn).is_ok_and(|rows| confirmation.is_complete(rows)) {
            return;
        }
        if !is_reported && confirmation.remaining() < report_at {
            is_reported = true;
            eprintln!(
                "the sessions have ended; a server that does not respond may still accept their \
                 access tokens: waiting for {} s at most",
                confirmation.remaining().as_secs() + 1
            );
        }
        thread::sleep(INTERVAL);
    }
}
