//! Processes of servers and clients.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Timeout for starts, stops and log lines, long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A binary and its settings.
#[derive(Clone)]
pub struct ProcessBuilder {
    binary: PathBuf,
    folder: PathBuf,
    prefix: &'static str,
    environment: BTreeMap<String, String>,
}

impl ProcessBuilder {
    /// Configures `binary` in `folder`, with settings under `prefix`. The process inherits
    /// only `PATH` from the environment.
    pub fn new(binary: &Path, folder: &Path, prefix: &'static str) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            prefix,
            environment: [("PATH".to_owned(), path)].into(),
        }
    }

    /// Sets a setting by its dotted name.
    #[must_use]
    pub fn set(self, key: &str, value: &str) -> Self {
        let name = format!("{}__{}", self.prefix, key.replace('.', "__").to_uppercase());
        self.variable(&name, value)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Returns the command, for tests that need more control.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).env_clear().envs(&self.environment);
        command
    }

    /// Runs it with `arguments` and waits until it ends.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let id = child.id();
        let (ended, wait) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            let late = wait.recv_timeout(TIMEOUT) == Err(RecvTimeoutError::Timeout);
            if late {
                signal("KILL", &[id]);
            }
            late
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!watchdog.join().unwrap(), "timeout: the process does not end:\n{log}");
        output
    }

    /// Starts it and waits until it listens.
    pub fn start(&self) -> Process {
        let mut running = Running::start(self.command());
        let line = running.await_line(" listens on ");
        let url = line.rsplit(' ').next().unwrap().to_owned();
        Process { running, url }
    }
}

/// A listening process. Dropping this kills it.
pub struct Process {
    running: Running,
    url: String,
}

impl Process {
    /// Returns its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.running.log.text()
    }

    /// Returns the number of log lines that contain `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits for a log line that contains `text`.
    pub fn await_log(&self, text: &str) -> String {
        let found = self.running.log.find(TIMEOUT, text);
        found.unwrap_or_else(|| panic!("never logged: {text}\n{}", self.log()))
    }

    /// Stops it (SIGTERM) and waits until it has ended. Its log is complete then.
    pub fn stop(&mut self) -> ExitStatus {
        self.running.signal("TERM");
        self.running.wait()
    }

    /// Sends it SIGTERM.
    pub fn send_sigterm(&self) {
        self.running.signal("TERM");
    }

    /// Sends it SIGINT.
    pub fn send_sigint(&self) {
        self.running.signal("INT");
    }

    /// Waits until it has ended. Its log is complete then.
    pub fn wait(&mut self) -> ExitStatus {
        self.running.wait()
    }

    /// Kills it (SIGKILL) and waits until it has ended. Its log is complete then.
    pub fn kill(&mut self) {
        self.running.kill();
        self.running.wait();
    }

    /// Pauses it (SIGSTOP). Its connections stay open.
    pub fn pause(&self) {
        self.running.signal("STOP");
    }

    /// Sends it SIGHUP.
    pub fn send_sighup(&self) {
        self.running.signal("HUP");
    }

    /// Resumes it after [`Self::pause`].
    pub fn resume(&self) {
        self.running.signal("CONT");
    }
}

/// A child process and its output. Dropping this kills it.
pub(crate) struct Running {
    child: Child,
    name: String,
    out: Log,
    log: Log,
    followers: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let out = Log::default();
        let log = Log::default();
        let followers = vec![
            out.follow(child.stdout.take().unwrap()),
            log.follow(child.stderr.take().unwrap()),
        ];
        Self { child, name, out, log, followers }
    }

    /// Waits for a line with `text` on its standard output. Panics if it ends.
    pub(crate) fn await_line(&mut self, text: &str) -> String {
        let started = Instant::now();
        loop {
            if let Some(line) = self.out.find(Duration::from_millis(100), text) {
                return line;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < TIMEOUT,
                "{} does not listen ({ended:?}):\n{}",
                self.name,
                self.text()
            );
        }
    }

    /// Returns its output so far.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.out.text(), self.log.text())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, &[self.id()]);
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended. Its output is complete then.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                for follower in self.followers.drain(..) {
                    follower.join().unwrap();
                }
                return status;
            }
            assert!(
                started.elapsed() < TIMEOUT,
                "timeout: the process does not stop:\n{}",
                self.log.text()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to processes. Ignores processes that have ended.
pub(crate) fn signal(name: &str, ids: &[u32]) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(ids.iter().map(u32::to_string)).stderr(Stdio::null());
    kill.status().expect("the program `kill` exists");
}

/// The lines of a stream.
#[derive(Clone, Default)]
struct Log(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Log {
    fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.0.0.lock().unwrap().push(line);
                log.0.1.notify_all();
            }
        })
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().join("\n")
    }

    fn find(&self, timeout: Duration, text: &str) -> Option<String> {
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let lines = self.0.0.lock().unwrap();
        let (lines, _) = self.0.1.wait_timeout_while(lines, timeout, missing).unwrap();
        lines.iter().find(|line| line.contains(text)).cloned()
    }
}
