//! What must never happen, looked for in what did.
//!
//! Nothing here asks how the servers work: a client's own notes are all the
//! evidence there is, beside the generations that the database has at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use crate::history::{Asked, History, Outcome, Request};

/// How long after a fault servers may still fail.
const RECOVERY: Duration = Duration::from_secs(10);

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Nobody is logged out who did not log out.
    StaysLoggedIn,
    /// What a refresh was answered holds for good.
    RefreshIsKept,
    /// Whoever shows one refresh token is answered with one successor.
    OneSuccessor,
    /// Once a logout is acknowledged, nothing of the session is accepted.
    LogoutIsFinal,
    /// Clients are answered as agreed, or told when to come back.
    KnownAnswers,
    /// Soon after a fault everything works, and goes on working.
    RecoversSoon,
}

impl Rule {
    /// What is said where it is broken.
    pub(super) fn broken(self) -> &'static str {
        match self {
            Self::StaysLoggedIn => "honest client logged out",
            Self::RefreshIsKept => "acknowledged refresh lost",
            Self::OneSuccessor => "two successors of one token",
            Self::LogoutIsFinal => "accepted after logout",
            Self::KnownAnswers => "answer that no client expects",
            Self::RecoversSoon => "slow recovery",
        }
    }
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When, counted from the start of the run.
    pub at: Duration,
    /// Who saw it, where it was one client.
    pub client: Option<usize>,
    /// Whose tokens they were, where it was about some.
    pub session: Option<Uuid>,
    /// What happened.
    pub what: String,
}

impl Violation {
    fn by(request: &Request, rule: Rule, what: String) -> Self {
        let Request { client, session, sent, .. } = request;
        Self { rule, at: *sent, client: Some(*client), session: *session, what }
    }
}

/// All that went wrong, in the order it happened.
pub(super) fn violations(history: &History) -> Vec<Violation> {
    let logouts = logouts(history);
    let mut found = stays_logged_in(history, &logouts);
    found.extend(works_at_the_end(history, &logouts));
    found.extend(rows_are_kept(history));
    found.extend(one_successor(history));
    found.extend(logout_is_final(history, &logouts));
    found.extend(known_answers(history));
    found.extend(recovers_soon(history));
    found.sort_by_key(|violation| violation.at);
    found
}

/// When a session's client first asked for its end, and when it was first
/// acknowledged.
struct Logout {
    sent: Duration,
    acknowledged: Option<Duration>,
}

fn logouts(history: &History) -> HashMap<Uuid, Logout> {
    let mut logouts: HashMap<Uuid, Logout> = HashMap::new();
    for request in history.requests.iter().filter(|request| request.asked == Asked::Logout) {
        let Some(session) = request.session else { continue };
        let first = Logout { sent: request.sent, acknowledged: None };
        let logout = logouts.entry(session).or_insert(first);
        logout.sent = logout.sent.min(request.sent);
        if request.outcome == Outcome::Accepted {
            let earlier = logout.acknowledged.unwrap_or(request.done);
            logout.acknowledged = Some(earlier.min(request.done));
        }
    }
    logouts
}

/// No token of a live session is refused, but for an access token whose own
/// life was over.
fn stays_logged_in(history: &History, logouts: &HashMap<Uuid, Logout>) -> Vec<Violation> {
    let mut found = Vec::new();
    for request in &history.requests {
        let (Some(session), Outcome::Refused(reason)) = (request.session, &request.outcome) else {
            continue;
        };
        if logouts.get(&session).is_some_and(|logout| logout.sent <= request.done) {
            continue;
        }
        let what = match &request.asked {
            Asked::Refresh { shown } => {
                format!("/refresh with generation {}: 401 {reason}", shown.generation)
            }
            Asked::User { expires } if request.done < *expires => {
                let left = expires.abs_diff(request.done);
                format!("/user: 401 {reason}, {:.1} s before the token ends", left.as_secs_f64())
            }
            _ => continue,
        };
        found.push(Violation::by(request, Rule::StaysLoggedIn, what));
    }
    found
}

/// Whoever is logged in at the end refreshes once more and shows the new access
/// token.
fn works_at_the_end(history: &History, logouts: &HashMap<Uuid, Logout>) -> Vec<Violation> {
    let shows = |request: &Request| matches!(request.asked, Asked::User { .. });
    let refreshes = |request: &Request| matches!(request.asked, Asked::Refresh { .. });
    let at_last =
        |request: &Request| request.sent >= history.closing && request.outcome.is_success();
    let refused = sessions(history, |request| {
        refreshes(request) && matches!(request.outcome, Outcome::Refused(_))
    });
    let renewed = sessions(history, |request| refreshes(request) && at_last(request));
    let known = sessions(history, |request| shows(request) && at_last(request));
    // Who was refused is reported for that, and who logs out is gone.
    let live = last_sessions(history)
        .into_iter()
        .filter(|(_, session)| !logouts.contains_key(session) && !refused.contains(session));
    let broken = live.filter_map(|(client, session)| {
        let what = match (renewed.contains(&session), known.contains(&session)) {
            (true, true) => return None,
            (false, _) => "cannot refresh at the end".to_owned(),
            (true, false) => "refreshes, but /user does not work at the end".to_owned(),
        };
        let (client, session) = (Some(client), Some(session));
        Some(Violation { rule: Rule::RefreshIsKept, at: history.end, client, session, what })
    });
    broken.collect()
}

/// The sessions of those requests.
fn sessions(history: &History, which: impl Fn(&Request) -> bool) -> HashSet<Uuid> {
    let requests = history.requests.iter().filter(|request| which(request));
    requests.filter_map(|request| request.session).collect()
}

