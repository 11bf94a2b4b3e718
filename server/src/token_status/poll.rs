//! The poll: every second, is Redis the same as before, and what was revoked?
//!
//! A server writes to `servers` that its poll has begun, then reads revocations. A
//! server that ends a session commits the revocation, then reads `servers`. One of
//! the two sees the other, so an acknowledged logout holds at both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS};
use crate::store::Store;
use crate::store::own::{self, Own};
use crate::store::revocations::{self, Cursor, Revocation};
use crate::store::servers::{self, Server};

use super::identity::Unusable;
use super::link::Link;
use super::peers::Peers;
use super::{BETWEEN_POLLS, LEASE, POLL_EVERY, TokenStatus};

/// How long a poll waits for the database. One that takes longer than the lease
/// renews nothing.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long servers may use different Redis servers before it is a problem: a
/// restarted Redis is found by one server after the other.
const SPLIT_FOR: Duration = Duration::from_secs(5);
/// How often expired revocations are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What one server's poll remembers.
pub(super) struct Poller {
    own: Own,
    row: Server,
    cursor: Cursor,
    /// How often the database was connected to when the cursor was taken.
    connections: u64,
    /// Whether all servers used the same Redis at the last poll that succeeded.
    is_united: bool,
    split_since: Option<Instant>,
    forgot_at: Instant,
}

/// What a poll reads.
struct Read {
    ended: Vec<Revocation>,
    servers: Vec<Server>,
    next: Cursor,
}

impl Poller {
    pub(super) fn new(store: &Store, id: String) -> Self {
        Self {
            own: store.own_connection(),
            row: Server { id, redis: String::new(), polls: 0, applied: 0 },
            cursor: Cursor::START,
            connections: 0,
            is_united: false,
            split_since: None,
            forgot_at: Instant::now(),
        }
    }

    /// Announces a poll and reads the revocations from `cursor` on.
    async fn read(&mut self, identity: &str, cursor: Cursor) -> Result<Read, own::Error> {
        self.row.polls += 1;
        identity.clone_into(&mut self.row.redis);
        let row = self.row.clone();
        let time = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        let read = self.own.run(PATIENCE, move |conn| {
            // In this order, each committed: see the top of this file.
            servers::set(conn, &row)?;
            let next = Cursor::next(conn)?;
            let ended = revocations::since(conn, cursor, time)?;
            Ok(Read { ended, servers: servers::all(conn)?, next })
        });
        read.await
    }

    /// Reads what is new. After a connection was lost, all: the database may be
    /// another one by now, which counts transactions by itself.
    async fn read_new(&mut self, identity: &str) -> Result<Read, own::Error> {
        let mut read = self.read(identity, self.cursor).await?;
        if self.own.connections() != self.connections {
            read = self.read(identity, Cursor::START).await?;
        }
        self.advance(&read);
        Ok(read)
    }

    fn advance(&mut self, read: &Read) {
        self.connections = self.own.connections();
        self.cursor = read.next;
    }

    /// Tells the other servers that the revocations of this poll are in force.
    async fn applied(&mut self) -> Result<(), own::Error> {
        self.row.applied = self.row.polls;
        let row = self.row.clone();
        self.own.run(PATIENCE, move |conn| servers::set(conn, &row)).await
    }
}

impl TokenStatus {
    /// Polls until it is dropped, which may be at any time.
    pub async fn keep(self: Arc<Self>) {
        let Some(redis) = &self.redis else { return };
        loop {
            // A broken link is made again without delay.
            let _ = timeout(POLL_EVERY, redis.broken.notified()).await;
            self.poll(redis).await;
            sleep(BETWEEN_POLLS).await;
        }
    }

    pub(super) async fn poll(&self, redis: &Link) {
        let mut poller = self.poller.lock().await;
        if redis.is_up() {
            self.poll_revocations(redis, &mut poller).await;
        } else if let Err(error) = self.reconnect(redis, &mut poller).await {
            redis.problems.unusable(&error);
        }
        if poller.forgot_at.elapsed() > FORGET_EVERY {
            poller.forgot_at = Instant::now();
            redis.forget_expired();
        }
    }

    /// Reads what was revoked, and writes it to this server's Redis.
    async fn poll_revocations(&self, redis: &Link, poller: &mut Poller) {
        let began = redis.elapsed();
        if redis.check().await.is_none() {
            return;
        }
        let Some(usable) = redis.usable() else { return };
        let read = match poller.read_new(&usable.identity).await {
            Ok(read) => read,
            Err(error) => {
                // A database that is away takes no logout from others either, so what Redis
                // has is still right. One that is slow for this server may take them.
                if error.is_connection_fault() && poller.is_united {
                    redis.polled(began);
                }
                self.with_peers(Peers::restart);
                redis.problems.poll(Some(error.to_string()));
                return;
            }
        };
        redis.problems.poll(None);
        let new = redis.learn(read.ended);
        if !new.is_empty() {
            tracing::debug!(revocations = new.len(), "published");
            redis.publish(&new).await;
        }
        redis.write_again().await;
        redis.polled(began);
        self.note_servers(redis, poller, read.servers).await;
        if !new.is_empty()
            && let Err(error) = poller.applied().await
        {
            tracing::debug!(%error, "other servers wait for the next poll");
        }
    }

    /// Makes a connection to Redis, and gives it every revocation that matters before
    /// it is read.
    async fn reconnect(&self, redis: &Link, poller: &mut Poller) -> Result<(), Unusable> {
        let usable = redis.connect().await?;
        let began = redis.elapsed();
        // All of them are in the database, where they are read next.
        redis.take_unwritten();
        let read = match poller.read(&usable.identity, Cursor::START).await {
            Ok(read) => read,
            Err(error) => {
                self.with_peers(Peers::restart);
                return Err(Unusable::Database(error.to_string()));
            }
        };
        poller.advance(&read);
        redis.restore(usable, read.ended).await?;
        redis.polled(began);
        redis.problems.poll(None);
        self.note_servers(redis, poller, read.servers).await;
        if let Err(error) = poller.applied().await {
            tracing::debug!(%error, "other servers wait for the next poll");
        }
        Ok(())
    }

    /// Compares this server's Redis with the others', and deletes servers that
    /// stopped long ago.
    async fn note_servers(&self, redis: &Link, poller: &mut Poller, servers: Vec<Server>) {
        let live = self.live(servers);
        let stopped = self.with_peers(|peers, now| peers.stopped(now));
        poller.is_united = live.iter().all(|server| server.redis == poller.row.redis);
        if poller.is_united {
            poller.split_since = None;
        }
        let split_since = *poller.split_since.get_or_insert_with(Instant::now);
        redis.problems.split(!poller.is_united && split_since.elapsed() > SPLIT_FOR);
        if !stopped.is_empty() {
            let deleted = poller.own.run(PATIENCE, move |conn| servers::delete(conn, &stopped));
            if let Err(error) = deleted.await {
                tracing::debug!(%error, "stopped servers are not deleted yet");
            }
        }
    }
}

// Otherwise a lease would end between two polls that follow each other as they should.
const _: () = assert!(LEASE.as_millis() > POLL_EVERY.as_millis() + BETWEEN_POLLS.as_millis());
