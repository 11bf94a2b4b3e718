//! The poll: every second, verifies that Redis is the same as before, and reads revocations.
//!
//! A polling server first commits to `servers` that its poll has begun, then reads
//! revocations. A server that ends a session first commits the revocation, then reads
//! `servers`. At least one of the two sees the other's commit, so that an acknowledged logout
//! applies at both.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tokio::time::{sleep, timeout};

use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS};
use crate::store::Store;
use crate::store::dedicated_connection::{self, DedicatedConnection};
use crate::store::revocations::{self, Cursor, Revocation};
use crate::store::servers::{self, Server};

use super::identity::LinkError;
use super::link::RedisLink;
use super::{LEASE, MIN_POLL_GAP, POLL_INTERVAL, TokenStatus};

/// The timeout of a poll's queries. A poll that takes longer than the lease does not extend
/// it.
const DB_TIMEOUT: Duration = Duration::from_secs(4);
/// The interval at which a poll that waits for the database renews the lease.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);
/// The time for which servers may use different Redis servers without a warning: after a
/// restart of Redis, they reconnect one after the other.
const SPLIT_TOLERANCE: Duration = Duration::from_secs(5);
/// The interval at which expired revocations are removed from memory.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// The state between polls.
pub(super) struct Poller {
    database: DedicatedConnection,
    row: Server,
    cursor: Cursor,
    /// The number of database connections so far, when the cursor was read.
    connections: u64,
    split_since: Option<Instant>,
    pruned_at: Option<Instant>,
    lease: OfflineLease,
    has_left: bool,
}

/// How long Redis may be trusted without the database. Other servers acknowledge no logout that
/// they cannot publish in this Redis, until this time is over.
#[derive(Clone, Copy)]
struct OfflineLease {
    /// The start of the last successful poll, by the clock of the link.
    succeeded_at: Option<Duration>,
    trusted_without_database: Duration,
}

impl OfflineLease {
    /// Returns whether it permits trust from a look at Redis at `at`.
    fn permits(self, at: Duration) -> bool {
        self.succeeded_at
            .is_some_and(|last| at.saturating_sub(last) <= self.trusted_without_database)
    }
}

/// The rows that a poll reads.
struct PollRows {
    ended: Vec<Revocation>,
    servers: Vec<Server>,
    next: Cursor,
    /// Whether this may be another database than that of the last poll. `ended` is complete
    /// then.
    may_be_another_database: bool,
}

impl Poller {
    pub(super) fn new(store: &Store, id: String, trusted_without_database: Duration) -> Self {
        Self {
            database: store.dedicated_connection(),
            row: Server { id, redis: String::new(), polls: 0, applied: 0 },
            cursor: Cursor::START,
            connections: 0,
            split_since: None,
            pruned_at: None,
            lease: OfflineLease { succeeded_at: None, trusted_without_database },
            has_left: false,
        }
    }

    /// Announces a poll and reads the revocations from `cursor` on.
    async fn read(
        &mut self,
        identity: &str,
        cursor: Cursor,
    ) -> Result<PollRows, dedicated_connection::Error> {
        self.row.polls += 1;
        identity.clone_into(&mut self.row.redis);
        let row = self.row.clone();
        let time = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        let read = self.database.run(DB_TIMEOUT, move |conn| {
            // In this order, and each committed: see the top of this file.
            servers::set(conn, &row)?;
            let next = Cursor::next(conn)?;
            let ended = revocations::since(conn, cursor, time)?;
            let servers = servers::all(conn)?;
            Ok(PollRows { ended, servers, next, may_be_another_database: false })
        });
        read.await
    }

    /// Reads new revocations. After a connection was lost, reads all: it may lead to another
    /// database now, which counts transactions differently.
    async fn read_new(&mut self, identity: &str) -> Result<PollRows, dedicated_connection::Error> {
        let mut read = self.read(identity, self.cursor).await?;
        if self.is_another(read.next) {
            read = self.read_all(identity).await?;
        }
        self.advance(read.next);
        Ok(read)
    }

    /// Reads all unexpired revocations.
    async fn read_all(&mut self, identity: &str) -> Result<PollRows, dedicated_connection::Error> {
        let mut read = self.read(identity, Cursor::START).await?;
        read.may_be_another_database = self.is_another(read.next);
        self.advance(read.next);
        Ok(read)
    }

