//! Redis servers for tests.

mod cluster;
mod sentinel;

use std::process::Command;
use std::time::{Duration, Instant};

use redis::{Client, Connection, InfoDict, RedisResult};
use tempfile::TempDir;

pub use self::cluster::RedisCluster;
pub use self::sentinel::RedisSentinel;

use crate::free_port;
use crate::process::Running;
use crate::programs::program;

/// Timeout of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a replica to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
///
/// # Panics
/// When it does not within a minute.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < CATCH_UP_TIMEOUT, "timeout: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A temporary Redis server without persistence: each start is empty. Dropping this stops
/// it.
pub struct Redis {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Redis {
    /// Starts a server on a free port.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        Self::with(|_| Vec::new())
    }

    /// Starts a server with more arguments, which override the default ones. They may depend
    /// on the port, as for TLS.
    pub fn with(arguments: impl FnOnce(u16) -> Vec<String>) -> Self {
        let port = free_port();
        let arguments = arguments(port);
        let mut redis =
            Self { folder: tempfile::tempdir().unwrap(), port, arguments, running: None };
        redis.start();
        redis
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// Returns its URL, without TLS or password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it without data and waits until it accepts connections.
    pub fn start(&mut self) {
        let program = program("redis-server")
            .expect("redis-server is not installed (Debian: apt-get install redis-server)");
        let mut command = Command::new(program);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]).arg("--dir").arg(self.folder.path());
        command.args(&self.arguments);
        let mut running = Running::start(command);
        running.await_line("Ready to accept connections");
        self.running = Some(running);
    }

    /// Stops it and waits until it has ended.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.signal("TERM");
            running.wait();
        }
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// Deletes all keys (`FLUSHALL`).
    ///
    /// # Panics
    /// When it does not respond.
    pub fn flush(&self) {
        let mut conn = connect(&self.url()).unwrap();
        redis::cmd("FLUSHALL").exec(&mut conn).unwrap();
    }

    /// Makes it a replica of `primary` and waits until it has caught up.
    ///
    /// # Panics
    /// When it does not respond, or does not catch up within a minute.
    pub fn replicate(&self, primary: &Self) {
        // Disables the delay that waits for more replicas.
        let mut no_delay = redis::cmd("CONFIG");
        no_delay.arg(&["SET", "repl-diskless-sync-delay", "0"]);
        no_delay.exec(&mut connect(&primary.url()).unwrap()).unwrap();
        let mut conn = connect(&self.url()).unwrap();
        let mut command = redis::cmd("REPLICAOF");
        command.arg("127.0.0.1").arg(primary.port).exec(&mut conn).unwrap();
        let since = Instant::now();
        loop {
            let info: InfoDict = redis::cmd("INFO").query(&mut conn).unwrap();
            if info.get("master_link_status") == Some("up".to_owned()) {
                return;
            }
            assert!(since.elapsed() < CATCH_UP_TIMEOUT, "the replica does not catch up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Promotes a replica.
    ///
    /// # Panics
    /// When it does not respond.
    pub fn promote(&self) {
        let mut conn = connect(&self.url()).unwrap();
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut conn).unwrap();
    }

    /// Pauses it. Its connections stay open.
    pub fn pause(&self) {
        if let Some(running) = &self.running {
            running.signal("STOP");
        }
    }

    /// Resumes it after [`Self::pause`].
    pub fn resume(&self) {
        if let Some(running) = &self.running {
            running.signal("CONT");
        }
    }
}

/// Connects to a Redis, with a timeout for each response.
///
/// # Errors
/// When the server cannot be reached.
pub fn connect(url: &str) -> RedisResult<Connection> {
    let conn = Client::open(url)?.get_connection_with_timeout(COMMAND_TIMEOUT)?;
    conn.set_read_timeout(Some(COMMAND_TIMEOUT))?;
    conn.set_write_timeout(Some(COMMAND_TIMEOUT))?;
    Ok(conn)
}
