//! Runs of `matchbook_chaos`, which starts PostgreSQL and Redis itself.

mod needs_haproxy;

use matchbook_chaos::{Fault, Invariant, Mutation, Plan, Report, Topology, Violation};

use crate::{run_alone, short};

/// Runs a few faults with a mutation, which must be detected.
fn run_with_mutation(mutation: Mutation) -> Report {
    let faults = vec![Fault::KillServer, Fault::RestartPostgres];
    run_alone(&Plan { faults, mutation: Some(mutation), ..short(Topology::Single) })
}

/// Runs every fault of a topology with replicas. A busy machine takes its time to promote a
/// replica, so only `make chaos` limits the time of recovery.
fn run_with_replicas(topology: Topology) -> (Vec<Violation>, Report) {
    let report = run_alone(&short(topology));
    let violations = report.violations.iter();
    let of_promises =
        violations.filter(|violation| violation.invariant != Invariant::RecoversInTime);
    (of_promises.cloned().collect(), report)
}

fn violated(report: &Report, invariant: Invariant) -> bool {
    report.violations.iter().any(|violation| violation.invariant == invariant)
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn no_honest_client_is_logged_out_and_no_acknowledged_write_is_lost() {
    let report = run_alone(&short(Topology::Single));
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn promotion_of_a_synchronous_standby_or_by_sentinel_breaks_no_promise() {
    let (violations, report) = run_with_replicas(Topology::Synchronous);
    assert!(violations.is_empty(), "{report}");
}

#[test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
fn promotion_of_an_asynchronous_standby_or_in_a_redis_cluster_breaks_no_promise() {
    let (violations, report) = run_with_replicas(Topology::Asynchronous);
    assert!(violations.is_empty(), "{report}");
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
