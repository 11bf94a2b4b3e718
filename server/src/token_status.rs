//! Checks whether access tokens are active: in Redis first, then in the database.
//!
//! | key | value | expires after |
//! |---|---|---|
//! | `access:{sid}:jti` | the epoch: this access token is active | the remaining lifetime of the token |
//! | `ended:{sid}` | `1`: this session has ended | the remaining lifetime of its last token |
//! | `matchbook:epoch` | a random epoch | never |
//!
//! NEVER CHANGE THE FORM OF THESE KEYS once a version is released, only add others: servers
//! of several versions share them, and one would miss revocations of the other. The braces
//! are a Redis Cluster hash tag: both keys are on one slot, and one `MGET` reads them.
//!
//! # Why a logout is final
//!
//! The database is the source of truth. A revocation is committed to `session_revocations`,
//! then written to Redis as a tombstone. A tombstone overrides "active", whichever is
//! written first.
//!
//! * Every second each server polls (`poll`): it verifies that its Redis is the same as
//!   before (`identity`), reads new revocations, keeps them in memory and writes them to its
//!   own Redis. Tombstones that Redis loses remain in memory.
//! * A successful poll is a lease: Redis is trusted for two seconds after the poll began.
//!   While no connection to the database can be made, polls renew it without the database, for
//!   `redis.trusted_without_database`.
//! * A Redis that was unavailable, replaced, restarted, demoted or flushed gets every
//!   revocation before it is read again.
//! * The epoch is read with each token, except on a cluster. `FLUSHALL` removes it.
//!   Entries of another epoch are ignored, even if they are written later.
//! * A logout is acknowledged when every server has polled since, reads the same Redis that
//!   has the tombstone, has announced that it lost Redis, or cannot trust its Redis any more
//!   (`peers`).
//! * A database that has lost its last commits has forgotten logouts. A refresh also looks for
//!   a tombstone, and a poll that finds another database compares it with this server's
//!   memory (`forgotten`). The issuer then ends these sessions again.

mod connection;
mod forgotten;
mod identity;
mod link;
mod peers;
mod poll;
mod problems;
mod sentinel;
mod single;
mod state;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids::SessionId;
use crate::store::revocations::Revocation;
use crate::store::servers::{self, Server};
use crate::store::{self, Store};
use crate::tokens::VerifiedToken;

pub use connection::Options;
use forgotten::ForgottenEnds;
use link::{CachedStatus, RedisLink};
use peers::{LaggingServers, Peers};
use poll::Poller;
use state::SharedState;

/// The interval between two polls of a server.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum pause between two polls.
const MIN_POLL_GAP: Duration = Duration::from_millis(100);
/// The time after the start of a poll for which Redis is trusted. It is longer than the time
/// from one poll to the next.
const LEASE: Duration = Duration::from_secs(2);
/// The time after which other servers regard a lease as expired.
const LEASE_EXPIRED_AFTER: Duration = Duration::from_millis(2250);
/// How long a revocation waits for the other servers. It is not acknowledged if one of them has
/// not confirmed it by then.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(4);
/// The time after which a stopped server is deleted from the table, beside the time for which
/// it may trust its Redis.
const DELETE_AFTER: Duration = Duration::from_secs(20);
/// The timeouts of a stopping server: to end its poll, and to delete itself from the table.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// The timeout of one query for the other servers' polls, and the pause between two.
const PEERS_TIMEOUT: Duration = Duration::from_millis(500);
const PEERS_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Checks whether access tokens are active, and publishes revocations.
pub struct TokenStatus {
    redis: Option<Arc<RedisLink>>,
    state: Arc<SharedState>,
    forgotten: ForgottenEnds,
    store: Store,
    /// Identifies this run of this server in the table of servers.
    id: String,
    poller: tokio::sync::Mutex<Poller>,
    /// A `std` lock: it is never held across an `await`.
    peers: Mutex<Peers>,
    /// The last look at the table of servers, for all requests that wait for it.
    last_look: tokio::sync::Mutex<Option<Look>>,
    started: Instant,
}

struct Look {
    began: Instant,
    /// `None` if the database did not respond.
    servers: Option<Vec<Server>>,
}

/// A server has not confirmed that it rejects the tokens of the ended sessions. It may be cut
/// off from the database, and trust a Redis that this server does not reach.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sessions have ended, but a server has not confirmed yet that it rejects their access \
     tokens"
)]
pub struct Unconfirmed;

