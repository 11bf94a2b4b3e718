//! The link to Redis: up, or broken off at the first fault and mended by
//! whoever looks after it.
//!
//! No connection is made anew behind anybody's back: a Redis that was away may
//! have missed ends, so it is asked for nothing until it was told of them. Each
//! thread that asks gets a connection of its own to the same run of the same Redis,
//! so that no answer has to travel from one thread to another.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, InfoDict, Pipeline, RedisError,
    RedisFuture, RedisResult, TlsCertificates, Value,
};
use tokio::sync::Notify;

use super::{APART, LEASE, ended_key};
use crate::clock;
use crate::store::ends::End;

/// Which Redis, and how long to wait for it.
#[derive(Clone)]
pub struct Options {
    target: Target,
    timeout: Duration,
}

#[derive(Clone)]
enum Target {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// How many times as long as an answer a connection may take, which no request
/// waits for.
const CONNECTING: u32 = 4;
/// How many ends travel at once.
const AT_ONCE: usize = 100;

/// What is in front of the URL of a cluster.
const CLUSTER: &str = "-cluster://";

impl Options {
    /// Takes `redis[s]://[user:password@]host[:port][/database]`, or
    /// `redis[s]-cluster://[user:password@]host[:port],host[:port],…`, a CA in
    /// PEM where the system's are not the ones to trust, and the longest that a
    /// request waits for an answer before the database is asked instead.
    ///
    /// # Errors
    /// When the URL is none that can be used.
    pub fn new(url: &str, ca: Option<Vec<u8>>, timeout: Duration) -> RedisResult<Self> {
        let certificates = TlsCertificates { client_tls: None, root_cert: ca };
        let target = match url.split_once(CLUSTER) {
            Some((scheme, nodes)) => {
                let (login, hosts) = nodes.rsplit_once('@').unwrap_or(("", nodes));
                let at = if login.is_empty() { "" } else { "@" };
                let nodes = hosts.split(',').map(|host| format!("{scheme}://{login}{at}{host}"));
                let mut builder = ClusterClientBuilder::new(nodes)
                    .connection_timeout(timeout * CONNECTING)
                    .response_timeout(timeout)
                    // A node that moved away is a fault like any other.
                    .retries(0);
                if scheme == "rediss" {
                    builder = builder.certs(certificates);
                }
                Target::Cluster(Box::new(builder.build()?))
            }
            None if url.starts_with("rediss:") => {
                Target::Single(Box::new(Client::build_with_tls(url, certificates)?))
            }
            None => Target::Single(Box::new(Client::open(url)?)),
        };
        Ok(Self { target, timeout })
    }
}

/// A connection, shared by all threads or a thread's own; commands of many requests
/// travel on it at once.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// A thread's own connection, beside the one with that number.
struct Own {
    number: u64,
    /// `None` until it is made, and where it cannot be.
    connection: Option<Connection>,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// Numbers are given out once in a process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The link to Redis.
pub(super) struct Link {
    options: Options,
    current: RwLock<Current>,
    /// Told when the link is broken off.
    pub(super) broken: Notify,
    started: Instant,
    /// When unpublished ends were looked for last, in milliseconds since the start.
    looked: AtomicU64,
}

/// The connection in use, and its number.
struct Current {
    number: u64,
    connection: Option<Connection>,
}

impl Link {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            current: RwLock::new(Current { number: 0, connection: None }),
            broken: Notify::new(),
            started: Instant::now(),
            looked: AtomicU64::new(0),
        }
    }

    /// Time since the start: neither a wrong clock nor a set one changes it.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Unpublished ends were looked for at that time.
    pub(super) fn looked(&self, at: Duration) {
        self.looked.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A connection that may be asked, and the number of the one in use.
    fn trusted(&self) -> Option<(u64, Connection)> {
        let looked = Duration::from_millis(self.looked.load(Ordering::Relaxed));
        if self.elapsed().saturating_sub(looked) > LEASE {
            return None;
        }
        // Which of the two it is, is found out before one is cloned: threads that clone the
        // shared one are in each other's way.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let (number, shared) = (current.number, current.connection.as_ref()?);
        let own = OWN.with_borrow_mut(|own| match own {
            Some(own) if own.number == number => own.connection.clone(),
            _ => {
                *own = Some(Own { number, connection: None });
                actix_rt::spawn(open_own(self.options.clone(), number, shared.clone()));
                None
            }
        });
        Some((number, own.unwrap_or_else(|| shared.clone())))
    }

    fn current(&self) -> Option<(u64, Connection)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.connection.clone().map(|connection| (current.number, connection))
    }

    pub(super) fn is_up(&self) -> bool {
        self.current().is_some()
    }

