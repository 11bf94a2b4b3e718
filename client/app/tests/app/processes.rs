//! Processes that share one token file and are killed at random times.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use actix_rt::System;
use matchbook_client::{Client, Credentials, FileStore, RootCerts, Server};
use matchbook_testkit::{ProcessBuilder, Reaction, ScriptedServer, TestEnv};
use uuid::Uuid;

use super::support::{client_binary, server_binary};

/// The timeout of expected events, long enough for a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of concurrent processes.
const PROCESSES: usize = 8;

/// The exit code of `get` after the end of the session.
const LOGGED_OUT: i32 = 3;
/// The exit code of `get` after an error that a retry may resolve.
const TRANSIENT: i32 = 4;

/// Returns the number of rounds of a test: `MATCHBOOK_KILL_ROUNDS`, or the default.
fn rounds(default: usize) -> usize {
    std::env::var("MATCHBOOK_KILL_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

/// Returns a random duration below `limit`.
fn random_duration(limit: Duration) -> Duration {
    let fraction = u32::try_from(Uuid::new_v4().as_u128() % 10_000).unwrap();
    limit * fraction / 10_000
}

/// Returns the client settings for a scripted server.
fn server_at(script: &ScriptedServer) -> Server {
    Server::new(script.origin(), &RootCerts::System, Duration::from_secs(10)).unwrap()
}

/// The commands of the client app with one token file.
struct Commands {
    builder: ProcessBuilder,
}

impl Commands {
    fn new(folder: &Path, url: &str, ca: &str, file: &Path) -> Self {
        let settings = format!("[server]\nca_file = '{ca}'");
        std::fs::write(folder.join("matchbook-client.toml"), settings).unwrap();
        let builder = ProcessBuilder::new(client_binary(), folder, "MATCHBOOK_CLIENT")
            .set("server.url", url)
            .set("store.path", file.to_str().unwrap());
        Self { builder }
    }

    fn get(&self) -> Command {
        let mut command = self.builder.command();
        command.args(["get", "/user"]).stdin(Stdio::null());
        command
    }

    /// Starts `get` without reading its output.
    fn spawn(&self) -> KillOnDrop {
        let mut command = self.get();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        KillOnDrop(command.spawn().unwrap())
    }

    /// Runs `get`. Returns its exit code and standard error.
    fn complete(&self) -> (Option<i32>, String) {
        let output = self.get().output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    }

    /// Runs `get`, and retries while it fails with a transient error.
    fn complete_with_retries(&self) -> (Option<i32>, String) {
        let start = Instant::now();
        loop {
            let (code, stderr) = self.complete();
            if code != Some(TRANSIENT) {
                return (code, stderr);
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "timeout: {stderr}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs one `get` after another until `deadline`. Each is killed after a random time below
    /// `limit`, unless it has exited. Returns the number of killed processes.
    fn kill_until(&self, deadline: Instant, limit: Duration) -> usize {
        let mut killed = 0;
        while Instant::now() < deadline {
            let mut process = self.spawn();
            let kill_at = Instant::now() + random_duration(limit);
            let code = loop {
                if let Some(status) = process.0.try_wait().unwrap() {
                    break status.code();
                }
                if Instant::now() >= kill_at {
                    process.0.kill().unwrap();
                    break process.0.wait().unwrap().code();
                }
                thread::sleep(Duration::from_millis(1));
            };
            assert_ne!(code, Some(LOGGED_OUT), "a process was logged out");
            assert!(matches!(code, None | Some(0 | TRANSIENT)), "{code:?}");
            killed += usize::from(code.is_none());
        }
        killed
    }
}

/// A process that is killed when this is dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // An error means that the process has exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn credentials_in(file: &Path) -> Credentials {
    Credentials::builder().store(FileStore::new(file)).build()
}

/// Kills processes that use a real server. Asserts that the server detects no reuse and that
/// the session remains usable.
fn assert_killed_processes_stay_logged_in(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) {
    let env = TestEnv::new();
    // Expiry is in whole seconds: a new token with a lifetime of 1 s may expire at once.
    let builder = env.server(&server_binary()).set("tokens.access_lifetime", "2s");
    let server = settings(builder).start();
    let ca = env.folder().join("data/tls/ca.pem");
    let file = env.folder().join("tokens");
    System::new().block_on(async {
        let trust = RootCerts::File(ca.clone());
        let server = Server::new(server.url(), &trust, Duration::from_secs(10)).unwrap();
        Client::new(&server, credentials_in(&file)).log_in_as_guest().await.unwrap();
    });
    let commands = Commands::new(env.folder(), server.url(), ca.to_str().unwrap(), &file);
    let (code, stderr) = commands.complete();
    assert_eq!(code, Some(0), "{stderr}");

    // A round is the lifetime of an access token.
    let deadline = Instant::now() + Duration::from_secs(2) * u32::try_from(rounds(10)).unwrap();
    let killed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                let count = commands.kill_until(deadline, Duration::from_millis(400));
                killed.fetch_add(count, Ordering::SeqCst);
            });
        }
    });
    assert!(killed.into_inner() > 0, "no process was killed");
    let (code, stderr) = commands.complete_with_retries();
    assert_eq!(code, Some(0), "the session is still usable: {stderr}");
    assert_eq!(server.logged("refresh token reused"), 0, "{}", server.log());
    assert_eq!(server.logged("refresh rejected"), 0, "{}", server.log());
    assert_eq!(server.logged("session opened"), 1);
}

