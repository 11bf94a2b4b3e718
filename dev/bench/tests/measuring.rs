//! The benchmark, run as short as it can be. How fast anything was is of no
//! matter here; what it took of PostgreSQL and Redis is.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn with_programs_the_benchmark_measures_what_it_has_the_parts_for() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
    assert!(bench.with_file_name("matchbook-server").is_file(), "build the server beside it");
    let only = "refresh,user,token,jwks,repeat,tls,connect,sqlite,statement,startup";
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
    for name in ["refresh", "user", "token", "jwks", "repeat", "tls", "connect", "sqlite"] {
        let mut measured = rows.iter().filter(|row| row["name"] == name).peekable();
        assert!(measured.peek().is_some(), "{name} was not measured");
        for row in measured {
            assert!(row["matchbook"]["per_second"]["median"].as_f64() > Some(0.0), "{row}");
        }
    }
    let refreshes = rows.iter().filter(|row| row["name"] == "refresh");
    for row in refreshes {
        assert_eq!(row["rivals"][0]["with"], "floor /refresh");
    }
    let statements = report["statements"].as_array().unwrap();
    assert_eq!(statements.len(), 5);
    assert!(statements.iter().all(|alone| alone["rows_per_second"].as_f64() > Some(0.0)));
    assert_eq!(report["startups"].as_array().unwrap().len(), 3);
    // These do not depend on the machine.
    let counted = [
        "SQL statements for each refresh",
        "Redis commands for each refresh",
        "Redis commands for each user",
        "share of HOT updates",
    ];
    for what in counted {
        let gates = report["gates"].as_array().unwrap();
        let gate = gates.iter().find(|gate| gate["what"] == what).unwrap();
        assert_eq!(gate["met"], true, "{gate}");
    }
    for picture in ["throughput.svg", "cpu.svg"] {
        assert!(results.join(picture).is_file());
    }
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn with_programs_a_benchmark_that_is_stopped_writes_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["--quick", "--only", "jwks,connect,tls"]).current_dir(&folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // The second case has begun, so the first is there.
    assert!(log.any(|line| line.contains("case 2 of ")), "it does not begin");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let said: Vec<_> = log.collect();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(said.iter().any(|line| line.contains("stopped before the end")), "{said:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.starts_with("PARTIAL") && printed.contains("jwks.json"), "{printed}");
    let report = std::fs::read(folder.path().join("target/bench/results.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["partial"], true);
    assert!(!report["rows"].as_array().unwrap().is_empty());
}
