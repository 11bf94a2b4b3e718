//! Is this access token active? Redis is asked first, then the database.
//!
//! | key | value | lives for |
//! |---|---|---|
//! | `access:{sid}:jti` | the epoch: this access token is active | the rest of the token's life |
//! | `ended:{sid}` | `1`: this session has ended | until its last token has expired |
//! | `matchbook:epoch` | a random epoch | until Redis is flushed |
//!
//! Servers of several versions share these keys: never change their form, only add
//! others. The braces are a Redis Cluster hash tag: both keys are on one slot, and
//! one `MGET` reads them.
//!
//! # What makes a logout final
//!
//! The database is the truth. A revocation is committed to `ends`, then written to
//! Redis as a tombstone, which outweighs an "active" in whichever order they come.
//!
//! * Every second each server polls (`poll`): it verifies that its Redis is the
//!   same as before (`identity`), reads new revocations, keeps them in memory and
//!   writes them to its own Redis. A tombstone that Redis loses is thus known.
//! * Redis is trusted for two seconds after a poll began that read the database.
//! * A Redis that was away, replaced, restarted, demoted or flushed gets every
//!   revocation before it is read again.
//! * The epoch is read with each token, except on a cluster. `FLUSHALL` removes it,
//!   and what was cached before, or is written late, belongs to no epoch any more.
//! * A logout is acknowledged when every server has polled since, or reads the same
//!   Redis that has the tombstone (`peers`).

mod connection;
mod identity;
mod link;
mod peers;
mod poll;
mod problems;

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
use link::{Link, Status};
use peers::{Lagging, Peers};
use poll::Poller;

/// How often a server polls.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The pause after each poll.
const BETWEEN_POLLS: Duration = Duration::from_millis(100);
/// For how long after the start of a poll Redis is trusted: longer than from one
/// poll to the next.
const LEASE: Duration = Duration::from_secs(2);
/// When the lease of a server that polls no more is over, as another one counts.
const LEASE_OVER: Duration = Duration::from_millis(2250);
/// When a server that polls no more is deleted from the table.
const FORGET_AFTER: Duration = Duration::from_secs(20);
/// How long one look at other servers' polls may take, and the pause between two.
const BRIEFLY: Duration = Duration::from_millis(500);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Knows whether access tokens are active.
pub struct TokenStatus {
    redis: Option<Arc<Link>>,
    store: Store,
    /// Identifies this run of this server in the table of servers.
    id: String,
    poller: tokio::sync::Mutex<Poller>,
    /// Held for moments only, never across a wait.
    peers: Mutex<Peers>,
    started: Instant,
}

/// Whether a token is active, and who knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Its session is live.
    pub active: bool,
    /// Who knew.
    pub source: Source,
}

/// Who knew whether a token is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Redis, or this server by itself.
    Cache,
    /// The database, since Redis did not know.
    Database,
    /// The database, since Redis could not be trusted.
    DatabaseFallback,
}

/// The state of Redis, for health and metrics.
#[derive(Debug, Clone, Default)]
pub struct RedisState {
    /// Whether it is in use; `None` where none is configured.
    pub up: Option<bool>,
    /// Whether its `maxmemory-policy` lets it evict revocations.
    pub evicting: bool,
    /// What is wrong: sentences for an operator.
    pub problems: Vec<String>,
}

impl TokenStatus {
    /// Connects to Redis, where there is one to connect to. A server starts
    /// without its Redis, too.
    pub async fn new(redis: Option<&Options>, store: Store) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let active = Self {
            redis: redis.map(|options| Arc::new(Link::new(options))),
            poller: tokio::sync::Mutex::new(Poller::new(&store, id.clone())),
            store,
            id,
            peers: Mutex::default(),
            started: Instant::now(),
        };
        if let Some(redis) = &active.redis {
            active.poll(redis).await;
        }
        active
    }

    /// Whether the session of this unexpired access token is live.
    ///
    /// # Errors
    /// When Redis does not know it and the database does not respond.
    pub async fn check(
        &self,
        access: &VerifiedToken,
        now: Timestamp,
    ) -> Result<Checked, store::Error> {
        let status = match &self.redis {
            None => None,
            Some(redis) => redis.look_up(access).await,
        };
        let source = match status {
            Some(Status::Ended) => return Ok(Checked { active: false, source: Source::Cache }),
            Some(Status::Active) => return Ok(Checked { active: true, source: Source::Cache }),
            Some(Status::Missing) => Source::Database,
            None => Source::DatabaseFallback,
        };
        let session = access.session;
        let active =
            self.store.run(move |conn| store::sessions::is_live(conn, session, now)).await?;
        if active && source == Source::Database {
            self.granted(access, now).await;
        }
        Ok(Checked { active, source })
    }

    /// Caches that an access token was granted. Redis may miss this: it only spares
    /// the database.
    pub async fn granted(&self, access: &VerifiedToken, now: Timestamp) {
        let Some(redis) = &self.redis else { return };
        redis.put(access, access.expires_at.since(now)).await;
    }

    /// Makes revocations known that the database has. When this returns, no server
    /// accepts a token of these sessions any more.
    pub async fn ended(&self, ended: &[Revocation]) {
        let published = match &self.redis {
            None => None,
            Some(redis) => {
                redis.learn(ended.to_vec());
                redis.publish(ended).await
            }
        };
        let since = Instant::now();
        let mut lagging: Option<Lagging> = None;
        // The database was committed to before: see the top of `poll`.
        while since.elapsed() < LEASE_OVER {
            if let Ok(Ok(rows)) = timeout(BRIEFLY, self.store.run(servers::all)).await {
                let live = self.live(rows);
                let lagging = lagging.get_or_insert_with(|| {
                    let lagging = Lagging::new(&live, published.as_deref());
                    tracing::debug!(servers = lagging.len(), "servers to wait for");
                    lagging
                });
                if !lagging.still(&live) {
                    return;
                }
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The other servers of these rows that may still trust their Redis.
    fn live(&self, mut rows: Vec<Server>) -> Vec<Server> {
        rows.retain(|row| row.id != self.id);
        self.with_peers(|peers, now| peers.note(rows, now))
    }

    fn with_peers<T>(&self, work: impl FnOnce(&mut Peers, Duration) -> T) -> T {
        let now = self.started.elapsed();
        work(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// The state of Redis, as it was last seen.
    #[must_use]
    pub fn redis(&self) -> RedisState {
        let Some(redis) = &self.redis else { return RedisState::default() };
        RedisState {
            up: Some(redis.is_up()),
            evicting: redis.problems.is_evicting(),
            problems: redis.problems.sentences(),
        }
    }

    /// The state of Redis, asked now.
    pub async fn ask_redis(&self) -> RedisState {
        if let Some(redis) = &self.redis {
            redis.check().await;
        }
        self.redis()
    }
}

fn access_key(access: &VerifiedToken) -> String {
    format!("access:{{{}}}:{}", access.session, access.id)
}

fn ended_key(session: SessionId) -> String {
    format!("ended:{{{session}}}")
}
