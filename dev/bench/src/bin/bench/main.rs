//! Measures a running Matchbook against bare parts that do the same work, and
//! tells whether it is as fast as it is meant to be.

mod cases;
mod counters;
mod extras;
mod filled;
mod measure;
mod plots;
mod report;
mod stage;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;
use crate::stage::Stage;

/// PostgreSQL, Redis, a server, and load: requests a second, what they cost, and
/// how that compares.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Which cases, separated by commas; all by default.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// How often each case is run, in turn with what it is compared with.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a run measures, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How long a run warms up before that, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Numbers of connections, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    connections: Vec<usize>,
    /// Numbers of sessions in the table, separated by commas; the first is the
    /// usual one.
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    sessions: Vec<u64>,
    /// Also with 10 million sessions, which take minutes to fill in, and a
    /// million rotations to watch the memory over.
    #[arg(long)]
    large: bool,
    /// A smoke run: each case once, for a second, with 16 connections. What it
    /// measures is of no worth.
    #[arg(long)]
    quick: bool,
    /// The server's binary; it and the others are looked for beside this one.
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// The binary of the bare parts.
    #[arg(long, value_name = "PATH")]
    floor: Option<PathBuf>,
    /// The binary that asks.
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,
    /// The binary that compares clients.
    #[arg(long, value_name = "PATH")]
    client: Option<PathBuf>,
    /// Exit with 1 where something is not as fast as it is meant to be.
    #[arg(long)]
    strict: bool,
}

/// With `--large`.
const LARGE: u64 = 10_000_000;

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    fn seconds(&self) -> f64 {
        if self.quick { 1.0 } else { self.seconds }
    }

    fn warmup(&self) -> f64 {
        if self.quick { 0.5 } else { self.warmup }
    }

    fn run_time(&self) -> Duration {
        // A little goes by between runs.
        Duration::from_secs_f64(self.seconds() + self.warmup() + 0.3)
    }

    fn connections(&self) -> Vec<usize> {
        if self.quick { vec![cases::QUICK] } else { self.connections.clone() }
    }

    fn sessions(&self) -> Vec<u64> {
        let mut sessions = self.sessions.clone();
        if self.large && !sessions.contains(&LARGE) {
            sessions.push(LARGE);
        }
        sessions
    }
}

/// A binary that was named, or that lies beside this one.
pub(crate) fn binary(named: Option<&PathBuf>, name: &str) -> PathBuf {
    named.cloned().unwrap_or_else(|| std::env::current_exe().unwrap().with_file_name(name))
}

/// Where results are written to.
const RESULTS: &str = "target/bench";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    watch_for_signals();
    let report = measure(&arguments);
    println!("{report}");
    write(&report, Path::new(RESULTS));
    if report.partial {
        eprintln!("bench: stopped before the end: the results have what was measured until then");
    }
    let failed = report.partial || (arguments.strict && report.falls_short());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn measure(arguments: &Arguments) -> Report {
    let cases = cases::cases(arguments);
    let minutes = cases::duration(&cases, arguments).as_secs().div_ceil(60);
    eprintln!("bench: {} cases, about {minutes} minutes and what filling takes", cases.len());
    if arguments.sessions().iter().any(|sessions| *sessions >= LARGE) {
        eprintln!("bench: filling in 10 million sessions takes some minutes and 8 GB of disk");
    }
    let load = binary(arguments.load.as_ref(), "load");
    let mut stage = Stage::new(arguments);
    let machine = stage.machine();
    let mut report = Report { machine, ..Report::default() };
    // A case that fails, and somebody who wants this to end, unwind to here.
    let measured = catch_unwind(AssertUnwindSafe(|| {
        measure::all(arguments, &load, &mut stage, &mut report.runs);
        let wants = |name| arguments.wants(name).then(|| eprintln!("bench: {name}"));
        if wants("statement").is_some() {
            extras::statements(arguments, &mut stage, &mut report.statements);
        }
        if wants("startup").is_some() {
            extras::startups(arguments, &mut stage, &mut report.startups);
        }
        report.memory = wants("memory").map(|()| extras::memory_of(arguments, &load, &mut stage));
        report.client_ratio = wants("client").and_then(|()| extras::client_ratio(arguments));
    }));
    report.partial = measured.is_err() || STOP.load(Ordering::Relaxed);
    report.rows = report::rows(&report.runs);
    report.judge();
    report
}

fn write(report: &Report, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("results.json");
    fs::write(&file, serde_json::to_string_pretty(report).unwrap()).unwrap();
    plots::draw(report, folder).unwrap();
    eprintln!("bench: written to {}", folder.display());
}

/// Whether somebody wants this to end.
static STOP: AtomicBool = AtomicBool::new(false);

/// Notes Ctrl-C and SIGTERM, so that what was started ends in order.
fn watch_for_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).unwrap();
            let mut terminate = signal(SignalKind::terminate()).unwrap();
            let interrupted = std::pin::pin!(interrupt.recv());
            let terminated = std::pin::pin!(terminate.recv());
            futures_util::future::select(interrupted, terminated).await;
            eprintln!("bench: stopping");
            STOP.store(true, Ordering::Relaxed);
        });
    });
}

/// Unwinds, past all that ends when it is dropped, if this is to end.
pub(crate) fn stop_if_asked() {
    if STOP.load(Ordering::Relaxed) {
        std::panic::resume_unwind(Box::new("asked to stop"));
    }
}
