//! Two servers, a crowd of honest clients, and faults one after the other; then
//! a judge who reads what every client saw.
//!
//! In reading order: what a run is ([`Plan`]), what goes wrong ([`Fault`]), what
//! it goes wrong on (`stage`), who uses it (`crowd`, `client`, by `calls`), what
//! they note (`history`, with what is read from `tokens`), what is wrong with
//! that (`judge`), and how it is told ([`Report`]). `sabotage` breaks what the
//! judge must notice.

mod calls;
mod client;
mod crowd;
mod fault;
mod history;
mod judge;
mod report;
mod sabotage;
mod stage;
mod tokens;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

pub use self::fault::Fault;
pub use self::judge::{Rule, Violation};
pub use self::report::Report;
pub use self::sabotage::Sabotage;

use crate::crowd::Crowd;
use crate::fault::Lengths;
use crate::history::{Episode, History, Scene};
use crate::stage::Stage;

/// The longest time after a fault in which everything may come to work again
/// before the next.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a run is.
pub struct Plan {
    /// The server's binary.
    pub server: PathBuf,
    /// What decides the order of the faults and what each client does.
    pub seed: u64,
    /// How many clients there are.
    pub clients: usize,
    /// How often each fault happens.
    pub rounds: usize,
    /// Which faults happen.
    pub faults: Vec<Fault>,
    /// Whether faults and the time between them are short.
    pub short: bool,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// The folder that the servers' logs and all requests are written to.
    pub logs: Option<PathBuf>,
}

impl Plan {
    /// Every fault once, for long enough that clients feel it.
    pub fn full(server: PathBuf) -> Self {
        let (seed, faults) = (fastrand::u64(..), Fault::ALL.to_vec());
        let (sabotage, logs) = (None, None);
        Self { server, seed, clients: 200, rounds: 1, faults, short: false, sabotage, logs }
    }

    /// Every fault once, as a test has time for.
    pub fn short(server: PathBuf) -> Self {
        Self { clients: 60, short: true, ..Self::full(server) }
    }

    /// The faults in the order that the seed gives.
    fn order(&self, rng: &mut Rng) -> Vec<Fault> {
        let mut order = Vec::new();
        for _ in 0..self.rounds {
            let mut round = self.faults.clone();
            rng.shuffle(&mut round);
            order.extend(round);
        }
        order
    }

    fn lengths(&self) -> Lengths {
        if self.short { Lengths::SHORT } else { Lengths::FULL }
    }
}

/// Runs a plan to its end and judges it.
pub fn run(plan: &Plan) -> Report {
    eprintln!("seed {}", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let lengths = plan.lengths();
    let mut stage = Stage::set(&plan.server);
    let scene = Scene::new(stage.addresses());
    let crowd = Crowd::start(&scene, plan.clients, lengths, rng.fork());
    let spoiler = plan.sabotage.map(|sabotage| sabotage.start(&stage, &scene));
    settle(&scene, &lengths);
    let mut episodes = Vec::new();
    for fault in plan.order(&mut rng) {
        episodes.push(inflict(fault, &mut stage, &scene, &lengths, &mut rng));
        settle(&scene, &lengths);
    }
    let closing = scene.close();
    crowd.wait();
    if let Some(spoiler) = spoiler {
        spoiler.join().unwrap();
    }
    let end = scene.now();
    let (rows, requests) = (stage.generations(), scene.requests());
    let history = History { requests, episodes, closing, end, rows };
    if let Some(folder) = &plan.logs {
        fs::create_dir_all(folder).unwrap();
        stage.write_logs(folder);
        history.write(&folder.join("requests.log"));
    }
    Report::of(plan.seed, &history)
}

fn inflict(
    fault: Fault,
    stage: &mut Stage,
    scene: &Scene,
    lengths: &Lengths,
    rng: &mut Rng,
) -> Episode {
    let server = rng.usize(0..scene.servers.len());
    let name = fault.name_at(server);
    eprintln!("{:6.1} s  {name}", scene.now().as_secs_f64());
    let began = scene.now();
    stage.inflict(fault, server, scene, lengths);
    Episode { name, began, ended: scene.now() }
}

/// Waits until both servers have answered for a while without a failure, or
/// until nobody would wait any longer.
fn settle(scene: &Scene, lengths: &Lengths) {
    let since = scene.now();
    while scene.now() < since + PATIENCE && !scene.is_quiet(since, lengths.quiet) {
        thread::sleep(Duration::from_millis(50));
    }
}
