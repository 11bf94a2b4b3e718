//! What a run is told as.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

use crate::history::{Episode, History, Outcome};
use crate::judge::{self, Violation};

/// The most violations of one rule that are told one by one.
const TOLD: usize = 30;

/// What happened and what was wrong with it; `Display` is a table and a line for
/// each violation.
pub struct Report {
    /// With which the run can be repeated.
    pub seed: u64,
    /// What went wrong.
    pub violations: Vec<Violation>,
    lines: Vec<Line>,
    episodes: Vec<Episode>,
    requests: usize,
    took: Duration,
}

/// A line of the table: what happened from the beginning of a fault to that of
/// the next.
struct Line {
    name: String,
    requests: usize,
    /// Answered with `503`.
    refused: usize,
    /// Not answered in time, or not to the end.
    silent: usize,
    recovery: String,
    violations: usize,
}

impl Report {
    pub(super) fn of(seed: u64, history: &History) -> Self {
        let violations = judge::violations(history);
        let lines = (0..=history.episodes.len()).map(|i| Line::of(history, &violations, i));
        Self {
            seed,
            lines: lines.collect(),
            violations,
            episodes: history.episodes.clone(),
            requests: history.requests.len(),
            took: history.end,
        }
    }

    /// When it was, by the fault that was going on or was the last.
    fn when(&self, at: Duration) -> String {
        let episode = self.episodes.iter().rev().find(|episode| episode.began <= at);
        let since = |from: Duration| at.abs_diff(from).as_secs_f64();
        match episode {
            None => "before the first fault".to_owned(),
            Some(Episode { name, ended, .. }) if at >= *ended => {
                format!("{:.1} s after {name}", since(*ended))
            }
            Some(Episode { name, began, .. }) => format!("{:.1} s into {name}", since(*began)),
        }
    }

    fn sentence(&self, violation: &Violation) -> String {
        let Violation { rule, at, client, session, what } = violation;
        let mut sentence = format!("{:7.2} s  {}: {what}", at.as_secs_f64(), rule.broken());
        if let Some(client) = client {
            let _ = write!(sentence, "; client {client}");
        }
        if let Some(session) = session {
            let _ = write!(sentence, ", session {session}");
        }
        sentence + &format!("; {}", self.when(*at))
    }

    /// One by one, as far as anybody reads, and then how many more there are.
    fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let mut rules: Vec<_> = self.violations.iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        for rule in rules {
            let these = || self.violations.iter().filter(|violation| violation.rule == rule);
            sentences.extend(these().take(TOLD).map(|violation| self.sentence(violation)));
            let more = these().count().saturating_sub(TOLD);
            if more > 0 {
                sentences.push(format!("           {}: {more} more", rule.broken()));
            }
        }
        sentences
    }
}

impl Line {
    /// Of the fault before number `i`; of the time before the first, for 0.
    fn of(history: &History, violations: &[Violation], i: usize) -> Self {
        let began = |i: usize| history.episodes.get(i).map(|episode| episode.began);
        let from = i.checked_sub(1).and_then(began).unwrap_or(Duration::ZERO);
        let until = began(i).unwrap_or(Duration::MAX);
        let here = |at: Duration| at >= from && at < until;
        let requests = || history.requests.iter().filter(|request| here(request.sent));
        let count = |outcome| requests().filter(|request| request.outcome == outcome).count();
        let (name, recovery) = match i.checked_sub(1) {
            None => ("(before)".to_owned(), String::new()),
            Some(i) => (history.episodes[i].name.clone(), recovery(history, i)),
        };
        Self {
            name,
            requests: requests().count(),
            refused: count(Outcome::Away),
            silent: count(Outcome::Silent),
            recovery,
            violations: violations.iter().filter(|violation| here(violation.at)).count(),
        }
    }
}

fn recovery(history: &History, episode: usize) -> String {
    let time = judge::recovery(history, episode);
    time.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:18} {:>9} {:>8} {:>10} {:>9} {:>11}",
            "fault", "requests", "refused", "no answer", "recovery", "violations"
        )?;
        for Line { name, requests, refused, silent, recovery, violations } in &self.lines {
            writeln!(
                f,
                "{name:18} {requests:>9} {refused:>8} {silent:>10} {recovery:>9} {violations:>11}"
            )?;
        }
        for sentence in self.sentences() {
            writeln!(f, "{sentence}")?;
        }
        let (count, requests) = (self.violations.len(), self.requests);
        let (took, seed) = (self.took.as_secs(), self.seed);
        write!(
            f,
            "{count} violations in {requests} requests and {took} s; the same again: --seed {seed}"
        )
    }
}
