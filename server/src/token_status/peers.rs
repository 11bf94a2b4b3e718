//! The other servers that share this database, by their poll counters in `servers`.
//!
//! Clocks of different servers are never compared. A server counts as stopped if its counter
//! has not changed for as long as it could trust its Redis, by the monotonic clock of the
//! observer.

use std::collections::HashMap;
use std::time::Duration;

use crate::store::servers::Server;

use super::{DELETE_AFTER, LEASE_EXPIRED_AFTER};

/// The last observation of each other server.
pub(super) struct Peers {
    seen: HashMap<String, Observation>,
    /// How long a server may trust its Redis after its last poll of the database.
    trust: Duration,
}

struct Observation {
    polls: i64,
    /// The time at which this count was first observed.
    since: Duration,
}

impl Peers {
    /// `trusted_without_database` is the setting of the servers.
    pub(super) fn new(trusted_without_database: Duration) -> Self {
        let trust = trusted_without_database + LEASE_EXPIRED_AFTER;
        Self { seen: HashMap::new(), trust }
    }

    /// Returns how long a server may trust its Redis after its last poll of the database.
    pub(super) fn trust(&self) -> Duration {
        self.trust
    }

    /// Records the rows that were read at `now`. Returns those of servers that may still
    /// trust their Redis.
    pub(super) fn record(&mut self, rows: Vec<Server>, now: Duration) -> Vec<Server> {
        self.seen.retain(|id, _| rows.iter().any(|row| row.id == *id));
        let mut live = rows;
        live.retain(|row| {
            let seen = Observation { polls: row.polls, since: now };
            let seen = self.seen.entry(row.id.clone()).or_insert(seen);
            if seen.polls != row.polls {
                *seen = Observation { polls: row.polls, since: now };
            }
            now.saturating_sub(seen.since) <= self.trust
        });
        live
    }

    /// Returns whether a server has polled a moment ago.
    pub(super) fn is_polling(&self, id: &str, now: Duration) -> bool {
        let polled = |seen: &Observation| now.saturating_sub(seen.since) <= LEASE_EXPIRED_AFTER;
        self.seen.get(id).is_some_and(polled)
    }

    /// Returns the servers that can be deleted.
    pub(super) fn stopped(&self, now: Duration) -> Vec<String> {
        let delete_after = self.trust + DELETE_AFTER;
        let is_stopped = |seen: &Observation| now.saturating_sub(seen.since) > delete_after;
        let stopped = self.seen.iter().filter(|(_, seen)| is_stopped(seen));
        stopped.map(|(id, _)| id.clone()).collect()
    }
}

/// The servers that may not have read a revocation yet.
pub(super) struct LaggingServers {
    /// The number of the poll that reads the revocation, for each server.
    servers: HashMap<String, i64>,
}

impl LaggingServers {
    /// Returns those of `live` that may read another Redis than the one that has the
    /// revocation. The rows must have been read after the revocation was committed.
    pub(super) fn new(live: &[Server], published_on: Option<&str>) -> Self {
        let lagging =
            live.iter().filter(|row| row.reads_redis() && published_on != Some(row.redis.as_str()));
        // The poll that is running may have read the database before the commit.
        Self { servers: lagging.map(|row| (row.id.clone(), row.polls + 1)).collect() }
    }

    /// Records the current rows. Returns whether a server still lags.
    pub(super) fn is_lagging(&mut self, live: &[Server]) -> bool {
        self.servers.retain(|id, poll| {
            let lags = |row: &Server| row.reads_redis() && row.applied < *poll;
            live.iter().any(|row| row.id == *id && lags(row))
        });
        !self.servers.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, redis: &str, polls: i64, applied: i64) -> Server {
        Server { id: id.to_owned(), redis: redis.to_owned(), polls, applied }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn server_that_cannot_trust_its_redis_any_more_is_stopped() {
        let mut peers = Peers::new(Duration::from_secs(1));
        let live = |peers: &mut Peers, polls, millis| {
            peers.record(vec![row("a", "x", polls, 0)], at(millis)).len()
        };
        assert_eq!(live(&mut peers, 1, 10_000), 1);
        assert_eq!(live(&mut peers, 1, 13_250), 1);
        assert_eq!(live(&mut peers, 1, 13_251), 0);
        assert_eq!(live(&mut peers, 2, 13_300), 1, "it polls again");
        assert_eq!(live(&mut peers, 2, 16_600), 0);
        assert!(peers.stopped(at(36_550)).is_empty());
        assert_eq!(peers.stopped(at(36_551)), ["a"]);
    }

    #[test]
    fn server_lags_until_a_poll_that_began_after_the_commit_is_applied() {
        let live = [row("same", "x", 7, 6), row("other", "y", 7, 6)];
        let mut lagging = LaggingServers::new(&live, Some("x"));
        assert_eq!(lagging.len(), 1);
        assert!(
            lagging.is_lagging(&[row("other", "y", 7, 7)]),
            "that poll may have read before the commit"
        );
        assert!(lagging.is_lagging(&[row("other", "y", 8, 7)]));
        assert!(!lagging.is_lagging(&[row("other", "y", 8, 8)]));
        assert_eq!(LaggingServers::new(&live, None).len(), 2, "published nowhere");
        let mut lagging = LaggingServers::new(&live, Some("x"));
        assert!(!lagging.is_lagging(&[row("other", "", 7, 6)]), "it does not read Redis any more");
        let mut lagging = LaggingServers::new(&live, Some("x"));
        assert!(!lagging.is_lagging(&[row("same", "x", 7, 6)]), "the other has stopped");
        assert_eq!(LaggingServers::new(&[row("a", "", 7, 6)], None).len(), 0);
    }
}
