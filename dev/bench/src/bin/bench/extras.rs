//! What is not measured by requests: the statement alone, the start, memory, the
//! client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use matchbook_testkit::ProcessBuilder;
use serde::{Deserialize, Serialize};

use crate::cases::{Base, Setup};
use crate::counters::memory;
use crate::measure::Load;
use crate::report::Spread;
use crate::stage::{Stage, get};
use crate::{Arguments, binary, stop_if_asked};

/// How often each kind of start is measured.
const STARTS: usize = 7;

/// The rotation statement alone, driven by threads that do nothing else.
#[derive(Serialize)]
pub(crate) struct Statement {
    /// Each with a connection of its own.
    pub(crate) threads: usize,
    /// How many sessions each statement rotates.
    pub(crate) batch: usize,
    pub(crate) rows_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// What `floor statement` prints.
#[derive(Deserialize)]
struct Driven {
    rows: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Drives the statement for single sessions and for many. What was measured is in
/// `measured`, also where this unwinds.
pub(crate) fn statements(arguments: &Arguments, stage: &mut Stage, measured: &mut Vec<Statement>) {
    let Some(floor) = stage.floor.clone() else { return };
    let sessions = arguments.sessions()[0];
    let database = stage.database("ES256", sessions);
    let sessions = usize::try_from(sessions).unwrap();
    let drive = |(threads, batch): (usize, usize)| {
        stop_if_asked();
        let mut command = Command::new(&floor);
        command.args(["statement", "--database", &database.url]);
        command.args(["--connections", &threads.to_string()]);
        command.args(["--seconds", &arguments.seconds().to_string()]);
        if batch > 1 {
            command.args(["--batch", &batch.to_string()]);
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        stop_if_asked();
        let driven: Driven = serde_json::from_slice(&output.stdout).expect("floor has failed");
        Statement {
            threads,
            batch,
            rows_per_second: driven.rows / driven.seconds,
            p50_us: driven.p50_us,
            p99_us: driven.p99_us,
        }
    };
    // It rotates every other one of those that are filled in.
    let fits = |at_once: &(usize, usize)| 2 * at_once.0 * at_once.1 <= sessions;
    measured
        .extend([(1, 1), (16, 1), (1, 8), (1, 16), (1, 64)].into_iter().filter(fits).map(drive));
}

/// How long a start took until the server was ready, in milliseconds.
#[derive(Serialize)]
pub(crate) struct Startup {
    pub(crate) what: &'static str,
    pub(crate) millis: Spread,
    /// Each start.
    #[serde(skip)]
    starts: Vec<f64>,
}

/// What the server holds of memory, in KiB.
#[derive(Serialize)]
pub(crate) struct Memory {
    /// At most, when 256 connections have refreshed.
    pub(crate) peak_kib: u64,
    /// Before and after so many rotations more.
    pub(crate) before_kib: u64,
    pub(crate) after_kib: u64,
    pub(crate) rotations: u64,
}

/// Starts on nothing, on what the first start has left, and on PostgreSQL. What was
/// measured is in `measured`, also where this unwinds.
pub(crate) fn startups(arguments: &Arguments, stage: &mut Stage, measured: &mut Vec<Startup>) {
    let database = stage.database("ES256", arguments.sessions()[0]);
    let starts = if arguments.quick { 1 } else { STARTS };
    let mut note = |what, millis| {
        if let Some(startup) = measured.iter_mut().find(|startup| startup.what == what) {
            startup.starts.push(millis);
            startup.millis = Spread::of(startup.starts.iter().copied());
        } else {
            let starts = vec![millis];
            measured.push(Startup { what, millis: Spread::of([millis]), starts });
        }
    };
    for i in 0..starts {
        let launch = stage.launch(&format!("start_{i}"));
        note("on nothing (SQLite)", ready(&launch));
        note("on SQLite", ready(&launch));
        let launch =
            launch.set("tokens.algorithm", "ES256").variable("DATABASE_URL", &database.url);
        let launch = launch.variable("REDIS_URL", &stage.redis.url());
        note("on PostgreSQL and Redis", ready(&launch));
    }
}

/// How long it takes until `/health/ready` answers 200, in milliseconds.
fn ready(launch: &ProcessBuilder) -> f64 {
    stop_if_asked();
    let began = Instant::now();
    let process = launch.start();
    while get(process.url(), "/health/ready").0 != 200 {
        std::thread::sleep(Duration::from_millis(1));
        assert!(began.elapsed() < Duration::from_secs(60), "{}", process.log());
    }
    began.elapsed().as_secs_f64() * 1000.0
}

/// Refreshes with many connections, and then for long.
pub(crate) fn memory_of(arguments: &Arguments, load: &Path, stage: &mut Stage) -> Memory {
    let base = Base::Postgres(arguments.sessions()[0]);
    let setup = Setup { algorithm: "ES256", base, tls: false };
    let stand = stage.stand(setup, false);
    let refresh = |connections: usize, seconds: f64| {
        let mut command = Command::new(load);
        command.args(["--target", &stand.server.url, "--work", "refresh", "--warmup", "0"]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        command.arg("--tokens").arg(&stand.server.tokens);
        Load::start(command).finish().requests
    };
    refresh(256, arguments.seconds());
    let (_, peak_kib) = memory(stand.process.id());
    let wanted = match (arguments.quick, arguments.large) {
        (true, _) => 2_000,
        (_, true) => 1_000_000,
        _ => 100_000,
    };
    let rotate = |wanted: u64| {
        let mut rotations = 0;
        while rotations < wanted {
            eprintln!("bench: memory, {rotations} of {wanted} rotations");
            rotations += refresh(64, if arguments.quick { 1.0 } else { 10.0 });
        }
        rotations
    };
    rotate(wanted / 5);
    let (before_kib, _) = memory(stand.process.id());
    let rotations = rotate(wanted);
    let (after_kib, _) = memory(stand.process.id());
    Memory { peak_kib, before_kib, after_kib, rotations }
}

/// Runs the comparison of clients: the ratio that it prints.
pub(crate) fn client_ratio(arguments: &Arguments) -> Option<f64> {
    let binary = binary(arguments.client.as_ref(), "client");
    if !binary.is_file() {
        eprintln!("bench: {} is not there", binary.display());
        return None;
    }
    let mut command = Command::new(binary);
    command.args(["--rounds", if arguments.quick { "3" } else { "9" }]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // Its last line, "  0.981 (0.950 to 1.012)".
    text.lines().last()?.split_whitespace().next()?.parse().ok()
}
