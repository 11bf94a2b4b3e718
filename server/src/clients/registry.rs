//! The clients that requests use, read from the database and cached for two seconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Client;
use super::origins::Origins;
use super::registration::MAX_ID_LEN;
use crate::ids::ClientId;
use crate::store::{self, Conn, Store, clients};

/// How long a client is used without a query, and so the time after which a change has
/// taken effect at every server.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(2);

/// How long a client is used while the database is unavailable.
const USABLE_FOR: Duration = Duration::from_secs(600);

/// The number of cached ids. Requests with invented ids can fill the cache, so it is larger
/// than the number of clients.
const CACHE_SIZE: usize = 4096;

/// The clients, by their ids.
pub struct ClientRegistry {
    pub(super) store: Store,
    cache: quick_cache::sync::Cache<ClientId, Arc<Entry>>,
    pub(super) origins: Origins,
}

/// The knowledge about an id.
#[derive(Default)]
struct Entry {
    known: Mutex<Known>,
    /// Held during a query: concurrent requests wait for it and share its result.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    read: Option<Read>,
    /// The last query that failed, and when.
    failed: Option<(Instant, Arc<store::Error>)>,
}

/// The result of a query.
#[derive(Clone)]
struct Read {
    /// When the query began.
    at: Instant,
    client: Option<Arc<Client>>,
}

impl Entry {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Read> {
        self.known().read.clone().filter(|read| read.at.elapsed() < FRESH_FOR)
    }

    /// Returns the result of a request whose query failed.
    fn stale(&self, error: Arc<store::Error>) -> Result<Option<Arc<Client>>, store::Error> {
        let usable = self.known().read.clone().filter(|read| read.at.elapsed() < USABLE_FOR);
        match usable.and_then(|read| read.client).filter(|_| error.is_transient()) {
            Some(client) => {
                tracing::debug!(%error, client = %client.id, "client not read, using the last one");
                Ok(Some(client))
            }
            None => Err(store::Error::Batch(error)),
        }
    }
}

impl ClientRegistry {
    #[must_use]
    pub fn new(store: Store) -> Self {
        let cache = quick_cache::sync::Cache::new(CACHE_SIZE);
        Self { store, cache, origins: Origins::default() }
    }

    /// Returns a client as it was at most two seconds ago, or `None` if there is no such
    /// client. If the database is unavailable, returns a client that was read at most ten
    /// minutes ago, so that refreshes do not depend on one more query. A removed client is
    /// of no use to an attacker then: its sessions have ended.
    ///
    /// Concurrent requests for an id share one query.
    pub async fn get(&self, id: &ClientId) -> Result<Option<Arc<Client>>, store::Error> {
        // Such an id cannot be registered, and PostgreSQL cannot look for some of them.
        if id.as_str().len() > MAX_ID_LEN || id.as_str().contains(char::is_control) {
            return Ok(None);
        }
        let new_entry = || Ok::<_, store::Error>(Arc::default());
        let entry: Arc<Entry> = self.cache.get_or_insert_with(id, new_entry)?;
        if let Some(read) = entry.fresh() {
            return Ok(read.client);
        }
        let asked_at = Instant::now();
        let _reading = entry.reading.lock().await;
        if let Some(read) = entry.fresh() {
            return Ok(read.client);
        }
        let failed = entry.known().failed.clone();
        if let Some((failed_at, error)) = failed
            && failed_at >= asked_at
        {
            return entry.stale(error);
        }
        self.read(id, &entry).await
    }

    /// Returns whether a request has named this client before, and it existed. Makes no query.
    #[must_use]
    pub fn is_known(&self, id: &ClientId) -> bool {
        let entry: Option<Arc<Entry>> = self.cache.get(id);
        entry.is_some_and(|entry| entry.known().read.as_ref().is_some_and(|it| it.client.is_some()))
    }

    async fn read(
        &self,
        id: &ClientId,
        entry: &Entry,
    ) -> Result<Option<Arc<Client>>, store::Error> {
        let at = Instant::now();
        let owned = id.clone();
        match self.store.run(move |conn: &mut Conn| clients::find(conn, &owned)).await {
            Ok(client) => {
                let client = client.map(Arc::new);
                entry.known().read = Some(Read { at, client: client.clone() });
                Ok(client)
            }
            Err(error) => {
                let error = Arc::new(error);
                entry.known().failed = Some((Instant::now(), error.clone()));
                entry.stale(error)
            }
        }
    }
}
