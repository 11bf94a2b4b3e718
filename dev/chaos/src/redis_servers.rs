//! One Redis, a primary with Sentinel, or a Redis Cluster.

use matchbook_testkit::{Redis, RedisCluster, RedisSentinel};

use crate::topology::Topology;

/// The Redis servers of a run.
pub(super) enum RedisServers {
    Single(Redis),
    Sentinel(Box<RedisSentinel>),
    Cluster(RedisCluster),
}

impl RedisServers {
    pub(super) fn start(topology: Topology) -> Self {
        match topology {
            Topology::Single | Topology::Balanced => Self::Single(Redis::new()),
            Topology::Synchronous => Self::Sentinel(Box::new(RedisSentinel::new())),
            Topology::Asynchronous => Self::Cluster(RedisCluster::new()),
        }
    }

    /// Returns the URL for the servers.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Single(redis) => redis.url(),
            Self::Sentinel(set) => format!("redis+sentinel://{}/{}", set.address(), set.name()),
            Self::Cluster(set) => format!("redis-cluster://{}", set.addresses().join(",")),
        }
    }

    /// Returns the only Redis.
    ///
    /// # Panics
    /// When there are several: the faults of a single Redis do not apply to them.
    pub(super) fn single(&mut self) -> &mut Redis {
        let Self::Single(redis) = self else { panic!("this fault needs a single Redis") };
        redis
    }

    /// Has a replica promoted while the primary runs.
    pub(super) fn switch(&self) {
        match self {
            Self::Single(_) => {}
            Self::Sentinel(set) => set.fail_over(),
            Self::Cluster(set) => set.fail_over(),
        }
    }

    /// Kills a primary and waits until its replica is promoted.
    pub(super) fn kill_primary(&mut self) {
        match self {
            Self::Single(redis) => redis.kill(),
            Self::Sentinel(set) => set.kill_primary(),
            Self::Cluster(set) => set.kill_primary(),
        }
    }

    /// Starts killed servers, and waits until each primary has a replica.
    pub(super) fn repair(&mut self) {
        match self {
            Self::Single(_) => {}
            Self::Sentinel(set) => set.repair(),
            Self::Cluster(set) => set.repair(),
        }
    }
}
