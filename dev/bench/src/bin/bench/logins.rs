//! Measures what parallel logins cost the refreshes of other sessions.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::arguments::Arguments;
use crate::cases::{Base, Environment};
use crate::counters::memory;
use crate::measure::{Load, LoadReport};
use crate::services::{Endpoint, Services};
use crate::statistics::Spread;

/// Number of logins that are sent in parallel.
const LOGINS: usize = 64;

/// Number of connections that refresh.
const REFRESHES: usize = 4;

/// Pause after each refresh, in milliseconds. Without it the refreshes alone would occupy the
/// machine.
const PAUSE: usize = 10;

/// How many times longer than the other cases a run takes, for enough refreshes.
const LENGTH: f64 = 2.0;

/// The refreshes of one environment, without logins and beside them.
#[derive(Serialize)]
pub(crate) struct Logins {
    pub(crate) database: &'static str,
    /// Latency of a refresh in microseconds, without logins.
    pub(crate) idle_p99_us: Spread,
    /// The same beside logins.
    pub(crate) busy_p99_us: Spread,
    /// The second of the first of the same round.
    pub(crate) p99_ratio: Spread,
    /// Logins per second.
    pub(crate) throughput: Spread,
    /// Number of logins in all rounds that got `503`.
    pub(crate) rejected: u64,
    /// Memory of the server before and after the logins, in KiB.
    pub(crate) before_kib: u64,
    pub(crate) after_kib: u64,
}

impl fmt::Display for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, lowest, highest } = self.p99_ratio;
        write!(
            f,
            "{LOGINS} parallel logins, {}: p99 of a refresh {:.2} ms, without logins {:.2} ms: {median:.2} \
             ({lowest:.2} to {highest:.2}); {:.0} logins/s, {} times 503; {} to {} MiB",
            self.database,
            self.busy_p99_us.median / 1000.0,
            self.idle_p99_us.median / 1000.0,
            self.throughput.median,
            self.rejected,
            self.before_kib / 1024,
            self.after_kib / 1024
        )
    }
}

/// One round.
struct Round {
    idle: LoadReport,
    busy: LoadReport,
    logins: LoadReport,
}

/// Measures with both databases. Results are added to `measured` as they arrive.
pub(crate) fn measure_all(
    arguments: &Arguments,
    load: &Path,
    services: &mut Services,
    measured: &mut Vec<Logins>,
) {
    let bases = [("PostgreSQL", Base::Postgres(arguments.sessions()[0])), ("SQLite", Base::Sqlite)];
    for (database, base) in bases {
        let environment = Environment { algorithm: "ES256", base, tls: false };
        let setup = services.setup(environment, false);
        let (before_kib, _) = memory(setup.process.id());
        let driver = Driver { arguments, load, server: &setup.server };
        let rounds: Vec<_> = (0..arguments.rounds()).map(|_| driver.round()).collect();
        let (after_kib, _) = memory(setup.process.id());
        let spread = |value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
        measured.push(Logins {
            database,
            idle_p99_us: spread(|round| round.idle.p99_us),
            busy_p99_us: spread(|round| round.busy.p99_us),
            p99_ratio: spread(|round| round.busy.p99_us / round.idle.p99_us),
            throughput: spread(|round| round.logins.count() / round.logins.seconds),
            rejected: rounds.iter().map(|round| round.logins.busy).sum(),
            before_kib,
            after_kib,
        });
    }
}

/// Loads a server.
struct Driver<'a> {
    arguments: &'a Arguments,
    load: &'a Path,
    server: &'a Endpoint,
}

impl Driver<'_> {
    /// Measures refreshes without logins and then beside them.
    fn round(&self) -> Round {
        let seconds = self.arguments.seconds() * LENGTH;
        let idle = self.start("refresh", REFRESHES, seconds).finish();
        // The logins begin before the refreshes, and end after them.
        let logins = self.start("login", LOGINS, seconds + 2.0 * self.arguments.warmup());
        let (logins, busy) = std::thread::scope(|scope| {
            let logins = scope.spawn(|| logins.finish());
            let busy = self.start("refresh", REFRESHES, seconds).finish();
            (logins.join().unwrap(), busy)
        });
        Round { idle, busy, logins }
    }

    fn start(&self, work: &str, connections: usize, seconds: f64) -> Load {
        let mut command = Command::new(self.load);
        command.args(["--target", &self.server.url, "--work", work, "--wait"]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        command.args(["--warmup", &self.arguments.warmup().to_string()]);
        if work == "refresh" {
            command.args(["--pause", &PAUSE.to_string()]);
            command.arg("--tokens").arg(&self.server.tokens);
        }
        Load::start(command)
    }
}
