//! A PostgreSQL server of a test's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;

use crate::free_port;
use crate::process::{Running, signal};
use crate::programs::postgres_programs;

/// How long a start may take, with a recovery from a crash.
const PATIENCE: Duration = Duration::from_secs(60);

/// How PostgreSQL stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends what runs, writes all down, goes.
    Fast,
    /// Goes at once, as in a crash: the next start recovers from its log.
    Immediate,
}

/// A throwaway PostgreSQL server, as durable as one in earnest: what it
/// acknowledged is there after any restart. It goes, with its files, when it is
/// dropped.
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    /// Whether root starts it, which PostgreSQL refuses to run as.
    by_root: bool,
    port: u16,
    settings: Vec<(String, String)>,
    running: Option<Running>,
}

impl Postgres {
    /// With the settings of a new installation; whoever reaches it may do all.
    #[expect(clippy::new_without_default, reason = "it does things, and may panic")]
    pub fn new() -> Self {
        Self::with(&[], &[])
    }

    /// With settings as in `postgresql.conf`, and files (a name, what is in it)
    /// in its data folder, such as certificates or another `pg_hba.conf`, which
    /// it alone may read.
    pub fn with(settings: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut postgres = Self::empty();
        postgres.settings = settings.iter().map(owned).collect();
        postgres.initialise();
        for (name, text) in files {
            postgres.put(name, text);
        }
        postgres.start();
        postgres
    }

    /// Without data, and stopped.
    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Self {
            by_root: fs::metadata(folder.path()).unwrap().uid() == 0,
            folder,
            programs: postgres_programs(),
            port: free_port(),
            settings: Vec::new(),
            running: None,
        };
        postgres.hand_over(postgres.folder.path());
        postgres
    }

    /// A standby of `primary`, which follows it by streaming replication.
    pub fn standby_of(primary: &Self) -> Self {
        let mut standby = Self::empty();
        let mut copying = standby.program("pg_basebackup");
        copying.args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"]);
        copying.args(["--no-sync", "--dbname", &primary.url(), "--pgdata"]).arg(standby.data());
        let output = copying.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_basebackup: {said}");
        standby.start();
        standby
    }

    /// Waits until this standby has all that `primary` has committed so far.
    pub fn catch_up(&self, primary: &Self) {
        let committed = query(&primary.url(), "SELECT pg_current_wal_lsn()::text AS text");
        let asking = format!("SELECT (pg_last_wal_replay_lsn() >= '{committed}')::text AS text");
        let started = Instant::now();
        while query(&self.url(), &asking) != "true" {
            assert!(started.elapsed() < PATIENCE, "the standby does not follow: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes this standby a primary, and waits until it is one.
    pub fn promote(&self) {
        assert_eq!(query(&self.url(), "SELECT pg_promote()::text AS text"), "true");
    }

    /// The address that it listens on.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process id of the parent of all its processes, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// The URL of the database that is always there.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Creates a database: its URL.
    pub fn create(&self, name: &str) -> String {
        let mut conn = PgConnection::establish(&self.url()).unwrap();
        conn.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.url_of(name)
    }

    /// Changes a setting while it runs.
    pub fn configure(&self, name: &str, value: &str) {
        let mut conn = PgConnection::establish(&self.url()).unwrap();
        conn.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).unwrap();
        conn.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    /// Starts it where it is stopped, and waits until it takes connections.
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
            assert!(started.elapsed() < PATIENCE, "PostgreSQL does not start: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it and waits until it has.
    pub fn stop(&mut self, how: Stop) {
        let Some(mut running) = self.running.take() else { return };
        running.signal(match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        });
        running.wait();
    }

    /// Stops it and starts it again at the same place, with all that it holds.
    pub fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// Stops all its processes where they stand, with their connections open.
    pub fn freeze(&self) {
        let Some(running) = &self.running else { return };
        // The parent first, so that it has no more children meanwhile.
        running.signal("STOP");
        signal("STOP", &children(running.id()));
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        let Some(running) = &self.running else { return };
        signal("CONT", &children(running.id()));
        running.signal("CONT");
    }

    /// The URL of a database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        self.running.as_ref().map_or_else(String::new, Running::text)
    }

    /// One of its programs, as the user that its package made where root starts it.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !self.by_root {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
        command
    }

    fn initialise(&self) {
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
        self.hand_over(&file);
    }

    /// Makes a file or folder the server's own.
    fn hand_over(&self, path: &Path) {
        if self.by_root {
            let status = Command::new("chown").arg("postgres:postgres").arg(path).status();
            assert!(status.unwrap().success(), "the user `postgres` is there");
        }
    }

    fn is_ready(&self) -> bool {
        let mut asking = Command::new(self.programs.join("pg_isready"));
        asking.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).stdout(Stdio::null());
        asking.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        self.stop(Stop::Immediate);
    }
}

/// What a query answers as `text`.
fn query(url: &str, query: &str) -> String {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        text: String,
    }
    let mut conn = PgConnection::establish(url).unwrap();
    diesel::sql_query(query).get_result::<Row>(&mut conn).unwrap().text
}

/// The children of a process, which PostgreSQL has one of for each connection.
fn children(parent: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let output = output.expect("the program `ps` is there");
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
