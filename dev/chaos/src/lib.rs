//! Fault injection: two servers, many honest clients, and one fault after the other. Then a
//! checker verifies the history of all requests.
//!
//! In reading order: [`Plan`] configures a run. Its [`Topology`] says which parts there are, as
//! replicas of PostgreSQL and Redis. [`Fault`]s are injected into a `cluster` of them. The
//! `workload` runs `client`s, which send `calls` and record them in a `history`. `checker`
//! verifies it, and [`Report`] prints the result. A `mutation` breaks the cluster on purpose,
//! to prove that the checker detects it.

mod calls;
mod checker;
mod client;
mod cluster;
mod databases;
mod fault;
mod history;
mod mutation;
mod operator;
mod redis_servers;
mod report;
mod tokens;
mod topology;
mod workload;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

pub use self::checker::{Invariant, Violation};
pub use self::fault::Fault;
pub use self::mutation::Mutation;
pub use self::report::Report;
pub use self::topology::Topology;

use crate::cluster::Cluster;
use crate::fault::Timings;
use crate::history::{FaultWindow, History, RunContext};
use crate::workload::Workload;

/// Timeout for the cluster to recover before the next fault.
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);

/// How long servers may fail after a fault, on a machine that has nothing else to do.
const MAX_RECOVERY: Duration = Duration::from_secs(2);

/// How long servers may fail after a fault in a short run, on a machine that is busy.
const MAX_SHORT_RECOVERY: Duration = Duration::from_secs(10);

/// The configuration of a run.
pub struct Plan {
    /// The server's binary.
    pub server: PathBuf,
    /// The parts.
    pub topology: Topology,
    /// Seed of the order of the faults and of the clients' decisions.
    pub seed: u64,
    /// Number of clients.
    pub clients: usize,
    /// How often each fault is injected.
    pub rounds: usize,
    /// The faults to inject, of those of the topology.
    pub faults: Vec<Fault>,
    /// How long servers may fail after a fault.
    pub max_recovery: Duration,
    /// Whether faults and the pauses between them are short.
    pub short: bool,
    /// A defect to introduce on purpose.
    pub mutation: Option<Mutation>,
    /// Directory for the servers' logs and the history.
    pub logs: Option<PathBuf>,
}

impl Plan {
    /// Every fault once, long enough to affect clients.
    pub fn full(server: PathBuf, topology: Topology) -> Self {
        Self {
            server,
            topology,
            seed: fastrand::u64(..),
            clients: 200,
            rounds: 1,
            faults: topology.faults().to_vec(),
            max_recovery: MAX_RECOVERY,
            short: false,
            mutation: None,
            logs: None,
        }
    }

    /// Every fault once, short enough for a test.
    pub fn short(server: PathBuf, topology: Topology) -> Self {
        let max_recovery = MAX_SHORT_RECOVERY;
        Self { clients: 60, short: true, max_recovery, ..Self::full(server, topology) }
    }

    /// Returns the faults in random order, each as often as configured.
    fn order(&self, rng: &mut Rng) -> Vec<Fault> {
        let mut order = Vec::new();
        for _ in 0..self.rounds {
            let mut round = self.faults.clone();
            rng.shuffle(&mut round);
            order.extend(round);
        }
        order
    }

    fn timings(&self) -> Timings {
        if self.short { Timings::SHORT } else { Timings::FULL }
    }
}

/// Runs a plan and checks its history.
pub fn run(plan: &Plan) -> Report {
    eprintln!("seed {}", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let timings = plan.timings();
    let mut cluster = Cluster::start(&plan.server, plan.topology);
    let loses_writes = plan.topology.loses_writes();
    let context = RunContext::new(cluster.addresses(), cluster.operator(), loses_writes);
    let workload = Workload::start(&context, plan.clients, timings, rng.fork());
    let mutator = plan.mutation.map(|mutation| mutation.spawn(&cluster, &context));
    wait_until_quiet(&context, &timings);
    let mut windows = Vec::new();
    for fault in plan.order(&mut rng) {
        windows.push(inject(fault, &mut cluster, &context, &timings, &mut rng));
        wait_until_quiet(&context, &timings);
        cluster.repair(fault);
    }
    let closing = context.close();
    workload.wait();
    if let Some(mutator) = mutator {
        mutator.join().unwrap();
    }
    let end = context.now();
    let rows = cluster.generations();
    let requests = context.requests();
    let max_recovery = plan.max_recovery;
    let history = History { requests, windows, closing, end, max_recovery, rows };
    if let Some(folder) = &plan.logs {
        fs::create_dir_all(folder).unwrap();
        cluster.write_logs(folder);
        history.write(&folder.join("requests.log"));
    }
    Report::of(plan.seed, &history)
}

fn inject(
    fault: Fault,
    cluster: &mut Cluster,
    context: &RunContext,
    timings: &Timings,
    rng: &mut Rng,
) -> FaultWindow {
    let server = rng.usize(0..cluster.servers());
    let name = fault.name_at(server);
    eprintln!("{:6.1} s  {name}", context.now().as_secs_f64());
    let began = context.now();
    cluster.inject(fault, server, context, timings);
    let loses_writes = fault == Fault::LosePrimary;
    FaultWindow { name, began, ended: context.now(), loses_writes }
}

/// Waits until both servers have responded without failure for a while, or until the
/// timeout.
fn wait_until_quiet(context: &RunContext, timings: &Timings) {
    let since = context.now();
    while context.now() < since + QUIET_TIMEOUT && !context.is_quiet(since, timings.quiet) {
        thread::sleep(Duration::from_millis(50));
    }
}
