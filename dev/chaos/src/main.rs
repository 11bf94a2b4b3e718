//! Stops and freezes parts of a running Matchbook while clients use it, and checks every
//! response. See `matchbook_chaos`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use matchbook_chaos::{Fault, Mutation, Plan};

/// Injects faults into two servers under load and checks every response.
#[derive(Parser)]
struct Arguments {
    /// Server binary.
    #[arg(long, default_value = "target/release/matchbook-server")]
    server: PathBuf,
    /// Seed, to repeat a run.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of clients (default: 200, or 60 with --short).
    #[arg(long)]
    clients: Option<usize>,
    /// How often each fault is injected.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Faults to inject, separated by commas (default: all).
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Short faults with short pauses.
    #[arg(long)]
    short: bool,
    /// Defect to introduce on purpose, which must be reported: tombstones or rows.
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Directory for the servers' logs and the history.
    #[arg(long)]
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = matchbook_chaos::run(&plan(arguments));
    println!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(arguments: Arguments) -> Plan {
    let Arguments { server, seed, clients, rounds, faults, short, mutation, logs } = arguments;
    let plan = if short { Plan::short(server) } else { Plan::full(server) };
    Plan {
        seed: seed.unwrap_or(plan.seed),
        clients: clients.unwrap_or(plan.clients),
        faults: if faults.is_empty() { plan.faults } else { faults },
        rounds,
        mutation,
        logs,
        ..plan
    }
}
