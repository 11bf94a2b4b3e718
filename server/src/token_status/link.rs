//! The link to Redis: up, or broken at the first fault and made again by the poll.
//!
//! No connection is made again behind the poll's back: a Redis that was away may have
//! missed revocations, so it is not read before it has them all. Each thread has a
//! connection of its own to the same run of the same Redis, so that no response has
//! to travel from one thread to another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::Notify;

use super::connection::{Connection, Options, is_out_of_memory};
use super::identity::{self, Facts, Unusable};
use super::problems::Problems;
use super::{LEASE, access_key, ended_key};
use crate::clock::{self, MAX_SKEW_BETWEEN_SERVERS, Timestamp};
use crate::ids::SessionId;
use crate::store::revocations::Revocation;
use crate::tokens::VerifiedToken;

/// How many revocations travel at once.
const AT_ONCE: usize = 100;

/// The key whose loss tells that Redis was flushed. It never expires.
const EPOCH: &str = "matchbook:epoch";

/// What stands for the epoch on a cluster, where one `MGET` reads one slot.
const NO_EPOCH: &str = "1";

/// A thread's own connection, beside the one with that number.
struct Own {
    number: u64,
    /// `None` until it is made, and where it cannot be.
    connection: Option<Connection>,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// Numbers are given out once in a process. 0 stands for a broken link.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The link to Redis.
pub(super) struct Link {
    options: Options,
    current: RwLock<Current>,
    /// The number of the link in use: read without the lock once a response is there.
    number: AtomicU64,
    /// Revocations that Redis did not take: it had no memory, or was not connected.
    unwritten: Mutex<Vec<Revocation>>,
    pub(super) problems: Problems,
    /// Notified when the link breaks.
    pub(super) broken: Notify,
    started: Instant,
    /// When the poll began that read the database last, in milliseconds since the
    /// start.
    polled: AtomicU64,
}

#[derive(Default)]
struct Current {
    usable: Option<Usable>,
    /// The revocations that this server has read. They hold whatever Redis loses.
    ended: HashMap<SessionId, Timestamp>,
}

/// A connection in use.
#[derive(Clone)]
pub(super) struct Usable {
    number: u64,
    connection: Connection,
    /// Identifies its Redis.
    pub(super) identity: Arc<str>,
    epoch: Arc<str>,
}

/// What may be read for a token.
enum Standing {
    /// Its session has ended.
    Ended,
    /// Redis may be read on this connection.
    Trusted(Usable),
    /// Redis cannot be trusted.
    Unknown,
}

/// The status of an access token, as Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ended,
    Active,
    Missing,
}

