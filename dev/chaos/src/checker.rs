//! Checks the history of a run against the invariants.
//!
//! The checker treats the servers as a black box. Its only input is the recorded requests,
//! and the generations in the database at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use crate::history::{FaultWindow, History, Operation, Outcome, Request};

/// A property that must hold in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A client is only logged out by its own logout.
    StaysLoggedIn,
    /// An acknowledged refresh is never lost.
    RefreshIsDurable,
    /// A refresh token has one successor.
    OneSuccessor,
    /// After an acknowledged logout no token of the session is accepted. A changed password, a
    /// disabled and a deleted account count as logouts.
    LogoutIsFinal,
    /// Every response is a documented one.
    KnownResponses,
    /// The servers recover in time after a fault.
    RecoversInTime,
}

impl Invariant {
    /// Returns the text of a violation.
    pub(super) fn violated(self) -> &'static str {
        match self {
            Self::StaysLoggedIn => "honest client logged out",
            Self::RefreshIsDurable => "acknowledged refresh lost",
            Self::OneSuccessor => "two successors of one token",
            Self::LogoutIsFinal => "accepted after logout",
            Self::KnownResponses => "undocumented response",
            Self::RecoversInTime => "slow recovery",
        }
    }
}

/// A violated invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub invariant: Invariant,
    /// Time since the start of the run.
    pub at: Duration,
    /// The affected client, if it is one.
    pub client: Option<usize>,
    /// The affected session, if it is one.
    pub session: Option<Uuid>,
    /// Details.
    pub detail: String,
}

impl Violation {
    fn by(request: &Request, invariant: Invariant, detail: String) -> Self {
        let Request { client, session, sent, .. } = request;
        Self { invariant, at: *sent, client: Some(*client), session: *session, detail }
    }
}

/// Returns all violations, ordered by time.
pub(super) fn violations(history: &History) -> Vec<Violation> {
    let logouts = logouts(history);
    let mut found = stays_logged_in(history, &logouts);
    found.extend(works_at_the_end(history, &logouts));
    found.extend(rows_are_durable(history));
    found.extend(one_successor(history));
    found.extend(logout_is_final(history, &logouts));
    found.extend(known_responses(history));
    found.extend(recovers_in_time(history));
    found.sort_by_key(|violation| violation.at);
    found
}

/// When a session's end was first sent and first acknowledged.
struct Logout {
    sent: Duration,
    acknowledged: Option<Duration>,
}

