//! The tokens of one sign-in, shared by all threads, and whose turn it is to
//! change them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use actix_rt::task::spawn_blocking;
use actix_rt::time::timeout;
use awc::http::header::HeaderValue;
use matchbook_shared::TokenResponse;
use tokio::sync::watch;
use uuid::Uuid;

use crate::store::{StoreGuard, StoredTokens, TokenStore};
use crate::{Error, Event};

/// How long a request waits for its tokens, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest body that is kept to be sent again, in bytes, unless told otherwise.
const BODY_LIMIT: usize = 2 << 20;

/// How often a refresh that failed for the moment is sent again at once, unless
/// told otherwise.
const RETRIES: u32 = 2;

/// After a refresh that failed for the moment, none is sent for so long; twice
/// as long after the next one, and so on.
const FIRST_REST: Duration = Duration::from_millis(250);

/// No rest is longer, whatever a server asks for.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Any lifetime beyond this is as good as this one.
const LONGEST_LIFETIME: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// When tokens are refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// When the server answers `401`.
    #[default]
    Reactive,
    /// Before a request, too, when this fraction (0 to 1) of the access token's
    /// lifetime is over.
    Proactive {
        /// Of the lifetime.
        fraction: f64,
    },
    /// By a task of its own when this fraction is over, whether or not there are
    /// requests. It runs on the thread of a [`crate::Client`].
    Background {
        /// Of the lifetime.
        fraction: f64,
    },
}

/// How a held access token stands. Times are of the monotonic clock: a wrong
/// wall clock changes none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// How long the access token lives, from when it was asked for.
    pub lifetime: Option<Duration>,
    /// What is left of it. `None` where that is not known: tokens read from a
    /// store do not tell when they were granted.
    pub remaining: Option<Duration>,
    /// How often the tokens were refreshed since the sign-in.
    pub refreshes: u64,
    /// How long this process has known the sign-in.
    pub age: Duration,
}

/// The tokens of one sign-in. Clones share them, across threads. Empty at first.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

/// What a [`Credentials`] is made with.
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
    shared: Mutex<Shared>,
    /// Whether a task in the background looks after these tokens.
    kept: AtomicBool,
    /// Is marked whenever other tokens are held.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Shared {
    held: Option<Held>,
    since: Option<Instant>,
    turn: Option<watch::Receiver<Option<Outcome>>>,
    rest: Option<Rest>,
}

/// Until when no refresh is sent, and what went wrong.
struct Rest {
    until: Instant,
    failures: u32,
    error: Error,
}

/// Tokens as they were granted together.
pub(crate) type Held = Arc<Granted>;

pub(crate) type Outcome = Result<Held, Error>;

/// Tokens, and what this process knows of them.
pub(crate) struct Granted {
    pub(crate) tokens: StoredTokens,
    /// When the request was sent that they answer; unknown of what was read from
    /// a store.
    sent_at: Option<Instant>,
    /// The idempotency key of those that they came in place of.
    pub(crate) replaces: Option<String>,
    /// The idempotency key of the refresh of these, made when it begins.
    key: OnceLock<String>,
    /// `Authorization` as every request carries it (RFC 6750 §2.1); `None` where
    /// the access token has characters that no header takes.
    pub(crate) bearer: Option<HeaderValue>,
}

impl Granted {
    fn new(tokens: StoredTokens, sent_at: Option<Instant>, replaces: Option<String>) -> Self {
        let bearer = HeaderValue::try_from(format!("Bearer {}", tokens.access_token)).ok();
        let bearer = bearer.map(|mut bearer| {
            bearer.set_sensitive(true);
            bearer
        });
        Self { tokens, sent_at, replaces, key: OnceLock::new(), bearer }
    }

    /// The idempotency key for the refresh of these tokens: the same for each try.
    pub(crate) fn idempotency_key(&self) -> String {
        self.key.get_or_init(|| Uuid::new_v4().to_string()).clone()
    }

    /// Whether `stored` are those that these came in place of.
    pub(crate) fn succeed(&self, stored: &StoredTokens) -> bool {
        self.replaces.is_some() && self.replaces == stored.idempotency_key
    }

    /// What a sign-in grants to a request sent at `sent_at`.
    pub(crate) fn from_login(tokens: TokenResponse, sent_at: Option<Instant>) -> Self {
        let tokens = StoredTokens {
            access_token: tokens.token,
            refresh_token: tokens.refresh_token,
            expires_in: Some(tokens.expires_in),
            idempotency_key: None,
            generation: 0,
            login_id: Uuid::new_v4().to_string(),
        };
        Self::new(tokens, sent_at, None)
    }

