//! The report: medians, ratios and performance targets.

use std::fmt;

use serde::Serialize;

use crate::extra_measurements::{Memory, Startup, Statement};
use crate::logins::Logins;
use crate::measure::{MATCHBOOK, Run};
use crate::services::Machine;
use crate::statistics::Spread;

/// All results.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    /// Whether the benchmark was stopped before the end.
    pub(crate) partial: bool,
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) statements: Vec<Statement>,
    pub(crate) startups: Vec<Startup>,
    pub(crate) logins: Vec<Logins>,
    pub(crate) memory: Option<Memory>,
    /// Throughput of the refreshing client relative to plain awc.
    pub(crate) client_ratio: Option<f64>,
    pub(crate) targets: Vec<Target>,
    pub(crate) runs: Vec<Run>,
}

/// The medians of a case.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) case: String,
    pub(crate) algorithm: &'static str,
    pub(crate) sessions: Option<u64>,
    pub(crate) cold: bool,
    pub(crate) connections: usize,
    pub(crate) matchbook: Medians,
    pub(crate) comparisons: Vec<ComparisonResult>,
}

/// The medians of one side.
#[derive(Serialize, Clone)]
pub(crate) struct Medians {
    pub(crate) per_second: Spread,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) load_cpu_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) postgres_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    pub(crate) wal_bytes: f64,
    pub(crate) statements: f64,
    pub(crate) redis_commands: f64,
    pub(crate) hot_share: Option<f64>,
    pub(crate) peak_rss_kib: u64,
}

/// The result of a comparison.
#[derive(Serialize)]
pub(crate) struct ComparisonResult {
    pub(crate) with: String,
    pub(crate) medians: Medians,
    /// The server's requests a second, of the rival's of the same round.
    pub(crate) ratio: Spread,
    /// The same for the median latency.
    pub(crate) p50_ratio: Spread,
}

/// A performance target.
#[derive(Serialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) limit: String,
    /// `None` if not measured.
    pub(crate) measured: Option<f64>,
    pub(crate) met: Option<bool>,
}

impl Medians {
    fn of(runs: &[&Run]) -> Self {
        let median = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(|run| value(run))).median;
        Self {
            per_second: Spread::of(runs.iter().map(|run| run.per_second)),
            p50_us: median(|run| run.p50_us),
            p99_us: median(|run| run.p99_us),
            load_cpu_us: median(|run| run.load_cpu_us),
            server_cpu_us: median(|run| run.server_cpu_us),
            postgres_cpu_us: median(|run| run.postgres_cpu_us),
            redis_cpu_us: median(|run| run.redis_cpu_us),
            wal_bytes: median(|run| run.wal_bytes),
            statements: median(|run| run.statements),
            redis_commands: median(|run| run.redis_commands),
            hot_share: runs.iter().find_map(|run| run.hot_share),
            peak_rss_kib: runs.iter().map(|run| run.peak_rss_kib).max().unwrap_or(0),
        }
    }
}

/// Groups runs into rows.
pub(crate) fn rows(runs: &[Run]) -> Vec<Row> {
    let same = |one: &Run, next: &Run| one.case == next.case;
    runs.chunk_by(same).map(row).collect()
}

fn row(runs: &[Run]) -> Row {
    let case = &runs[0].case;
    let endpoint =
        |endpoint: &str| runs.iter().filter(|run| run.endpoint == endpoint).collect::<Vec<_>>();
    let ours = endpoint(MATCHBOOK);
    let mut comparisons: Vec<ComparisonResult> = Vec::new();
    for run in runs.iter().filter(|run| run.endpoint != MATCHBOOK && run.round == 0) {
        let theirs = endpoint(&run.endpoint);
        let ratio = |value: fn(&Run) -> f64| {
            Spread::of(ours.iter().zip(&theirs).map(|(our, their)| value(our) / value(their)))
        };
        comparisons.push(ComparisonResult {
            with: run.endpoint.clone(),
            medians: Medians::of(&theirs),
            ratio: ratio(|run| run.per_second),
            p50_ratio: ratio(|run| run.p50_us),
        });
    }
    Row {
        name: case.name,
        case: case.to_string(),
        algorithm: case.environment.algorithm,
        sessions: case.environment.base.sessions(),
        cold: case.cold,
        connections: case.connections,
        matchbook: Medians::of(&ours),
        comparisons,
    }
}

