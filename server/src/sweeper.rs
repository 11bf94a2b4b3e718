//! Deletes expired data in the background: successor salts, sessions, login sessions, guests,
//! revocations, links, authorization codes, device codes and old events of the audit log.
//!
//! A server tracks the sessions that it rotates, and clears their salts when the grace
//! period ends. A pass finds everything else: one small step per second along the primary
//! keys, then a pause. There is no index for this, because an index on a column that
//! rotations write would make each rotation slower. A step reads neighboring rows and
//! writes only where something has expired; a pass over ten million sessions takes hours.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use tokio::sync::mpsc;

use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS, Timestamp};
use crate::crypto::Digest;
use crate::ids::{LoginSessionId, Place, SessionId, UserId};
use crate::sessions::{self, Policy};
use crate::store::{
    self, Conn, Page, Store, authorization_codes, device_codes, events, imported_refresh_tokens,
    login_sessions, one_time_links, revocations, users,
};

/// The pause between two steps.
const STEP_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two passes. It lets a database that scales to zero do so.
const PASS_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// The pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How long an authorization code, and a device code that has opened a session, are kept after
/// they expired. Afterwards, its session still recognizes a copy of an authorization code.
const CODE_RETENTION: Duration = Duration::from_secs(60 * 60);
/// How many rows of a table one step reads.
pub const ROWS_PER_TICK: i64 = 500;
/// How long a guest that has not logged in is kept.
const UNUSED_GUEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How many tracked salts one call clears. It limits how long rows in use are locked.
const SALTS_PER_BATCH: usize = 100;
/// The sweeper pauses this many times as long as its last statements took, and so uses at
/// most a tenth of one connection's time.
const THROTTLE: u32 = 9;
/// Rotations that can wait to be tracked. The pass finds all others.
const QUEUE_CAPACITY: usize = 1 << 16;
/// Rotations that are tracked. The pass finds all others.
const MAX_TRACKED: usize = 1 << 18;

/// Reports rotations to the sweeper. Clones report to the same sweeper.
#[derive(Clone)]
pub struct SaltExpiry(mpsc::Sender<TrackedSalt>);

/// The salt of a rotation, which is cleared when the grace period is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TrackedSalt {
    due: Timestamp,
    lifetime: Duration,
    session: SessionId,
}

impl SaltExpiry {
    /// Tracks a session that is about to be rotated without an idempotency key. Never
    /// waits.
    pub fn track(&self, session: SessionId, now: Timestamp, policy: &Policy) {
        let lifetime = policy.salt_lifetime(false);
        // Strict rotations store no salt.
        if !lifetime.is_zero() {
            // A full queue is no error: the next pass finds the salt.
            let _ = self.0.try_send(TrackedSalt { due: now.after(lifetime), lifetime, session });
        }
    }
}

/// How far a pass has come in one table.
#[derive(Clone, Copy)]
struct Cursor<T> {
    at: Option<T>,
    done: bool,
}

impl<T> Cursor<T> {
    const START: Self = Self { at: None, done: false };

    /// Returns the page of the next step.
    fn page(self) -> Page<T> {
        Page { after: self.at, limit: ROWS_PER_TICK }
    }

    /// Continues at `next`, or ends if there is nothing left.
    fn advance(&mut self, next: Option<T>) {
        self.done = next.is_none();
        if next.is_some() {
            self.at = next;
        }
    }
}

/// One pass through all tables.
#[derive(Clone, Copy)]
struct Pass {
    sessions: Cursor<SessionId>,
    guests: Cursor<UserId>,
    events: Cursor<Place>,
    links_done: bool,
    imported_tokens: Cursor<Digest>,
    login_sessions: Cursor<LoginSessionId>,
}

impl Pass {
    const START: Self = Self {
        sessions: Cursor::START,
        guests: Cursor::START,
        events: Cursor::START,
        links_done: false,
        imported_tokens: Cursor::START,
        login_sessions: Cursor::START,
    };