fn logouts(history: &History) -> HashMap<Uuid, Logout> {
    let mut logouts: HashMap<Uuid, Logout> = HashMap::new();
    for request in history.requests.iter().filter(|request| request.operation.ends_session()) {
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

/// No token of a live session is rejected, except expired access tokens.
fn stays_logged_in(history: &History, logouts: &HashMap<Uuid, Logout>) -> Vec<Violation> {
    let mut found = Vec::new();
    let lost = lost_sessions(history);
    for request in &history.requests {
        let (Some(session), Outcome::Rejected(reason)) = (request.session, &request.outcome) else {
            continue;
        };
        let is_logged_out = logouts.get(&session).is_some_and(|logout| logout.sent <= request.done);
        if is_logged_out || lost.contains(&session) {
            continue;
        }
        let detail = match &request.operation {
            Operation::Refresh { presented } => {
                format!("/refresh with generation {}: 401 {reason}", presented.generation)
            }
            Operation::User { expires } if request.done < *expires => {
                let left = expires.abs_diff(request.done);
                format!("/user: 401 {reason}, {:.1} s before the token ends", left.as_secs_f64())
            }
            _ => continue,
        };
        found.push(Violation::by(request, Invariant::StaysLoggedIn, detail));
    }
    found
}

/// At the end every live session can refresh, and its new access token is accepted.
fn works_at_the_end(history: &History, logouts: &HashMap<Uuid, Logout>) -> Vec<Violation> {
    let presents = |request: &Request| matches!(request.operation, Operation::User { .. });
    let refreshes = |request: &Request| matches!(request.operation, Operation::Refresh { .. });
    let at_end =
        |request: &Request| request.sent >= history.closing && request.outcome.is_success();
    let rejected = sessions(history, |request| {
        refreshes(request) && matches!(request.outcome, Outcome::Rejected(_))
    });
    let renewed = sessions(history, |request| refreshes(request) && at_end(request));
    let known = sessions(history, |request| presents(request) && at_end(request));
    // Rejected sessions are reported elsewhere, and logged-out ones need not work.
    let live = last_sessions(history)
        .into_iter()
        .filter(|(_, session)| !logouts.contains_key(session) && !rejected.contains(session));
    let violated = live.filter_map(|(client, session)| {
        let detail = match (renewed.contains(&session), known.contains(&session)) {
            (true, true) => return None,
            (false, _) => "cannot refresh at the end".to_owned(),
            (true, false) => "refreshes, but /user does not work at the end".to_owned(),
        };
        let client = Some(client);
        let session = Some(session);
        Some(Violation {
            invariant: Invariant::RefreshIsDurable,
            at: history.end,
            client,
            session,
            detail,
        })
    });
    violated.collect()
}

/// Returns whether a write was acknowledged during a fault that may lose it.
fn may_be_lost(history: &History, request: &Request) -> bool {
    let during = |window: &FaultWindow| {
        window.loses_writes && request.done >= window.began && request.sent <= window.ended
    };
    history.windows.iter().any(during)
}

/// Returns the sessions whose login may be lost.
fn lost_sessions(history: &History) -> HashSet<Uuid> {
    let logins = history.requests.iter().filter(|request| request.operation.opens_session());
    let lost = logins.filter(|request| may_be_lost(history, request));
    lost.filter_map(|request| match &request.outcome {
        Outcome::Granted(token) => Some(token.session),
        _ => None,
    })
    .collect()
}

/// Returns whether a request logs in a guest whose registration may be lost.
fn is_login_of_lost_guest(history: &History, login: &Request) -> bool {
    let is_registration = |request: &&Request| {
        request.client == login.client
            && request.operation == Operation::Register
            && request.outcome == Outcome::Accepted
            && request.sent < login.sent
    };
    let last = history.requests.iter().filter(is_registration).max_by_key(|request| request.sent);
    login.operation == Operation::LogIn && last.is_some_and(|last| may_be_lost(history, last))
}

/// Returns the sessions of matching requests.
fn sessions(history: &History, which: impl Fn(&Request) -> bool) -> HashSet<Uuid> {
    let requests = history.requests.iter().filter(|request| which(request));
    requests.filter_map(|request| request.session).collect()
}

/// Returns the last session of each client.
fn last_sessions(history: &History) -> BTreeMap<usize, Uuid> {
    let opened = history.requests.iter().filter_map(|request| match &request.outcome {
        Outcome::Granted(token) if request.operation.opens_session() => {
            Some((request.client, token.session))
        }
        _ => None,
    });
    opened.collect()
}

/// The database has the generation of the newest issued token, or a later one.
fn rows_are_durable(history: &History) -> Vec<Violation> {
    let mut newest: HashMap<Uuid, (u64, &Request)> = HashMap::new();
    for request in &history.requests {
        let Outcome::Granted(token) = &request.outcome else { continue };
        let known = newest.entry(token.session).or_insert((token.generation, request));
        if token.generation > known.0 {
            *known = (token.generation, request);
        }
    }
    // The rows of a deleted account are deleted, those of sessions that ended before as well.
    let deleted = sessions(history, |request| {
        matches!(
            request.operation,
            Operation::ChangePassword | Operation::DeleteAccount | Operation::Disable
        )
    });
    let kept = newest.into_iter().filter(|(session, _)| !deleted.contains(session));
    let lost = lost_sessions(history);
    let behind = kept.filter_map(|(session, (generation, request))| {
        if lost.contains(&session) || may_be_lost(history, request) {
            return None;
        }
        let row = history.rows.get(&session);
        if row.is_some_and(|row| *row >= generation) {
            return None;
        }
        let row = row.map_or("no such session".to_owned(), |row| format!("generation {row}"));
        let detail = format!("generation {generation} was issued, the database has {row}");
        let violation = Violation::by(request, Invariant::RefreshIsDurable, detail);
        Some(Violation { session: Some(session), ..violation })
    });
    behind.collect()
}

/// All responses to one refresh token contain the same successor.
fn one_successor(history: &History) -> Vec<Violation> {
    let mut successors = HashMap::new();
    let mut found = Vec::new();
    for request in &history.requests {
        let Outcome::Granted(token) = &request.outcome else { continue };
        let (presented, which) = match &request.operation {
            Operation::Refresh { presented } => {
                (&presented.text, format!("generation {}", presented.generation))
            }
            Operation::Exchange { presented } => (presented, "an imported token".to_owned()),
            _ => continue,
        };
        let first = successors.entry(presented).or_insert(token);
        if *first != token {
            let detail = format!("a second successor of {which}");
            found.push(Violation::by(request, Invariant::OneSuccessor, detail));
        }
    }
    found
}

/// No request sent after an acknowledged logout is accepted.
fn logout_is_final(history: &History, logouts: &HashMap<Uuid, Logout>) -> Vec<Violation> {
    let mut found = Vec::new();
    for request in &history.requests {
        let path = match request.operation {
            Operation::User { .. } => "/user",
            Operation::Refresh { .. } => "/refresh",
            _ => continue,
        };
        let logout = request.session.and_then(|session| logouts.get(&session));
        let Some(ended) = logout.and_then(|logout| logout.acknowledged) else { continue };
        if request.outcome.is_success() && request.sent > ended {
            let later = request.sent.abs_diff(ended).as_secs_f64();
            let server = request.server + 1;
            let detail = format!("{path} at server {server}, {later:.2} s after the logout");
            found.push(Violation::by(request, Invariant::LogoutIsFinal, detail));
        }
    }
    found
}

/// Only tokens are rejected, and every response is a documented one.
fn known_responses(history: &History) -> Vec<Violation> {
    let presents_token = |operation: &Operation| {
        matches!(
            operation,
            Operation::User { .. }
                | Operation::Refresh { .. }
                | Operation::ChangePassword
                | Operation::DeleteAccount
        )
    };
    let mut found = Vec::new();
    for request in &history.requests {
        let detail = match &request.outcome {
            Outcome::Unexpected(response)
                if response.starts_with('4') && is_login_of_lost_guest(history, request) =>
            {
                continue;
            }
            Outcome::Unexpected(response) => response.clone(),
            Outcome::Rejected(reason) if !presents_token(&request.operation) => {
                format!("401 {reason}")
            }
            _ => continue,
        };
        let detail =
            format!("{} at server {}: {detail}", name(&request.operation), request.server + 1);
        found.push(Violation::by(request, Invariant::KnownResponses, detail));
    }
    found
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Register => "/register",
        Operation::LogIn => "/token",
        Operation::Exchange { .. } => "/refresh with an imported token",
        Operation::User { .. } => "/user",
        Operation::Refresh { .. } => "/refresh",
        Operation::Logout => "/logout",
        Operation::RegisterAccount => "POST /register",
        Operation::ChangePassword => "/password",
        Operation::DeleteAccount => "DELETE /account",
        Operation::Disable => "users disable",
    }
}

fn recovers_in_time(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (i, window) in history.windows.iter().enumerate() {
        let detail = match recovery(history, i) {
            Some(time) if time <= history.max_recovery => continue,
            Some(time) => format!("{:.1} s after {}", time.as_secs_f64(), window.name),
            None => format!("a server does not recover after {}", window.name),
        };
        let at = window.ended;
        let invariant = Invariant::RecoversInTime;
        found.push(Violation { invariant, at, client: None, session: None, detail });
    }
    found
}

/// Returns the time from the end of a fault to the last failed request. Returns `None`
/// unless every server succeeded after that and before the next fault.
pub(super) fn recovery(history: &History, window: usize) -> Option<Duration> {
    let since = history.windows[window].ended;
    let next = history.windows.get(window + 1).map_or(Duration::MAX, |next| next.began);
    let requests = || history.requests.iter().filter(|request| !request.operation.is_command());
    let after = |request: &&Request| request.sent >= since && request.sent < next;
    let after: Vec<&Request> = requests().filter(after).collect();
    let servers: HashSet<usize> = requests().map(|request| request.server).collect();
    let mut slowest = Duration::ZERO;
    for server in servers {
        let here = || after.iter().filter(|request| request.server == server);
        // Requests in progress at the next fault count for that one.
        let failed = here().filter(|request| request.outcome.is_failure() && request.done < next);
        let failed = failed.map(|request| request.sent).max();
        let recovered = |request: &&&Request| {
            request.outcome.is_success() && failed.is_none_or(|failed| request.sent > failed)
        };
        here().find(recovered)?;
        slowest = slowest.max(failed.map_or(Duration::ZERO, |failed| failed.abs_diff(since)));
    }
    Some(slowest)
}

#[cfg(test)]
mod tests;