impl Report {
    /// Evaluates the performance targets.
    pub(crate) fn evaluate(&mut self) {
        let mut targets = Vec::new();
        for algorithm in ["RS256", "ES256", "EdDSA"] {
            for connections in [16, 64] {
                let ratio = self.ratio("refresh", algorithm, connections, "baseline /refresh");
                let what = format!("refresh {algorithm} at {connections}, of baseline /refresh");
                targets.push(Target::at_least(what, 0.8, ratio));
            }
        }
        for competitor in ["oidc-provider", "oidc-provider, OpenID"] {
            let ratio = self.ratio("competitor", "ES256", 16, competitor);
            targets.push(Target::at_least(
                format!("refresh ES256 at 16, of {competitor}"),
                6.0,
                ratio,
            ));
        }
        for (algorithm, connections) in [("RS256", 16), ("RS256", 64), ("ES256", 16)] {
            for path in ["/user", "/cached"] {
                let ratio = self.ratio("user", algorithm, connections, &format!("baseline {path}"));
                let what = format!("user {algorithm} at {connections}, of baseline {path}");
                targets.push(Target::at_least(what, 0.8, ratio));
            }
        }
        let oauth = self.ratio("oauth", "ES256", 16, "matchbook refresh");
        targets.push(Target::at_least("oauth at 16, of refresh".to_owned(), 0.95, oauth));
        let introspect = self.ratio("introspect", "ES256", 16, "matchbook user");
        targets.push(Target::at_least("introspect at 16, of user".to_owned(), 0.8, introspect));
        let most = |name, value: fn(&Medians) -> f64| {
            let rows = self.rows.iter().filter(|row| row.name == name);
            rows.map(|row| value(&row.matchbook)).reduce(f64::max)
        };
        let statements = most("refresh", |medians| medians.statements);
        targets.push(Target::at_most("SQL statements per refresh".to_owned(), 1.02, statements));
        // A refresh sends two in one round trip: it looks for a tombstone, and caches the token.
        for (name, limit) in [("refresh", 2.02), ("user", 1.02)] {
            let commands = most(name, |medians| medians.redis_commands);
            targets.push(Target::at_most(format!("Redis commands per {name}"), limit, commands));
        }
        for algorithm in ["RS256", "ES256", "EdDSA"] {
            let single = self.find_comparison("refresh", algorithm, 1, "baseline /single");
            let what = format!("p50 of refresh {algorithm} at 1, of baseline /single's");
            targets.push(Target::at_most(what, 1.1, single.map(|single| single.p50_ratio.median)));
        }
        for cold in [false, true] {
            let what = format!("p99 with most sessions, of that with fewest{}", among(cold));
            targets.push(Target::at_most(what, 1.3, self.growth_of_p99(cold)));
        }
        let refreshes = self.rows.iter().filter(|row| row.name == "refresh");
        let hot = refreshes.filter_map(|row| row.matchbook.hot_share).reduce(f64::min);
        targets.push(Target::at_least("share of HOT updates".to_owned(), 0.99, hot));
        let crowd = self.rows.iter().filter(|row| row.connections == 256);
        let peaks = crowd.map(|row| row.matchbook.peak_rss_kib);
        let peak = peaks.chain(self.memory.iter().map(|memory| memory.peak_kib)).max();
        let what = "peak memory at 256 connections, MiB".to_owned();
        targets.push(Target::at_most(what, 64.0, peak.map(mib)));
        let grown =
            self.memory.as_ref().map(|memory| mib(memory.after_kib) - mib(memory.before_kib));
        let rotations = self.memory.as_ref().map_or(0, |memory| memory.rotations);
        let what = format!("memory growth over {rotations} rotations, MiB");
        targets.push(Target::at_most(what, 4.0, grown));
        for startup in &self.startups {
            let what = format!("milliseconds until ready, {}", startup.what);
            targets.push(Target::at_most(what, 300.0, Some(startup.millis.median)));
        }
        for logins in &self.logins {
            let what =
                format!("p99 of refresh beside logins, of that without, {}", logins.database);
            targets.push(Target::at_most(what, 1.5, Some(logins.p99_ratio.median)));
        }
        let what = "throughput of the refreshing client, of plain awc's".to_owned();
        targets.push(Target::at_least(what, 0.95, self.client_ratio));
        self.targets = targets;
    }

    /// Returns whether a measured target is missed.
    pub(crate) fn misses_target(&self) -> bool {
        self.targets.iter().any(|target| target.met == Some(false))
    }

    fn find_comparison(
        &self,
        name: &str,
        algorithm: &str,
        connections: usize,
        with: &str,
    ) -> Option<&ComparisonResult> {
        let matches = |row: &&Row| {
            (row.name, row.algorithm, row.connections) == (name, algorithm, connections)
        };
        let row = self.rows.iter().find(matches)?;
        row.comparisons.iter().find(|comparison| comparison.with == with)
    }

    fn ratio(&self, name: &str, algorithm: &str, connections: usize, with: &str) -> Option<f64> {
        Some(self.find_comparison(name, algorithm, connections, with)?.ratio.median)
    }

