//! Measurements other than requests: the SQL statement alone, startup, memory, the client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use matchbook_testkit::ProcessBuilder;
use serde::{Deserialize, Serialize};

use crate::arguments::{Arguments, binary};
use crate::cases::{Base, Environment};
use crate::counters::memory;
use crate::interrupt::stop_if_interrupted;
use crate::measure::Load;
use crate::services::{Services, get};
use crate::statistics::Spread;

/// Number of starts per kind.
const STARTS: usize = 7;

/// Throughput of the rotation statement alone.
#[derive(Serialize)]
pub(crate) struct Statement {
    /// Each has its own connection.
    pub(crate) threads: usize,
    /// Number of sessions per statement.
    pub(crate) batch: usize,
    pub(crate) rows_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// The output of `baseline statement`.
#[derive(Deserialize)]
struct StatementReport {
    rows: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Measures the statement for single sessions and for batches. Results are added to
/// `measured` as they arrive.
pub(crate) fn statements(
    arguments: &Arguments,
    services: &mut Services,
    measured: &mut Vec<Statement>,
) {
    let Some(baseline) = services.baseline.clone() else { return };
    let sessions = arguments.sessions()[0];
    let database = services.database("ES256", sessions);
    let sessions = usize::try_from(sessions).unwrap();
    let drive = |(threads, batch): (usize, usize)| {
        stop_if_interrupted();
        let mut command = Command::new(&baseline);
        command.args(["statement", "--database", &database.url]);
        command.args(["--connections", &threads.to_string()]);
        command.args(["--seconds", &arguments.seconds().to_string()]);
        if batch > 1 {
            command.args(["--batch", &batch.to_string()]);
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        stop_if_interrupted();
        let report: StatementReport =
            serde_json::from_slice(&output.stdout).expect("baseline has failed");
        Statement {
            threads,
            batch,
            rows_per_second: report.rows / report.seconds,
            p50_us: report.p50_us,
            p99_us: report.p99_us,
        }
    };
    // The baseline uses every other session.
    let fits = |(threads, batch): &(usize, usize)| 2 * threads * batch <= sessions;
    measured
        .extend([(1, 1), (16, 1), (1, 8), (1, 16), (1, 64)].into_iter().filter(fits).map(drive));
}

/// Time from the start of the server until it is ready, in milliseconds.
#[derive(Serialize)]
pub(crate) struct Startup {
    pub(crate) what: &'static str,
    pub(crate) millis: Spread,
    /// Each start.
    #[serde(skip)]
    starts: Vec<f64>,
}

/// Memory of the server, in KiB.
#[derive(Serialize)]
pub(crate) struct Memory {
    /// Peak after refreshes on 256 connections.
    pub(crate) peak_kib: u64,
    /// Before and after `rotations`.
    pub(crate) before_kib: u64,
    pub(crate) after_kib: u64,
    pub(crate) rotations: u64,
}

/// Measures starts without data, with the data of the first start, and with PostgreSQL.
/// Results are added to `measured` as they arrive.
pub(crate) fn startups(
    arguments: &Arguments,
    services: &mut Services,
    measured: &mut Vec<Startup>,
) {
    let database = services.database("ES256", arguments.sessions()[0]);
    let starts = if arguments.quick { 1 } else { STARTS };
    let mut record = |what, millis| {
        if let Some(startup) = measured.iter_mut().find(|startup| startup.what == what) {
            startup.starts.push(millis);
            startup.millis = Spread::of(startup.starts.iter().copied());
        } else {
            let starts = vec![millis];
            measured.push(Startup { what, millis: Spread::of([millis]), starts });
        }
    };
    for i in 0..starts {
        let builder = services.builder(&format!("start_{i}"));
        record("without data (SQLite)", ready(&builder));
        record("with SQLite", ready(&builder));
        let builder =
            builder.set("tokens.algorithm", "ES256").variable("DATABASE_URL", &database.url);
        let builder = builder.variable("REDIS_URL", &services.redis.url());
        record("with PostgreSQL and Redis", ready(&builder));
    }
}

/// Returns the time until `/health/ready` returns 200, in milliseconds.
fn ready(builder: &ProcessBuilder) -> f64 {
    stop_if_interrupted();
    let began = Instant::now();
    let process = builder.start();
    while get(process.url(), "/health/ready").0 != 200 {
        std::thread::sleep(Duration::from_millis(1));
        assert!(began.elapsed() < Duration::from_secs(60), "{}", process.log());
    }
    began.elapsed().as_secs_f64() * 1000.0
}

/// Measures memory with many connections, then over many rotations.
pub(crate) fn measure_memory(
    arguments: &Arguments,
    load: &Path,
    services: &mut Services,
) -> Memory {
    let base = Base::Postgres(arguments.sessions()[0]);
    let environment = Environment { algorithm: "ES256", base, tls: false };
    let setup = services.setup(environment, false);
    let refresh = |connections: usize, seconds: f64| {
        let mut command = Command::new(load);
        command.args(["--target", &setup.server.url, "--work", "refresh", "--warmup", "0"]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        command.arg("--tokens").arg(&setup.server.tokens);
        Load::start(command).finish().requests
    };
    refresh(256, arguments.seconds());
    let (_, peak_kib) = memory(setup.process.id());
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
    let (before_kib, _) = memory(setup.process.id());
    let rotations = rotate(wanted);
    let (after_kib, _) = memory(setup.process.id());
    Memory { peak_kib, before_kib, after_kib, rotations }
}

/// Runs the client comparison and returns its ratio.
pub(crate) fn client_ratio(arguments: &Arguments) -> Option<f64> {
    let binary = binary(arguments.client.as_ref(), "client");
    if !binary.is_file() {
        eprintln!("bench: {} does not exist", binary.display());
        return None;
    }
    let mut command = Command::new(binary);
    command.args(["--rounds", if arguments.quick { "3" } else { "9" }]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // The last line: "  0.981 (0.950 to 1.012)".
    text.lines().last()?.split_whitespace().next()?.parse().ok()
}
