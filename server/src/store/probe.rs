//! Checks whether the database accepts writes: each second, after a fault, and on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Error, Store, Url, connection};

/// The longest time between two checks of PostgreSQL.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a caller waits for a check. It is shorter than the timeouts of usual balancers.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The checks of one store. At most one runs at a time: while the database does not respond,
/// health checks hold one connection, however many there are.
pub(super) struct Probe {
    last: watch::Sender<Check>,
}

/// The result of a check.
#[derive(Clone)]
struct Check {
    began_at: Instant,
    ended_at: Instant,
    /// Why the database accepts no writes.
    problem: Option<Arc<str>>,
}

impl Default for Probe {
    fn default() -> Self {
        let now = Instant::now();
        let problem = Some("not checked yet".into());
        let none = Check { began_at: now, ended_at: now, problem };
        Self { last: watch::Sender::new(none) }
    }
}

impl Store {
    /// Checks the database until the future is dropped, which is safe at any time. Logs each
    /// outage.
    ///
    /// PostgreSQL is checked each second. A check of SQLite waits for other writers, so it runs
    /// only on demand, after a fault, and during an outage.
    pub async fn watch_database(self) {
        let availability = self.pool.availability();
        loop {
            self.check_database().await;
            let is_idle = || matches!(self.url, Url::Sqlite(_)) && availability.is_up();
            while timeout(CHECK_INTERVAL, availability.check_requested()).await.is_err()
                && is_idle()
            {}
        }
    }

    async fn check_database(&self) {
        let began_at = Instant::now();
        let checked = match self.url {
            Url::Postgres(_) => self.pool.probe().await,
            Url::Sqlite(_) => self.write(connection::check_writable).await,
        };
        match &checked {
            Ok(()) => self.pool.availability().up(),
            Err(error @ (Error::Connect(..) | Error::QueryTimeout(_) | Error::Unavailable(_))) => {
                self.pool.availability().down(&error.to_string());
            }
            // The connections are in use.
            Err(_) => {}
        }
        let problem = checked.err().map(|error| error.to_string().into());
        self.probe.last.send_replace(Check { began_at, ended_at: Instant::now(), problem });
    }

    /// Checks that the database accepts writes. The error says why not: it does not respond
    /// within two seconds, is a standby or is read-only. Needs a running
    /// [`Self::watch_database`].
    pub async fn check_writable(&self) -> Result<(), Arc<str>> {
        let called_at = Instant::now();
        let mut last = self.probe.last.subscribe();
        self.pool.availability().request_check();
        // A check that began before may have seen the database before an outage.
        let new = last.wait_for(|check| check.began_at >= called_at);
        let check = match timeout(TIME_LIMIT, new).await {
            Ok(Ok(check)) => check.clone(),
            // The caller cannot wait for the end of one check and for another one if each
            // takes more than a second. The database responded to the first one meanwhile.
            _ => self.probe.last.borrow().clone(),
        };
        if check.ended_at < called_at || (check.began_at < called_at && check.problem.is_some()) {
            return Err(format!("the database did not respond within {TIME_LIMIT:?}").into());
        }
        check.problem.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    const MINUTE: Duration = Duration::from_secs(60);

    fn store(folder: &tempfile::TempDir) -> Store {
        let options = Options {
            url: Url::Sqlite(folder.path().join("test.db")),
            pool_size: 1,
            acquire_timeout: MINUTE,
            max_queue: 1000,
            query_timeout: MINUTE,
            start_timeout: MINUTE,
            migrate: true,
        };
        Store::open(&options).unwrap()
    }

    #[actix_rt::test]
    async fn outage_of_sqlite_ends_without_a_request() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let watching = actix_rt::spawn(store.clone().watch_database());
        store.check_writable().await.unwrap();
        store.pool.availability().down("disk I/O error");
        let ended = async {
            while !store.pool.availability().is_up() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(MINUTE, ended).await.expect("the outage ends");
        watching.abort();
    }

    #[actix_rt::test]
    async fn slow_check_that_ends_during_a_call_counts_if_it_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        for (problem, expected) in [(None, true), (Some(Arc::from("read-only")), false)] {
            let began_at = Instant::now();
            let end = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                // No other check ends within the time of the call.
                let check = Check { began_at, ended_at: Instant::now(), problem };
                store.probe.last.send_replace(check);
            };
            let (called, ()) = tokio::join!(store.check_writable(), end);
            assert_eq!(called.is_ok(), expected, "{called:?}");
        }
        assert!(store.check_writable().await.is_err(), "no check has ended since");
    }
}
