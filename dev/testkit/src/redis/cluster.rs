//! A Redis Cluster of three primaries, each with a replica.

use std::process::Command;

use super::{Redis, connect, wait_until};
use crate::programs::program;

/// Number of primaries, and of replicas.
const SHARDS: usize = 3;

/// Six Redis servers. Dropping this stops them.
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts the servers. A replica takes over about a second after its primary has vanished.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        let start = || Redis::with(|_| arguments.map(str::to_owned).to_vec());
        let nodes: Vec<Redis> = std::iter::repeat_with(start).take(2 * SHARDS).collect();
        let mut create = Command::new(program("redis-cli").expect("redis-cli is installed"));
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created = create.output().unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { nodes };
        cluster.await_whole();
        cluster
    }

    /// Returns the hosts and ports of all servers.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect()
    }

    /// Has a replica take over from its primary, which runs, and waits for that.
    pub fn fail_over(&self) {
        let replica = self.nodes.iter().find(|node| !is_primary(node));
        let replica = replica.expect("the cluster has replicas");
        let mut conn = connect(&replica.url()).unwrap();
        redis::cmd("CLUSTER").arg("FAILOVER").exec(&mut conn).unwrap();
        wait_until("the replica does not take over", || is_primary(replica));
    }

    /// Kills a primary (SIGKILL) and waits until its replica has taken over.
    pub fn kill_primary(&mut self) {
        let primary = self.nodes.iter_mut().find(|node| is_primary(node));
        primary.expect("the cluster has primaries").kill();
        wait_until("no replica takes over", || {
            let running = self.nodes.iter().filter(|node| node.id().is_some());
            let (primaries, whole) = running.fold((0, true), |(primaries, whole), node| {
                (primaries + usize::from(is_primary(node)), whole && is_whole(node))
            });
            primaries == SHARDS && whole
        });
    }

    /// Starts a killed server again and waits until each primary has a replica.
    pub fn repair(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.id().is_none()) {
            node.start();
        }
        self.await_whole();
    }

    fn await_whole(&self) {
        wait_until("the cluster is incomplete", || {
            let replicas = self.nodes.iter().filter(|node| !is_primary(node));
            replicas.clone().count() == SHARDS && self.nodes.iter().all(is_whole) && { replicas }
                .all(|node| info(node).contains("master_link_status:up"))
        });
    }
}

fn info(node: &Redis) -> String {
    let mut conn = connect(&node.url()).unwrap();
    redis::cmd("INFO").arg("replication").query(&mut conn).unwrap()
}

fn is_primary(node: &Redis) -> bool {
    node.id().is_some() && info(node).contains("role:master")
}

/// Returns whether a server knows all others, and a primary for each key.
fn is_whole(node: &Redis) -> bool {
    let mut conn = connect(&node.url()).unwrap();
    let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut conn).unwrap();
    let known = format!("cluster_known_nodes:{}\r", 2 * SHARDS);
    info.contains("cluster_state:ok") && info.contains(&known)
}
