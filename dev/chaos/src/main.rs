//! Stops and freezes parts of a running Matchbook while clients use it, and checks every
//! response. See `matchbook_chaos`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use matchbook_chaos::{Fault, Mutation, Plan, Topology};

/// Injects faults into two servers under load and checks every response.
#[derive(Parser)]
struct Arguments {
    /// Server binary.
    #[arg(long, default_value = "target/release/matchbook-server")]
    server: PathBuf,
    /// Parts: single, synchronous, asynchronous or balanced (default: one run of each).
    #[arg(long)]
    topology: Option<Topology>,
    /// Seed, to repeat a run.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of clients (default: 200, or 60 with --short).
    #[arg(long)]
    clients: Option<usize>,
    /// How often each fault is injected.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Faults to inject, separated by commas (default: all of the topology).
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
    let topologies = match arguments.topology {
        Some(topology) => vec![topology],
        None => Topology::ALL.to_vec(),
    };
    let mut violations = 0;
    for plan in topologies.into_iter().filter_map(|topology| plan(&arguments, topology)) {
        println!("topology {}", plan.topology.name());
        let report = matchbook_chaos::run(&plan);
        println!("{report}");
        violations += report.violations.len();
    }
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the plan for a topology, or `None` if none of the selected faults applies to it.
fn plan(arguments: &Arguments, topology: Topology) -> Option<Plan> {
    let Arguments { server, seed, clients, rounds, faults, short, mutation, logs, .. } = arguments;
    let server = server.clone();
    let plan = if *short { Plan::short(server, topology) } else { Plan::full(server, topology) };
    let is_selected = |fault: &Fault| faults.is_empty() || faults.contains(fault);
    let selected: Vec<Fault> = plan.faults.iter().copied().filter(is_selected).collect();
    (!selected.is_empty()).then(|| Plan {
        seed: seed.unwrap_or(plan.seed),
        clients: clients.unwrap_or(plan.clients),
        faults: selected,
        rounds: *rounds,
        mutation: *mutation,
        logs: logs.as_ref().map(|folder| folder.join(topology.name())),
        ..plan
    })
}