/// The session that each client opened last.
fn last_sessions(history: &History) -> BTreeMap<usize, Uuid> {
    let opened = history.requests.iter().filter_map(|request| match &request.outcome {
        Outcome::Granted(token) if request.asked == Asked::SignIn => {
            Some((request.client, token.session))
        }
        _ => None,
    });
    opened.collect()
}

/// The database is at the generation that clients were given, or beyond.
fn rows_are_kept(history: &History) -> Vec<Violation> {
    let mut newest: HashMap<Uuid, (u64, &Request)> = HashMap::new();
    for request in &history.requests {
        let Outcome::Granted(token) = &request.outcome else { continue };
        let given = newest.entry(token.session).or_insert((token.generation, request));
        if token.generation > given.0 {
            *given = (token.generation, request);
        }
    }
    let behind = newest.into_iter().filter_map(|(session, (generation, request))| {
        let row = history.rows.get(&session);
        if row.is_some_and(|row| *row >= generation) {
            return None;
        }
        let row = row.map_or("no such session".to_owned(), |row| format!("generation {row}"));
        let what = format!("was given generation {generation}, the database has {row}");
        let violation = Violation::by(request, Rule::RefreshIsKept, what);
        Some(Violation { session: Some(session), ..violation })
    });
    behind.collect()
}

/// All answers to one refresh token carry the same refresh token.
fn one_successor(history: &History) -> Vec<Violation> {
    let mut successors = HashMap::new();
    let mut found = Vec::new();
    for request in &history.requests {
        let (Asked::Refresh { shown }, Outcome::Granted(token)) =
            (&request.asked, &request.outcome)
        else {
            continue;
        };
        let first = successors.entry(&shown.text).or_insert(token);
        if *first != token {
            let what = format!("a second successor of generation {}", shown.generation);
            found.push(Violation::by(request, Rule::OneSuccessor, what));
        }
    }
    found
}

/// Nothing is accepted that was sent when the logout had been acknowledged.
fn logout_is_final(history: &History, logouts: &HashMap<Uuid, Logout>) -> Vec<Violation> {
    let mut found = Vec::new();
    for request in &history.requests {
        let path = match request.asked {
            Asked::User { .. } => "/user",
            Asked::Refresh { .. } => "/refresh",
            _ => continue,
        };
        let logout = request.session.and_then(|session| logouts.get(&session));
        let Some(ended) = logout.and_then(|logout| logout.acknowledged) else { continue };
        if request.outcome.is_success() && request.sent > ended {
            let later = request.sent.abs_diff(ended).as_secs_f64();
            let server = request.server + 1;
            let what = format!("{path} at server {server}, {later:.2} s after the answer");
            found.push(Violation::by(request, Rule::LogoutIsFinal, what));
        }
    }
    found
}

/// Only a token can be refused, and nothing is answered but what clients know.
fn known_answers(history: &History) -> Vec<Violation> {
    let shows_a_token = |asked: &Asked| matches!(asked, Asked::User { .. } | Asked::Refresh { .. });
    let mut found = Vec::new();
    for request in &history.requests {
        let what = match &request.outcome {
            Outcome::Wrong(answer) => answer.clone(),
            Outcome::Refused(reason) if !shows_a_token(&request.asked) => format!("401 {reason}"),
            _ => continue,
        };
        let what = format!("{} at server {}: {what}", name(&request.asked), request.server + 1);
        found.push(Violation::by(request, Rule::KnownAnswers, what));
    }
    found
}

fn name(asked: &Asked) -> &'static str {
    match asked {
        Asked::Register => "/register",
        Asked::SignIn => "/token",
        Asked::User { .. } => "/user",
        Asked::Refresh { .. } => "/refresh",
        Asked::Logout => "/logout",
    }
}

fn recovers_soon(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (i, episode) in history.episodes.iter().enumerate() {
        let what = match recovery(history, i) {
            Some(time) if time <= RECOVERY => continue,
            Some(time) => format!("{:.1} s after {}", time.as_secs_f64(), episode.name),
            None => format!("a server does not work again after {}", episode.name),
        };
        let at = episode.ended;
        let rule = Rule::RecoversSoon;
        found.push(Violation { rule, at, client: None, session: None, what });
    }
    found
}

/// How long after the end of a fault the last request was sent that failed, if
/// each server succeeded after that and before the next fault.
pub(super) fn recovery(history: &History, episode: usize) -> Option<Duration> {
    let since = history.episodes[episode].ended;
    let next = history.episodes.get(episode + 1).map_or(Duration::MAX, |next| next.began);
    let after = |request: &&Request| request.sent >= since && request.sent < next;
    let after: Vec<&Request> = history.requests.iter().filter(after).collect();
    let servers: HashSet<usize> = history.requests.iter().map(|request| request.server).collect();
    let mut slowest = Duration::ZERO;
    for server in servers {
        let here = || after.iter().filter(|request| request.server == server);
        // What the next fault met on its way is the next fault's.
        let failed = here().filter(|request| request.outcome.is_failure() && request.done < next);
        let failed = failed.map(|request| request.sent).max();
        let works = |request: &&&Request| {
            request.outcome.is_success() && failed.is_none_or(|failed| request.sent > failed)
        };
        here().find(works)?;
        slowest = slowest.max(failed.map_or(Duration::ZERO, |failed| failed.abs_diff(since)));
    }
    Some(slowest)
}

#[cfg(test)]
mod tests;