#[test]
fn killed_processes_stay_logged_in() {
    assert_killed_processes_stay_logged_in(|server| server);
}

#[test]
fn killed_processes_stay_logged_in_with_same_key_only() {
    assert_killed_processes_stay_logged_in(|server| {
        server.set("rotation.same_key_only", "true").set("rotation.grace_period", "1s")
    });
}

/// Returns a scripted server, which rotates strictly, and commands whose token file has a
/// session of it.
fn scripted() -> (ScriptedServer, tempfile::TempDir, PathBuf, Commands) {
    let script = ScriptedServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    System::new().block_on(async {
        let client = Client::new(&server_at(&script), credentials_in(&file));
        client.log_in_with(script.log_in()).await.unwrap();
    });
    let commands = Commands::new(folder.path(), script.origin(), "", &file);
    (script, folder, file, commands)
}

#[test]
fn refresh_of_a_killed_process_is_retried_with_the_same_key() {
    let (script, _folder, _file, commands) = scripted();
    for round in 1..=rounds(10) {
        script.expire();
        script.on("/refresh", [Reaction::Serve.held()]);
        let process = commands.spawn();
        System::new().block_on(script.until_received("/refresh", 2 * round - 1));
        drop(process);
        // The server processes the request after the client was killed.
        script.release();
        let (code, stderr) = commands.complete_with_retries();
        assert_eq!(code, Some(0), "{stderr}");
        let requests = script.received("/refresh");
        assert_eq!(
            requests.len(),
            2 * round,
            "the killed process and the next one send one request each"
        );
        assert!(requests[2 * round - 2].key().is_some());
        assert_eq!(requests[2 * round - 2].key(), requests[2 * round - 1].key());
        assert_eq!((script.rotations(), script.reuses()), (round, 0));
    }
}

#[test]
fn killed_processes_rotate_once_per_expiry() {
    let (script, _folder, _file, commands) = scripted();
    let mut killed = 0;
    for round in 1..=rounds(12) {
        script.expire();
        if round % 3 == 0 {
            script.on("/refresh", [Reaction::DropConnection]);
        }
        let deadline = Instant::now() + Duration::from_millis(200);
        killed += thread::scope(|scope| {
            let processes = (0..PROCESSES)
                .map(|_| scope.spawn(|| commands.kill_until(deadline, Duration::from_millis(150))));
            let processes: Vec<_> = processes.collect();
            processes.into_iter().map(|process| process.join().unwrap()).sum::<usize>()
        });
        let (code, stderr) = commands.complete_with_retries();
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!((script.rotations(), script.reuses()), (round, 0), "one rotation per expiry");
    }
    assert!(killed > 0, "no process was killed");
}

/// Sends a request with the library, and cancels it after `timeout`.
fn cancel_request(server: &Server, file: &Path, timeout: Duration) {
    System::new().block_on(async {
        let client = Client::new(server, credentials_in(file));
        let outcome = actix_rt::time::timeout(timeout, client.get("/user").send()).await;
        let Ok(Err(error)) = outcome else { return };
        let is_transient = matches!(error, matchbook_client::Error::Transient { .. });
        assert!(is_transient, "{error:?}");
    });
}

#[test]
fn canceled_requests_rotate_once_per_expiry() {
    let (script, _folder, file, _commands) = scripted();
    let server = server_at(&script);
    for round in 1..=rounds(12) {
        script.expire();
        if round % 3 == 0 {
            script.on("/refresh", [Reaction::DropConnection, Reaction::TruncateBody]);
        }
        thread::scope(|scope| {
            for _ in 0..PROCESSES {
                scope.spawn(|| {
                    cancel_request(&server, &file, random_duration(Duration::from_millis(40)));
                });
            }
        });
        System::new().block_on(async {
            let client = Client::new(&server, credentials_in(&file));
            let start = Instant::now();
            let status = loop {
                match client.get("/user").send().await {
                    Ok(response) => break response.status(),
                    Err(matchbook_client::Error::Transient { problem, .. }) => {
                        assert!(start.elapsed() < TEST_TIMEOUT, "{problem}");
                        actix_rt::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(status, 200);
        });
        assert_eq!((script.rotations(), script.reuses()), (round, 0));
        let requests = script.received("/refresh");
        let mut keys: Vec<_> = requests.iter().map(|request| request.key().unwrap()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), round, "one key per rotation");
    }
}

#[test]
fn a_command_at_log_level_trace_logs_no_token() {
    let script = ScriptedServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    System::new().block_on(async {
        Client::new(&server_at(&script), credentials_in(&file)).log_in_as_guest().await.unwrap();
    });
    script.expire();
    let settings = folder.path().join("matchbook-client.toml");
    std::fs::write(settings, "[server]\nca_file = ''").unwrap();
    let output = Command::new(client_binary())
        .current_dir(folder.path())
        .env("MATCHBOOK_CLIENT__SERVER__URL", script.origin())
        .env("MATCHBOOK_CLIENT__STORE__PATH", &file)
        .env("MATCHBOOK_CLIENT__LOG__LEVEL", "trace")
        .args(["get", "/user"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("/refresh"), "requests are logged:\n{log}");
    assert_eq!(script.refreshes(), 1);
    assert!(!log.contains(ScriptedServer::SECRET), "{log}");
}