    /// Reads all unexpired revocations if this may be another database than before, without
    /// announcing a poll.
    async fn read_if_another(
        &mut self,
    ) -> Result<Option<Vec<Revocation>>, dedicated_connection::Error> {
        let next = self.database.run(DB_TIMEOUT, Cursor::next).await?;
        if !self.is_another(next) {
            return Ok(None);
        }
        let time = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        let read = self.database.run(DB_TIMEOUT, move |conn| {
            let next = Cursor::next(conn)?;
            Ok((next, revocations::since(conn, Cursor::START, time)?))
        });
        let (next, ended) = read.await?;
        self.advance(next);
        Ok(Some(ended))
    }

    /// Returns whether `next` may belong to another database than the last read.
    fn is_another(&self, next: Cursor) -> bool {
        self.database.connections() != self.connections || !next.is_of_same_server(self.cursor)
    }

    fn advance(&mut self, next: Cursor) {
        self.connections = self.database.connections();
        self.cursor = next;
    }

    /// Records that the poll that began at `at` has succeeded. The next one announces it.
    fn succeed(&mut self, at: Duration) {
        self.lease.succeeded_at = Some(at);
        self.row.applied = self.row.polls;
    }

    /// Announces to the other servers that this one does not read Redis any more, so that they
    /// do not wait for it.
    async fn announce_no_redis(&mut self, time_limit: Duration) {
        if !self.row.reads_redis() {
            return;
        }
        self.row.polls += 1;
        let row = Server { redis: String::new(), ..self.row.clone() };
        match self.database.run(time_limit, move |conn| servers::set(conn, &row)).await {
            Ok(()) => self.row.redis.clear(),
            Err(error) => tracing::debug!(%error, "loss of redis not announced"),
        }
    }

    /// Stops polling for good, and announces it.
    pub(super) async fn leave(&mut self, time_limit: Duration) {
        self.has_left = true;
        self.announce_no_redis(time_limit).await;
    }

    /// Announces to the other servers that the revocations of this poll are applied.
    async fn announce_applied(&self) -> Result<(), dedicated_connection::Error> {
        let row = self.row.clone();
        self.database.run(DB_TIMEOUT, move |conn| servers::set(conn, &row)).await
    }
}

impl TokenStatus {
    /// Polls for revocations. Never returns, and may be dropped at any time.
    pub async fn run(self: Arc<Self>) {
        // Beside the polls: a Sentinel that does not respond must not delay them.
        join(self.run_polls(), self.watch_sentinel()).await;
    }

    async fn watch_sentinel(&self) {
        let Some(redis) = &self.redis else { return };
        loop {
            sleep(POLL_INTERVAL).await;
            redis.check_sentinel().await;
        }
    }

    async fn run_polls(&self) {
        loop {
            // The first poll at once: a slow start may outlast the lease.
            if let Some(redis) = &self.redis {
                self.poll(redis).await;
            } else {
                self.watch_database(&mut *self.poller.lock().await).await;
            }
            self.prune().await;
            sleep(MIN_POLL_GAP).await;
            if let Some(redis) = &self.redis {
                // After a disconnect, reconnect without delay.
                let _ = timeout(POLL_INTERVAL, redis.disconnected.notified()).await;
            } else {
                sleep(POLL_INTERVAL).await;
            }
        }
    }

    /// Removes expired revocations from time to time. Without Redis, deletes stopped servers as
    /// well.
    async fn prune(&self) {
        let mut poller = self.poller.lock().await;
        if poller.pruned_at.is_none_or(|at| at.elapsed() > PRUNE_INTERVAL) {
            poller.pruned_at = Some(Instant::now());
            self.state.prune_expired();
            if self.redis.is_none() {
                self.watch_servers(&poller).await;
            }
        }
    }

    /// Without Redis, observes the other servers, and deletes stopped ones.
    async fn watch_servers(&self, poller: &Poller) {
        match poller.database.run(DB_TIMEOUT, servers::all).await {
            Ok(rows) => {
                self.live(rows);
                self.delete_stopped(poller).await;
            }
            Err(error) => tracing::debug!(%error, "other servers not observed, retrying"),
        }
    }

    async fn delete_stopped(&self, poller: &Poller) {
        let stopped = self.with_peers(|peers, now| peers.stopped(now));
        if stopped.is_empty() {
            return;
        }
        let deleted = poller.database.run(DB_TIMEOUT, move |conn| servers::delete(conn, &stopped));
        if let Err(error) = deleted.await {
            tracing::debug!(%error, "stopped servers not deleted, retrying");
        }
    }

    pub(super) async fn poll(&self, redis: &RedisLink) {
        let mut poller = self.poller.lock().await;
        if poller.has_left {
            return;
        }
        if redis.is_up() {
            return self.poll_revocations(redis, &mut poller).await;
        }
        poller.announce_no_redis(DB_TIMEOUT).await;
        if let Err(error) = self.reconnect(redis, &mut poller).await {
            redis.problems.unusable(&error);
            self.watch_database(&mut poller).await;
            self.watch_servers(&poller).await;
        }
    }

