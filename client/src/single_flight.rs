//! The tokens in memory, and the one change of them in progress.
//!
//! A refresh, a login and a logout change the tokens. At most one such change runs at a
//! time, and its caller is the leader. Callers that arrive meanwhile are followers: they
//! await the leader's outcome.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use tokio::sync::watch;

use crate::error::Error;
use crate::token_set::TokenSet;

/// The backoff after the first failed refresh. It doubles with each further failure.
const MIN_BACKOFF: Duration = Duration::from_millis(250);

/// The longest backoff, also for a longer `Retry-After`.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// The outcome of a change of the tokens.
pub(crate) type Outcome = Result<Arc<TokenSet>, Error>;

/// The tokens of one login in memory. Clones share them, across threads.
#[derive(Clone)]
pub(crate) struct SharedTokens(Arc<Inner>);

struct Inner {
    /// A `std` mutex, because it is never held across an `await`. No code that holds it can
    /// panic halfway through a change, so a poisoned lock is still consistent.
    state: Mutex<State>,
    /// Notifies of each change of the current tokens.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<TokenSet>>,
    /// When this process learned of the login.
    since: Option<Instant>,
    /// Receives the outcome of the change in progress.
    in_flight: Option<watch::Receiver<Option<Outcome>>>,
    backoff: Option<Backoff>,
}

/// Delays the next refresh after a failure.
struct Backoff {
    until: Instant,
    failures: u32,
    error: Error,
}

/// The role of a caller in a change of the tokens.
enum Role {
    Leader(RefreshLeader),
    Follower(RefreshFollower),
}

/// The next step of a request whose access token was rejected.
pub(crate) enum Action {
    /// Send the request with these newer tokens.
    UseNewer(Arc<TokenSet>),
    /// Await the outcome of the refresh in progress.
    Wait(RefreshFollower),
    /// Do not refresh yet: the last refresh failed with this error.
    BackOff(Error),
    /// Refresh these tokens and complete the leader.
    Refresh {
        /// The tokens in memory, which have the rejected access token.
        current: Arc<TokenSet>,
        /// Publishes the outcome.
        leader: RefreshLeader,
        /// Receives the outcome for the caller itself.
        follower: RefreshFollower,
    },
}

/// A follower's handle to the change in progress.
pub(crate) struct RefreshFollower(watch::Receiver<Option<Outcome>>);

/// The leader's handle. Dropping it without an outcome wakes the followers with an error.
pub(crate) struct RefreshLeader {
    tokens: SharedTokens,
    outcome: watch::Sender<Option<Outcome>>,
    completed: bool,
}

/// Returns the error of a request that waited too long for a refresh.
pub(crate) fn wait_timed_out() -> Error {
    Error::transient("timeout while waiting for a refresh of the tokens")
}

impl Default for SharedTokens {
    fn default() -> Self {
        let changed = watch::channel(()).0;
        Self(Arc::new(Inner { state: Mutex::default(), changed }))
    }
}

impl SharedTokens {
    /// Returns the tokens in memory.
    pub(crate) fn current(&self) -> Option<Arc<TokenSet>> {
        self.lock().current.clone()
    }

    /// Returns the tokens in memory, and for how long this process has known their login.
    pub(crate) fn current_with_age(&self) -> Option<(Arc<TokenSet>, Duration)> {
        let state = self.lock();
        let age = state.since.map(|since| since.elapsed()).unwrap_or_default();
        state.current.clone().map(|current| (current, age))
    }

    /// Returns a receiver that is notified of each change of the tokens.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Installs tokens that were read from the store, unless the tokens in memory have
    /// changed since `seen` and are therefore newer. Returns the current tokens.
    pub(crate) fn install_read(
        &self,
        read: TokenSet,
        seen: &watch::Receiver<()>,
    ) -> Option<Arc<TokenSet>> {
        let mut state = self.lock();
        if state.current.is_none() && !seen.has_changed().unwrap_or(true) {
            self.install(&mut state, Some(Arc::new(read)));
        }
        state.current.clone()
    }

    /// Installs tokens that another process has stored in place of `rejected`. Returns the
    /// current tokens if they are newer than `rejected`.
    pub(crate) fn install_newer(
        &self,
        stored: TokenSet,
        rejected: &TokenSet,
    ) -> Option<Arc<TokenSet>> {
        let mut state = self.lock();
        let current = state.current.clone()?;
        if !current.has_same_access_token(rejected) {
            return Some(current);
        }
        if rejected.is_successor_of(&stored.tokens) || stored.has_same_access_token(rejected) {
            return None;
        }
        let stored = Arc::new(stored);
        state.backoff = None;
        self.install(&mut state, Some(stored.clone()));
        Some(stored)
    }

