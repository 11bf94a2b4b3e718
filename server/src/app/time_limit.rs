//! Ends the process in time, whatever its threads wait for.

use std::thread;
use std::time::Duration;

use crate::store::Store;

/// How much longer than `server.shutdown_timeout` the process may exist. Connections are
/// looked at once a second.
const MARGIN: Duration = Duration::from_millis(800);
/// The interval at which work in flight is looked at.
const TICK: Duration = Duration::from_millis(20);

/// The time limit of a shutdown: `server.shutdown_timeout`.
pub(super) struct TimeLimit(pub(super) Duration);

impl TimeLimit {
    /// Ends the process after this time, unless it has ended by then. Without this, threads
    /// that wait for a frozen database would keep it.
    pub(super) fn begin(self) {
        let end = move || {
            thread::sleep(self.0 + MARGIN);
            tracing::warn!("shutdown timeout reached, ending with work in flight");
            std::process::exit(0);
        };
        if let Err(error) = thread::Builder::new().name("shutdown-limit".to_owned()).spawn(end) {
            tracing::error!(%error, "shutdown has no time limit");
        }
    }
}

/// Waits until no work of a request uses the database, and until the outcome of lost work is
/// known. The client of a request may have disconnected, so the server does not wait for its
/// connection.
pub(super) async fn finish(store: &Store) {
    while !store.is_idle() {
        tokio::time::sleep(TICK).await;
    }
}