    /// What a refresh of `before`, sent at `sent_at`, grants.
    pub(crate) fn succeeding(
        before: &StoredTokens,
        access_token: String,
        refresh_token: String,
        expires_in: Option<u64>,
        sent_at: Instant,
    ) -> Self {
        let tokens = StoredTokens {
            access_token,
            refresh_token,
            expires_in,
            idempotency_key: None,
            generation: before.generation.saturating_add(1),
            login_id: before.login_id.clone(),
        };
        let replaces = before.idempotency_key.clone();
        Self::new(tokens, Some(sent_at), replaces)
    }

    fn lifetime(&self) -> Option<Duration> {
        self.tokens.expires_in.map(|seconds| Duration::from_secs(seconds).min(LONGEST_LIFETIME))
    }

    /// Whether a `401` to this access token is no surprise: it may well have
    /// expired by now.
    pub(crate) fn may_have_expired(&self) -> bool {
        self.sent_at.is_none() || self.remaining() == Some(Duration::ZERO)
    }

    /// What is left of the access token's life.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        Some(self.lifetime()?.saturating_sub(self.sent_at?.elapsed()))
    }

    /// How long until `fraction` of the lifetime is over; no time at all where
    /// nobody knows when it began.
    pub(crate) fn due_in(&self, fraction: f64) -> Option<Duration> {
        let fraction = if fraction.is_nan() { 1.0 } else { fraction.clamp(0.0, 1.0) };
        let due = self.lifetime()?.mul_f64(fraction);
        Some(self.sent_at.map_or(Duration::ZERO, |sent_at| due.saturating_sub(sent_at.elapsed())))
    }
}

impl From<StoredTokens> for Granted {
    fn from(tokens: StoredTokens) -> Self {
        Self::new(tokens, None, None)
    }
}

/// Who may change the tokens now.
pub(crate) enum Turn {
    /// The caller.
    Mine(Landing),
    /// Somebody else, whose outcome can be awaited.
    Theirs(Flight),
}

/// What a request that met a `401` has to do.
pub(crate) enum Step {
    /// Others have refreshed in the meantime: send with these.
    Resend(Held),
    /// A refresh is under way: await its outcome.
    Wait(Flight),
    /// The last refresh failed, and it is not time for another one.
    Rest(Error),
    /// Refresh these, and tell the others.
    Refresh(Held, Landing, Flight),
}

/// A change of the tokens as seen by those who wait for it.
pub(crate) struct Flight(watch::Receiver<Option<Outcome>>);

/// A change of the tokens as seen by whoever carries it out. Dropped without an
/// outcome, it tells those who wait that there was none.
pub(crate) struct Landing {
    credentials: Credentials,
    announce: watch::Sender<Option<Outcome>>,
    landed: bool,
}

impl Default for Credentials {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl CredentialsBuilder {
    /// Keeps the tokens in `store` as well as in memory. Tokens that are there
    /// already are used; whoever else uses it takes turns with this process.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.0.store = Some(Arc::new(store));
        self
    }

    /// When to refresh. By default reactive.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.0.strategy = strategy;
        self
    }

    /// Calls `hook` with all that happens. It runs when no lock is held and
    /// nobody's turn waits for it; what it was called by waits for it, so it had
    /// better be quick.
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.0.hook = Some(Arc::new(hook));
        self
    }

    /// How long a request waits for tokens that others are refreshing. By
    /// default 30 seconds.
    pub fn wait_timeout(mut self, wait_timeout: Duration) -> Self {
        self.0.wait_timeout = wait_timeout;
        self
    }

    /// The longest body that is kept to be sent again, in bytes. By default 2 MiB.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.0.body_limit = bytes;
        self
    }

    /// How often a refresh that failed for the moment is sent again before anybody
    /// is told, where the server names no time to wait. By default twice.
    pub fn retries(mut self, retries: u32) -> Self {
        self.0.retries = retries;
        self
    }

    /// The credential; nothing is read or sent before it is used.
    #[must_use]
    pub fn build(self) -> Credentials {
        Credentials(Arc::new(Inner {
            settings: self.0,
            shared: Mutex::default(),
            kept: AtomicBool::new(false),
            changed: watch::channel(()).0,
        }))
    }
}

