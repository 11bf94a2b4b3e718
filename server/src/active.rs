//! Is this access token active? Redis is asked first, then the database.
//!
//! | key | means | lives for |
//! |---|---|---|
//! | `access:{sid}:jti` | this access token is active | the rest of the token's life |
//! | `ended:{sid}` | this session has ended | until its last token has expired |
//!
//! The braces are a Redis Cluster hash tag: both keys are on one slot, and one
//! `MGET` answers. An end always outweighs an "active" that a slower request
//! wrote after it. The database is the truth; Redis saves asking it.
//!
//! An end is committed unpublished (table `ends`), and counts as acknowledged when
//! Redis has it too. Where Redis does not take it from this server, another one
//! finds it within a second and publishes it, or cannot reach Redis either and
//! asks the database. Redis's answers are taken only by a server that has looked
//! for unpublished ends within the last two seconds, so once those are over, none
//! takes an answer that is older than the end.

mod link;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::clock::{self, Timestamp};
use crate::store::ends::{self, End};
use crate::store::{self, Store};
use crate::token::{Access, SessionId};

use link::Link;
pub use link::Options;

/// How often unpublished ends are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is done after a look, whatever happens.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// How long the database may take to tell of them.
const PATIENCE: Duration = Duration::from_millis(500);
/// For how long after a look Redis's answers are taken: longer than from one
/// look to the next.
const LEASE: Duration = Duration::from_secs(2);
/// By how much servers' clocks may be apart.
pub const APART: Duration = Duration::from_secs(60);
/// How many ends are published at once.
const BATCH: usize = 500;

/// Answers whether access tokens are active.
pub struct ActiveTokens {
    redis: Option<Arc<Link>>,
    store: Store,
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
    /// Redis.
    Cache,
    /// The database, since Redis did not know.
    Database,
    /// The database, since Redis could not be asked.
    DatabaseAlone,
}

impl ActiveTokens {
    /// Connects to Redis, where there is one to connect to. A server starts
    /// without its Redis, too.
    pub async fn new(redis: Option<&Options>, store: Store) -> Self {
        let redis = redis.map(|options| Arc::new(Link::new(options)));
        let active = Self { redis, store };
        if let Some(redis) = &active.redis {
            active.look(redis).await;
        }
        active
    }

    /// Looks for unpublished ends, and for a Redis that is back, until it is
    /// dropped, which it may be at any time.
    pub async fn keep(self: Arc<Self>) {
        let Some(redis) = &self.redis else { return };
        loop {
            // One that was just broken off is mended without delay.
            let _ = timeout(LOOK_EVERY, redis.broken.notified()).await;
            self.look(redis).await;
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Publishes what is unpublished; after an outage, all that tokens may still be
    /// held of, before Redis is asked for anything.
    async fn look(&self, redis: &Link) {
        if redis.is_up() {
            let looked = redis.elapsed();
            if let Err(error) = self.publish_new(redis).await {
                tracing::debug!(%error, "no look at unpublished ends");
            }
            // Also where the database is away: what Redis knows goes on working.
            redis.looked(looked);
            // A dead connection had better not be found out by an end.
            redis.ping().await;
        } else if let Err(error) = self.mend(redis).await {
            tracing::debug!(%error, "Redis is still away");
        }
    }

    async fn publish_new(&self, redis: &Link) -> Result<(), Unpublished> {
        loop {
            let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
            let new = self.briefly(move |conn| ends::unpublished(conn, limit)).await?;
            if new.is_empty() {
                return Ok(());
            }
            let all = new.len() < BATCH;
            if !redis.publish(&new).await {
                return Err(Unpublished::Away);
            }
            tracing::debug!(ends = new.len(), "published");
            let new: Vec<SessionId> = new.iter().map(|end| end.session_id).collect();
            self.briefly(move |conn| ends::set_published(conn, &new)).await?;
            if all {
                return Ok(());
            }
        }
    }

    /// Does what does not take the database long.
    async fn briefly<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut store::Conn) -> diesel::QueryResult<T> + Send + 'static,
    ) -> Result<T, Unpublished> {
        let work = timeout(PATIENCE, self.store.run_aside(work)).await;
        Ok(work.map_err(|_| Unpublished::Slow)??)
    }

    async fn mend(&self, redis: &Link) -> Result<(), Unpublished> {
        let connection = redis.connect().await?;
        let looked = redis.elapsed();
        let time = clock::now().before(APART);
        let ended = self.store.run_aside(move |conn| ends::that_matter(conn, time)).await?;
        redis.write_ends(&connection, &ended).await?;
        redis.looked(looked);
        redis.mended(connection);
        tracing::info!(ends = ended.len(), "Redis is asked from here on");
        Ok(())
    }

    /// Whether the session of this unexpired access token is live.
    ///
    /// # Errors
    /// When Redis does not know it and the database does not answer.
    pub async fn check(&self, access: &Access, now: Timestamp) -> Result<Checked, store::Error> {
        let source = match &self.redis {
            None => Source::DatabaseAlone,
            Some(redis) => match redis
                .look_up(&ended_key(access.session), &access_key(access))
                .await
            {
                Some((true, _)) => return Ok(Checked { active: false, source: Source::Cache }),
                Some((false, true)) => return Ok(Checked { active: true, source: Source::Cache }),
                Some((false, false)) => Source::Database,
                None => Source::DatabaseAlone,
            },
        };
        let session = access.session;
        let active =
            self.store.run(move |conn| store::sessions::is_live(conn, session, now)).await?;
        if active && source == Source::Database {
            self.granted(access, now).await;
        }
        Ok(Checked { active, source })
    }

    /// Notes that an access token was granted. Redis may miss this: it is only
    /// told so that the database need not be asked.
    pub async fn granted(&self, access: &Access, now: Timestamp) {
        let Some(redis) = &self.redis else { return };
        redis.put(&access_key(access), access.expires_at.since(now)).await;
    }

    /// Notes that sessions have ended, once the database has it. When this is
    /// over, no server takes a token of theirs any more.
    pub async fn ended(&self, ended: &[End]) {
        let Some(redis) = &self.redis else { return };
        // That it is published is noted with the next look.
        if redis.publish(ended).await {
            return;
        }
        let (ends, sessions) = (ended.len(), ended.iter().map(|end| end.session_id));
        let sessions: Vec<SessionId> = sessions.collect();
        tracing::warn!(ends, "Redis was not told of an end: waiting until every server knows");
        let all_know = redis.elapsed() + LEASE + LEASE / 8;
        while redis.elapsed() < all_know {
            sleep(BETWEEN_LOOKS).await;
            let sessions = sessions.clone();
            let waiting = self.store.run(move |conn| ends::any_unpublished(conn, &sessions));
            if let Ok(Ok(false)) = timeout(PATIENCE, waiting).await {
                return;
            }
        }
    }

    /// Whether Redis is asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.redis.as_ref().is_some_and(|redis| redis.is_up())
    }

    /// Whether Redis answers; `None` where there is none to ask.
    pub async fn ping(&self) -> Option<bool> {
        let redis = self.redis.as_ref()?;
        Some(redis.ping().await)
    }
}

/// Why ends were not published.
#[derive(Debug, thiserror::Error)]
enum Unpublished {
    #[error("Redis is away")]
    Away,
    #[error("the database takes long")]
    Slow,
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Store(#[from] store::Error),
}

fn access_key(access: &Access) -> String {
    format!("access:{{{}}}:{}", access.session, access.id)
}

fn ended_key(session: SessionId) -> String {
    format!("ended:{{{session}}}")
}
