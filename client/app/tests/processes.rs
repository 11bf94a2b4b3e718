//! Many processes that share one file of tokens, and are killed at any moment.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use actix_rt::System;
use matchbook_client::{Client, Credentials, FileStore, RootCerts, Server};
use matchbook_testkit::{ProcessBuilder, Reaction, ScriptedServer, TestEnv};
use uuid::Uuid;

/// The longest wait for an expected event, also on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How many processes there are at once.
const PROCESSES: usize = 8;

/// What `get` says of itself by its exit code.
const LOGGED_OUT: i32 = 3;
const TRANSIENT: i32 = 4;

/// How many generations a test goes through: `MATCHBOOK_KILL_ROUNDS`, or a few.
fn rounds(few: usize) -> usize {
    std::env::var("MATCHBOOK_KILL_ROUNDS").map_or(few, |rounds| rounds.parse().unwrap())
}

/// Any length of time below this.
fn any(below: Duration) -> Duration {
    let dice = u32::try_from(Uuid::new_v4().as_u128() % 10_000).unwrap();
    below * dice / 10_000
}

/// The settings of the client for a scripted server.
fn server_at(script: &ScriptedServer) -> Server {
    Server::new(script.origin(), &RootCerts::System, Duration::from_secs(10)).unwrap()
}

/// The commands of the client on one file of tokens.
struct Commands {
    launch: ProcessBuilder,
}

impl Commands {
    fn new(folder: &Path, url: &str, ca: &str, file: &Path) -> Self {
        let settings = format!("[server]\nca_file = '{ca}'");
        std::fs::write(folder.join("matchbook-client.toml"), settings).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
        let launch = ProcessBuilder::new(binary, folder, "MATCHBOOK_CLIENT")
            .set("server.url", url)
            .set("store.path", file.to_str().unwrap());
        Self { launch }
    }

    fn get(&self) -> Command {
        let mut command = self.launch.command();
        command.args(["get", "/user"]).stdin(Stdio::null());
        command
    }

    /// `get`, begun and not looked at.
    fn begin(&self) -> Killed {
        let mut command = self.get();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Killed(command.spawn().unwrap())
    }

    /// `get`, to its end: the exit code, and what it said.
    fn complete(&self) -> (Option<i32>, String) {
        let output = self.get().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }

    /// `get`, again for as long as it says that it may work later.
    fn complete_in_the_end(&self) -> (Option<i32>, String) {
        let began = Instant::now();
        loop {
            let (code, said) = self.complete();
            if code != Some(TRANSIENT) {
                return (code, said);
            }
            assert!(began.elapsed() < TEST_TIMEOUT, "it never works again: {said}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// One `get` after another, each killed at some moment unless it ends before,
    /// until it is said that this is `over`. How many were killed.
    fn until(&self, over: impl Fn() -> bool, at_most: Duration) -> usize {
        let mut killed = 0;
        while !over() {
            let mut process = self.begin();
            let kill_at = Instant::now() + any(at_most);
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
            assert_ne!(code, Some(LOGGED_OUT), "a process believes that it is logged out");
            assert!(matches!(code, None | Some(0 | TRANSIENT)), "{code:?}");
            killed += usize::from(code.is_none());
        }
        killed
    }
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on_file(file: &Path) -> Credentials {
    Credentials::builder().store(FileStore::new(file)).build()
}

/// The server's binary lies beside the client's.
fn server_binary() -> PathBuf {
    let binary =
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")).with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    binary
}

/// Kills processes that use the real server, and looks whether it took one of
/// them for a thief.
fn kill_against_the_server(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) {
    let world = TestEnv::new();
    // Whole seconds are counted from the one that has begun: of one, a new token may
    // have nothing left.
    let launch = world.server(&server_binary()).set("tokens.access_lifetime", "2s");
    let server = settings(launch).start();
    let (ca, file) = (world.folder().join("data/tls/ca.pem"), world.folder().join("tokens"));
    System::new().block_on(async {
        let trust = RootCerts::File(ca.clone());
        let server = Server::new(server.url(), &trust, Duration::from_secs(10)).unwrap();
        Client::new(&server, on_file(&file)).log_in_as_guest().await.unwrap();
    });
    let commands = Commands::new(world.folder(), server.url(), ca.to_str().unwrap(), &file);
    let (code, said) = commands.complete();
    assert_eq!(code, Some(0), "{said}");

    // A generation lasts about as long as an access token.
    let ends = Instant::now() + Duration::from_secs(2) * u32::try_from(rounds(10)).unwrap();
    let killed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                let over = || Instant::now() >= ends;
                let some = commands.until(over, Duration::from_millis(400));
                killed.fetch_add(some, Ordering::SeqCst);
            });
        }
    });
    assert!(killed.into_inner() > 0, "nothing was killed");
    let (code, said) = commands.complete_in_the_end();
    assert_eq!(code, Some(0), "the last one works: {said}");
    assert_eq!(server.logged("refresh token reused"), 0, "{}", server.log());
    assert_eq!(server.logged("refresh refused"), 0, "{}", server.log());
    assert_eq!(server.logged("session opened"), 1);
}

