//! The credentials of one login: tokens in memory and in a store, settings, events.

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix_rt::task::spawn_blocking;
use tokio::sync::watch;

use crate::error::Error;
use crate::event::Event;
use crate::single_flight::{Action, Outcome, RefreshLeader, SharedTokens, wait_timed_out};
use crate::store::{StoreGuard, StoredTokens, TokenStore};
use crate::token_set::TokenSet;

/// The default of [`CredentialsBuilder::wait_timeout`].
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The default of [`CredentialsBuilder::body_limit`], in bytes.
const BODY_LIMIT: usize = 2 << 20;

/// The default of [`CredentialsBuilder::retries`].
const RETRIES: u32 = 2;

/// When tokens are refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// After the server has responded `401` to a request.
    #[default]
    Reactive,
    /// Also before a request, if `fraction` of the access token's lifetime has passed.
    Proactive {
        /// The fraction of the lifetime, from 0 to 1.
        fraction: f64,
    },
    /// By a background task when `fraction` of the lifetime has passed, with or without
    /// requests. The task runs on the thread of a [`Client`](crate::Client).
    Background {
        /// The fraction of the lifetime, from 0 to 1.
        fraction: f64,
    },
}

/// The state of the current access token. All times are measured with the monotonic clock,
/// so that a wrong wall clock changes none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The lifetime of the access token, from when its request was sent.
    pub lifetime: Option<Duration>,
    /// The rest of the lifetime. `None` if it is unknown, as for tokens that were read from
    /// a store.
    pub remaining: Option<Duration>,
    /// The number of refreshes since the login.
    pub refreshes: u64,
    /// The time since this process learned of the login.
    pub age: Duration,
}

/// The tokens of one login. Clones share them, across threads. New credentials have no
/// tokens until a [`Client`](crate::Client) logs in or the store has some.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

/// Builds [`Credentials`].
#[must_use]
pub struct CredentialsBuilder(Settings);

type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

struct Settings {
    store: Option<Arc<dyn TokenStore>>,
    strategy: Strategy,
    hook: Option<Hook>,
    wait_timeout: Duration,
    body_limit: usize,
    retries: u32,
}

struct Inner {
    settings: Settings,
    tokens: SharedTokens,
    /// Whether a background task refreshes these tokens.
    background_running: AtomicBool,
}

impl Default for Credentials {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl CredentialsBuilder {
    /// Keeps the tokens in `store` as well as in memory. Tokens in the store are used, and
    /// its lock serializes refreshes with those of other processes.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.0.store = Some(Arc::new(store));
        self
    }

    /// Sets when to refresh. The default is [`Strategy::Reactive`].
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.0.strategy = strategy;
        self
    }

    /// Calls `hook` with each [`Event`]. No lock is held during the call, and no other
    /// request waits for it. The request that caused the event does, so return quickly.
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.0.hook = Some(Arc::new(hook));
        self
    }

    /// Sets how long a request waits for a refresh by another request or process. The
    /// default is 30 seconds. After it, the request fails with
    /// [`Error::Transient`](crate::Error::Transient).
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.0.wait_timeout = timeout;
        self
    }

    /// Sets the size of the longest body that is kept to be sent again, in bytes. The
    /// default is 2 MiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.0.body_limit = bytes;
        self
    }

    /// Sets how often a refresh is retried after a transient failure without
    /// `Retry-After`. The default is 2.
    pub fn retries(mut self, retries: u32) -> Self {
        self.0.retries = retries;
        self
    }

    /// Builds the credentials. Nothing is read or sent before their first use.
    #[must_use]
    pub fn build(self) -> Credentials {
        Credentials(Arc::new(Inner {
            settings: self.0,
            tokens: SharedTokens::default(),
            background_running: AtomicBool::new(false),
        }))
    }
}

impl Credentials {
    /// Starts with the default settings.
    pub fn builder() -> CredentialsBuilder {
        CredentialsBuilder(Settings {
            store: None,
            strategy: Strategy::default(),
            hook: None,
            wait_timeout: WAIT_TIMEOUT,
            body_limit: BODY_LIMIT,
            retries: RETRIES,
        })
    }

