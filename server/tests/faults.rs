//! Parts of a running Matchbook are stopped and frozen while clients use it.
//!
//! This is a separate binary that runs alone, because it measures times. It
//! stops and freezes its own servers, so it needs their programs. The names of
//! its tests have a common prefix, so that `scripts/test` can leave them out.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use matchbook_chaos::{Fault, Plan, Report, Rule, Sabotage};

fn short() -> Plan {
    Plan::short(PathBuf::from(env!("CARGO_BIN_EXE_matchbook-server")))
}

/// Runs a plan while no other test of this binary does.
fn run_alone(plan: &Plan) -> Report {
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    matchbook_chaos::run(plan)
}

/// With enough clients that a violation occurs, and few faults.
fn sabotaged(sabotage: Sabotage) -> Report {
    let faults = vec![Fault::KillServer, Fault::RestartPostgres];
    run_alone(&Plan { faults, sabotage: Some(sabotage), ..short() })
}

fn broken(report: &Report, rule: Rule) -> bool {
    report.violations.iter().any(|violation| violation.rule == rule)
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
    let report = sabotaged(Sabotage::Tombstones);
    assert!(broken(&report, Rule::LogoutIsFinal), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn under_faults_lost_rotations_are_detected() {
    let report = sabotaged(Sabotage::Rows);
    assert!(broken(&report, Rule::StaysLoggedIn), "{report}");
    assert!(broken(&report, Rule::RefreshIsKept), "{report}");
}
