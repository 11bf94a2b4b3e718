//! The command line of the benchmark.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Number of connections with `--quick`.
pub(crate) const QUICK_CONNECTIONS: usize = 16;

/// Measures throughput, latency and resource usage of a server with PostgreSQL and Redis,
/// and compares them with bare components.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Cases to run, separated by commas (default: all).
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Rounds per case. Each round alternates the server and its comparisons.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Measured time per run, in seconds.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Warm-up time per run, in seconds.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Numbers of connections, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub(crate) connections: Vec<usize>,
    /// Numbers of sessions in the table, separated by commas. The first is the default of
    /// most cases.
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    pub(crate) sessions: Vec<u64>,
    /// Also measure with 10 million sessions, which take minutes to seed, and memory over a
    /// million rotations.
    #[arg(long)]
    pub(crate) large: bool,
    /// Smoke test: each case once, for a second, with 16 connections. The results are not
    /// meaningful.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Server binary. Default for all binaries: the directory of this one.
    #[arg(long, value_name = "PATH")]
    pub(crate) server: Option<PathBuf>,
    /// Binary of the bare components.
    #[arg(long, value_name = "PATH")]
    pub(crate) baseline: Option<PathBuf>,
    /// Binary of the load generator.
    #[arg(long, value_name = "PATH")]
    pub(crate) load: Option<PathBuf>,
    /// Binary of the client comparison.
    #[arg(long, value_name = "PATH")]
    pub(crate) client: Option<PathBuf>,
    /// Exit with 1 if a target is missed.
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Number of sessions with `--large`.
pub(crate) const LARGE: u64 = 10_000_000;

impl Arguments {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    pub(crate) fn seconds(&self) -> f64 {
        if self.quick { 1.0 } else { self.seconds }
    }

    pub(crate) fn warmup(&self) -> f64 {
        if self.quick { 0.5 } else { self.warmup }
    }

    pub(crate) fn run_time(&self) -> Duration {
        // Runs have some overhead.
        Duration::from_secs_f64(self.seconds() + self.warmup() + 0.3)
    }

    pub(crate) fn connections(&self) -> Vec<usize> {
        if self.quick { vec![QUICK_CONNECTIONS] } else { self.connections.clone() }
    }

    pub(crate) fn sessions(&self) -> Vec<u64> {
        let mut sessions = self.sessions.clone();
        if self.large && !sessions.contains(&LARGE) {
            sessions.push(LARGE);
        }
        sessions
    }
}

/// Returns the named binary, or the one in the directory of this binary.
pub(crate) fn binary(named: Option<&PathBuf>, name: &str) -> PathBuf {
    named.cloned().unwrap_or_else(|| std::env::current_exe().unwrap().with_file_name(name))
}