/// The result of a check: the status of a token, and its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckResult {
    pub active: bool,
    pub source: Source,
}

/// The source of a token's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Redis, or the revocations in this server's memory.
    Cache,
    /// The database, because Redis had no entry.
    Database,
    /// The database, because Redis was unavailable.
    DatabaseFallback,
}

/// What Redis and this server's memory know about a session that is live in the database.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tombstone {
    /// The session has ended. Either it did so a moment ago, or the database has lost that
    /// commit.
    Found,
    NotFound,
}

/// The state of Redis, for health and metrics.
#[derive(Debug, Clone, Default)]
pub struct RedisState {
    /// Whether it is in use; `None` if it is not configured.
    pub up: Option<bool>,
    /// Whether its `maxmemory-policy` lets it evict revocations.
    pub evicting: bool,
    /// Messages for an operator.
    pub problems: Vec<String>,
}

impl TokenStatus {
    /// Connects to Redis, if it is configured. The server also starts if Redis is unavailable.
    /// `trusted_without_database` is the setting of all servers on this database.
    pub async fn new(
        redis: Option<&Options>,
        trusted_without_database: Duration,
        store: Store,
    ) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let state = Arc::<SharedState>::default();
        let active = Self {
            redis: redis.map(|options| Arc::new(RedisLink::new(options, state.clone()))),
            state,
            forgotten: ForgottenEnds::default(),
            poller: tokio::sync::Mutex::new(Poller::new(
                &store,
                id.clone(),
                trusted_without_database,
            )),
            store,
            id,
            peers: Mutex::new(Peers::new(trusted_without_database)),
            last_look: tokio::sync::Mutex::default(),
            started: Instant::now(),
        };
        if let Some(redis) = &active.redis {
            active.poll(redis).await;
        }
        active
    }

    /// Checks whether the session of this unexpired access token is live.
    pub async fn check(
        &self,
        access: &VerifiedToken,
        now: Timestamp,
    ) -> Result<CheckResult, store::Error> {
        let status = match &self.redis {
            None => self.has_ended(access.session).then_some(CachedStatus::Ended),
            Some(redis) => redis.look_up(access).await,
        };
        let source = match status {
            Some(CachedStatus::Ended) => {
                return Ok(CheckResult { active: false, source: Source::Cache });
            }
            Some(CachedStatus::Active) => {
                return Ok(CheckResult { active: true, source: Source::Cache });
            }
            Some(CachedStatus::Missing) => Source::Database,
            None => Source::DatabaseFallback,
        };
        let session = access.session;
        let mut active =
            self.store.run(move |conn| store::sessions::is_live(conn, session, now)).await?;
        if active && source == Source::Database {
            active = self.cache_active(access, now).await == Tombstone::NotFound;
        }
        Ok(CheckResult { active, source })
    }

    /// Caches an access token as active, and looks for a tombstone of its session in the same
    /// round trip. Redis may lose this entry: it only saves queries.
    pub async fn cache_active(&self, access: &VerifiedToken, now: Timestamp) -> Tombstone {
        match &self.redis {
            Some(redis) => redis.cache_active(access, access.expires_at.since(now)).await,
            None if self.has_ended(access.session) => Tombstone::Found,
            None => Tombstone::NotFound,
        }
    }

    /// Returns whether this server remembers that a session has ended. It may not know of
    /// logouts at other servers.
    #[must_use]
    pub fn has_ended(&self, session: SessionId) -> bool {
        self.state.read().has_ended(session)
    }

    /// Waits until the database is found to have forgotten the end of sessions, and returns
    /// these sessions. Some of them may have ended there as well, or may not exist.
    pub async fn forgotten_ends(&self) -> BTreeSet<SessionId> {
        self.forgotten.take().await
    }

    /// Publishes revocations that are committed. If it succeeds, no server accepts a token of
    /// these sessions any more.
    ///
    /// # Errors
    ///
    /// If that is not certain within a few seconds.
    pub async fn publish_revocations(&self, ended: &[Revocation]) -> Result<(), Unconfirmed> {
        self.state.add(ended.to_vec());
        let published = match &self.redis {
            None => None,
            Some(redis) => redis.publish(ended).await,
        };
        let since = Instant::now();
        let mut lagging: Option<LaggingServers> = None;
        // The revocations are committed already: see the top of `poll`.
        while let Some(remaining) = CONFIRMATION_TIMEOUT.checked_sub(since.elapsed()) {
            if let Ok(Some(rows)) = timeout(remaining, self.look_at_servers()).await {
                let live = self.live(rows);
                let lagging = lagging.get_or_insert_with(|| {
                    let lagging = LaggingServers::new(&live, published.as_deref());
                    tracing::debug!(
                        servers = lagging.len(),
                        "waiting for other servers to read the revocations"
                    );
                    lagging
                });
                if !lagging.is_lagging(&live) {
                    return Ok(());
                }
            }
            sleep(PEERS_POLL_INTERVAL).await;
        }
        Err(Unconfirmed)
    }

    /// Returns the rows of the servers, read after this call. Requests that wait at the same
    /// time share a query. Returns `None` if the database does not respond.
    async fn look_at_servers(&self) -> Option<Vec<Server>> {
        let called = Instant::now();
        let mut last = self.last_look.lock().await;
        if let Some(look) = last.as_ref().filter(|look| look.began >= called) {
            return look.servers.clone();
        }
        let began = Instant::now();
        let servers = timeout(PEERS_TIMEOUT, self.store.run_reserved(servers::all)).await;
        let servers = servers.ok().and_then(Result::ok);
        last.insert(Look { began, servers }).servers.clone()
    }

    /// Stops polling, and tells the other servers that this one accepts no tokens any more. To
    /// be called when no request is in progress. They find out by themselves if this fails.
    pub async fn leave(&self) {
        if self.redis.is_none() {
            return;
        }
        // A poll in progress may wait for the database.
        if let Ok(mut poller) = timeout(LEAVE_TIMEOUT, self.poller.lock()).await {
            poller.leave(LEAVE_TIMEOUT).await;
        }
    }

    /// Returns the other servers that may still trust their Redis.
    fn live(&self, mut rows: Vec<Server>) -> Vec<Server> {
        rows.retain(|row| row.id != self.id);
        self.with_peers(|peers, now| peers.record(rows, now))
    }

    fn with_peers<T>(&self, work: impl FnOnce(&mut Peers, Duration) -> T) -> T {
        let now = self.started.elapsed();
        work(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Returns the last known state of Redis.
    #[must_use]
    pub fn redis(&self) -> RedisState {
        let Some(redis) = &self.redis else { return RedisState::default() };
        RedisState {
            up: Some(redis.is_up()),
            evicting: redis.problems.is_evicting(),
            problems: redis.problems.messages(),
        }
    }

    /// Returns the number of revocations that Redis lacks, because it is full or unavailable.
    #[must_use]
    pub fn unpublished_revocations(&self) -> usize {
        self.redis.as_ref().map_or(0, |redis| redis.unwritten())
    }

    /// Returns whether Redis is read for access tokens: it is connected and the lease is valid.
    #[must_use]
    pub fn trusts_redis(&self) -> bool {
        self.redis.as_ref().is_some_and(|redis| redis.is_up() && redis.has_lease())
    }

    /// Queries Redis and returns its state.
    pub async fn query_redis(&self) -> RedisState {
        if let Some(redis) = &self.redis {
            redis.check().await;
        }
        self.redis()
    }
}

/// The wait of an operator's command for the servers. It has no Redis.
pub struct Confirmation {
    peers: Peers,
    lagging: Option<LaggingServers>,
    started: Instant,
}

impl Confirmation {
    /// Begins after revocations are committed. `trusted_without_database` is the setting of the
    /// servers.
    #[must_use]
    pub fn new(trusted_without_database: Duration) -> Self {
        let peers = Peers::new(trusted_without_database);
        Self { peers, lagging: None, started: Instant::now() }
    }

    /// Returns how long to wait at most: then every server has read the revocations, or has lost
    /// its trust in Redis.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.peers.trust().saturating_sub(self.started.elapsed())
    }

    /// Records the current rows of `servers`. Returns whether every server rejects the tokens
    /// of the sessions that had ended before this wait.
    pub fn is_complete(&mut self, rows: Vec<Server>) -> bool {
        let live = self.peers.record(rows, self.started.elapsed());
        let lagging = self.lagging.get_or_insert_with(|| LaggingServers::new(&live, None));
        !lagging.is_lagging(&live)
    }
}

fn access_key(access: &VerifiedToken) -> String {
    format!("access:{{{}}}:{}", access.session, access.id)
}

fn ended_key(session: SessionId) -> String {
    format!("ended:{{{session}}}")
}
