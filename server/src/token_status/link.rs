//! The link to Redis. The first fault disconnects it, and only the next poll reconnects
//! it.
//!
//! After an outage Redis may have missed revocations, so they are written to it before it is
//! read again. Each thread has its own connection to the same run of the same Redis, so that
//! responses need not be passed between threads.

mod entries;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::Notify;

use super::connection::{Connection, Options, is_out_of_memory};
use super::identity::{self, LinkError, RedisInfo};
use super::problems::Problems;
use super::sentinel::Address;
use super::state::SharedState;
use super::{LEASE, ended_key};
use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS};
use crate::ids::SessionId;
use crate::store::revocations::Revocation;

pub(super) use entries::CachedStatus;

/// The number of revocations that are sent without waiting for a response.
const PIPELINE_LIMIT: usize = 100;

/// The key whose loss shows that Redis was flushed. It never expires.
///
/// NEVER CHANGE THIS KEY once a version is released: servers of several versions share it.
const EPOCH_KEY: &str = "matchbook:epoch";

/// A key that no token has, to check whether Redis permits writes.
const PROBE_KEY: &str = "access:{probe}:probe";

/// The value in place of an epoch on a cluster, where one `MGET` can read only one
/// slot.
const NO_EPOCH: &str = "1";

/// The connection of one thread, beside the shared one of the same generation.
struct ThreadConnection {
    generation: u64,
    /// `None` until it is open, or if it cannot be opened.
    connection: Option<Connection>,
}

thread_local! {
    static THREAD_CONNECTION: RefCell<Option<ThreadConnection>> = const { RefCell::new(None) };
}

/// The generation of the next shared connection in this process. 0 means disconnected.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// The link to Redis.
pub(super) struct RedisLink {
    options: Options,
    state: Arc<SharedState>,
    /// The generation in use, which is read without the lock after each response.
    generation: AtomicU64,
    /// Revocations that are not in Redis, because it was full or disconnected. The oldest are
    /// first.
    unwritten: Mutex<Vec<Revocation>>,
    pub(super) problems: Problems,
    /// Notified when the link is disconnected.
    pub(super) disconnected: Notify,
    started: Instant,
    /// The start of the poll that last renewed the lease, in milliseconds since `started`.
    lease_renewed_at: AtomicU64,
}

/// A connection to a Redis whose identity is known.
#[derive(Clone)]
pub(super) struct IdentifiedConnection {
    generation: u64,
    connection: Connection,
    pub(super) identity: Arc<str>,
    epoch: Arc<str>,
    /// Its address, if Sentinel has named it.
    primary: Option<Arc<Address>>,
}

/// Whether Redis may be read for a token.
enum Trust {
    /// The session has ended: Redis need not be read.
    Ended,
    /// Redis may be read on this connection.
    Connected(IdentifiedConnection),
    /// Redis is disconnected, or the lease has expired.
    Unavailable,
}

impl RedisLink {
    pub(super) fn new(options: &Options, state: Arc<SharedState>) -> Self {
        Self {
            options: options.clone(),
            state,
            generation: AtomicU64::new(0),
            unwritten: Mutex::default(),
            problems: Problems::default(),
            disconnected: Notify::new(),
            started: Instant::now(),
            lease_renewed_at: AtomicU64::new(0),
        }
    }