    /// Waits until no other change is in progress, and starts one.
    ///
    /// # Errors
    /// A transient error if another change takes longer than `wait_timeout`.
    pub(crate) async fn acquire(&self, wait_timeout: Duration) -> Result<RefreshLeader, Error> {
        let started_at = Instant::now();
        loop {
            let role = self.role(&mut self.lock());
            match role {
                Role::Leader(leader) => return Ok(leader),
                Role::Follower(follower) => {
                    let remaining = wait_timeout.saturating_sub(started_at.elapsed());
                    if timeout(remaining, follower.completed()).await.is_err() {
                        return Err(wait_timed_out());
                    }
                }
            }
        }
    }

    /// Decides the next step for a request whose access token the server rejected.
    ///
    /// The rejected token triggers a refresh, not the `401`: if the tokens have changed
    /// since, the newer ones are used.
    ///
    /// # Errors
    /// [`Error::NotLoggedIn`] if there are no tokens any more.
    pub(crate) fn after_rejection(&self, rejected: &TokenSet) -> Result<Action, Error> {
        let mut state = self.lock();
        let current = state.current.clone().ok_or(Error::NotLoggedIn)?;
        if !current.has_same_access_token(rejected) {
            return Ok(Action::UseNewer(current));
        }
        if let Some(error) = state.backoff.as_ref().and_then(Backoff::error) {
            return Ok(Action::BackOff(error));
        }
        Ok(match self.role(&mut state) {
            Role::Follower(follower) => Action::Wait(follower),
            Role::Leader(leader) => {
                let follower = RefreshFollower(leader.outcome.subscribe());
                Action::Refresh { current, leader, follower }
            }
        })
    }

    fn role(&self, state: &mut State) -> Role {
        if let Some(in_flight) = &state.in_flight {
            return Role::Follower(RefreshFollower(in_flight.clone()));
        }
        let (outcome, in_flight) = watch::channel(None);
        state.in_flight = Some(in_flight);
        Role::Leader(RefreshLeader { tokens: self.clone(), outcome, completed: false })
    }

    fn install(&self, state: &mut State, tokens: Option<Arc<TokenSet>>) {
        let is_same_login = state.current.is_some()
            && tokens.as_ref().is_some_and(|tokens| tokens.tokens.generation > 0);
        if !is_same_login {
            let since = |tokens: &Arc<TokenSet>| tokens.sent_at().unwrap_or_else(Instant::now);
            state.since = tokens.as_ref().map(since);
        }
        state.current = tokens;
        self.0.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backoff {
    /// Returns the error for a request during the backoff; `None` after it.
    fn error(&self) -> Option<Error> {
        let remaining = self.until.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return None;
        }
        Some(match &self.error {
            Error::Transient { problem, .. } => {
                Error::Transient { problem: problem.clone(), retry_after: Some(remaining) }
            }
            error => error.clone(),
        })
    }
}

impl RefreshFollower {
    /// Awaits the outcome for at most `wait_timeout`.
    ///
    /// # Errors
    /// Those of the leader; a transient error after `wait_timeout`, or if the leader was
    /// dropped.
    pub(crate) async fn outcome(mut self, wait_timeout: Duration) -> Outcome {
        match timeout(wait_timeout, self.0.wait_for(Option::is_some)).await.map(Result::ok) {
            Err(_) => Err(wait_timed_out()),
            Ok(outcome) => match outcome.as_deref() {
                Some(Some(outcome)) => outcome.clone(),
                _ => Err(Error::transient("the refresh was interrupted")),
            },
        }
    }

    async fn completed(mut self) {
        let _ = self.0.wait_for(Option::is_some).await;
    }
}

impl RefreshLeader {
    /// Installs the new tokens and publishes the outcome.
    ///
    /// [`Error::LoggedOut`] and [`Error::NotLoggedIn`] erase the tokens; no other error
    /// does.
    pub(crate) fn complete(self, outcome: Outcome) {
        let change = match &outcome {
            Ok(tokens) => Some(Some(tokens.clone())),
            Err(Error::LoggedOut(_) | Error::NotLoggedIn) => Some(None),
            Err(_) => None,
        };
        self.publish(outcome, |tokens, state| {
            if let Some(change) = change {
                state.backoff = None;
                tokens.install(state, change);
            }
        });
    }

    /// Publishes the failure of a refresh, and starts the backoff.
    pub(crate) fn fail(self, error: Error) {
        let (error, requested) = match error {
            Error::Transient { problem, retry_after } => {
                let requested = retry_after.map(|delay| delay.clamp(MIN_BACKOFF, MAX_BACKOFF));
                (Error::Transient { problem, retry_after: requested }, requested)
            }
            error => (error, None),
        };
        self.publish(Err(error.clone()), |_, state| {
            let failures = state.backoff.as_ref().map_or(0, |backoff| backoff.failures);
            let delay = MIN_BACKOFF.saturating_mul(1 << failures.min(10)).min(MAX_BACKOFF);
            let until = Instant::now() + requested.unwrap_or(delay);
            state.backoff = Some(Backoff { until, failures: failures.saturating_add(1), error });
        });
    }

