//! The runs, one after the other.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Arguments;
use crate::cases::{Case, Rival, cases, duration};
use crate::counters::{Watch, memory};
use crate::stage::{Side, Stage};

/// What one run of `load` against one side came to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    /// The case, without its connections.
    pub(crate) case: String,
    pub(crate) connections: usize,
    /// `matchbook`, or whom it is compared with.
    pub(crate) side: String,
    pub(crate) round: usize,
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// Processor's time for each request, in microseconds.
    pub(crate) load_cpu_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) postgres_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    /// What the server holds of memory after it, in KiB, and held at most.
    pub(crate) rss_kib: u64,
    pub(crate) peak_rss_kib: u64,
    /// For each request.
    pub(crate) wal_bytes: f64,
    pub(crate) statements: f64,
    pub(crate) redis_commands: f64,
    /// Of 1.
    pub(crate) hot_share: Option<f64>,
}

/// What `load` prints.
#[derive(Deserialize)]
struct Told {
    requests: f64,
    all_requests: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    cpu_us: Option<f64>,
}

/// A `load` that runs. It is killed when this is dropped.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs all cases.
pub(crate) fn all(arguments: &Arguments) -> Vec<Run> {
    let cases = cases(arguments);
    let minutes = duration(&cases, arguments).as_secs().div_ceil(60);
    eprintln!("bench: {} cases, about {minutes} minutes", cases.len());
    let mut stage = Stage::new(arguments);
    let load = arguments.binary(arguments.load.as_ref(), "load");
    let mut runs = Vec::new();
    let began = Instant::now();
    for of_setup in cases.chunk_by(|one, next| one.setup == next.setup) {
        let mut stand = stage.stand(of_setup[0].setup);
        for case in of_setup {
            let done = cases.iter().position(|one| one == case).unwrap();
            let left = duration(&cases[done..], arguments).as_secs().div_ceil(60);
            let (so_far, all) = (began.elapsed().as_secs(), cases.len());
            let connections = case.connections;
            eprintln!(
                "bench: {done} of {all} cases in {so_far} s, about {left} min left: {case} at {connections}"
            );
            for round in 0..arguments.rounds() {
                let last = round + 1 == arguments.rounds();
                let run = Running { arguments, load: &load, case, round, last };
                runs.push(run.against(None, &stand.server, stand.process.id(), &mut stand.watch));
                for rival in case.rivals {
                    if let (Rival::Floor(_), Some((floor, side))) = (rival, &stand.floor) {
                        let id = floor.id();
                        stand.watch.server = id;
                        runs.push(run.against(Some(*rival), side, id, &mut stand.watch));
                        stand.watch.server = stand.process.id();
                    }
                }
            }
        }
    }
    runs
}

/// A run to be.
struct Running<'a> {
    arguments: &'a Arguments,
    load: &'a Path,
    case: &'a Case,
    round: usize,
    /// Whether this round is the last of the case.
    last: bool,
}

impl Running<'_> {
    /// Asks one side: Matchbook, or a rival.
    fn against(
        &self,
        rival: Option<Rival>,
        side: &Side,
        process: u32,
        watch: &mut Watch<'_>,
    ) -> Run {
        let case = self.case;
        if self.last {
            watch.forget_updates();
        }
        let mut child = Load(self.command(rival, side).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut line = || lines.next().map_or_else(String::new, Result::unwrap);
        assert_eq!(line(), "warm", "{case}: load has failed");
        let before = watch.read();
        writeln!(child.0.stdin.take().unwrap()).unwrap();
        let told = line();
        let after = watch.read();
        let told: Told = serde_json::from_str(&told)
            .unwrap_or_else(|_| panic!("{case}: load has failed: {told}"));
        assert!(child.0.wait().unwrap().success());
        let each = after.since(before, told.requests);
        let (rss_kib, peak_rss_kib) = memory(process);
        Run {
            case: case.to_string(),
            connections: case.connections,
            side: rival.map_or_else(|| "matchbook".to_owned(), |rival| rival.to_string()),
            round: self.round,
            requests: told.requests,
            per_second: told.requests / told.seconds,
            p50_us: told.p50_us,
            p99_us: told.p99_us,
            max_us: told.max_us,
            load_cpu_us: told.cpu_us.unwrap_or(0.0) / told.all_requests,
            server_cpu_us: each.server_us,
            postgres_cpu_us: each.postgres_us,
            redis_cpu_us: each.redis_us,
            rss_kib,
            peak_rss_kib,
            wal_bytes: each.wal,
            statements: each.statements,
            redis_commands: each.commands,
            hot_share: self.last.then(|| watch.hot_share()).flatten(),
        }
    }

    fn command(&self, rival: Option<Rival>, side: &Side) -> Command {
        let Self { arguments, case, .. } = self;
        let work = match rival {
            Some(Rival::Floor("/empty")) => "get:/empty",
            Some(Rival::Peer) => "oauth",
            _ => case.work,
        };
        let mut command = Command::new(self.load);
        command.args(["--target", &side.url, "--work", work, "--wait"]);
        command.args(["--connections", &case.connections.to_string()]);
        command.args(["--seconds", &arguments.seconds().to_string()]);
        command.args(["--warmup", &arguments.warmup.to_string()]);
        command.arg("--tokens").arg(&side.tokens);
        if let Some(ca) = &side.ca {
            command.arg("--ca").arg(ca);
        }
        match rival {
            Some(Rival::Floor(path)) if !work.starts_with("get:") => {
                command.args(["--path", path]);
            }
            Some(Rival::Peer) => {
                command.args(["--oauth-client", "bench:bench-secret"]);
            }
            _ => {}
        }
        if case.cold {
            command.arg("--cold");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}