impl Credentials {
    /// A credential with settings other than the defaults.
    pub fn builder() -> CredentialsBuilder {
        CredentialsBuilder(Settings {
            store: None,
            strategy: Strategy::default(),
            hook: None,
            wait_timeout: PATIENCE,
            body_limit: BODY_LIMIT,
            retries: RETRIES,
        })
    }

    /// Whether somebody is logged in, as far as this process has seen.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.lock().held.is_some()
    }

    /// How the tokens stand, where somebody is logged in.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        let shared = self.lock();
        let held = shared.held.as_ref()?;
        Some(Status {
            lifetime: held.lifetime(),
            remaining: held.remaining(),
            refreshes: held.tokens.generation,
            age: shared.since.map(|since| since.elapsed()).unwrap_or_default(),
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

    pub(crate) fn kept(&self) -> &AtomicBool {
        &self.0.kept
    }

    /// Is told whenever other tokens are held.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    pub(crate) fn downgrade(&self) -> impl Fn() -> Option<Self> + use<> {
        let weak: Weak<Inner> = Arc::downgrade(&self.0);
        move || weak.upgrade().map(Self)
    }

    /// Calls the hook. Never with a lock held.
    pub(crate) fn tell(&self, event: &Event) {
        self.tell_of(|| event);
    }

    /// Calls the hook with an event that is made only where somebody listens.
    pub(crate) fn tell_of<E: Borrow<Event>>(&self, event: impl FnOnce() -> E) {
        if let Some(hook) = &self.0.settings.hook {
            hook(event().borrow());
        }
    }

    /// The tokens to send with: those in memory, or else those in the store.
    pub(crate) async fn held(&self) -> Outcome {
        if let Some(held) = self.in_memory() {
            return Ok(held);
        }
        let seen = self.changes();
        let stored = self.read().await?.ok_or(Error::NotLoggedIn)?;
        let mut shared = self.lock();
        // What this process has done meanwhile is newer than what was read.
        if shared.held.is_none() && !seen.has_changed().unwrap_or(true) {
            self.hold(&mut shared, Some(Arc::new(stored.into())));
        }
        shared.held.clone().ok_or(Error::NotLoggedIn)
    }

    /// Takes what others have put into the store in place of `refused`, without a
    /// turn. `None` where there is nothing newer.
    pub(crate) async fn adopt(&self, refused: &Held) -> Option<Held> {
        let stored = self.read().await.ok()??;
        let mut shared = self.lock();
        let held = shared.held.clone()?;
        if held.tokens.access_token != refused.tokens.access_token {
            return Some(held);
        }
        if refused.succeed(&stored) || stored.access_token == refused.tokens.access_token {
            return None;
        }
        let adopted: Held = Arc::new(stored.into());
        shared.rest = None;
        self.hold(&mut shared, Some(adopted.clone()));
        Some(adopted)
    }

    pub(crate) fn in_memory(&self) -> Option<Held> {
        self.lock().held.clone()
    }

    /// Waits for the turn to change the tokens.
    pub(crate) async fn my_turn(&self) -> Result<Landing, Error> {
        let asked = Instant::now();
        loop {
            let turn = self.turn(&mut self.lock());
            match turn {
                Turn::Mine(landing) => return Ok(landing),
                Turn::Theirs(flight) => {
                    let left = self.wait_timeout().saturating_sub(asked.elapsed());
                    if timeout(left, flight.ended()).await.is_err() {
                        return Err(out_of_patience());
                    }
                }
            }
        }
    }

    fn turn(&self, shared: &mut Shared) -> Turn {
        if let Some(turn) = &shared.turn {
            return Turn::Theirs(Flight(turn.clone()));
        }
        let (announce, turn) = watch::channel(None);
        shared.turn = Some(turn);
        Turn::Mine(Landing { credentials: self.clone(), announce, landed: false })
    }

    /// Decides what to do about an access token that the server refused.
    ///
    /// What triggers a refresh is that token, not the `401`: where the tokens
    /// have changed since, there is nothing to refresh.
    pub(crate) fn after_refusal(&self, refused: &Held) -> Result<Step, Error> {
        let mut shared = self.lock();
        let held = shared.held.clone().ok_or(Error::NotLoggedIn)?;
        if held.tokens.access_token != refused.tokens.access_token {
            return Ok(Step::Resend(held));
        }
        let now = Instant::now();
        if let Some(rest) = shared.rest.as_ref().filter(|rest| rest.until > now) {
            return Ok(Step::Rest(match &rest.error {
                Error::Transient { problem, .. } => Error::Transient {
                    problem: problem.clone(),
                    retry_after: Some(rest.until - now),
                },
                error => error.clone(),
            }));
        }
        Ok(match self.turn(&mut shared) {
            Turn::Theirs(flight) => Step::Wait(flight),
            Turn::Mine(landing) => {
                let flight = Flight(landing.announce.subscribe());
                Step::Refresh(held, landing, flight)
            }
        })
    }

    /// Takes the lock of the store, where there is one.
    pub(crate) async fn lock_store(&self) -> Result<Option<StoreGuard>, Error> {
        let wait_timeout = self.wait_timeout();
        self.with_store(move |store| store.lock(wait_timeout)).await
    }

    /// What the store holds; nothing where there is no store.
    pub(crate) async fn read(&self) -> Result<Option<StoredTokens>, Error> {
        Ok(self.with_store(TokenStore::read).await?.flatten())
    }

    /// Keeps `tokens` in the store, where there is one. The lock goes along: a
    /// write cannot be called off, and is under the lock for as long as it takes.
    pub(crate) async fn write(
        &self,
        lock: &mut Option<StoreGuard>,
        tokens: Option<StoredTokens>,
    ) -> Result<(), Error> {
        let taken = lock.take();
        let written = self.with_store(move |store| {
            let written = store.write(tokens.as_ref());
            Ok((taken, written))
        });
        if let Some((taken, written)) = written.await? {
            *lock = taken;
            written.map_err(|error| Error::Store(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether there is a store, which may know more than this process.
    pub(crate) fn has_store(&self) -> bool {
        self.0.settings.store.is_some()
    }

    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn TokenStore) -> std::io::Result<T> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let Some(store) = self.0.settings.store.clone() else { return Ok(None) };
        match spawn_blocking(move || work(&*store)).await {
            Ok(Ok(done)) => Ok(Some(done)),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(out_of_patience())
            }
            Ok(Err(error)) => Err(Error::Store(error.to_string())),
            Err(_) => Err(Error::Store("the thread that was to use them has ended".to_owned())),
        }
    }

    fn hold(&self, shared: &mut Shared, held: Option<Held>) {
        let goes_on =
            shared.held.is_some() && held.as_ref().is_some_and(|held| held.tokens.generation > 0);
        if !goes_on {
            shared.since = held.as_ref().map(|held| held.sent_at.unwrap_or_else(Instant::now));
        }
        shared.held = held;
        self.0.changed.send_replace(());
    }

    /// Nothing that holds this lock can panic halfway through a change.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No token is shown.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("logged_in", &self.is_logged_in()).finish()
    }
}

