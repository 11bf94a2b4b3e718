//! Runs of `matchbook_chaos`, which starts PostgreSQL and Redis itself.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use matchbook_chaos::{Fault, Invariant, Mutation, Plan, Report};

fn short() -> Plan {
    Plan::short(PathBuf::from(env!("CARGO_BIN_EXE_matchbook-server")))
}

/// Runs a plan while no other test of this binary runs.
fn run_alone(plan: &Plan) -> Report {
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    matchbook_chaos::run(plan)
}

/// Runs a few faults with a mutation, which must be detected.
fn run_with_mutation(mutation: Mutation) -> Report {
    let faults = vec![Fault::KillServer, Fault::RestartPostgres];
    run_alone(&Plan { faults, mutation: Some(mutation), ..short() })
}

fn violated(report: &Report, invariant: Invariant) -> bool {
    report.violations.iter().any(|violation| violation.invariant == invariant)
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn no_honest_client_is_logged_out_and_no_acknowledged_write_is_lost() {
    let report = run_alone(&short());
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn lost_tombstones_are_detected() {
    let report = run_with_mutation(Mutation::Tombstones);
    assert!(violated(&report, Invariant::LogoutIsFinal), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn lost_rotations_are_detected() {
    let report = run_with_mutation(Mutation::Rows);
    assert!(violated(&report, Invariant::StaysLoggedIn), "{report}");
    assert!(violated(&report, Invariant::RefreshIsDurable), "{report}");
}