    /// Returns the time since the start, by the monotonic clock.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Renews the lease after a poll that began at `at`. The poll has read the database, or
    /// did so not long ago and cannot reach it.
    pub(super) fn renew_lease(&self, at: Duration) {
        self.lease_renewed_at
            .store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn has_lease(&self) -> bool {
        let renewed_at = Duration::from_millis(self.lease_renewed_at.load(Ordering::Relaxed));
        self.elapsed().saturating_sub(renewed_at) <= LEASE
    }

    /// Returns the connection on which Redis may be read for a token of this session.
    fn leased_connection(&self, session: SessionId) -> Trust {
        match self.connection(session) {
            Trust::Connected(_) if !self.has_lease() => Trust::Unavailable,
            trust => trust,
        }
    }

    /// Returns the connection, whether or not there is a lease.
    fn connection(&self, session: SessionId) -> Trust {
        let state = self.state.read();
        if state.has_ended(session) {
            return Trust::Ended;
        }
        let Some(current) = state.current.as_ref() else {
            return Trust::Unavailable;
        };
        // Prefer the connection of this thread: cloning the shared one contends on its
        // reference count.
        let generation = current.generation;
        let of_thread = THREAD_CONNECTION.with_borrow_mut(|own| match own {
            Some(own) if own.generation == generation => own.connection.clone(),
            _ => {
                *own = Some(ThreadConnection { generation, connection: None });
                actix_rt::spawn(open_thread_connection(self.options.clone(), current.clone()));
                None
            }
        });
        Trust::Connected(IdentifiedConnection {
            generation,
            connection: of_thread.unwrap_or_else(|| current.connection.clone()),
            identity: current.identity.clone(),
            epoch: current.epoch.clone(),
            primary: None,
        })
    }

    /// Returns the connection in use.
    pub(super) fn current(&self) -> Option<IdentifiedConnection> {
        self.state.read().current.clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.generation.load(Ordering::Relaxed) != 0
    }

    /// Opens a connection to a primary that permits every command of this server. It must not
    /// be read before [`Self::install`] has written the revocations.
    pub(super) async fn connect(&self) -> Result<IdentifiedConnection, LinkError> {
        let (connection, primary) = self.options.connect().await?;
        let identity = identity::query(&self.options, &connection).await?.identity;
        let epoch = self.enter_epoch(&connection).await?;
        let generation = NEXT_GENERATION.fetch_add(1, Ordering::Relaxed);
        let primary = primary.map(Arc::new);
        Ok(IdentifiedConnection { generation, connection, identity, epoch, primary })
    }

    /// Reads the epoch of this Redis, or sets it if there is no epoch. Tries every command and
    /// key pattern that is in use, so that missing permissions are found.
    async fn enter_epoch(&self, connection: &Connection) -> Result<Arc<str>, LinkError> {
        let access = PROBE_KEY;
        let ended = "ended:{probe}";
        for key in [access, ended] {
            let written =
                self.options.query::<()>(connection.clone(), &set(key, NO_EPOCH, 1)).await;
            if let Err(error) = written
                && !is_out_of_memory(&error)
            {
                return Err(error.into());
            }
        }
        if self.options.is_cluster() {
            let mut read = redis::cmd("MGET");
            read.arg(ended).arg(access);
            self.options.query::<Value>(connection.clone(), &read).await?;
            return Ok(NO_EPOCH.into());
        }
        let mut begin = redis::cmd("SET");
        begin.arg(EPOCH_KEY).arg(uuid::Uuid::new_v4().simple().to_string()).arg("NX");
        self.options.query::<Value>(connection.clone(), &begin).await?;
        let mut read = redis::cmd("MGET");
        read.arg(ended).arg(access).arg(EPOCH_KEY);
        let read = self.options.query(connection.clone(), &read).await?;
        let (_, _, epoch): (Value, Value, Option<String>) = read;
        epoch.map(Into::into).ok_or(LinkError::Flushed)
    }

    /// Checks that a connection still leads to the same run of the same Redis.
    pub(super) async fn verify(
        &self,
        known: &IdentifiedConnection,
    ) -> Result<RedisInfo, LinkError> {
        let info = identity::query(&self.options, &known.connection).await?;
        if info.identity == known.identity { Ok(info) } else { Err(LinkError::Replaced) }
    }

    /// Verifies the link, if it is connected, and disconnects it if that fails.
    pub(super) async fn check(&self) -> Option<RedisInfo> {
        let current = self.current()?;
        match self.verify(&current).await {
            Ok(info) => {
                self.problems.evicts(info.evicting.as_deref());
                Some(info)
            }
            Err(error) => {
                self.disconnect(current.generation, &error);
                None
            }
        }
    }

    /// Disconnects from a primary that Sentinel has replaced. It takes writes until Sentinel
    /// demotes it, some ten seconds later.
    pub(super) async fn check_sentinel(&self) {
        let Some(current) = self.current() else { return };
        let Some(primary) = &current.primary else { return };
        if self.options.named_primary().await.is_some_and(|named| named != **primary) {
            self.disconnect(current.generation, &LinkError::AnotherPrimary);
        }
    }

    /// Writes the revocations to Redis, then puts the connection in use. `ended` must
    /// contain all unexpired revocations.
    pub(super) async fn install(
        &self,
        connected: IdentifiedConnection,
        ended: Vec<Revocation>,
    ) -> Result<(), LinkError> {
        let full = match self.write(&connected.connection, &ended).await {
            Ok(()) => None,
            // This server keeps the revocations in memory, and other servers read the
            // database.
            Err(error) if is_out_of_memory(&error) => Some(error),
            Err(error) => return Err(error.into()),
        };
        // Redis may have been flushed or replaced meanwhile.
        if self.enter_epoch(&connected.connection).await? != connected.epoch {
            return Err(LinkError::Flushed);
        }
        let info = self.verify(&connected).await?;
        self.problems.evicts(info.evicting.as_deref());
        match full {
            Some(error) => {
                self.problems.full(&error);
                self.keep_unwritten(&ended);
            }
            None => self.problems.not_full(),
        }
        self.problems.restored(ended.len());
        let mut state = self.state.write();
        state.remember(ended);
        self.generation.store(connected.generation, Ordering::Relaxed);
        state.current = Some(connected);
        Ok(())
    }

    /// Disconnects this generation at its first fault, so that later requests do not wait for
    /// a timeout too.
    fn disconnect(&self, generation: u64, error: &LinkError) {
        let mut state = self.state.write();
        if state.current.as_ref().is_some_and(|current| current.generation == generation) {
            state.current = None;
            self.generation.store(0, Ordering::Relaxed);
            self.problems.unusable(error);
            self.disconnected.notify_one();
        }
    }

    /// Writes revocations. Returns the identity of the Redis that has them, or `None` if not
    /// all were written.
    pub(super) async fn publish(&self, ended: &[Revocation]) -> Option<Arc<str>> {
        let Some(current) = self.current() else {
            // A poll that is reconnecting may have read the database before their
            // commit.
            self.keep_unwritten(ended);
            return None;
        };
        let published = async {
            self.write(&current.connection, ended).await?;
            // A cluster client or a proxy follows a failover without an error.
            self.verify(&current).await.map(drop)
        };
        match published.await {
            Ok(()) => Some(current.identity),
            Err(LinkError::Redis(error)) if is_out_of_memory(&error) => {
                self.problems.full(&error);
                self.keep_unwritten(ended);
                None
            }
            Err(error) => {
                self.keep_unwritten(ended);
                self.disconnect(current.generation, &error);
                None
            }
        }
    }

    fn keep_unwritten(&self, ended: &[Revocation]) {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).extend(ended);
    }

