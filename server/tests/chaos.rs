//! Parts of a running Matchbook end and stand still while clients use it.
//!
//! In a binary of its own, which runs alone: what it measures is time, too. It
//! ends and freezes servers of its own, so it needs their programs. The names of
//! its tests begin alike, so that `scripts/test` can leave them out.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use matchbook_chaos::{Fault, Plan, Report, Invariant, Mutation};

fn short() -> Plan {
    Plan::short(PathBuf::from(env!("CARGO_BIN_EXE_matchbook-server")))
}

/// Runs a plan while no other test of this binary does.
fn run_alone(plan: &Plan) -> Report {
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    matchbook_chaos::run(plan)
}

/// With clients enough for something to be seen, and few faults.
fn run_with_mutation(mutation: Mutation) -> Report {
    let faults = vec![Fault::KillServer, Fault::RestartPostgres];
    run_alone(&Plan { faults, mutation: Some(mutation), ..short() })
}

fn violated(report: &Report, invariant: Invariant) -> bool {
    report.violations.iter().any(|violation| violation.invariant == invariant)
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn under_faults_no_honest_client_is_logged_out_and_no_acknowledged_write_is_lost() {
    let report = run_alone(&short());
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn under_faults_lost_tombstones_are_detected() {
    let report = run_with_mutation(Mutation::Tombstones);
    assert!(violated(&report, Invariant::LogoutIsFinal), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn under_faults_lost_rotations_are_detected() {
    let report = run_with_mutation(Mutation::Rows);
    assert!(violated(&report, Invariant::StaysLoggedIn), "{report}");
    assert!(violated(&report, Invariant::RefreshIsDurable), "{report}");
}
