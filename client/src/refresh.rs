//! Refreshes: a request joins the refresh in progress or starts one.
//!
//! A refresh acquires the lock of the store, calls the token endpoint and stores the response.
//! Only after that it notifies the waiting requests and emits events.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::time::sleep;
use matchbook_shared::InvalidGrantReason;
use tracing::Instrument;

use crate::credentials::Credentials;
use crate::error::Error;
use crate::event::Event;
use crate::protocol;
use crate::server::Server;
use crate::single_flight::{Action, Outcome, RefreshLeader};
use crate::store::{StoreGuard, StoredTokens};
use crate::token_set::TokenSet;
use crate::transport::Http;

/// The delay before a refresh is retried. It triples with each retry. The idempotency key
/// makes the retry safe.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The server, the connections of one thread, and the tokens that they refresh.
#[derive(Debug, Clone)]
pub(crate) struct Refresher {
    pub(crate) server: Server,
    pub(crate) http: Http,
    pub(crate) credentials: Credentials,
}

/// The tokens in the store, compared with rejected ones.
pub(crate) enum StoreState {
    /// The rejected tokens are stored.
    Unchanged(StoredTokens),
    /// Another process has stored other tokens.
    Replaced(StoredTokens),
}

/// A change of the tokens under the lock of the store. Its caller is the leader.
pub(crate) struct Update<'a> {
    refresher: &'a Refresher,
    /// `None` if there is no store.
    guard: Option<StoreGuard>,
    /// Emitted after the change, when no lock is held.
    events: Vec<Event>,
}

impl Refresher {
    /// Returns tokens in place of `rejected`: those of another request or process, or
    /// refreshed ones.
    ///
    /// # Errors
    /// Those of the refresh; [`Error::SupersededByLogin`] if the new tokens are of another
    /// login.
    pub(crate) async fn replace(&self, rejected: &Arc<TokenSet>) -> Outcome {
        let wait_timeout = self.credentials.wait_timeout();
        let tokens = match self.credentials.after_rejection(rejected)? {
            Action::UseNewer(newer) => Ok(newer),
            Action::BackOff(error) => self.credentials.adopt_newer(rejected).await.ok_or(error),
            Action::Wait(follower) => follower.outcome(wait_timeout).await,
            Action::Refresh { current, leader, follower } => {
                // In a task of its own: the caller may be dropped, but the tokens that the
                // server issues must be kept.
                let span = tracing::info_span!("refresh", generation = current.tokens.generation);
                let refresher = self.clone();
                let refresh = async move { refresher.run(&current, leader).await };
                actix_rt::spawn(refresh.instrument(span));
                follower.outcome(wait_timeout).await
            }
        }?;
        if tokens.tokens.login_id == rejected.tokens.login_id {
            Ok(tokens)
        } else {
            Err(Error::SupersededByLogin)
        }
    }

    async fn run(&self, rejected: &TokenSet, leader: RefreshLeader) {
        let (outcome, events) = match Update::start(self).await {
            Ok(mut update) => {
                let outcome = update.refresh_locked(rejected).await;
                (outcome, update.finish())
            }
            Err(error) => (Err(error), Vec::new()),
        };
        match outcome {
            Ok(_) | Err(Error::LoggedOut(_) | Error::NotLoggedIn) => leader.complete(outcome),
            Err(error) => leader.fail(error),
        }
        self.emit(&events);
    }

    /// Calls the application's hook. The caller holds no lock.
    pub(crate) fn emit(&self, events: &[Event]) {
        for event in events {
            self.credentials.emit(event);
        }
    }

    /// Returns a function that returns the refresher while other credentials of the same
    /// login exist.
    pub(crate) fn downgrade(&self) -> impl Fn() -> Option<Self> + use<> {
        let server = self.server.clone();
        let http = self.http.clone();
        let credentials = self.credentials.downgrade();
        move || {
            let credentials = credentials()?;
            Some(Self { server: server.clone(), http: http.clone(), credentials })
        }
    }
}

impl<'a> Update<'a> {
    /// Acquires the lock of the store.
    pub(crate) async fn start(refresher: &'a Refresher) -> Result<Self, Error> {
        let guard = refresher.credentials.lock_store().await?;
        Ok(Self { refresher, guard, events: Vec::new() })
    }

    /// Releases the lock of the store, and returns the events to emit.
    pub(crate) fn finish(self) -> Vec<Event> {
        self.events
    }

