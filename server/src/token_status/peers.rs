//! The other servers that share this database, by their poll counters in `servers`.
//!
//! Clocks of different servers are never compared. A server counts as stopped if its counter
//! has not changed for as long as it could trust its Redis, by the monotonic clock of the
//! observer.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
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
    /// The row with the highest count so far.
    row: Server,
    /// The time at which this count was first observed.
    since: Duration,
}

impl Peers {
    /// `trusted_without_database` is the setting of the servers.
    pub(super) fn new(trusted_without_database: Duration) -> Self {
        // Clocks of two machines differ in their rates.
        let tolerance = trusted_without_database / 8;
        let trust = trusted_without_database + tolerance + LEASE_EXPIRED_AFTER;
        Self { seen: HashMap::new(), trust }
    }

    /// Returns how long a server may trust its Redis after its last poll of the database.
    pub(super) fn trust(&self) -> Duration {
        self.trust
    }

    /// Records the rows that were read at `now`. Returns the newest row so far of each server
    /// that may still trust its Redis. A database that has lost commits may have an older row,
    /// or none.
    pub(super) fn record(&mut self, rows: Vec<Server>, now: Duration) -> Vec<Server> {
        let present: HashSet<String> = rows.iter().map(|row| row.id.clone()).collect();
        for row in rows {
            match self.seen.entry(row.id.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Observation { row, since: now });
                }
                Entry::Occupied(mut entry) => {
                    let seen = entry.get_mut();
                    if row.polls > seen.row.polls {
                        *seen = Observation { row, since: now };
                    } else if row.polls == seen.row.polls {
                        seen.row.applied = seen.row.applied.max(row.applied);
                    }
                }
            }
        }
        let trust = self.trust;
        let may_trust = |seen: &Observation| now.saturating_sub(seen.since) <= trust;
        self.seen.retain(|id, seen| present.contains(id) || may_trust(seen));
        self.seen.values().filter(|seen| may_trust(seen)).map(|seen| seen.row.clone()).collect()
    }

    /// Returns whether a server has polled a moment ago.
    pub(super) fn is_polling(&self, id: &str, now: Duration) -> bool {
        let polled = |seen: &Observation| now.saturating_sub(seen.since) <= LEASE_EXPIRED_AFTER;
        self.seen.get(id).is_some_and(polled)
    }

    /// Returns the rows of servers that can be deleted.
    pub(super) fn stopped(&self, now: Duration) -> Vec<Server> {
        let delete_after = self.trust + DELETE_AFTER;
        let is_stopped = |seen: &Observation| now.saturating_sub(seen.since) > delete_after;
        self.seen.values().filter(|seen| is_stopped(seen)).map(|seen| seen.row.clone()).collect()
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
        let mut peers = Peers::new(Duration::from_secs(8));
        let live = |peers: &mut Peers, polls, millis| {
            peers.record(vec![row("a", "x", polls, 0)], at(millis)).len()
        };
        assert_eq!(live(&mut peers, 1, 10_000), 1);
        assert_eq!(live(&mut peers, 1, 21_250), 1);
        assert_eq!(live(&mut peers, 1, 21_251), 0);
        assert_eq!(live(&mut peers, 2, 22_000), 1, "it polls again");
        assert_eq!(live(&mut peers, 2, 33_251), 0);
        assert!(peers.stopped(at(53_250)).is_empty());
        assert_eq!(peers.stopped(at(53_251)), [row("a", "x", 2, 0)]);
        assert_eq!(peers.record(Vec::new(), at(53_300)), []);
        assert!(peers.stopped(at(53_300)).is_empty(), "deleted");
    }

    #[test]
    fn row_that_the_database_has_lost_still_counts() {
        let mut peers = Peers::new(Duration::from_secs(8));
        peers.record(vec![row("a", "x", 7, 6)], at(0));
        // A failover to a standby that lagged: with an older row, and without any.
        let older = row("a", "", 5, 5);
        assert_eq!(peers.record(vec![older.clone()], at(100)), [row("a", "x", 7, 6)]);
        assert_eq!(peers.record(Vec::new(), at(200)), [row("a", "x", 7, 6)]);
        assert_eq!(peers.record(vec![older], at(11_251)), []);
        assert_eq!(peers.record(vec![row("a", "y", 8, 7)], at(11_300)), [row("a", "y", 8, 7)]);
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