    /// Returns whether there are tokens in memory. Tokens in a store count after their
    /// first use.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.in_memory().is_some()
    }

    /// Reads the tokens in the store into memory, unless there are some already. Returns
    /// whether there are tokens.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    pub async fn load(&self) -> Result<bool, Error> {
        match self.current().await {
            Ok(_) => Ok(true),
            Err(Error::NotLoggedIn) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the state of the tokens in memory, if there are any.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        let (current, age) = self.0.tokens.current_with_age()?;
        Some(Status {
            lifetime: current.lifetime(),
            remaining: current.remaining(),
            refreshes: current.tokens.generation,
            age,
        })
    }

    pub(crate) fn strategy(&self) -> Strategy {
        self.0.settings.strategy
    }

    pub(crate) fn wait_timeout(&self) -> Duration {
        self.0.settings.wait_timeout
    }

    pub(crate) fn body_limit(&self) -> usize {
        self.0.settings.body_limit
    }

    pub(crate) fn retries(&self) -> u32 {
        self.0.settings.retries
    }

    pub(crate) fn background_running(&self) -> &AtomicBool {
        &self.0.background_running
    }

    /// Returns a receiver that is notified of each change of the tokens.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.tokens.changes()
    }

    /// Returns a function that returns the credentials while another clone exists.
    pub(crate) fn downgrade(&self) -> impl Fn() -> Option<Self> + use<> {
        let weak: Weak<Inner> = Arc::downgrade(&self.0);
        move || weak.upgrade().map(Self)
    }

    /// Calls the hook. The caller holds no lock: the hook may use these credentials.
    pub(crate) fn emit(&self, event: &Event) {
        self.emit_with(|| event);
    }

    /// Calls the hook, if there is one, with an event that is created for it.
    pub(crate) fn emit_with<E: Borrow<Event>>(&self, event: impl FnOnce() -> E) {
        if let Some(hook) = &self.0.settings.hook {
            hook(event().borrow());
        }
    }

    /// Returns the tokens in memory, or else those in the store.
    pub(crate) async fn current(&self) -> Outcome {
        if let Some(current) = self.in_memory() {
            return Ok(current);
        }
        let seen = self.changes();
        let stored = self.read().await?.ok_or(Error::NotLoggedIn)?;
        self.0.tokens.install_read(stored.into(), &seen).ok_or(Error::NotLoggedIn)
    }

    /// Returns the tokens in memory.
    pub(crate) fn in_memory(&self) -> Option<Arc<TokenSet>> {
        self.0.tokens.current()
    }

    /// Adopts tokens that another process has stored in place of `rejected`, without a
    /// refresh. Returns `None` if there are no newer ones.
    pub(crate) async fn adopt_newer(&self, rejected: &TokenSet) -> Option<Arc<TokenSet>> {
        let stored = self.read().await.ok()??;
        self.0.tokens.install_newer(stored.into(), rejected)
    }

    /// Waits until no other change of the tokens is in progress, and starts one.
    pub(crate) async fn acquire(&self) -> Result<RefreshLeader, Error> {
        self.0.tokens.acquire(self.wait_timeout()).await
    }

    /// Decides the next step for a request whose access token the server rejected.
    pub(crate) fn after_rejection(&self, rejected: &TokenSet) -> Result<Action, Error> {
        self.0.tokens.after_rejection(rejected)
    }

    /// Acquires the lock of the store, if there is a store.
    pub(crate) async fn lock_store(&self) -> Result<Option<StoreGuard>, Error> {
        let timeout = self.wait_timeout();
        self.with_store(move |store| store.lock(timeout)).await
    }

    /// Reads the store; `None` if it is empty or there is no store.
    pub(crate) async fn read(&self) -> Result<Option<StoredTokens>, Error> {
        Ok(self.with_store(TokenStore::read).await?.flatten())
    }

    /// Writes `tokens` to the store, if there is one. The guard moves to the blocking thread
    /// and back: a write cannot be canceled, and must hold the lock until it ends.
    pub(crate) async fn write(
        &self,
        guard: &mut Option<StoreGuard>,
        tokens: Option<StoredTokens>,
    ) -> Result<(), Error> {
        let moved = guard.take();
        let write = self.with_store(move |store| {
            let written = store.write(tokens.as_ref());
            Ok((moved, written))
        });
        if let Some((returned, written)) = write.await? {
            *guard = returned;
            written.map_err(|error| Error::Store(error.to_string()))?;
        }
        Ok(())
    }

    /// Returns whether there is a store, which may have newer tokens than this process.
    pub(crate) fn has_store(&self) -> bool {
        self.0.settings.store.is_some()
    }

    /// Runs `work` on a thread for blocking calls; returns `None` if there is no store.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn TokenStore) -> io::Result<T> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let Some(store) = self.0.settings.store.clone() else { return Ok(None) };
        match spawn_blocking(move || work(&*store)).await {
            Ok(Ok(done)) => Ok(Some(done)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(wait_timed_out()),
            Ok(Err(error)) => Err(Error::Store(error.to_string())),
            Err(_) => Err(Error::Store("the thread that accessed them has panicked".to_owned())),
        }
    }
}

/// Shows no token.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("logged_in", &self.is_logged_in()).finish()
    }
}

#[cfg(test)]
mod tests {
    use matchbook_shared::TokenResponse;

    use super::*;

    #[actix_rt::test]
    async fn debug_shows_no_token() {
        let credentials = Credentials::default();
        let tokens = TokenResponse {
            token: "secret".to_owned(),
            refresh_token: "secret-r".to_owned(),
            expires_in: 60,
        };
        let tokens = Arc::new(TokenSet::from_login(tokens, None));
        credentials.acquire().await.unwrap().complete(Ok(tokens));
        assert_eq!(format!("{credentials:?}"), "Credentials { logged_in: true }");
    }
}