    pub(crate) fn record(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Writes the store, if there is one.
    pub(crate) async fn write(&mut self, tokens: Option<StoredTokens>) -> Result<(), Error> {
        self.refresher.credentials.write(&mut self.guard, tokens).await
    }

    /// Compares the store with `rejected` tokens. Afterwards the tokens to refresh are in
    /// the store, with the idempotency key of a refresh that has started.
    pub(crate) async fn reconcile(&mut self, rejected: &TokenSet) -> Result<StoreState, Error> {
        let ours = &rejected.tokens;
        if !self.refresher.credentials.has_store() {
            return Ok(StoreState::Unchanged(ours.clone()));
        }
        let stored = self.refresher.credentials.read().await?.ok_or(Error::NotLoggedIn)?;
        if stored.access_token == ours.access_token && stored.refresh_token == ours.refresh_token {
            return Ok(StoreState::Unchanged(stored));
        }
        if rejected.is_successor_of(&stored) {
            // They could not be written when the server issued them.
            self.write(Some(ours.clone())).await?;
            return Ok(StoreState::Unchanged(ours.clone()));
        }
        Ok(StoreState::Replaced(stored))
    }

    /// Ends the session of `tokens` at the server.
    pub(crate) async fn end_session(&mut self, tokens: &StoredTokens) -> Result<(), Error> {
        let Refresher { server, http, .. } = self.refresher;
        protocol::log_out(server, http, tokens, |event| self.events.push(event)).await
    }

    async fn refresh_locked(&mut self, rejected: &TokenSet) -> Outcome {
        let tokens = match self.reconcile(rejected).await? {
            StoreState::Unchanged(tokens) => tokens,
            StoreState::Replaced(stored) => return Ok(Arc::new(stored.into())),
        };
        let tokens = self.write_key_ahead(tokens, rejected).await?;
        match self.refresh_with_retries(&tokens).await {
            Ok(refreshed) => {
                // If this write fails, the response can be recovered: the store still has
                // the idempotency key, and the next refresh writes these tokens first.
                if let Err(error) = self.write(Some(refreshed.tokens.clone())).await {
                    tracing::warn!(%error, "refreshed tokens not stored, kept in memory only");
                }
                let count = refreshed.tokens.generation;
                tracing::debug!(count, "tokens refreshed");
                self.record(Event::Refreshed { count });
                Ok(Arc::new(refreshed))
            }
            Err(Error::LoggedOut(reason)) => {
                tracing::info!(
                    reason = reason.map(InvalidGrantReason::as_str),
                    "session ended by the server"
                );
                // The lock is held, so the store has no tokens of another login.
                if let Err(error) = self.write(None).await {
                    tracing::warn!(%error, "tokens of the ended session not deleted");
                }
                self.record(Event::LoggedOut(reason));
                Err(Error::LoggedOut(reason))
            }
            Err(Error::Superseded) => match self.refresher.credentials.read().await? {
                Some(stored) if stored.refresh_token != tokens.refresh_token => {
                    Ok(Arc::new(stored.into()))
                }
                _ => Err(Error::Superseded),
            },
            Err(error) => Err(error),
        }
    }

    /// Stores the idempotency key with the tokens to refresh, unless an earlier refresh has.
    /// Without it, a response lost in a crash could not be recovered.
    async fn write_key_ahead(
        &mut self,
        mut tokens: StoredTokens,
        rejected: &TokenSet,
    ) -> Result<StoredTokens, Error> {
        if tokens.idempotency_key.is_none() {
            tokens.idempotency_key = Some(rejected.idempotency_key());
            self.write(Some(tokens.clone())).await?;
        }
        Ok(tokens)
    }

    async fn refresh_with_retries(&mut self, tokens: &StoredTokens) -> Result<TokenSet, Error> {
        let mut delay = RETRY_DELAY;
        for _ in 0..self.refresher.credentials.retries() {
            match self.send_refresh(tokens).await {
                Err(Error::Transient { problem, retry_after: None }) => {
                    tracing::debug!(problem, "refresh failed, retrying");
                    self.record(Event::Retried);
                    sleep(delay).await;
                    delay *= 3;
                }
                outcome => return outcome,
            }
        }
        self.send_refresh(tokens).await
    }

    async fn send_refresh(&mut self, tokens: &StoredTokens) -> Result<TokenSet, Error> {
        let Refresher { server, http, .. } = self.refresher;
        protocol::refresh(server, http, tokens, |event| self.events.push(event)).await
    }
}
