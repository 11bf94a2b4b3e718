//! The runs, one after the other.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::cases::{Case, Rival, cases, duration};
use crate::counters::{Watch, memory};
use crate::stage::{Side, Stage};
use crate::{Arguments, stop_if_asked};

/// The side that is ours.
pub(crate) const MATCHBOOK: &str = "matchbook";

/// What one run of `load` against one side came to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) case: Case,
    /// `matchbook`, or whom it is compared with.
    pub(crate) side: String,
    pub(crate) round: usize,
    pub(crate) requests: u64,
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
pub(crate) struct Told {
    pub(crate) requests: u64,
    all_requests: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    cpu_us: Option<f64>,
}

impl Told {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn count(&self) -> f64 {
        self.requests as f64
    }
}

/// A `load` that runs. It is killed when this is dropped.
pub(crate) struct Load {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts it, and waits until it has warmed up.
    pub(crate) fn start(mut command: Command) -> Self {
        stop_if_asked();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut load = Self { child, lines };
        assert_eq!(load.line(), "warm", "{command:?} has failed");
        load
    }

    /// Lets it go on, and waits for what it tells at the end.
    pub(crate) fn finish(mut self) -> Told {
        // Not all of them wait.
        let _ = writeln!(self.child.stdin.take().unwrap());
        let told = self.line();
        stop_if_asked();
        let told = serde_json::from_str(&told).expect("load has failed");
        assert!(self.child.wait().unwrap().success());
        told
    }

    fn line(&mut self) -> String {
        self.lines.next().map_or_else(String::new, Result::unwrap)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all cases. What was measured is in `runs`, also where this unwinds.
pub(crate) fn all(arguments: &Arguments, load: &Path, stage: &mut Stage, runs: &mut Vec<Run>) {
    let cases = cases(arguments);
    for of_setup in cases.chunk_by(|one, next| one.setup == next.setup) {
        let peer = of_setup.iter().any(Case::is_beside_peer);
        let mut stand = stage.stand(of_setup[0].setup, peer);
        for case in of_setup {
            let done = cases.iter().position(|one| one == case).unwrap();
            let minutes = duration(&cases[done..], arguments).as_secs().div_ceil(60);
            let (at, of) = (done + 1, cases.len());
            let connections = case.connections;
            eprintln!("bench: case {at} of {of}, {minutes} min left: {case} at {connections}");
            if case.is_beside_peer() && stand.peer.is_none() {
                continue;
            }
            for round in 0..arguments.rounds() {
                let last = round + 1 == arguments.rounds();
                let turn = Turn { arguments, load, case, round, last };
                let process = stand.process.id();
                runs.push(turn.against(None, &stand.server, process, &mut stand.watch));
                for rival in case.rivals {
                    let Some((process, side)) = stand.rival(*rival) else { continue };
                    runs.push(turn.against(Some(*rival), &side, process, &mut stand.watch));
                }
            }
        }
    }
}

/// A run to be.
struct Turn<'a> {
    arguments: &'a Arguments,
    load: &'a Path,
    case: &'a Case,
    round: usize,
    /// Whether this round is the last of the case.
    last: bool,
}

impl Turn<'_> {
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
        watch.server = process;
        let load = Load::start(self.command(rival, side));
        let before = watch.read();
        let told = load.finish();
        let after = watch.read();
        let requests = told.count();
        let each = after.since(before, requests);
        let (rss_kib, peak_rss_kib) = memory(process);
        Run {
            case: case.clone(),
            side: rival.map_or_else(|| MATCHBOOK.to_owned(), |rival| rival.to_string()),
            round: self.round,
            requests: told.requests,
            per_second: requests / told.seconds,
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
            Some(Rival::Part(path)) => format!("get:{path}"),
            Some(Rival::Peer(_)) => "oauth".to_owned(),
            _ => case.work.to_owned(),
        };
        let mut command = Command::new(self.load);
        command.args(["--target", &side.url, "--work", &work, "--wait"]);
        command.args(["--connections", &case.connections.to_string()]);
        command.args(["--seconds", &arguments.seconds().to_string()]);
        command.args(["--warmup", &arguments.warmup().to_string()]);
        command.arg("--tokens").arg(&side.tokens);
        if let Some(ca) = &side.ca {
            command.arg("--ca").arg(ca);
        }
        match rival {
            Some(Rival::Floor(path)) => {
                command.args(["--path", path]);
            }
            Some(Rival::Peer(_)) => {
                command.args(["--oauth-client", "bench:bench-secret"]);
            }
            _ => {}
        }
        if case.cold {
            command.arg("--cold");
        }
        if case.reconnect {
            command.arg("--reconnect");
        }
        command
    }
}
