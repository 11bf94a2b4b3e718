//! Redis Sentinels for tests.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::Running;
use crate::programs::program;
use crate::{Redis, connect, free_port};

/// The name of the watched service.
const SERVICE: &str = "main";
/// How long the Sentinels and the replicas may take to find each other, or to fail over.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Sentinels that watch one primary. Dropping this stops them.
pub struct Sentinels {
    _folder: TempDir,
    sentinels: Vec<(u16, Running)>,
}

impl Sentinels {
    /// Starts `count` Sentinels that watch `primary`, and waits until each of them knows the
    /// others and this number of replicas. `settings` are lines of their configuration.
    ///
    /// # Panics
    /// When that takes longer than two minutes.
    pub fn watching(primary: &Redis, count: usize, replicas: usize, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let quorum = count / 2 + 1;
        let start = |n: usize| {
            let port = free_port();
            let file = folder.path().join(format!("sentinel-{n}.conf"));
            let mut lines = vec![
                format!("port {port}"),
                "bind 127.0.0.1".to_owned(),
                format!("sentinel monitor {SERVICE} 127.0.0.1 {} {quorum}", primary.port()),
                format!("sentinel down-after-milliseconds {SERVICE} 1000"),
                format!("sentinel failover-timeout {SERVICE} 6000"),
            ];
            lines.extend(settings.iter().map(|line| (*line).to_owned()));
            fs::write(&file, lines.join("\n") + "\n").unwrap();
            let program = program("redis-server")
                .expect("redis-server is not installed (Debian: apt-get install redis-server)");
            let mut command = Command::new(program);
            command.arg(&file).arg("--sentinel");
            let mut running = Running::start(command);
            running.await_line("Sentinel ID is");
            (port, running)
        };
        let sentinels: Vec<_> = (0..count).map(start).collect();
        let sentinels = Self { _folder: folder, sentinels };
        sentinels.until("the Sentinels do not find each other", |state| {
            let number = |name: &str| state[name].parse::<usize>().unwrap();
            number("num-other-sentinels") + 1 == count && number("num-slaves") == replicas
        });
        sentinels
    }

    /// Returns the URL of the service, `redis+sentinel://…`.
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// Promotes a replica, and waits until each Sentinel names another primary.
    ///
    /// # Panics
    /// When that takes longer than two minutes.
    pub fn fail_over(&self) {
        let before = self.primary();
        let started = Instant::now();
        while self.primary() == before {
            assert!(started.elapsed() < TIMEOUT, "no other primary is named");
            // Rejected while a failover is going on, or no replica is good. On a busy machine
            // a failover may be given up.
            let _ = self.ask(0, &["FAILOVER", SERVICE]);
            std::thread::sleep(Duration::from_millis(500));
        }
        self.until("no other primary is named", |state| state["port"] != before);
    }

    /// Returns the port of the primary, by the first Sentinel.
    pub fn primary(&self) -> String {
        self.state(0)["port"].clone()
    }

    /// Sends each Sentinel a command whose response does not matter.
    ///
    /// # Panics
    /// When one rejects it.
    pub fn order(&self, command: &[&str]) {
        for (port, _) in &self.sentinels {
            let mut conn = connect(&format!("redis://127.0.0.1:{port}")).unwrap();
            redis::cmd(command[0]).arg(&command[1..]).exec(&mut conn).unwrap();
        }
    }

    /// Pauses a Sentinel. Its connections stay open.
    pub fn pause(&self, n: usize) {
        self.sentinels[n].1.signal("STOP");
    }

    fn until(&self, problem: &str, is_done: impl Fn(&HashMap<String, String>) -> bool) {
        let started = Instant::now();
        for n in 0..self.sentinels.len() {
            while !is_done(&self.state(n)) {
                assert!(started.elapsed() < TIMEOUT, "{problem}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn state(&self, n: usize) -> HashMap<String, String> {
        redis::from_redis_value(self.ask(n, &["MASTER", SERVICE]).unwrap()).unwrap()
    }

    fn ask(&self, n: usize, arguments: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut conn = connect(&format!("redis://127.0.0.1:{}", self.sentinels[n].0))?;
        redis::cmd("SENTINEL").arg(arguments).query(&mut conn)
    }
}