impl Link {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            current: RwLock::default(),
            number: AtomicU64::new(0),
            unwritten: Mutex::default(),
            problems: Problems::default(),
            broken: Notify::new(),
            started: Instant::now(),
            polled: AtomicU64::new(0),
        }
    }

    /// Time since the start: no change of the wall clock affects it.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Renews the lease: a poll that began at that time has read the database.
    pub(super) fn polled(&self, at: Duration) {
        self.polled.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn has_lease(&self) -> bool {
        let polled = Duration::from_millis(self.polled.load(Ordering::Relaxed));
        self.elapsed().saturating_sub(polled) <= LEASE
    }

    fn standing(&self, session: Option<SessionId>) -> Standing {
        let has_lease = self.has_lease();
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if session.is_some_and(|session| current.ended.contains_key(&session)) {
            return Standing::Ended;
        }
        let Some(usable) = current.usable.as_ref().filter(|_| has_lease) else {
            return Standing::Unknown;
        };
        // The thread's own connection is cloned where there is one: threads that clone the
        // shared one get in each other's way.
        let number = usable.number;
        let own = OWN.with_borrow_mut(|own| match own {
            Some(own) if own.number == number => own.connection.clone(),
            _ => {
                *own = Some(Own { number, connection: None });
                actix_rt::spawn(open_own(self.options.clone(), usable.clone()));
                None
            }
        });
        Standing::Trusted(Usable {
            number,
            connection: own.unwrap_or_else(|| usable.connection.clone()),
            identity: usable.identity.clone(),
            epoch: usable.epoch.clone(),
        })
    }

    pub(super) fn usable(&self) -> Option<Usable> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.usable.clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.number.load(Ordering::Relaxed) != 0
    }

    /// A new connection, not in use yet, that leads to a primary which takes every
    /// command this server sends. Only its use is missing: it has no revocations.
    pub(super) async fn connect(&self) -> Result<Usable, Unusable> {
        let connection = self.options.connect().await?;
        let identity = identity::ask(&self.options, &connection).await?.identity;
        let epoch = self.enter_epoch(&connection).await?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Ok(Usable { number, connection, identity, epoch })
    }

    /// Returns the epoch of this Redis, begun here where it has none, and tries
    /// every command and key pattern that is in use.
    async fn enter_epoch(&self, connection: &Connection) -> Result<Arc<str>, Unusable> {
        let (access, ended) = ("access:{probe}:probe", "ended:{probe}");
        for key in [access, ended] {
            let written = self.options.ask::<()>(connection.clone(), &set(key, NO_EPOCH, 1)).await;
            if let Err(error) = written
                && !is_out_of_memory(&error)
            {
                return Err(error.into());
            }
        }
        if self.options.is_cluster() {
            let mut read = redis::cmd("MGET");
            read.arg(ended).arg(access);
            self.options.ask::<Value>(connection.clone(), &read).await?;
            return Ok(NO_EPOCH.into());
        }
        let mut begin = redis::cmd("SET");
        begin.arg(EPOCH).arg(uuid::Uuid::new_v4().simple().to_string()).arg("NX");
        self.options.ask::<Value>(connection.clone(), &begin).await?;
        let mut read = redis::cmd("MGET");
        read.arg(ended).arg(access).arg(EPOCH);
        let read = self.options.ask(connection.clone(), &read).await?;
        let (_, _, epoch): (Value, Value, Option<String>) = read;
        epoch.map(Into::into).ok_or(Unusable::Flushed)
    }

    /// Fails unless `usable` leads to the same Redis, with all that was written to it
    /// as far as it can tell.
    pub(super) async fn verify(&self, usable: &Usable) -> Result<Facts, Unusable> {
        let facts = identity::ask(&self.options, &usable.connection).await?;
        if facts.identity == usable.identity { Ok(facts) } else { Err(Unusable::Replaced) }
    }

    /// Verifies the link in use, if there is one; breaks it where that fails.
    pub(super) async fn check(&self) -> Option<Facts> {
        let usable = self.usable()?;
        match self.verify(&usable).await {
            Ok(facts) => {
                self.problems.evicts(facts.evicting.as_deref());
                Some(facts)
            }
            Err(error) => {
                self.break_off(usable.number, &error);
                None
            }
        }
    }

    /// Takes a connection into use once Redis has these revocations, which are all
    /// that matter.
    pub(super) async fn restore(
        &self,
        usable: Usable,
        ended: Vec<Revocation>,
    ) -> Result<(), Unusable> {
        let unwritten = match self.write(&usable.connection, &ended).await {
            Ok(()) => Vec::new(),
            // This server knows them, and every other one reads them from the database.
            Err(error) if is_out_of_memory(&error) => ended.clone(),
            Err(error) => return Err(error.into()),
        };
        // Nothing may have happened to it meanwhile.
        if self.enter_epoch(&usable.connection).await? != usable.epoch {
            return Err(Unusable::Flushed);
        }
        let facts = self.verify(&usable).await?;
        self.problems.evicts(facts.evicting.as_deref());
        self.problems.full(!unwritten.is_empty());
        self.problems.restored(ended.len());
        self.keep_unwritten(&unwritten);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.ended.extend(ended.into_iter().map(|end| (end.session_id, end.access_expires_at)));
        self.number.store(usable.number, Ordering::Relaxed);
        current.usable = Some(usable);
        Ok(())
    }

    /// Breaks the link with that number at its first fault: the requests that follow
    /// do not wait for it too.
    fn break_off(&self, number: u64, error: &Unusable) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.usable.as_ref().is_some_and(|usable| usable.number == number) {
            current.usable = None;
            self.number.store(0, Ordering::Relaxed);
            self.problems.unusable(error);
            self.broken.notify_one();
        }
    }

    /// Notes revocations that hold from now on, whatever Redis says; returns those
    /// that are new.
    pub(super) fn learn(&self, ended: Vec<Revocation>) -> Vec<Revocation> {
        if ended.is_empty() {
            return ended;
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = ended;
        new.retain(|end| current.ended.insert(end.session_id, end.access_expires_at).is_none());
        new
    }

    /// Forgets the revocations of sessions whose access tokens have all expired.
    pub(super) fn forget_expired(&self) {
        let time = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.ended.retain(|_, access_expires_at| *access_expires_at > time);
    }

    /// The status of an access token, or `None` where Redis cannot be trusted. One
    /// round trip.
    pub(super) async fn look_up(&self, access: &VerifiedToken) -> Option<Status> {
        let usable = match self.standing(Some(access.session)) {
            Standing::Ended => return Some(Status::Ended),
            Standing::Trusted(usable) => usable,
            Standing::Unknown => return None,
        };
        let in_cluster = self.options.is_cluster();
        let mut command = redis::cmd("MGET");
        command.arg(ended_key(access.session)).arg(access_key(access));
        if !in_cluster {
            command.arg(EPOCH);
        }
        let values = match self.options.ask(usable.connection, &command).await {
            Ok(Value::Array(values)) => values,
            Ok(_) => return None,
            Err(error) => {
                self.break_off(usable.number, &error.into());
                return None;
            }
        };
        let is_epoch = |value: Option<&Value>| matches!(value, Some(Value::BulkString(text)) if *text == usable.epoch.as_bytes());
        if !matches!(values.first(), Some(Value::Nil)) {
            return Some(Status::Ended);
        }
        if !in_cluster && !is_epoch(values.get(2)) {
            self.break_off(usable.number, &Unusable::Flushed);
            return None;
        }
        // A link that broke meanwhile may have led elsewhere for this command.
        if self.number.load(Ordering::Relaxed) != usable.number {
            return None;
        }
        let active = is_epoch(values.get(1));
        Some(if active { Status::Active } else { Status::Missing })
    }

    /// Caches an access token as active. Redis may miss this.
    pub(super) async fn put(&self, access: &VerifiedToken, lifetime: Duration) {
        let Standing::Trusted(usable) = self.standing(None) else { return };
        let command = set(&access_key(access), &usable.epoch, lifetime.as_secs());
        match self.options.ask::<()>(usable.connection, &command).await {
            Ok(()) => {}
            Err(error) if is_out_of_memory(&error) => self.problems.full(true),
            Err(error) => self.break_off(usable.number, &error.into()),
        }
    }

    /// Writes revocations; returns which Redis has them now, unless it took not all.
    pub(super) async fn publish(&self, ended: &[Revocation]) -> Option<Arc<str>> {
        let Some(usable) = self.usable() else {
            // A connection that is just being made may have read the database before.
            self.keep_unwritten(ended);
            return None;
        };
        let published = async {
            self.write(&usable.connection, ended).await?;
            // A cluster's client follows a failover by itself, and a proxy does too.
            self.verify(&usable).await.map(drop)
        };
        match published.await {
            Ok(()) => Some(usable.identity),
            Err(Unusable::Redis(error)) if is_out_of_memory(&error) => {
                self.problems.full(true);
                self.keep_unwritten(ended);
                None
            }
            Err(error) => {
                self.break_off(usable.number, &error);
                None
            }
        }
    }

    fn keep_unwritten(&self, ended: &[Revocation]) {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).extend(ended);
    }

    /// Takes the revocations that Redis did not take.
    pub(super) fn take_unwritten(&self) -> Vec<Revocation> {
        std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes them again, and finds out whether Redis has memory again.
    pub(super) async fn write_again(&self) {
        let unwritten = self.take_unwritten();
        if unwritten.is_empty() && !self.problems.is_full() {
            return;
        }
        if self.publish(&unwritten).await.is_none() {
            return;
        }
        let Some(usable) = self.usable() else { return };
        let probe = set("access:{probe}:probe", NO_EPOCH, 1);
        if self.options.ask::<()>(usable.connection, &probe).await.is_ok() {
            self.problems.full(false);
        }
    }

    async fn write(&self, connection: &Connection, ended: &[Revocation]) -> RedisResult<()> {
        let now = clock::now().before(MAX_SKEW_BETWEEN_SERVERS);
        for batch in ended.chunks(AT_ONCE) {
            let write = |end: &Revocation| {
                let lifetime = end.access_expires_at.since(now);
                let command = set(&ended_key(end.session_id), NO_EPOCH, lifetime.as_secs());
                let connection = connection.clone();
                async move { self.options.ask::<()>(connection, &command).await }
            };
            try_join_all(batch.iter().map(write)).await?;
        }
        Ok(())
    }
}

/// Makes this thread a connection of its own beside the one in use.
async fn open_own(options: Options, shared: Usable) {
    // Several connections to each node would be many.
    if options.is_cluster() {
        return;
    }
    let opened = async {
        let own = options.connect().await.ok()?;
        // The address may lead to another Redis by now, which has missed revocations.
        let same = identity::ask(&options, &own).await.ok()?.identity == shared.identity;
        same.then_some(own)
    };
    let opened = opened.await;
    if opened.is_none() {
        tracing::debug!("this thread shares its redis connection with others");
    }
    OWN.with_borrow_mut(|own| match own {
        Some(own) if own.number == shared.number => own.connection = opened,
        _ => {}
    });
}

/// Sets a key for some seconds, at least one: to Redis, none is an error.
fn set(key: &str, value: &str, seconds: u64) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(value).arg("EX").arg(seconds.max(1));
    command
}