    /// Returns the number of revocations that are not in Redis.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Drops the oldest revocations that were not in Redis, because they were written.
    pub(super) fn drop_unwritten(&self, count: usize) {
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(unwritten.len());
        unwritten.drain(..count);
    }

    /// Takes the revocations that are not in Redis.
    fn take_unwritten(&self) -> Vec<Revocation> {
        std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Retries the revocations that are not in Redis, and checks whether Redis has memory
    /// again.
    pub(super) async fn retry_unwritten(&self) {
        let unwritten = self.take_unwritten();
        if unwritten.is_empty() && !self.problems.is_full() {
            return;
        }
        if self.publish(&unwritten).await.is_none() {
            return;
        }
        let Some(current) = self.current() else { return };
        let probe = set(PROBE_KEY, NO_EPOCH, 1);
        if self.options.query::<()>(current.connection, &probe).await.is_ok() {
            self.problems.not_full();
        }
    }

    async fn write(&self, connection: &Connection, ended: &[Revocation]) -> RedisResult<()> {
        let now = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        for batch in ended.chunks(PIPELINE_LIMIT) {
            let write = |end: &Revocation| {
                let lifetime = end.access_expires_at.since(now);
                let command = set(&ended_key(end.session_id), NO_EPOCH, lifetime.as_secs());
                let connection = connection.clone();
                async move { self.options.query::<()>(connection, &command).await }
            };
            try_join_all(batch.iter().map(write)).await?;
        }
        Ok(())
    }
}

/// Opens a connection for this thread beside the shared one.
async fn open_thread_connection(options: Options, shared: IdentifiedConnection) {
    // A cluster has many nodes: several connections to each would be too many.
    if options.is_cluster() {
        return;
    }
    let opened = async {
        let (own, _) = options.connect().await.ok()?;
        // The address may now lead to another Redis, which may have missed revocations.
        let same = identity::query(&options, &own).await.ok()?.identity == shared.identity;
        same.then_some(own)
    };
    let opened = opened.await;
    if opened.is_none() {
        tracing::debug!("redis connection of this thread not opened, using the shared one");
    }
    THREAD_CONNECTION.with_borrow_mut(|own| match own {
        Some(own) if own.generation == shared.generation => own.connection = opened,
        _ => {}
    });
}

/// Returns the command that sets a key for some seconds: at least one, because Redis rejects
/// zero.
fn set(key: &str, value: &str, seconds: u64) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(value).arg("EX").arg(seconds.max(1));
    command
}