    /// Without Redis, detects that the database was replaced, while this server remembers
    /// revocations.
    async fn watch_database(&self, poller: &mut Poller) {
        if self.state.is_empty() {
            // The next revocation is committed to a database that was not watched.
            poller.connections = 0;
            return;
        }
        match poller.read_if_another().await {
            Ok(Some(ended)) => self.compare(&ended),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "database not compared with known revocations"),
        }
    }

    /// Compares all revocations of the database with this server's memory.
    fn compare(&self, ended: &[Revocation]) {
        let missing = self.state.missing_from(ended);
        if !missing.is_empty() {
            self.forgotten.add(missing.into_iter().map(|end| end.session_id));
        }
    }

    /// Reads new revocations, and writes them to this server's Redis.
    async fn poll_revocations(&self, redis: &RedisLink, poller: &mut Poller) {
        let began = redis.elapsed();
        if redis.check().await.is_none() {
            return;
        }
        let Some(current) = redis.current() else { return };
        let lease = poller.lease;
        let read = {
            let mut reading = pin!(poller.read_new(&current.identity));
            loop {
                match timeout(RENEWAL_INTERVAL, &mut reading).await {
                    Ok(read) => break read,
                    Err(_) => renew_without_database(redis, lease).await,
                }
            }
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                // A database that responds can be read instead of Redis.
                if !error.is_response() {
                    renew_without_database(redis, lease).await;
                }
                redis.problems.poll(Some(error.to_string()));
                return;
            }
        };
        redis.problems.poll(None);
        if read.may_be_another_database {
            self.compare(&read.ended);
        }
        let new = self.state.add(read.ended);
        if !new.is_empty() {
            tracing::debug!(revocations = new.len(), "revocations published");
            redis.publish(&new).await;
        }
        redis.retry_unwritten().await;
        poller.succeed(began);
        redis.renew_lease(began);
        self.record_servers(redis, poller, read.servers).await;
        if !new.is_empty()
            && let Err(error) = poller.announce_applied().await
        {
            tracing::debug!(%error, "revocations not announced as applied, other servers wait for the next poll");
        }
    }

    /// Connects to Redis, and writes every unexpired revocation to it before it is read.
    async fn reconnect(&self, redis: &RedisLink, poller: &mut Poller) -> Result<(), LinkError> {
        let connected = redis.connect().await?;
        let began = redis.elapsed();
        // All of them are in memory, or in the database, which is read next. Later ones may be
        // committed after that.
        let unwritten = redis.unwritten();
        let read = match poller.read_all(&connected.identity).await {
            Ok(read) => read,
            Err(error) => return Err(LinkError::Database(error.to_string())),
        };
        if read.may_be_another_database {
            self.compare(&read.ended);
        }
        redis.install(connected, self.state.with_remembered(read.ended)).await?;
        redis.drop_unwritten(unwritten);
        poller.succeed(began);
        redis.renew_lease(began);
        redis.problems.poll(None);
        self.record_servers(redis, poller, read.servers).await;
        if let Err(error) = poller.announce_applied().await {
            tracing::debug!(%error, "revocations not announced as applied, other servers wait for the next poll");
        }
        Ok(())
    }

    /// Compares this server's Redis with that of the others, and deletes stopped servers.
    async fn record_servers(&self, redis: &RedisLink, poller: &mut Poller, servers: Vec<Server>) {
        let live = self.live(servers);
        let redis_of_all = &poller.row.redis;
        let is_united = self.with_peers(|peers, now| {
            let is_polling = |id| peers.is_polling(id, now);
            let mut polling = live.iter().filter(|row| row.reads_redis() && is_polling(&row.id));
            polling.all(|server| server.redis == *redis_of_all)
        });
        if is_united {
            poller.split_since = None;
        }
        let split_since = *poller.split_since.get_or_insert_with(Instant::now);
        redis.problems.split(!is_united && split_since.elapsed() > SPLIT_TOLERANCE);
        self.delete_stopped(poller).await;
    }
}

/// Renews the lease of a Redis that responds, while the database does not.
async fn renew_without_database(redis: &RedisLink, lease: OfflineLease) {
    let at = redis.elapsed();
    if lease.permits(at) && redis.check().await.is_some() {
        redis.renew_lease(at);
    }
}

// Otherwise a lease would expire between two polls.
const _: () = assert!(
    LEASE.as_millis()
        > POLL_INTERVAL.as_millis() + MIN_POLL_GAP.as_millis() + RENEWAL_INTERVAL.as_millis()
);
