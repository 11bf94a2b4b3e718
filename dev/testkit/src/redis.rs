//! A Redis server of a test's own.

use std::process::Command;
use std::time::{Duration, Instant};

use redis::{Client, Connection, InfoDict, RedisResult};
use tempfile::TempDir;

use crate::free_port;
use crate::process::Running;
use crate::programs::program;

/// How long an order to it may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a replica may take to have everything.
const CATCH_UP: Duration = Duration::from_secs(60);

/// A throwaway Redis server that keeps nothing: each start is an empty one. It
/// goes when it is dropped.
pub struct Redis {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Redis {
    /// Plain, on a free port.
    #[expect(clippy::new_without_default, reason = "it does things, and may panic")]
    pub fn new() -> Self {
        Self::with(|_| Vec::new())
    }

    /// With arguments for `redis-server` beside those here, over which they win.
    /// They are told the port, which TLS wants for itself.
    pub fn with(arguments: impl FnOnce(u16) -> Vec<String>) -> Self {
        let port = free_port();
        let arguments = arguments(port);
        let mut redis =
            Self { folder: tempfile::tempdir().unwrap(), port, arguments, running: None };
        redis.start();
        redis
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// Its URL, without TLS or password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it, empty, where it is stopped, and waits until it takes
    /// connections.
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

    /// Stops it and waits until it has.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.signal("TERM");
            running.wait();
        }
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// Empties it (`FLUSHALL`).
    ///
    /// # Panics
    /// When it does not answer.
    pub fn flush(&self) {
        let mut conn = connect(&self.url()).unwrap();
        redis::cmd("FLUSHALL").exec(&mut conn).unwrap();
    }

    /// Makes it a replica of `primary`, and waits until it has all that is there.
    ///
    /// # Panics
    /// When it does not respond, or does not catch up within a minute.
    pub fn replicate(&self, primary: &Self) {
        // It would wait for more replicas first.
        let mut eager = redis::cmd("CONFIG");
        eager.arg(&["SET", "repl-diskless-sync-delay", "0"]);
        eager.exec(&mut connect(&primary.url()).unwrap()).unwrap();
        let mut conn = connect(&self.url()).unwrap();
        let mut order = redis::cmd("REPLICAOF");
        order.arg("127.0.0.1").arg(primary.port).exec(&mut conn).unwrap();
        let since = Instant::now();
        loop {
            let info: InfoDict = redis::cmd("INFO").query(&mut conn).unwrap();
            if info.get("master_link_status") == Some("up".to_owned()) {
                return;
            }
            assert!(since.elapsed() < CATCH_UP, "the replica does not catch up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Makes a replica a primary.
    ///
    /// # Panics
    /// When it does not respond.
    pub fn promote(&self) {
        let mut conn = connect(&self.url()).unwrap();
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut conn).unwrap();
    }

    /// Stops it where it stands, with its connections open.
    pub fn freeze(&self) {
        if let Some(running) = &self.running {
            running.signal("STOP");
        }
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
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
    let conn = Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
    conn.set_read_timeout(Some(PATIENCE))?;
    conn.set_write_timeout(Some(PATIENCE))?;
    Ok(conn)
}
