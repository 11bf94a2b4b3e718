//! PostgreSQL servers for tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;

use crate::browser::is_root;
use crate::free_port;
use crate::process::{Running, signal};
use crate::programs::postgres_programs;

/// Timeout of a start, including crash recovery.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How PostgreSQL stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Aborts transactions and writes a checkpoint.
    Fast,
    /// Ends at once, like a crash. The next start recovers from the write-ahead log.
    Immediate,
}

/// A temporary PostgreSQL server with full durability. Dropping this stops it and deletes
/// its files.
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    running: Option<Running>,
}

impl Postgres {
    /// Starts a server with default settings and without authentication.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        Self::with(&[], &[])
    }

    /// Starts a server with settings as in `postgresql.conf`, and files (name and content) in
    /// its data directory, such as certificates or `pg_hba.conf`.
    pub fn with(settings: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut postgres = Self::empty();
        postgres.settings = settings.iter().map(owned).collect();
        postgres.initialize();
        for (name, text) in files {
            postgres.put(name, text);
        }
        postgres.start();
        postgres
    }

    /// Creates a stopped server without data.
    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Self {
            folder,
            programs: postgres_programs(),
            port: free_port(),
            settings: Vec::new(),
            running: None,
        };
        hand_over(postgres.folder.path());
        postgres
    }

    /// Starts a standby of `primary` with streaming replication.
    pub fn standby_of(primary: &Self) -> Self {
        let mut standby = Self::empty();
        standby.copy_data_of(primary);
        standby.start();
        standby
    }

    /// Deletes its data and starts it as a standby of `primary`, at the same address.
    pub fn rejoin(&mut self, primary: &Self) {
        self.kill();
        fs::remove_dir_all(self.data()).unwrap();
        self.copy_data_of(primary);
        self.start();
    }

    fn copy_data_of(&self, primary: &Self) {
        let mut copying = self.program("pg_basebackup");
        copying.args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"]);
        copying.args(["--no-sync", "--dbname", &primary.url(), "--pgdata"]).arg(self.data());
        let output = copying.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_basebackup: {log}");
    }

    /// Disconnects this standby from its primary. It gets no more commits.
    pub fn disconnect_from_primary(&self) {
        self.configure("primary_conninfo", "");
        let receivers = "SELECT count(*)::text AS text FROM pg_stat_wal_receiver";
        self.wait_until("is still connected to its primary", || {
            query(&self.url(), receivers) == "0"
        });
    }

    /// Waits until this standby has replayed all commits of `primary`.
    pub fn catch_up(&self, primary: &Self) {
        let committed = query(&primary.url(), "SELECT pg_current_wal_lsn()::text AS text");
        let caught_up = format!("SELECT (pg_last_wal_replay_lsn() >= '{committed}')::text AS text");
        self.wait_until("does not catch up", || query(&self.url(), &caught_up) == "true");
    }

    fn wait_until(&self, problem: &str, is_done: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_done() {
            assert!(started.elapsed() < START_TIMEOUT, "the standby {problem}: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Promotes this standby and waits until it is a primary.
    pub fn promote(&self) {
        assert_eq!(query(&self.url(), "SELECT pg_promote()::text AS text"), "true");
    }

    /// Returns its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the id of its main process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// Returns the URL of the default database.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Creates a database and returns its URL.
    pub fn create(&self, name: &str) -> String {
        let mut conn = PgConnection::establish(&self.url()).unwrap();
        conn.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.url_of(name)
    }

    /// Changes a setting of the running server.
    pub fn configure(&self, name: &str, value: &str) {
        let mut conn = PgConnection::establish(&self.url()).unwrap();
        conn.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).unwrap();
        conn.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    /// Resets a setting of the running server to its default.
    pub fn reset(&self, name: &str) {
        let mut conn = PgConnection::establish(&self.url()).unwrap();
        conn.batch_execute(&format!("ALTER SYSTEM RESET {name}")).unwrap();
        conn.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(&mut self) {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data());
        command.arg("-k").arg(self.folder.path());
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        self.running = Some(Running::start(command));
        let started = Instant::now();
        while !self.is_ready() {
            assert!(started.elapsed() < START_TIMEOUT, "PostgreSQL does not start: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it and waits until it has ended.
    pub fn stop(&mut self, how: Stop) {
        let Some(mut running) = self.running.take() else { return };
        running.signal(match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        });
        running.wait();
    }

    /// Kills all its processes (SIGKILL), also paused ones.
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let children = children(running.id());
        running.kill();
        signal("KILL", &children);
    }

    /// Restarts it with the same address and data.
    pub fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// Pauses all its processes. Their connections stay open.
    pub fn pause(&self) {
        let Some(running) = &self.running else { return };
        // The parent first, so that it starts no more children.
        running.signal("STOP");
        signal("STOP", &children(running.id()));
    }

    /// Resumes it after [`Self::pause`].
    pub fn resume(&self) {
        let Some(running) = &self.running else { return };
        signal("CONT", &children(running.id()));
        running.signal("CONT");
    }

    /// Returns the URL of a database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        self.running.as_ref().map_or_else(String::new, Running::text)
    }

    /// Returns a command for one of its programs.
    fn program(&self, name: &str) -> Command {
        run_by_postgres(&self.programs.join(name))
    }

    fn initialize(&self) {
        let mut initdb = self.program("initdb");
        initdb.arg("--pgdata").arg(self.data());
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]);
        let output = initdb.output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn put(&self, name: &str, text: &str) {
        let file = self.data().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        hand_over(&file);
    }

    fn is_ready(&self) -> bool {
        let mut probe = Command::new(self.programs.join("pg_isready"));
        probe.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).stdout(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.resume();
        self.stop(Stop::Immediate);
    }
}

/// Returns a command for a program. As root, it runs as the user `postgres`: PostgreSQL does
/// not start as root.
pub(crate) fn run_by_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

/// Gives a file or directory to the user of [`run_by_postgres`].
pub(crate) fn hand_over(path: &Path) {
    if is_root() {
        let status = Command::new("chown").arg("postgres:postgres").arg(path).status();
        assert!(status.unwrap().success(), "the user `postgres` exists");
    }
}

/// Runs a query and returns its column `text`.
fn query(url: &str, query: &str) -> String {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        text: String,
    }
    let mut conn = PgConnection::establish(url).unwrap();
    diesel::sql_query(query).get_result::<Row>(&mut conn).unwrap().text
}

/// Returns the children of a process. PostgreSQL has one per connection.
fn children(parent: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let output = output.expect("the program `ps` exists");
    let text = String::from_utf8_lossy(&output.stdout);
    let pairs = text.lines().filter_map(|line| {
        let (child, its_parent) = line.trim().split_once(' ')?;
        Some((child.parse().ok()?, its_parent.trim().parse::<u32>().ok()?))
    });
    pairs.filter(|(_, its_parent)| *its_parent == parent).map(|(child, _)| child).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::children;

    #[test]
    fn the_children_of_a_process_are_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(std::process::id()).contains(&child.id()));
    }
}
