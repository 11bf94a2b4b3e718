//! The benchmark, as short as possible. The tests check what it uses of PostgreSQL and
//! Redis, not how fast it is.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn every_selected_case_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
    assert!(bench.with_file_name("matchbook-server").is_file(), "build the server beside it");
    let only = "refresh,user,token,jwks,repeat,oauth,introspect,code,page,tls,connect,sqlite,\
                statement,startup,logins";
    let run = Command::new(bench)
        .args(["--quick", "--only", only])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let results = folder.path().join("target/bench");
    let report = std::fs::read(results.join("results.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for name in [
        "refresh",
        "user",
        "token",
        "jwks",
        "repeat",
        "oauth",
        "introspect",
        "code",
        "page",
        "tls",
        "connect",
        "sqlite",
    ] {
        let mut measured = rows.iter().filter(|row| row["name"] == name).peekable();
        assert!(measured.peek().is_some(), "{name} was not measured");
        for row in measured {
            assert!(row["matchbook"]["per_second"]["median"].as_f64() > Some(0.0), "{row}");
        }
    }
    let refreshes = rows.iter().filter(|row| row["name"] == "refresh");
    for row in refreshes {
        assert_eq!(row["comparisons"][0]["with"], "baseline /refresh");
    }
    let statements = report["statements"].as_array().unwrap();
    assert_eq!(statements.len(), 5);
    assert!(statements.iter().all(|alone| alone["rows_per_second"].as_f64() > Some(0.0)));
    assert_eq!(report["startups"].as_array().unwrap().len(), 3);
    let logins = report["logins"].as_array().unwrap();
    let databases: Vec<_> = logins.iter().map(|one| &one["database"]).collect();
    assert_eq!(databases, ["PostgreSQL", "SQLite"]);
    assert!(logins.iter().all(|one| one["throughput"]["median"].as_f64() > Some(0.0)));
    let targets = report["targets"].as_array().unwrap();
    let target = |what: &str| targets.iter().find(|target| target["what"] == what).unwrap().clone();
    // These do not depend on the machine.
    for what in
        ["SQL statements per refresh", "Redis commands per refresh", "Redis commands per user"]
    {
        assert_eq!(target(what)["met"], true, "{}", target(what));
    }
    // The tests next to this one keep row versions alive, and a run of a second updates few
    // rows: `hot` checks that rotations are HOT updates.
    assert!(target("share of HOT updates")["measured"].as_f64() > Some(0.5));
    for picture in ["throughput.svg", "cpu.svg"] {
        assert!(results.join(picture).is_file());
    }
}

/// A benchmark in its own directory.
struct Benchmark {
    folder: TempDir,
}

impl Benchmark {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn command(&self, only: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command.args(["--quick", "--sessions", "1000", "--only", only]).current_dir(&self.folder);
        command
    }

    /// Creates a script that fails under a condition of `sh`, and otherwise runs the program.
    fn failing(&self, program: &str, condition: &str) -> PathBuf {
        let real = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name(program);
        let script = self.folder.path().join(program);
        let text = format!(
            "#!/bin/sh\nif {condition}; then exit 1; fi\nexec '{}' \"$@\"\n",
            real.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        script
    }

    /// Asserts that the run is partial. Returns its output and its results.
    fn assert_partial(&self, output: &Output) -> (String, Value) {
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{log}");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.starts_with("PARTIAL"), "{printed}{log}");
        let report = fs::read(self.folder.path().join("target/bench/results.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["partial"], true);
        (printed, report)
    }
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn an_interrupted_benchmark_writes_partial_results() {
    for signal in ["-INT", "-TERM"] {
        let benchmark = Benchmark::new();
        let mut command = benchmark.command("jwks,connect,tls");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        // The second case has started, so the first is complete.
        assert!(log.any(|line| line.contains("case 2 of ")), "it does not begin");
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let said: Vec<_> = log.collect();
        let (printed, report) = benchmark.assert_partial(&child.wait_with_output().unwrap());
        assert!(said.iter().any(|line| line.contains("stopped before the end")), "{said:?}");
        assert!(printed.contains("jwks.json"), "{printed}");
        assert!(!report["rows"].as_array().unwrap().is_empty());
    }
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn a_failing_case_keeps_earlier_results() {
    let benchmark = Benchmark::new();
    let load = benchmark.failing("load", r#"echo "$*" | grep -q -- --reconnect"#);
    let mut command = benchmark.command("jwks,connect,tls");
    let (printed, report) =
        benchmark.assert_partial(&command.arg("--load").arg(load).output().unwrap());
    assert!(printed.contains("jwks.json"), "{printed}");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "jwks"), "{report}");
    assert!(rows.iter().all(|row| row["name"] == "jwks"), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn a_failing_statement_or_start_keeps_earlier_results() {
    let benchmark = Benchmark::new();
    let baseline = benchmark.failing("baseline", r#"echo "$*" | grep -q -- "--batch 16""#);
    let mut command = benchmark.command("statement,startup");
    let (printed, report) =
        benchmark.assert_partial(&command.arg("--baseline").arg(baseline).output().unwrap());
    let statements = report["statements"].as_array().unwrap();
    let batches: Vec<_> = statements.iter().map(|one| one["batch"].as_u64().unwrap()).collect();
    assert_eq!(batches, [1, 1, 8], "{printed}");
    assert_eq!(report["startups"].as_array().unwrap().len(), 0);

    // The server with its files in `start_0` is started for the startup measurement.
    let condition = r#"[ "${PWD##*/}" = start_0 ] && [ -n "$REDIS_URL" ]"#;
    let server = benchmark.failing("matchbook-server", condition);
    let mut command = benchmark.command("startup");
    let (_, report) =
        benchmark.assert_partial(&command.arg("--server").arg(server).output().unwrap());
    let startups = report["startups"].as_array().unwrap();
    let what: Vec<_> = startups.iter().map(|one| one["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["without data (SQLite)", "with SQLite"]);
    assert!(startups.iter().all(|one| one["millis"]["median"].as_f64() > Some(0.0)));
}