    /// A new connection, not in use yet.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        connect(&self.options).await
    }

    /// Takes a connection into use.
    pub(super) fn mended(&self, connection: Connection) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        *current = Current { number, connection: Some(connection) };
    }

    /// Gives up the connection with that number, at its first fault: the
    /// requests that follow do not wait for it too.
    fn break_off(&self, number: u64, error: &RedisError) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.number == number && current.connection.take().is_some() {
            tracing::warn!(%error, "Redis does not answer: the database is asked until it does");
            self.broken.notify_one();
        }
    }

    /// Whether the session has ended and whether the token is active, as far as
    /// Redis knows; `None` where it cannot be asked. One round trip.
    pub(super) async fn look_up(&self, ended: &str, access: &str) -> Option<(bool, bool)> {
        let (number, connection) = self.trusted()?;
        let mut command = redis::cmd("MGET");
        command.arg(ended).arg(access);
        match self.ask::<(Option<u8>, Option<u8>)>(connection, &command).await {
            Ok((ended, active)) => Some((ended.is_some(), active.is_some())),
            Err(error) => {
                self.break_off(number, &error);
                None
            }
        }
    }

    /// Notes something that Redis may as well not know.
    pub(super) async fn put(&self, key: &str, lifetime: Duration) {
        let Some((number, connection)) = self.trusted() else { return };
        let Err(error) = self.ask::<()>(connection, &set(key, lifetime)).await else { return };
        // A Redis that is full refuses this, and answers all the same.
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            self.break_off(number, &error);
        } else {
            tracing::warn!(%error, "Redis was not told of an access token");
        }
    }

    /// Writes ends; `false` where Redis did not take them all.
    pub(super) async fn publish(&self, ended: &[End]) -> bool {
        let Some((number, connection)) = self.current() else { return false };
        match self.write_ends(&connection, ended).await {
            Ok(()) => true,
            Err(error) => {
                self.break_off(number, &error);
                false
            }
        }
    }

    /// Writes ends on a connection that need not be in use.
    pub(super) async fn write_ends(
        &self,
        connection: &Connection,
        ended: &[End],
    ) -> RedisResult<()> {
        let now = clock::now().before(APART);
        for batch in ended.chunks(AT_ONCE) {
            let write = |end: &End| {
                let lifetime = end.access_until.since(now);
                let command = set(&ended_key(end.session_id), lifetime);
                let connection = connection.clone();
                async move { self.ask::<()>(connection, &command).await }
            };
            try_join_all(batch.iter().map(write)).await?;
        }
        Ok(())
    }

    /// Whether it answers on the connection that all share, and that nobody else
    /// may have used for long.
    pub(super) async fn ping(&self) -> bool {
        let Some((number, connection)) = self.current() else { return false };
        let answer = self.ask::<()>(connection, &redis::cmd("PING")).await;
        answer.map_err(|error| self.break_off(number, &error)).is_ok()
    }

    async fn ask<T: FromRedisValue>(
        &self,
        mut connection: Connection,
        command: &Cmd,
    ) -> RedisResult<T> {
        let mut answer = std::pin::pin!(command.query_async(&mut connection));
        // Where this thread was busy itself for so long, the command has only left.
        for patience in [self.options.timeout, self.options.timeout / 4] {
            if let Ok(answer) = tokio::time::timeout(patience, &mut answer).await {
                return answer;
            }
        }
        Err(too_slow())
    }
}

async fn connect(options: &Options) -> RedisResult<Connection> {
    let timeout = options.timeout;
    let connect = async {
        match &options.target {
            Target::Single(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(timeout * CONNECTING))
                    // Each question has its own.
                    .set_response_timeout(None);
                let connect = client.get_multiplexed_async_connection_with_config(&config);
                connect.await.map(Connection::Single)
            }
            Target::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    };
    // A cluster is several connections, made one after the other.
    tokio::time::timeout(timeout * CONNECTING * 2, connect)
        .await
        .unwrap_or_else(|_| Err(too_slow()))
}

/// Makes this thread a connection of its own beside the one in use.
async fn open_own(options: Options, number: u64, shared: Connection) {
    // Several connections to each node would be many.
    if matches!(options.target, Target::Cluster(_)) {
        return;
    }
    let within = options.timeout * CONNECTING;
    let opened = async {
        let own = connect(&options).await.ok()?;
        // One that has started since may have missed ends, like one at another place.
        let same = run_of(&own).await? == run_of(&shared).await?;
        same.then_some(own)
    };
    let opened = tokio::time::timeout(within, opened).await.ok().flatten();
    if opened.is_none() {
        tracing::debug!("this thread shares its connection to Redis with others");
    }
    OWN.with_borrow_mut(|own| match own {
        Some(own) if own.number == number => own.connection = opened,
        _ => {}
    });
}

/// Which run of which Redis a connection leads to; `None` where it does not say.
async fn run_of(connection: &Connection) -> Option<String> {
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let info: InfoDict = info.query_async(&mut connection.clone()).await.ok()?;
    info.get("run_id")
}

/// Sets a key for `lifetime`, in whole seconds and at least one: to Redis, none
/// is an error.
fn set(key: &str, lifetime: Duration) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(1).arg("EX").arg(lifetime.as_secs().max(1));
    command
}

fn too_slow() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer in time"))
}