    fn growth_of_p99(&self, cold: bool) -> Option<f64> {
        let sizes = self.rows.iter().filter(|row| row.name == "size" && row.cold == cold);
        let few = sizes.clone().min_by_key(|row| row.sessions)?;
        let many = sizes.max_by_key(|row| row.sessions)?;
        let both = few.sessions != many.sessions;
        both.then(|| many.matchbook.p99_us / few.matchbook.p99_us)
    }
}

fn among(cold: bool) -> &'static str {
    if cold { ", each refresh of another" } else { "" }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

impl Target {
    fn at_least(what: String, limit: f64, measured: Option<f64>) -> Self {
        let met = measured.map(|measured| measured >= limit);
        Self { what, limit: format!("at least {limit}"), measured, met }
    }

    fn at_most(what: String, limit: f64, measured: Option<f64>) -> Self {
        let met = measured.map(|measured| measured <= limit);
        Self { what, limit: format!("at most {limit}"), measured, met }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { available_cpus, memory_mib, kernel, postgres, redis } = &self.machine;
        if self.partial {
            writeln!(f, "PARTIAL: stopped before the end")?;
        }
        writeln!(
            f,
            "{available_cpus} cores, {memory_mib} MiB, Linux {kernel}, PostgreSQL {postgres}, Redis {redis}"
        )?;
        if !self.rows.is_empty() {
            writeln!(f, "\n{:103}processor time per request, µs", "")?;
            let ratio = "ratio (lowest to highest)";
            let p50 = "p50 ms";
            let p99 = "p99 ms";
            writeln!(
                f,
                "{:<36} {:>5} {:>8}  {ratio:<31} {p50:>8} {p99:>8} {:>8} {:>10} {:>5}",
                "case", "conn.", "req/s", "server", "PostgreSQL", "Redis"
            )?;
        }
        for row in &self.rows {
            write_endpoint(f, &row.case, row.connections, &row.matchbook, "")?;
            for comparison in &row.comparisons {
                let Spread { median, lowest, highest } = comparison.ratio;
                let ratio = format!("{median:.2} ({lowest:.2} to {highest:.2})");
                write_endpoint(
                    f,
                    &format!("  {}", comparison.with),
                    row.connections,
                    &comparison.medians,
                    &ratio,
                )?;
            }
        }
        for Statement { threads, batch, rows_per_second, p50_us, p99_us } in &self.statements {
            writeln!(
                f,
                "statement alone, {threads} threads, batches of {batch}: {rows_per_second:.0} rows/s, \
                 {:.2} ms, {:.2} ms",
                p50_us / 1000.0,
                p99_us / 1000.0
            )?;
        }
        for Startup { what, millis, .. } in &self.startups {
            let Spread { median, lowest, highest } = millis;
            writeln!(f, "ready {what}: {median:.0} ms ({lowest:.0} to {highest:.0})")?;
        }
        for logins in &self.logins {
            writeln!(f, "{logins}")?;
        }
        if let Some(Memory { peak_kib, before_kib, after_kib, rotations }) = &self.memory {
            writeln!(
                f,
                "memory: at most {:.1} MiB with 256 connections; {:.1} MiB, and {:.1} MiB after \
                 {rotations} more rotations",
                mib(*peak_kib),
                mib(*before_kib),
                mib(*after_kib)
            )?;
        }
        writeln!(f)?;
        for Target { what, limit, measured, met } in &self.targets {
            if let (Some(measured), Some(met)) = (measured, met) {
                let met = if *met { "met    " } else { "MISSED " };
                writeln!(f, "{met}  {what}: {measured:.3}, {limit}")?;
            }
        }
        let open = self.targets.iter().filter(|target| target.met.is_none()).count();
        if open > 0 { writeln!(f, "not measured: {open} more") } else { Ok(()) }
    }
}

fn write_endpoint(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    connections: usize,
    medians: &Medians,
    ratio: &str,
) -> fmt::Result {
    let Medians { per_second, p50_us, p99_us, .. } = medians;
    writeln!(
        f,
        "{name:<36} {connections:>5} {:>8.0}  {ratio:<31} {:>8.2} {:>8.2} {:>8.0} {:>10.0} {:>5.0}",
        per_second.median,
        p50_us / 1000.0,
        p99_us / 1000.0,
        medians.server_cpu_us,
        medians.postgres_cpu_us,
        medians.redis_cpu_us
    )
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn an_unmeasured_target_is_neither_met_nor_missed() {
        assert_eq!(Target::at_least(String::new(), 0.8, Some(0.8)).met, Some(true));
        assert_eq!(Target::at_least(String::new(), 0.8, Some(0.79)).met, Some(false));
        assert_eq!(Target::at_most(String::new(), 0.8, Some(0.81)).met, Some(false));
        assert_eq!(Target::at_most(String::new(), 0.8, None).met, None);
    }
}