    fn is_done(&self) -> bool {
        let rows = self.sessions.done && self.guests.done && self.imported_tokens.done;
        rows && self.login_sessions.done && self.events.done && self.links_done
    }
}

/// The sweeper of one server.
pub struct Sweeper {
    store: Store,
    policy: Policy,
    event_retention: Duration,
    incoming: mpsc::Receiver<TrackedSalt>,
    /// The salts, those first that are due first.
    tracked: BinaryHeap<Reverse<TrackedSalt>>,
    pass: Pass,
    /// When the next step of a pass may run.
    resume: Instant,
}

impl Sweeper {
    /// Returns a sweeper and the handle that reports rotations to it.
    #[must_use]
    pub fn new(store: Store, policy: Policy, event_retention: Duration) -> (Self, SaltExpiry) {
        let (sender, incoming) = mpsc::channel(QUEUE_CAPACITY);
        let sweeper = Self {
            store,
            policy,
            event_retention,
            incoming,
            tracked: BinaryHeap::new(),
            pass: Pass::START,
            resume: Instant::now(),
        };
        (sweeper, SaltExpiry(sender))
    }

    /// Sweeps until the future is dropped, which is safe at any time.
    pub async fn run(mut self) {
        let mut failing = false;
        loop {
            let done = self.tick().await;
            match &done {
                // The store logs that the database is unavailable.
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "sweeper failed, retrying");
                }
                Err(error) if !failing => tracing::warn!(%error, "sweeper failed, retrying"),
                _ => {}
            }
            failing = done.is_err();
            tokio::time::sleep(if failing { RETRY_INTERVAL } else { STEP_INTERVAL }).await;
        }
    }

    /// Clears tracked salts, deletes expired revocations and takes one step of the pass.
    pub async fn tick(&mut self) -> Result<(), store::Error> {
        self.clear_salts().await?;
        let expired = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        self.run_throttled(move |conn| revocations::delete_old(conn, expired)).await?;
        if Instant::now() < self.resume {
            return Ok(());
        }
        let now = clock::now();
        if !self.pass.sessions.done {
            self.sweep_sessions(now).await?;
        }
        if !self.pass.events.done {
            self.sweep_events(now).await?;
        }
        if !self.pass.guests.done {
            self.sweep_guests(now).await?;
        }
        if !self.pass.links_done {
            self.sweep_links(now).await?;
        }
        if !self.pass.imported_tokens.done {
            self.sweep_imported_tokens(now).await?;
        }
        if !self.pass.login_sessions.done {
            self.sweep_login_sessions(now).await?;
        }
        if self.pass.is_done() {
            self.pass = Pass::START;
            self.resume = Instant::now() + PASS_INTERVAL;
        }
        Ok(())
    }

    async fn sweep_sessions(&mut self, now: Timestamp) -> Result<(), store::Error> {
        let policy = self.policy;
        let page = self.pass.sessions.page();
        let sweep = move |conn: &mut Conn| sessions::sweep(conn, page, &policy, now);
        let swept = self.run_throttled(sweep).await?;
        if swept.cleared + swept.deleted > 0 {
            tracing::debug!(cleared = swept.cleared, deleted = swept.deleted, "sessions swept");
        }
        self.pass.sessions.advance(swept.last);
        Ok(())
    }

    async fn sweep_events(&mut self, now: Timestamp) -> Result<(), store::Error> {
        let before = now.before(self.event_retention);
        let from = self.pass.events.at.unwrap_or(Place::MIN);
        let delete = move |conn: &mut Conn| events::delete_old(conn, from, before, ROWS_PER_TICK);
        let swept = self.run_throttled(delete).await?;
        self.pass.events.advance(swept.next);
        Ok(())
    }

    async fn sweep_guests(&mut self, now: Timestamp) -> Result<(), store::Error> {
        let page = self.pass.guests.page();
        let unused = now.before(UNUSED_GUEST_LIFETIME);
        let used = now.before(self.policy.retention);
        let sweep = move |conn: &mut Conn| users::sweep(conn, page, unused, used);
        let swept = self.run_throttled(sweep).await?;
        if swept.deleted > 0 {
            tracing::debug!(deleted = swept.deleted, "guests swept");
        }
        self.pass.guests.advance(swept.last);
        Ok(())
    }

    async fn sweep_links(&mut self, now: Timestamp) -> Result<(), store::Error> {
        let before = now.before(MAX_SKEW_BETWEEN_SERVERS);
        let delete =
            move |conn: &mut Conn| one_time_links::delete_expired(conn, before, ROWS_PER_TICK);
        self.pass.links_done = self.run_throttled(delete).await? == 0;
        let used = now.before(CODE_RETENTION);
        self.run_throttled(move |conn| authorization_codes::delete_expired(conn, used)).await?;
        self.run_throttled(move |conn| device_codes::delete_expired(conn, before, used)).await?;
        Ok(())
    }

    /// Deletes imported refresh tokens. A used one is kept for as long as its session can
    /// last, so that a copy of it is detected.
    async fn sweep_imported_tokens(&mut self, now: Timestamp) -> Result<(), store::Error> {
        let page = self.pass.imported_tokens.page();
        let used = now.before(self.policy.absolute_lifetime).before(MAX_SKEW_BETWEEN_SERVERS);
        let sweep = move |conn: &mut Conn| imported_refresh_tokens::sweep(conn, page, now, used);
        let swept = self.run_throttled(sweep).await?;
        if swept.deleted > 0 {
            tracing::debug!(deleted = swept.deleted, "imported refresh tokens swept");
        }
        self.pass.imported_tokens.advance(swept.last);
        Ok(())
    }

    async fn sweep_login_sessions(&mut self, now: Timestamp) -> Result<(), store::Error> {
        let page = self.pass.login_sessions.page();
        let before = now.before(MAX_SKEW_BETWEEN_SERVERS);
        let sweep = move |conn: &mut Conn| login_sessions::sweep(conn, page, before);
        let swept = self.run_throttled(sweep).await?;
        if swept.deleted > 0 {
            tracing::debug!(deleted = swept.deleted, "login sessions swept");
        }
        self.pass.login_sessions.advance(swept.last);
        Ok(())
    }

    /// Clears the salts of tracked rotations whose grace period is over, unless their dates may
    /// still be corrected.
    async fn clear_salts(&mut self) -> Result<(), store::Error> {
        while let Ok(salt) = self.incoming.try_recv() {
            if self.tracked.len() < MAX_TRACKED {
                self.tracked.push(Reverse(salt));
            }
        }
        if self.store.failed_lately() {
            return Ok(());
        }
        let now = clock::now();
        let mut due = Vec::new();
        while let Some(Reverse(salt)) = self.tracked.peek().filter(|Reverse(salt)| salt.due < now) {
            due.push(*salt);
            self.tracked.pop();
        }
        // The next pass finds those.
        due.retain(|salt| !self.store.is_unsettled(salt.session));
        // A statement clears the salts of one place that have one lifetime.
        due.sort_unstable_by_key(|salt| (salt.lifetime, salt.session.place()));
        for same_lifetime in due.chunk_by(|a, b| a.lifetime == b.lifetime) {
            for batch in same_lifetime.chunks(SALTS_PER_BATCH) {
                let ids: Vec<SessionId> = batch.iter().map(|salt| salt.session).collect();
                let lifetime = batch[0].lifetime;
                let clear = move |conn: &mut Conn| sessions::clear_salts(conn, &ids, lifetime, now);
                match self.run_throttled(clear).await {
                    Ok(cleared) => tracing::debug!(cleared, "tracked salts cleared"),
                    Err(error) => {
                        self.tracked.extend(due.into_iter().map(Reverse));
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs `work`, then pauses in proportion to the time it took.
    async fn run_throttled<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, store::Error> {
        let start = Instant::now();
        let done = self.store.write_once(work).await;
        tokio::time::sleep(start.elapsed() * THROTTLE).await;
        done
    }
}