    /// Applies `change` and clears `in_flight` under one lock. Otherwise a follower of
    /// the next change could receive this outcome.
    fn publish(mut self, outcome: Outcome, change: impl FnOnce(&SharedTokens, &mut State)) {
        let mut state = self.tokens.lock();
        change(&self.tokens, &mut state);
        state.in_flight = None;
        drop(state);
        self.completed = true;
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for RefreshLeader {
    fn drop(&mut self) {
        if !self.completed {
            self.tokens.lock().in_flight = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use matchbook_shared::TokenResponse;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn token_set(name: &str) -> Arc<TokenSet> {
        let tokens = TokenResponse {
            token: name.to_owned(),
            refresh_token: format!("{name}-r"),
            expires_in: 60,
        };
        Arc::new(TokenSet::from_login(tokens, Some(Instant::now())))
    }

    async fn logged_in() -> (SharedTokens, Arc<TokenSet>) {
        let tokens = SharedTokens::default();
        tokens.acquire(LONG).await.unwrap().complete(Ok(token_set("first")));
        let current = tokens.current().unwrap();
        (tokens, current)
    }

    fn access_token(tokens: &SharedTokens) -> String {
        tokens.current().unwrap().tokens.access_token.clone()
    }

    fn refresh(tokens: &SharedTokens, rejected: &TokenSet) -> (RefreshLeader, RefreshFollower) {
        match tokens.after_rejection(rejected).unwrap() {
            Action::Refresh { leader, follower, .. } => (leader, follower),
            _ => panic!("the first caller refreshes"),
        }
    }

    #[actix_rt::test]
    async fn one_of_many_rejected_callers_refreshes_and_all_get_its_outcome() {
        let (tokens, rejected) = logged_in().await;
        let (leader, first) = refresh(&tokens, &rejected);
        let Action::Wait(second) = tokens.after_rejection(&rejected).unwrap() else {
            panic!("the second caller waits")
        };
        leader.complete(Ok(token_set("second")));
        assert_eq!(first.outcome(LONG).await.unwrap().tokens.access_token, "second");
        assert_eq!(second.outcome(LONG).await.unwrap().tokens.access_token, "second");
    }

    #[actix_rt::test]
    async fn a_replaced_token_is_not_refreshed_again() {
        let (tokens, rejected) = logged_in().await;
        refresh(&tokens, &rejected).0.complete(Ok(token_set("second")));
        let Action::UseNewer(newer) = tokens.after_rejection(&rejected).unwrap() else {
            panic!("there is nothing to refresh")
        };
        assert_eq!(newer.tokens.access_token, "second");
    }

    #[actix_rt::test]
    async fn a_failed_refresh_keeps_the_tokens_and_delays_the_next_refresh() {
        let (tokens, rejected) = logged_in().await;
        let (leader, follower) = refresh(&tokens, &rejected);
        leader.fail(Error::Transient { problem: "unavailable".into(), retry_after: Some(LONG) });
        assert!(matches!(follower.outcome(LONG).await, Err(Error::Transient { .. })));
        assert!(tokens.current().is_some());
        let Ok(Action::BackOff(Error::Transient { retry_after: Some(remaining), .. })) =
            tokens.after_rejection(&rejected)
        else {
            panic!("no refresh during the backoff")
        };
        assert!(remaining <= LONG && remaining > LONG / 2, "{remaining:?}");
    }

    #[actix_rt::test]
    async fn a_dropped_leader_wakes_its_followers_with_an_error() {
        let (tokens, rejected) = logged_in().await;
        let (leader, follower) = refresh(&tokens, &rejected);
        drop(leader);
        assert!(matches!(follower.outcome(LONG).await, Err(Error::Transient { .. })));
        refresh(&tokens, &rejected);
    }

    #[actix_rt::test]
    async fn a_login_waits_for_the_refresh_in_progress() {
        let (tokens, rejected) = logged_in().await;
        let (leader, _) = refresh(&tokens, &rejected);
        let other = tokens.clone();
        let login = actix_rt::spawn(async move {
            other.acquire(LONG).await.unwrap().complete(Ok(token_set("a new login")));
        });
        actix_rt::task::yield_now().await;
        assert_eq!(access_token(&tokens), "first");
        leader.complete(Err(Error::LoggedOut(None)));
        login.await.unwrap();
        assert_eq!(access_token(&tokens), "a new login");
    }
}