#[test]
fn processes_that_are_killed_at_any_moment_lose_no_session() {
    kill_against_the_server(|server| server);
}

#[test]
fn processes_that_are_killed_lose_no_session_where_only_the_key_may_repeat_a_refresh() {
    kill_against_the_server(|server| {
        server.set("rotation.same_key_only", "true").set("rotation.grace_period", "1s")
    });
}

/// A strict server, and the commands on a file of tokens of it.
fn scripted() -> (ScriptedServer, tempfile::TempDir, PathBuf, Commands) {
    let (script, folder) = (ScriptedServer::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("tokens");
    System::new().block_on(async {
        let session = Client::new(&server_at(&script), on_file(&file));
        session.log_in_with(script.log_in()).await.unwrap();
    });
    let commands = Commands::new(folder.path(), script.origin(), "", &file);
    (script, folder, file, commands)
}

#[test]
fn a_process_killed_while_it_awaits_its_grant_leaves_the_next_one_to_get_it() {
    let (script, _folder, _file, commands) = scripted();
    for round in 1..=rounds(10) {
        script.expire();
        script.on("/refresh", [Reaction::Serve.held()]);
        let process = commands.begin();
        System::new().block_on(script.until_received("/refresh", 2 * round - 1));
        drop(process);
        // The server acts after the death of who asked.
        script.release();
        let (code, said) = commands.complete_in_the_end();
        assert_eq!(code, Some(0), "{said}");
        let received = script.received("/refresh");
        assert_eq!(received.len(), 2 * round, "one who was killed, one who got it");
        assert!(received[2 * round - 2].key().is_some());
        assert_eq!(received[2 * round - 2].key(), received[2 * round - 1].key());
        assert_eq!((script.rotations(), script.reuses()), (round, 0));
    }
}

#[test]
fn eight_processes_and_their_murderer_get_one_grant_for_each_generation() {
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
            let processes = (0..PROCESSES)
                .map(|_| scope.spawn(|| commands.until(over, Duration::from_millis(150))));
            let processes: Vec<_> = processes.collect();
            processes.into_iter().map(|process| process.join().unwrap()).sum::<usize>()
        });
        let (code, said) = commands.complete_in_the_end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!((script.rotations(), script.reuses()), (round, 0), "one grant, whoever asked");
    }
    assert!(killed > 0, "nothing was killed");
}

/// What a process does with the library, and leaves undone after so long.
fn left_undone(server: &Server, file: &Path, after: Duration) {
    let session = |credential| Client::new(server, credential);
    System::new().block_on(async {
        let session = session(on_file(file));
        let outcome = actix_rt::time::timeout(after, session.get("/user").send()).await;
        let Ok(Err(error)) = outcome else { return };
        let transient = matches!(error, matchbook_client::Error::Transient { .. });
        assert!(transient, "{error:?}");
    });
}

#[test]
fn eight_that_use_the_library_and_end_at_any_moment_get_one_grant_for_each_generation() {
    let (script, _folder, file, _commands) = scripted();
    let server = server_at(&script);
    for round in 1..=rounds(12) {
        script.expire();
        if round % 3 == 0 {
            script.on("/refresh", [Reaction::DropConnection, Reaction::TruncateBody]);
        }
        thread::scope(|scope| {
            for _ in 0..PROCESSES {
                scope.spawn(|| left_undone(&server, &file, any(Duration::from_millis(40))));
            }
        });
        System::new().block_on(async {
            let session = Client::new(&server, on_file(&file));
            let began = Instant::now();
            let status = loop {
                match session.get("/user").send().await {
                    Ok(response) => break response.status(),
                    Err(matchbook_client::Error::Transient { problem, .. }) => {
                        assert!(began.elapsed() < TEST_TIMEOUT, "{problem}");
                        actix_rt::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(status, 200);
        });
        assert_eq!((script.rotations(), script.reuses()), (round, 0));
        let received = script.received("/refresh");
        let mut keys: Vec<_> = received.iter().map(|received| received.key().unwrap()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), round, "one key for each generation");
    }
}

#[test]
fn a_process_at_log_level_trace_logs_no_token() {
    let script = ScriptedServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    actix_rt::System::new().block_on(async {
        let credential = Credentials::builder().store(FileStore::new(&file)).build();
        Client::new(&server_at(&script), credential).log_in_as_guest().await.unwrap();
    });
    script.expire();
    let settings = folder.path().join("matchbook-client.toml");
    std::fs::write(settings, "[server]\nca_file = ''").unwrap();
    let output = Command::new(Path::new(env!("CARGO_BIN_EXE_matchbook-client")))
        .current_dir(folder.path())
        .env("MATCHBOOK_CLIENT__SERVER__URL", script.origin())
        .env("MATCHBOOK_CLIENT__STORE__PATH", &file)
        .env("MATCHBOOK_CLIENT__LOG__LEVEL", "trace")
        .args(["get", "/user"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("/refresh"), "it says what it does:\n{log}");
    assert_eq!(script.refreshes(), 1);
    assert!(!log.contains(ScriptedServer::SECRET), "{log}");
}