pub(crate) fn out_of_patience() -> Error {
    Error::transient("the tokens are being refreshed for longer than this request can wait")
}

impl Flight {
    /// The outcome, waited for no longer than `wait_timeout`.
    pub(crate) async fn outcome(mut self, wait_timeout: Duration) -> Outcome {
        match timeout(wait_timeout, self.0.wait_for(Option::is_some)).await.map(Result::ok) {
            Err(_) => Err(out_of_patience()),
            Ok(outcome) => match outcome.as_deref() {
                Some(Some(outcome)) => outcome.clone(),
                _ => Err(Error::transient("the refresh was interrupted")),
            },
        }
    }

    async fn ended(mut self) {
        let _ = self.0.wait_for(Option::is_some).await;
    }
}

impl Landing {
    /// Holds what the turn brought and tells those who wait.
    ///
    /// `Err` with [`Error::LoggedOut`] or [`Error::NotLoggedIn`] erases the
    /// tokens; no other failure does.
    pub(crate) fn land(self, outcome: Outcome) {
        let held = match &outcome {
            Ok(held) => Some(Some(held.clone())),
            Err(Error::LoggedOut(_) | Error::NotLoggedIn) => Some(None),
            Err(_) => None,
        };
        self.announce(outcome, |credentials, shared| {
            if let Some(held) = held {
                shared.rest = None;
                credentials.hold(shared, held);
            }
        });
    }

    /// Tells those who wait of a refresh that failed, after which none is sent for
    /// a while.
    pub(crate) fn rest(self, error: Error) {
        let (error, wanted) = match error {
            Error::Transient { problem, retry_after } => {
                let wanted = retry_after.map(|wanted| wanted.clamp(FIRST_REST, LONGEST_REST));
                (Error::Transient { problem, retry_after: wanted }, wanted)
            }
            error => (error, None),
        };
        self.announce(Err(error.clone()), |_, shared| {
            let failures = shared.rest.as_ref().map_or(0, |rest| rest.failures);
            let backoff = FIRST_REST.saturating_mul(1 << failures.min(10)).min(LONGEST_REST);
            let until = Instant::now() + wanted.unwrap_or(backoff);
            shared.rest = Some(Rest { until, failures: failures.saturating_add(1), error });
        });
    }

