//! A server or client as a process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long to wait for what should happen soon, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process to be: a binary and its settings.
#[derive(Clone)]
pub struct Launch {
    binary: PathBuf,
    folder: PathBuf,
    prefix: &'static str,
    environment: BTreeMap<String, String>,
}

impl Launch {
    /// `binary`, run in `folder`, its settings under `prefix`. Nothing of the
    /// caller's environment reaches it but `PATH`.
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

    /// The command, for a test that wants more of it than the rest here gives.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).env_clear().envs(&self.environment);
        command
    }

    /// Runs it with `arguments` until it ends.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Starts it and waits until it listens.
    pub fn start(&self) -> Process {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let log = Log::default();
        let stderr = child.stderr.take().unwrap();
        let follower = log.follow(stderr);
        let stdout = Log::default();
        stdout.follow(child.stdout.take().unwrap());
        let mut process = Process { child, log, follower: Some(follower), url: String::new() };
        let started = Instant::now();
        loop {
            if let Some(line) = stdout.find(Duration::from_millis(100), " listens on ") {
                line.rsplit(' ').next().unwrap().clone_into(&mut process.url);
                return process;
            }
            let ended = process.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "{} does not listen ({ended:?}):\n{}",
                self.binary.display(),
                process.log.text()
            );
        }
    }
}

/// A process that listens. It is killed when this is dropped.
pub struct Process {
    child: Child,
    log: Log,
    follower: Option<JoinHandle<()>>,
    url: String,
}

impl Process {
    /// Where it says that it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How many lines of its log so far hold `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line of its log that holds `text`.
    pub fn await_log(&self, text: &str) -> String {
        let found = self.log.find(PATIENCE, text);
        found.unwrap_or_else(|| panic!("never logged: {text}\n{}", self.log.text()))
    }

    /// Asks it to stop (SIGTERM) and waits until it has. Its log is whole then.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(follower) = self.follower.take() {
                    follower.join().unwrap();
                }
                return status;
            }
            assert!(asked.elapsed() < PATIENCE, "it does not stop:\n{}", self.log.text());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, as they come.
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

    fn find(&self, patience: Duration, text: &str) -> Option<String> {
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let lines = self.0.0.lock().unwrap();
        let (lines, _) = self.0.1.wait_timeout_while(lines, patience, missing).unwrap();
        lines.iter().find(|line| line.contains(text)).cloned()
    }
}
