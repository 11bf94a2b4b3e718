//! Two PostgreSQL servers that Patroni manages, with etcd.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::free_port;
use crate::postgres::{hand_over, run_by_postgres};
use crate::process::{Running, signal};
use crate::programs::{postgres_programs, program};

/// Timeout of a start or a failover.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Two PostgreSQL servers with synchronous replication. Patroni decides which is the primary.
/// Dropping this stops them.
pub struct Patroni {
    nodes: Vec<Node>,
    _etcd: Running,
    folder: TempDir,
}

/// A PostgreSQL server and its Patroni.
struct Node {
    postgres: u16,
    /// The port of Patroni's REST API.
    api: u16,
    patroni: Running,
}

impl Patroni {
    /// Starts etcd and both nodes, and waits until the standby is synchronous.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        hand_over(folder.path());
        let etcd = free_port();
        let started = start_etcd(etcd, folder.path());
        let start = |name: &&str| Node::start(folder.path(), name, etcd);
        let nodes = ["one", "two"].iter().map(start).collect();
        let patroni = Self { nodes, _etcd: started, folder };
        patroni.await_standby();
        patroni
    }

    /// Returns the addresses of both PostgreSQL servers.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.postgres)).collect()
    }

    /// Returns the URL of a database on the primary.
    pub fn primary_url(&self, database: &str) -> String {
        let primary = self.nodes.iter().find(|node| node.is_primary());
        let port = primary.expect("there is a primary").postgres;
        format!("postgres://postgres@127.0.0.1:{port}/{database}")
    }

    /// Creates a database.
    pub fn create(&self, name: &str) {
        let mut conn = PgConnection::establish(&self.primary_url("postgres")).unwrap();
        conn.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    }

    /// Has Patroni switch over to the standby, and waits until that accepts writes.
    pub fn switch_over(&self) {
        let former = self.primary_index();
        let name = |node: usize| ["one", "two"][node];
        let body = json!({ "leader": name(former), "candidate": name(1 - former) });
        // Patroni refuses while it does not know the standby as synchronous.
        let node = &self.nodes[former];
        self.wait_until("refuses to switch over", || node.post("/switchover", &body));
        self.await_primary_other_than(former);
    }

    /// Kills the PostgreSQL server that is the primary (SIGKILL), and waits until the other one
    /// accepts writes.
    pub fn kill_primary(&self) {
        let former = self.primary_index();
        let file = self.folder.path().join(["one", "two"][former]).join("postmaster.pid");
        let id = fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap();
        signal("KILL", &[id]);
        self.await_primary_other_than(former);
    }

    /// Waits until the primary has a synchronous standby.
    pub fn await_standby(&self) {
        self.wait_until("has no synchronous standby", || {
            self.nodes.iter().any(Node::is_primary)
                && self.nodes.iter().any(|node| node.has_status("/synchronous", 200))
        });
    }

    fn primary_index(&self) -> usize {
        self.nodes.iter().position(Node::is_primary).expect("there is a primary")
    }

    fn await_primary_other_than(&self, former: usize) {
        let node = &self.nodes[1 - former];
        self.wait_until("does not fail over", || node.is_primary() && node.is_writable());
    }

    fn wait_until(&self, problem: &str, is_done: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_done() {
            let logs = || self.nodes.iter().map(|node| node.patroni.text()).collect::<String>();
            assert!(started.elapsed() < TIMEOUT, "Patroni {problem}: {}", logs());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for (node, name) in self.nodes.iter_mut().zip(["one", "two"]) {
            node.patroni.kill();
            let file = self.folder.path().join(name).join("postmaster.pid");
            let id =
                fs::read_to_string(file).ok().and_then(|text| text.lines().next()?.parse().ok());
            // SIGQUIT: it ends at once, with its children.
            signal("QUIT", &id.into_iter().collect::<Vec<u32>>());
        }
    }
}

impl Node {
    fn start(folder: &Path, name: &str, etcd: u16) -> Self {
        let postgres = free_port();
        let api = free_port();
        let file = folder.join(format!("{name}.json"));
        let settings = settings(folder, name, (postgres, api, etcd));
        // JSON is YAML.
        fs::write(&file, settings.to_string()).unwrap();
        hand_over(&file);
        let mut command = run_by_postgres(
            &program("patroni").expect("patroni is not installed (Debian: patroni)"),
        );
        command.arg(&file).current_dir(folder);
        Self { postgres, api, patroni: Running::start(command) }
    }

    fn is_primary(&self) -> bool {
        self.has_status("/primary", 200)
    }

    fn is_writable(&self) -> bool {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.postgres);
        let conn = PgConnection::establish(&url);
        conn.is_ok_and(|mut conn| conn.batch_execute("SELECT txid_current()").is_ok())
    }

    fn post(&self, path: &str, body: &Value) -> bool {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: \
             {length}\r\n\r\n{body}"
        );
        self.exchange(&request).is_some_and(|response| response.contains(" 200 "))
    }

    fn has_status(&self, path: &str, status: u16) -> bool {
        let response = self.exchange(&format!("GET {path} HTTP/1.0\r\n\r\n"));
        let status = format!(" {status} ");
        response.and_then(|text| Some(text.lines().next()?.contains(&status))).unwrap_or(false)
    }

    fn exchange(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api)).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    }
}

fn settings(folder: &Path, name: &str, (postgres, api, etcd): (u16, u16, u16)) -> Value {
    let local = |port: u16| format!("127.0.0.1:{port}");
    let user = |name: &str| json!({ "username": name, "password": "unused" });
    json!({
        "scope": "matchbook",
        "name": name,
        "restapi": { "listen": local(api), "connect_address": local(api) },
        "etcd3": { "host": local(etcd) },
        "bootstrap": {
            "dcs": {
                "ttl": 20,
                "loop_wait": 1,
                "retry_timeout": 3,
                // A primary that has crashed is replaced, and not restarted.
                "primary_start_timeout": 0,
                "synchronous_mode": true,
                "postgresql": { "use_pg_rewind": true },
            },
            "initdb": [{ "encoding": "UTF8" }, { "auth": "trust" }, "data-checksums"],
            "pg_hba": [
                "host all all 127.0.0.1/32 trust",
                "host replication all 127.0.0.1/32 trust",
                "local all all trust",
            ],
        },
        "postgresql": {
            "listen": local(postgres),
            "connect_address": local(postgres),
            "data_dir": folder.join(name),
            "bin_dir": postgres_programs(),
            "pgpass": folder.join(format!("{name}.pgpass")),
            "authentication": {
                "superuser": user("postgres"),
                "replication": user("replicator"),
                "rewind": user("rewind"),
            },
            "parameters": { "unix_socket_directories": folder },
        },
    })
}

fn start_etcd(port: u16, folder: &Path) -> Running {
    let program = program("etcd").expect("etcd is not installed (Debian: etcd-server)");
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port());
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
    let running = Running::start(command);
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < TIMEOUT, "etcd does not start: {}", running.text());
        thread::sleep(Duration::from_millis(20));
    }
    running
}
