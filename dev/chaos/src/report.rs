//! The report of a run.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

use crate::checker::{self, Violation};
use crate::history::{FaultWindow, History, Outcome};

/// Maximum number of violations listed per invariant.
const MAX_LISTED: usize = 30;

/// The result of a run. `Display` prints a table and a line per violation.
pub struct Report {
    /// Seed, to repeat the run.
    pub seed: u64,
    /// The violated invariants.
    pub violations: Vec<Violation>,
    rows: Vec<Row>,
    windows: Vec<FaultWindow>,
    requests: usize,
    took: Duration,
}

/// A row of the table, from the start of a fault to the start of the next.
struct Row {
    name: String,
    requests: usize,
    /// Responses with `503`.
    unavailable: usize,
    /// Requests without a complete response.
    no_response: usize,
    recovery: String,
    violations: usize,
}

impl Report {
    pub(super) fn of(seed: u64, history: &History) -> Self {
        let violations = checker::violations(history);
        let rows = (0..=history.windows.len()).map(|i| Row::of(history, &violations, i));
        Self {
            seed,
            rows: rows.collect(),
            violations,
            windows: history.windows.clone(),
            requests: history.requests.len(),
            took: history.end,
        }
    }

    /// Describes a time relative to the current or last fault.
    fn when(&self, at: Duration) -> String {
        let window = self.windows.iter().rev().find(|window| window.began <= at);
        let since = |from: Duration| at.abs_diff(from).as_secs_f64();
        match window {
            None => "before the first fault".to_owned(),
            Some(FaultWindow { name, ended, .. }) if at >= *ended => {
                format!("{:.1} s after {name}", since(*ended))
            }
            Some(FaultWindow { name, began, .. }) => format!("{:.1} s into {name}", since(*began)),
        }
    }

    fn describe(&self, violation: &Violation) -> String {
        let Violation { invariant, at, client, session, detail } = violation;
        let mut describe =
            format!("{:7.2} s  {}: {detail}", at.as_secs_f64(), invariant.violated());
        if let Some(client) = client {
            let _ = write!(describe, "; client {client}");
        }
        if let Some(session) = session {
            let _ = write!(describe, ", session {session}");
        }
        describe + &format!("; {}", self.when(*at))
    }

    /// Describes up to `MAX_LISTED` violations per invariant, then counts the rest.
    fn descriptions(&self) -> Vec<String> {
        let mut descriptions = Vec::new();
        let mut invariants: Vec<_> =
            self.violations.iter().map(|violation| violation.invariant).collect();
        invariants.sort_unstable();
        invariants.dedup();
        for invariant in invariants {
            let these =
                || self.violations.iter().filter(|violation| violation.invariant == invariant);
            descriptions.extend(these().take(MAX_LISTED).map(|violation| self.describe(violation)));
            let more = these().count().saturating_sub(MAX_LISTED);
            if more > 0 {
                descriptions.push(format!("           {}: {more} more", invariant.violated()));
            }
        }
        descriptions
    }
}

impl Row {
    /// Creates the row of fault `i - 1`. Row 0 is the time before the first fault.
    fn of(history: &History, violations: &[Violation], i: usize) -> Self {
        let began = |i: usize| history.windows.get(i).map(|window| window.began);
        let from = i.checked_sub(1).and_then(began).unwrap_or(Duration::ZERO);
        let until = began(i).unwrap_or(Duration::MAX);
        let here = |at: Duration| at >= from && at < until;
        let requests = || history.requests.iter().filter(|request| here(request.sent));
        let count = |outcome| requests().filter(|request| request.outcome == outcome).count();
        let (name, recovery) = match i.checked_sub(1) {
            None => ("(before)".to_owned(), String::new()),
            Some(i) => (history.windows[i].name.clone(), recovery(history, i)),
        };
        Self {
            name,
            requests: requests().count(),
            unavailable: count(Outcome::Unavailable),
            no_response: count(Outcome::NoResponse),
            recovery,
            violations: violations.iter().filter(|violation| here(violation.at)).count(),
        }
    }
}

fn recovery(history: &History, window: usize) -> String {
    let time = checker::recovery(history, window);
    time.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:18} {:>9} {:>8} {:>11} {:>9} {:>11}",
            "fault", "requests", "503", "no response", "recovery", "violations"
        )?;
        for Row { name, requests, unavailable, no_response, recovery, violations } in &self.rows {
            writeln!(
                f,
                "{name:18} {requests:>9} {unavailable:>8} {no_response:>11} {recovery:>9} {violations:>11}"
            )?;
        }
        for describe in self.descriptions() {
            writeln!(f, "{describe}")?;
        }
        let count = self.violations.len();
        let requests = self.requests;
        let took = self.took.as_secs();
        let seed = self.seed;
        write!(
            f,
            "{count} violations in {requests} requests and {took} s; repeat with --seed {seed}"
        )
    }
}
