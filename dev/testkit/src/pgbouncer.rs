//! PgBouncer for tests: a pooler in transaction mode.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use diesel::{Connection, PgConnection};
use tempfile::TempDir;

use crate::browser::is_root;
use crate::free_port;
use crate::process::Running;
use crate::programs::program;

/// Timeout of a start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A pooler in transaction mode, which passes no settings of connections on. Dropping this
/// stops it.
pub struct PgBouncer {
    _folder: TempDir,
    _running: Running,
    port: u16,
}

impl PgBouncer {
    /// Starts a pooler with at most `pool_size` connections of each role to a PostgreSQL server
    /// at `address`, without authentication. It needs PgBouncer 1.21 or newer.
    pub fn new(address: &str, roles: &[&str], pool_size: u32) -> Self {
        let (host, server_port) = address.split_once(':').unwrap();
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let roles: Vec<String> = roles.iter().map(|role| format!("\"{role}\" \"\"")).collect();
        let users = folder.path().join("users.txt");
        fs::write(&users, roles.join("\n")).unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {pool_size}\nmax_prepared_statements = 200\n",
            users.display()
        );
        fs::write(&config, text).unwrap();
        let path = program("pgbouncer").expect("pgbouncer is on PATH");
        let mut command = Command::new(&path);
        if is_root() {
            // PgBouncer does not start as root.
            for (file, mode) in [(folder.path(), 0o755), (&users, 0o644), (&config, 0o644)] {
                fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            }
            command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(path);
        }
        command.arg(config);
        let running = Running::start(command);
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let started = Instant::now();
        while PgConnection::establish(&url).is_err() {
            assert!(started.elapsed() < START_TIMEOUT, "PgBouncer: {}", running.text());
            thread::sleep(Duration::from_millis(20));
        }
        Self { _folder: folder, _running: running, port }
    }

    /// Returns the URL of a database for a role.
    pub fn url_of(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }
}
