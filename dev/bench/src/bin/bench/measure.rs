//! Runs all cases.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::cases::{Case, Comparison, cases, duration};
use crate::counters::{Sampler, memory};
use crate::interrupt::stop_if_interrupted;
use crate::seeding::{CLIENT_ID, CLIENT_SECRET};
use crate::services::{Endpoint, Services};

/// The name of the measured server.
pub(crate) const MATCHBOOK: &str = "matchbook";

/// The result of one run of `load` against one endpoint.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) case: Case,
    /// `matchbook`, or the comparison.
    pub(crate) endpoint: String,
    pub(crate) round: usize,
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// Processor time per request, in microseconds.
    pub(crate) load_cpu_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) postgres_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    /// Current and peak memory of the server after the run, in KiB.
    pub(crate) rss_kib: u64,
    pub(crate) peak_rss_kib: u64,
    /// Per request.
    pub(crate) wal_bytes: f64,
    pub(crate) statements: f64,
    pub(crate) redis_commands: f64,
    /// From 0 to 1.
    pub(crate) hot_share: Option<f64>,
}

/// The output of `load`.
#[derive(Deserialize)]
pub(crate) struct LoadReport {
    pub(crate) requests: u64,
    all_requests: f64,
    pub(crate) seconds: f64,
    p50_us: f64,
    pub(crate) p99_us: f64,
    max_us: f64,
    cpu_us: Option<f64>,
    /// Number of logins that were rejected because too many wait.
    pub(crate) busy: u64,
}

impl LoadReport {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn count(&self) -> f64 {
        self.requests as f64
    }
}

/// A running `load` process. Dropping this kills it.
pub(crate) struct Load {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts it and waits until the warm-up is complete.
    pub(crate) fn start(mut command: Command) -> Self {
        stop_if_interrupted();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut load = Self { child, lines };
        assert_eq!(load.line(), "warm", "{command:?} has failed");
        load
    }

    /// Starts the measurement and waits for its report.
    pub(crate) fn finish(mut self) -> LoadReport {
        // Fails if it does not wait for input.
        let _ = writeln!(self.child.stdin.take().unwrap());
        let report = self.line();
        stop_if_interrupted();
        let report = serde_json::from_str(&report).expect("load has failed");
        assert!(self.child.wait().unwrap().success());
        report
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

/// Runs all cases. Results are added to `runs` as they arrive, so an unwind keeps them.
pub(crate) fn all(
    arguments: &Arguments,
    load: &Path,
    services: &mut Services,
    runs: &mut Vec<Run>,
) {
    let cases = cases(arguments);
    for in_environment in cases.chunk_by(|one, next| one.environment == next.environment) {
        let competitor = in_environment.iter().any(Case::needs_competitor);
        let mut setup = services.setup(in_environment[0].environment, competitor);
        for case in in_environment {
            let done = cases.iter().position(|one| one == case).unwrap();
            let minutes = duration(&cases[done..], arguments).as_secs().div_ceil(60);
            let at = done + 1;
            let of = cases.len();
            let connections = case.connections;
            eprintln!("bench: case {at} of {of}, {minutes} min left: {case} at {connections}");
            if case.needs_competitor() && setup.competitor.is_none() {
                continue;
            }
            for round in 0..arguments.rounds() {
                let last = round + 1 == arguments.rounds();
                let this_round = Round { arguments, load, case, number: round, last };
                let process = setup.process.id();
                runs.push(this_round.against(None, &setup.server, process, &mut setup.sampler));
                for comparison in case.comparisons {
                    let Some((process, endpoint)) = setup.comparison(*comparison) else { continue };
                    runs.push(this_round.against(
                        Some(*comparison),
                        &endpoint,
                        process,
                        &mut setup.sampler,
                    ));
                }
            }
        }
    }
}

/// One round of a case.
struct Round<'a> {
    arguments: &'a Arguments,
    load: &'a Path,
    case: &'a Case,
    number: usize,
    /// Whether this is the last round of the case.
    last: bool,
}

impl Round<'_> {
    /// Measures one endpoint: Matchbook or a comparison.
    fn against(
        &self,
        comparison: Option<Comparison>,
        endpoint: &Endpoint,
        process: u32,
        sampler: &mut Sampler<'_>,
    ) -> Run {
        let case = self.case;
        if self.last {
            sampler.forget_updates();
        }
        sampler.server = process;
        let load = Load::start(self.command(comparison, endpoint));
        let before = sampler.read();
        let report = load.finish();
        let after = sampler.read();
        let requests = report.count();
        let each = after.since(before, requests);
        let (rss_kib, peak_rss_kib) = memory(process);
        Run {
            case: case.clone(),
            endpoint: comparison
                .map_or_else(|| MATCHBOOK.to_owned(), |comparison| comparison.to_string()),
            round: self.number,
            requests: report.requests,
            per_second: requests / report.seconds,
            p50_us: report.p50_us,
            p99_us: report.p99_us,
            max_us: report.max_us,
            load_cpu_us: report.cpu_us.unwrap_or(0.0) / report.all_requests,
            server_cpu_us: each.server_us,
            postgres_cpu_us: each.postgres_us,
            redis_cpu_us: each.redis_us,
            rss_kib,
            peak_rss_kib,
            wal_bytes: each.wal,
            statements: each.statements,
            redis_commands: each.commands,
            hot_share: self.last.then(|| sampler.hot_share()).flatten(),
        }
    }

    fn command(&self, comparison: Option<Comparison>, endpoint: &Endpoint) -> Command {
        let Self { arguments, case, .. } = self;
        let work = match comparison {
            Some(Comparison::Component(path)) => format!("get:{path}"),
            Some(Comparison::Competitor(_)) => "oauth".to_owned(),
            Some(Comparison::Own(work)) => work.to_owned(),
            _ => case.work.to_owned(),
        };
        let mut command = Command::new(self.load);
        command.args(["--target", &endpoint.url, "--work", &work, "--wait"]);
        command.args(["--connections", &case.connections.to_string()]);
        command.args(["--seconds", &arguments.seconds().to_string()]);
        command.args(["--warmup", &arguments.warmup().to_string()]);
        let of_client = comparison.is_none() && case.uses_oauth();
        let tokens = if of_client { &endpoint.client_tokens } else { &endpoint.tokens };
        command.arg("--tokens").arg(tokens);
        if let Some(ca) = &endpoint.ca {
            command.arg("--ca").arg(ca);
        }
        match comparison {
            Some(Comparison::Baseline(path)) => {
                command.args(["--path", path]);
            }
            Some(Comparison::Competitor(_)) => {
                command.args(["--oauth-client", "bench:bench-secret"]);
            }
            None if case.uses_oauth() => {
                command.args(["--oauth-client", &format!("{CLIENT_ID}:{CLIENT_SECRET}")]);
                command.args(["--path", "/oauth/token"]);
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
