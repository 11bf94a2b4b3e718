//! The other servers on this database, as their counts in `servers` tell.
//!
//! No server's clock is compared with another's: a server has stopped when its
//! count has stood still for a lease, by the monotonic clock of the one that looks.

use std::collections::HashMap;
use std::time::Duration;

use crate::store::servers::Server;

use super::{FORGET_AFTER, LEASE_OVER};

/// What is known of the other servers.
#[derive(Default)]
pub(super) struct Peers {
    seen: HashMap<String, Seen>,
}

struct Seen {
    polls: i64,
    /// When that count was first seen.
    since: Duration,
}

impl Peers {
    /// Notes the rows that were read at `now`; returns those of servers that may
    /// still trust their Redis.
    pub(super) fn note(&mut self, rows: Vec<Server>, now: Duration) -> Vec<Server> {
        self.seen.retain(|id, _| rows.iter().any(|row| row.id == *id));
        let mut live = rows;
        live.retain(|row| {
            let seen = Seen { polls: row.polls, since: now };
            let seen = self.seen.entry(row.id.clone()).or_insert(seen);
            if seen.polls != row.polls {
                *seen = Seen { polls: row.polls, since: now };
            }
            now.saturating_sub(seen.since) <= LEASE_OVER
        });
        live
    }

    /// Takes every server for one that may still trust its Redis. While the
    /// database was away, no count went on.
    pub(super) fn restart(&mut self, now: Duration) {
        for seen in self.seen.values_mut() {
            seen.since = now;
        }
    }

    /// Returns the servers that stopped long ago.
    pub(super) fn stopped(&self, now: Duration) -> Vec<String> {
        let stopped =
            self.seen.iter().filter(|(_, seen)| now.saturating_sub(seen.since) > FORGET_AFTER);
        stopped.map(|(id, _)| id.clone()).collect()
    }
}

/// Servers that may not know of a revocation yet.
pub(super) struct Lagging {
    /// Each with the poll that reads the revocation.
    servers: HashMap<String, i64>,
}

impl Lagging {
    /// Returns which of `live` do not read the Redis that has the revocation. The
    /// rows were read after it was committed.
    pub(super) fn new(live: &[Server], published_on: Option<&str>) -> Self {
        let lagging = live.iter().filter(|row| published_on != Some(row.redis.as_str()));
        // The poll that has begun may have read before the commit.
        Self { servers: lagging.map(|row| (row.id.clone(), row.polls + 1)).collect() }
    }

    /// Notes the rows as they are now; returns whether some still lag.
    pub(super) fn still(&mut self, live: &[Server]) -> bool {
        self.servers.retain(|id, poll| live.iter().any(|row| row.id == *id && row.applied < *poll));
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
    fn a_server_whose_count_stands_still_for_a_lease_has_stopped() {
        let mut peers = Peers::default();
        let live = |peers: &mut Peers, polls, millis| {
            peers.note(vec![row("a", "x", polls, 0)], at(millis)).len()
        };
        assert_eq!(live(&mut peers, 1, 10_000), 1);
        assert_eq!(live(&mut peers, 1, 12_250), 1);
        assert_eq!(live(&mut peers, 1, 12_251), 0);
        assert_eq!(live(&mut peers, 2, 12_300), 1, "it polls again");
        assert_eq!(live(&mut peers, 2, 14_600), 0);
        peers.restart(at(14_700));
        assert_eq!(live(&mut peers, 2, 14_800), 1);
        assert!(peers.stopped(at(34_700)).is_empty());
        assert_eq!(peers.stopped(at(34_701)), ["a"]);
    }

    #[test]
    fn a_server_lags_until_a_poll_that_began_after_the_commit_is_in_force() {
        let live = [row("same", "x", 7, 6), row("other", "y", 7, 6)];
        let mut lagging = Lagging::new(&live, Some("x"));
        assert_eq!(lagging.len(), 1);
        assert!(lagging.still(&[row("other", "y", 7, 7)]), "that poll may have read before");
        assert!(lagging.still(&[row("other", "y", 8, 7)]));
        assert!(!lagging.still(&[row("other", "y", 8, 8)]));
        assert_eq!(Lagging::new(&live, None).len(), 2, "published nowhere");
        let mut lagging = Lagging::new(&live, Some("x"));
        assert!(!lagging.still(&[row("same", "x", 7, 6)]), "the other has stopped");
    }
}
