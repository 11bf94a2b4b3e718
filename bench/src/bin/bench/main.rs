//! Measures a running Matchbook against bare parts that do the same work, and
//! tells whether it is as fast as it is meant to be.

mod cases;
mod counters;
mod filled;
mod measure;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

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
    /// A smoke run: each case once, for a second, with 16 connections.
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

    fn run_time(&self) -> Duration {
        // A little goes by between runs.
        Duration::from_secs_f64(self.seconds() + self.warmup + 0.3)
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

    /// A binary that was named, or that lies beside this one.
    fn binary(&self, named: Option<&PathBuf>, name: &str) -> PathBuf {
        named.cloned().unwrap_or_else(|| std::env::current_exe().unwrap().with_file_name(name))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runs = measure::all(&arguments);
    for run in &runs {
        println!("{run:?}");
    }
    ExitCode::SUCCESS
}
