//! Faults under load. A binary of its own, because it must run alone: it measures times.

mod needs_programs;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use matchbook_chaos::{Plan, Report, Topology};

/// Returns a short plan. `CHAOS_LOGS` names a directory for the servers' logs and the history.
fn short(topology: Topology) -> Plan {
    let logs = std::env::var_os("CHAOS_LOGS").map(PathBuf::from);
    let logs = logs.map(|folder| folder.join(topology.name()));
    let server = PathBuf::from(env!("CARGO_BIN_EXE_matchbook-server"));
    Plan { logs, ..Plan::short(server, topology) }
}

/// Runs a plan while no other test of this binary runs.
fn run_alone(plan: &Plan) -> Report {
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    matchbook_chaos::run(plan)
}
