//! Checks on demand whether the database accepts writes, within two seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::{Store, Url, connection};

/// How long a caller waits for a check. It is shorter than the timeouts of usual balancers.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The checks of one store. At most one runs at a time: while the database does not respond,
/// health checks hold one connection, however many there are.
pub(super) struct Probe {
    wanted: Notify,
    last: watch::Sender<Check>,
}

/// The result of a check.
#[derive(Clone)]
struct Check {
    began_at: Instant,
    /// Why the database accepts no writes.
    problem: Option<Arc<str>>,
}

impl Default for Probe {
    fn default() -> Self {
        let none = Check { began_at: Instant::now(), problem: Some("not checked yet".into()) };
        Self { wanted: Notify::new(), last: watch::Sender::new(none) }
    }
}

impl Store {
    /// Runs the checks that [`Self::check_writable`] requests. Never returns.
    pub async fn run_checks(self) {
        loop {
            self.probe.wanted.notified().await;
            let began_at = Instant::now();
            let checked = match self.url {
                Url::Postgres(_) => self.pool.probe(|_| Ok(())).await,
                Url::Sqlite(_) => self.write(connection::check_writable).await,
            };
            let problem = checked.err().map(|error| error.to_string().into());
            self.probe.last.send_replace(Check { began_at, problem });
        }
    }

    /// Checks that the database accepts writes. The error says why not: it does not respond
    /// within two seconds, is a standby or is read-only. Needs a running [`Self::run_checks`].
    pub async fn check_writable(&self) -> Result<(), Arc<str>> {
        let called_at = Instant::now();
        let mut last = self.probe.last.subscribe();
        self.probe.wanted.notify_one();
        // A check that began before may have seen the database before an outage.
        let checked = timeout(TIME_LIMIT, last.wait_for(|check| check.began_at >= called_at)).await;
        match checked {
            Ok(Ok(check)) => check.problem.clone().map_or(Ok(()), Err),
            _ => Err(format!("the database did not respond within {TIME_LIMIT:?}").into()),
        }
    }
}