    /// Changes what is shared and gives the turn away, in one step: nobody may
    /// take the outcome of this turn for that of the next one.
    fn announce(mut self, outcome: Outcome, change: impl FnOnce(&Credentials, &mut Shared)) {
        let mut shared = self.credentials.lock();
        change(&self.credentials, &mut shared);
        shared.turn = None;
        drop(shared);
        self.landed = true;
        self.announce.send_replace(Some(outcome));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            self.credentials.lock().turn = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn granted(name: &str) -> Held {
        let tokens = TokenResponse {
            token: name.to_owned(),
            refresh_token: format!("{name}-r"),
            expires_in: 60,
        };
        Arc::new(Granted::from_login(tokens, Some(Instant::now())))
    }

    async fn logged_in() -> (Credentials, Held) {
        let credentials = Credentials::default();
        credentials.my_turn().await.unwrap().land(Ok(granted("first")));
        let held = credentials.in_memory().unwrap();
        (credentials, held)
    }

    fn refresh(credentials: &Credentials, refused: &Held) -> (Landing, Flight) {
        match credentials.after_refusal(refused).unwrap() {
            Step::Refresh(_, landing, flight) => (landing, flight),
            _ => panic!("the first to ask refreshes"),
        }
    }

    #[actix_rt::test]
    async fn of_many_that_are_refused_one_refreshes_and_all_get_its_outcome() {
        let (credentials, held) = logged_in().await;
        let (landing, flight) = refresh(&credentials, &held);
        let Step::Wait(second) = credentials.after_refusal(&held).unwrap() else {
            panic!("the second waits")
        };
        landing.land(Ok(granted("second")));
        assert_eq!(flight.outcome(LONG).await.unwrap().tokens.access_token, "second");
        assert_eq!(second.outcome(LONG).await.unwrap().tokens.access_token, "second");
    }

    #[actix_rt::test]
    async fn a_token_that_was_replaced_already_is_not_refreshed_again() {
        let (credentials, held) = logged_in().await;
        refresh(&credentials, &held).0.land(Ok(granted("second")));
        let Step::Resend(now) = credentials.after_refusal(&held).unwrap() else {
            panic!("there is nothing to refresh")
        };
        assert_eq!(now.tokens.access_token, "second");
    }

    #[actix_rt::test]
    async fn a_failed_refresh_keeps_the_tokens_and_the_next_one_waits_its_time() {
        let (credentials, held) = logged_in().await;
        let (landing, flight) = refresh(&credentials, &held);
        landing.rest(Error::Transient { problem: "away".into(), retry_after: Some(LONG) });
        assert!(matches!(flight.outcome(LONG).await, Err(Error::Transient { .. })));
        assert!(credentials.is_logged_in());
        let Ok(Step::Rest(Error::Transient { retry_after: Some(left), .. })) =
            credentials.after_refusal(&held)
        else {
            panic!("no refresh before its time")
        };
        assert!(left <= LONG && left > LONG / 2, "{left:?}");
    }

    #[actix_rt::test]
    async fn a_refresh_that_is_dropped_leaves_nobody_waiting() {
        let (credentials, held) = logged_in().await;
        let (landing, flight) = refresh(&credentials, &held);
        drop(landing);
        assert!(matches!(flight.outcome(LONG).await, Err(Error::Transient { .. })));
        refresh(&credentials, &held);
    }

    #[actix_rt::test]
    async fn a_sign_in_waits_for_the_refresh_under_way() {
        let (credentials, held) = logged_in().await;
        let (landing, _) = refresh(&credentials, &held);
        let other = credentials.clone();
        let sign_in = actix_rt::spawn(async move {
            other.my_turn().await.unwrap().land(Ok(granted("a new sign-in")));
        });
        actix_rt::task::yield_now().await;
        assert_eq!(credentials.in_memory().unwrap().tokens.access_token, "first");
        landing.land(Err(Error::LoggedOut(None)));
        sign_in.await.unwrap();
        assert_eq!(credentials.in_memory().unwrap().tokens.access_token, "a new sign-in");
    }

    #[actix_rt::test]
    async fn debug_shows_no_token() {
        let (credentials, _) = logged_in().await;
        assert_eq!(format!("{credentials:?}"), "Credentials { logged_in: true }");
    }
}
