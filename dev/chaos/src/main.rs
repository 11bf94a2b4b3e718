//! Ends and freezes parts of a running Matchbook while clients use it, and
//! tells whether any of them was served badly. See `matchbook_chaos`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use matchbook_chaos::{Fault, Plan, Sabotage};

/// Two servers, a crowd of clients, and one fault after the other.
#[derive(Parser)]
struct Arguments {
    /// The server's binary.
    #[arg(long, default_value = "target/release/matchbook-server")]
    server: PathBuf,
    /// Repeats the run that printed this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients there are (200, or 60 with --short).
    #[arg(long)]
    clients: Option<usize>,
    /// How often each fault happens.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Which faults happen, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Short faults with little time between them.
    #[arg(long)]
    short: bool,
    /// Breaks something on purpose, to see it reported: tombstones or rows.
    #[arg(long)]
    sabotage: Option<Sabotage>,
    /// A folder to write the servers' logs and all requests to.
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
    let Arguments { server, seed, clients, rounds, faults, short, sabotage, logs } = arguments;
    let plan = if short { Plan::short(server) } else { Plan::full(server) };
    Plan {
        seed: seed.unwrap_or(plan.seed),
        clients: clients.unwrap_or(plan.clients),
        faults: if faults.is_empty() { plan.faults } else { faults },
        rounds,
        sabotage,
        logs,
        ..plan
    }
}
