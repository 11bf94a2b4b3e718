//! Is this access token active? Redis is asked first, then the database.
//!
//! | key | means | lives for |
//! |---|---|---|
//! | `access:{sid}:jti` | this access token is active | the rest of the token's life |
//! | `ended:{sid}` | this session has ended | the lifetime of access tokens |
//!
//! The braces are a Redis Cluster hash tag: both keys are on one slot, and one
//! `MGET` answers. An end always outweighs an "active" that a slower request
//! wrote after it. The database is the truth; Redis saves asking it.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, RedisResult};

use crate::clock::Timestamp;
use crate::store::{self, Store};
use crate::token::{Claims, SessionId};

/// Which Redis, and how long to wait for it.
#[derive(Clone)]
pub struct Options {
    client: Client,
    timeout: Duration,
}

impl Options {
    /// Takes a `redis://[user:password@]host[:port][/database]` and the longest
    /// that a request waits for an answer before the database is asked instead.
    ///
    /// # Errors
    /// When the URL is none that can be used.
    pub fn new(url: &str, timeout: Duration) -> RedisResult<Self> {
        Ok(Self { client: Client::open(url)?, timeout })
    }
}

/// Answers whether access tokens are active.
#[derive(Clone)]
pub struct ActiveTokens {
    redis: Option<Redis>,
    store: Store,
    access_lifetime: Duration,
}

#[derive(Clone)]
struct Redis {
    connection: ConnectionManager,
    timeout: Duration,
}

impl ActiveTokens {
    /// Connects in the background: a server starts without its Redis.
    ///
    /// # Errors
    /// When the connection cannot be prepared.
    pub fn new(
        redis: Option<&Options>,
        store: Store,
        access_lifetime: Duration,
    ) -> Result<Self, RedisError> {
        let redis = redis.map(Redis::new).transpose()?;
        Ok(Self { redis, store, access_lifetime })
    }

    /// Whether the session of this unexpired access token is live.
    ///
    /// # Errors
    /// When Redis does not know it and the database does not answer.
    pub async fn is_active(&self, claims: &Claims, now: Timestamp) -> Result<bool, store::Error> {
        if let Some(redis) = &self.redis {
            match redis.look_up(claims).await {
                Ok(Some(known)) => return Ok(known),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "Redis does not answer, asking the database"),
            }
        }
        let session = claims.sid;
        let live = self.store.run(move |conn| store::sessions::is_live(conn, session, now)).await?;
        if live {
            self.granted(claims, now).await;
        }
        Ok(live)
    }

    /// Notes that an access token was granted. Redis may miss this: it is only
    /// told so that the database need not be asked.
    pub async fn granted(&self, claims: &Claims, now: Timestamp) {
        let Some(redis) = &self.redis else { return };
        let rest = claims.exp.saturating_sub(now.as_secs());
        let Ok(rest) = u64::try_from(rest) else { return };
        if let Err(error) = redis.put(&access_key(claims), Duration::from_secs(rest)).await {
            tracing::warn!(%error, "Redis was not told of an access token");
        }
    }

    /// Notes that a session has ended, once the database has it.
    pub async fn ended(&self, session: SessionId) {
        let Some(redis) = &self.redis else { return };
        if let Err(error) = redis.put(&ended_key(session), self.access_lifetime).await {
            tracing::error!(%error, %session, "Redis was not told of the end of a session");
        }
    }

    /// Whether Redis answers; `None` where there is none to ask.
    pub async fn ping(&self) -> Option<bool> {
        let redis = self.redis.as_ref()?;
        let answer: RedisResult<()> = redis.ask(&redis::cmd("PING")).await;
        Some(answer.is_ok())
    }
}

impl Redis {
    fn new(options: &Options) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(options.timeout))
            .set_response_timeout(Some(options.timeout))
            .set_max_delay(Duration::from_secs(1))
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(options.client.clone(), config)?;
        Ok(Self { connection, timeout: options.timeout })
    }

    /// `None`: Redis knows neither that it is active nor that it ended.
    async fn look_up(&self, claims: &Claims) -> RedisResult<Option<bool>> {
        let mut command = redis::cmd("MGET");
        command.arg(ended_key(claims.sid)).arg(access_key(claims));
        let (ended, active): (Option<u8>, Option<u8>) = self.ask(&command).await?;
        Ok(if ended.is_some() { Some(false) } else { active.map(|_| true) })
    }

    async fn put(&self, key: &str, lifetime: Duration) -> RedisResult<()> {
        // A lifetime of 0 is an error to Redis, and there is nothing to keep.
        let seconds = lifetime.as_secs().max(1);
        self.ask(redis::cmd("SET").arg(key).arg(1).arg("EX").arg(seconds)).await
    }

    /// One round trip, bounded even while the connection is being made anew.
    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> RedisResult<T> {
        let mut connection = self.connection.clone();
        match tokio::time::timeout(self.timeout, command.query_async(&mut connection)).await {
            Ok(answer) => answer,
            Err(_) => Err(RedisError::from((redis::ErrorKind::Io, "no answer in time"))),
        }
    }
}

fn access_key(claims: &Claims) -> String {
    format!("access:{{{}}}:{}", claims.sid, claims.jti)
}

fn ended_key(session: SessionId) -> String {
    format!("ended:{{{session}}}")
}
