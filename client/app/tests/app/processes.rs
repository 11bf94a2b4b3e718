//! Processes that share one token file and are killed at any time.

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

/// Timeout for expected events, long enough for a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of concurrent processes.
const PROCESSES: usize = 8;

/// Exit codes of `get`.
const LOGGED_OUT: i32 = 3;

const TRANSIENT: i32 = 4;

/// Returns the number of generations of a test: `MATCHBOOK_KILL_ROUNDS`, or the default.
fn rounds(default: usize) -> usize {
    std::env::var("MATCHBOOK_KILL_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

/// Returns a random duration below the limit.
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

    /// Runs `get` until its failure is not temporary.
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

    /// Runs one `get` after another until `over`. Each is killed at a random time unless
    /// it ends before. Returns the number of killed processes.
    fn kill_repeatedly_until(&self, over: impl Fn() -> bool, at_most: Duration) -> usize {
        let mut killed = 0;
        while !over() {
            let mut process = self.spawn();
            let kill_at = Instant::now() + random_duration(at_most);
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
        // Fails if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn credentials_in(file: &Path) -> Credentials {
    Credentials::builder().store(FileStore::new(file)).build()
}

/// Kills processes that use the real server. Checks that the server detects no reuse.
fn kill_processes_of_a_server(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) {
    let env = TestEnv::new();
    // Expiry is in whole seconds: with a lifetime of 1 s, a new token may expire at once.
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

    // A generation lasts about as long as an access token.
    let ends = Instant::now() + Duration::from_secs(2) * u32::try_from(rounds(10)).unwrap();
    let killed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                let over = || Instant::now() >= ends;
                let some = commands.kill_repeatedly_until(over, Duration::from_millis(400));
                killed.fetch_add(some, Ordering::SeqCst);
            });
        }
    });
    assert!(killed.into_inner() > 0, "nothing was killed");
    let (code, stderr) = commands.complete_with_retries();
    assert_eq!(code, Some(0), "the session is still usable: {stderr}");
    assert_eq!(server.logged("refresh token reused"), 0, "{}", server.log());
    assert_eq!(server.logged("refresh rejected"), 0, "{}", server.log());
    assert_eq!(server.logged("session opened"), 1);
}

#[test]
fn killed_processes_lose_no_session() {
    kill_processes_of_a_server(|server| server);
}

#[test]
fn killed_processes_lose_no_session_when_only_the_same_key_may_repeat_a_refresh() {
    kill_processes_of_a_server(|server| {
        server.set("rotation.same_key_only", "true").set("rotation.grace_period", "1s")
    });
}

/// A scripted server with strict rotation, and the commands with a logged-in token file.
fn scripted() -> (ScriptedServer, tempfile::TempDir, PathBuf, Commands) {
    let script = ScriptedServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    System::new().block_on(async {
        let session = Client::new(&server_at(&script), credentials_in(&file));
        session.log_in_with(script.log_in()).await.unwrap();
    });
    let commands = Commands::new(folder.path(), script.origin(), "", &file);
    (script, folder, file, commands)
}

#[test]
fn a_process_killed_during_a_refresh_is_continued_by_the_next_with_the_same_key() {
    let (script, _folder, _file, commands) = scripted();
    for round in 1..=rounds(10) {
        script.expire();
        script.on("/refresh", [Reaction::Serve.held()]);
        let process = commands.spawn();
        System::new().block_on(script.until_received("/refresh", 2 * round - 1));
        drop(process);
        // The server processes the request after the client has died.
        script.release();
        let (code, stderr) = commands.complete_with_retries();
        assert_eq!(code, Some(0), "{stderr}");
        let requests = script.received("/refresh");
        assert_eq!(requests.len(), 2 * round, "one of the killed process, one of the next");
        assert!(requests[2 * round - 2].key().is_some());
        assert_eq!(requests[2 * round - 2].key(), requests[2 * round - 1].key());
        assert_eq!((script.rotations(), script.reuses()), (round, 0));
    }
}

#[test]
fn killed_processes_get_one_grant_per_generation() {
    let (script, _folder, _file, commands) = scripted();
    let mut killed = 0;
    for round in 1..=rounds(12) {
        script.expire();
        if round % 3 == 0 {
            script.on("/refresh", [Reaction::DropConnection]);
        }
        let ends = Instant::now() + Duration::from_millis(200);
        let over = || Instant::now() >= ends;
        killed += thread::scope(|scope| {
            let processes = (0..PROCESSES).map(|_| {
                scope.spawn(|| commands.kill_repeatedly_until(over, Duration::from_millis(150)))
            });
            let processes: Vec<_> = processes.collect();
            processes.into_iter().map(|process| process.join().unwrap()).sum::<usize>()
        });
        let (code, stderr) = commands.complete_with_retries();
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!((script.rotations(), script.reuses()), (round, 0), "one grant per generation");
    }
    assert!(killed > 0, "nothing was killed");
}

/// Sends a request with the library and cancels it after this time.
fn cancel_request(server: &Server, file: &Path, after: Duration) {
    let session = |credential| Client::new(server, credential);
    System::new().block_on(async {
        let session = session(credentials_in(file));
        let outcome = actix_rt::time::timeout(after, session.get("/user").send()).await;
        let Ok(Err(error)) = outcome else { return };
        let transient = matches!(error, matchbook_client::Error::Transient { .. });
        assert!(transient, "{error:?}");
    });
}

#[test]
fn canceled_library_calls_get_one_grant_per_generation() {
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
            let session = Client::new(&server, credentials_in(&file));
            let start = Instant::now();
            let status = loop {
                match session.get("/user").send().await {
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
        assert_eq!(keys.len(), round, "one key for each generation");
    }
}

#[test]
fn a_command_at_log_level_trace_logs_no_token() {
    let script = ScriptedServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    System::new().block_on(async {
        let credential = Credentials::builder().store(FileStore::new(&file)).build();
        Client::new(&server_at(&script), credential).log_in_as_guest().await.unwrap();
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
