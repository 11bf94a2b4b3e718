//! A run of `matchbook_chaos` behind a load balancer.

use matchbook_chaos::Topology;

use crate::{run_alone, short};

#[test]
#[ignore = "needs HAProxy and the programs of PostgreSQL and Redis: make test"]
fn restart_of_a_server_behind_a_balancer_breaks_no_promise() {
    let report = run_alone(&short(Topology::Balanced));
    assert!(report.violations.is_empty(), "{report}");
}
