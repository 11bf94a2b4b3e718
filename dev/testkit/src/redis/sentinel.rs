//! A Redis primary with a replica, and a Sentinel that watches them.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use redis::{FromRedisValue, RedisResult};
use tempfile::TempDir;

use super::{Redis, connect, wait_until};
use crate::free_port;
use crate::process::Running;
use crate::programs::program;

/// The name of the primary in the Sentinel's configuration.
const NAME: &str = "matchbook";

/// Two Redis servers, one of which is the primary, and a Sentinel. Dropping this stops them.
pub struct RedisSentinel {
    nodes: [Redis; 2],
    port: u16,
    _running: Running,
    _folder: TempDir,
}

impl RedisSentinel {
    /// Starts the servers. The Sentinel fails over half a second after the primary has
    /// vanished.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        let primary = Redis::new();
        let replica = Redis::new();
        replica.replicate(&primary);
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\n\
             bind 127.0.0.1\n\
             sentinel monitor {NAME} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {NAME} 500\n\
             sentinel failover-timeout {NAME} 3000\n",
            primary.port()
        );
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(program("redis-server").expect("redis-server is installed"));
        command.arg(&file).arg("--sentinel").current_dir(folder.path());
        let mut running = Running::start(command);
        running.await_line("+monitor master");
        let sentinel = Self { nodes: [primary, replica], port, _running: running, _folder: folder };
        sentinel.await_replica();
        sentinel
    }

    /// Returns the host and port of the Sentinel.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the name of the primary that the Sentinel knows.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// Returns the URL of the current primary, as the Sentinel says.
    pub fn primary_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.primary())
    }

    /// Has the replica promoted while the primary runs, and waits for that. The primary
    /// becomes its replica some time later.
    pub fn fail_over(&self) {
        let former = self.primary();
        self.sentinel::<()>(&["FAILOVER", NAME]).expect("a failover begins");
        wait_until("the replica is not promoted", || self.primary() != former);
    }

    /// Kills the primary (SIGKILL) and waits until the replica is the primary.
    pub fn kill_primary(&mut self) {
        let former = self.primary();
        let node = self.nodes.iter_mut().find(|node| node.port() == former);
        node.expect("the primary is one of the two").kill();
        wait_until("the replica is not promoted", || self.primary() != former);
    }

    /// Starts a killed server again, and waits until the primary has a replica.
    pub fn repair(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.id().is_none()) {
            node.start();
        }
        self.await_replica();
    }

    fn primary(&self) -> u16 {
        let address: Vec<String> = self.sentinel(&["GET-MASTER-ADDR-BY-NAME", NAME]).unwrap();
        address[1].parse().unwrap()
    }

    /// Waits until the Sentinel knows a replica to which it could fail over.
    fn await_replica(&self) {
        wait_until("the primary has no replica", || {
            let replicas: Vec<HashMap<String, String>> =
                self.sentinel(&["REPLICAS", NAME]).unwrap_or_default();
            let is_good = |replica: &HashMap<String, String>| {
                replica.get("master-link-status").is_some_and(|status| status == "ok")
                    && replica.get("flags").is_some_and(|flags| flags == "slave")
                    && replica.get("master-port") == Some(&self.primary().to_string())
            };
            replicas.iter().any(is_good)
        });
    }

    fn sentinel<T: FromRedisValue>(&self, arguments: &[&str]) -> RedisResult<T> {
        let mut conn = connect(&format!("redis://{}", self.address()))?;
        redis::cmd("SENTINEL").arg(arguments).query(&mut conn)
    }
}
