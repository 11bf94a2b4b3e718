//! Connections to Redis: to a single server, to the primary that Sentinel names, or to a
//! cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult,
    TlsCertificates, Value,
};

use super::identity::LinkError;
use super::sentinel::{Address, SENTINEL, Sentinels};
use super::single::Single;

/// The address of Redis and its timeout.
#[derive(Clone)]
pub struct Options {
    target: Target,
    timeout: Duration,
}

#[derive(Clone)]
enum Target {
    Single(Box<Single>),
    Sentinel(Arc<Sentinels>),
    /// The cluster, and its first node.
    Cluster(Box<ClusterClient>, Box<Single>),
}

/// The timeout of a connection, as a multiple of that of a response. No request waits for a
/// connection.
const CONNECT_TIMEOUT_FACTOR: u32 = 4;

/// The part of a URL that marks a cluster.
const CLUSTER: &str = "-cluster://";

impl Options {
    /// Parses `redis[s]://[user:password@]host[:port][/database]`,
    /// `redis[s]+sentinel://[user:password@]host[:port],…/service[/database]`, or
    /// `redis[s]-cluster://[user:password@]host[:port],…`. `ca` (PEM) replaces the
    /// CAs of the system. After `timeout` a request falls back to the database.
    pub fn new(url: &str, ca: Option<Vec<u8>>, timeout: Duration) -> RedisResult<Self> {
        let certificates = TlsCertificates { client_tls: None, root_cert: ca };
        if let Some((scheme, rest)) = url.split_once(SENTINEL) {
            let target = Target::Sentinel(Arc::new(Sentinels::new(scheme, rest, &certificates)?));
            return Ok(Self { target, timeout });
        }
        let target = match url.split_once(CLUSTER) {
            Some((scheme, nodes)) => {
                let (login, hosts) = nodes.rsplit_once('@').unwrap_or(("", nodes));
                let at = if login.is_empty() { "" } else { "@" };
                let nodes: Vec<String> =
                    hosts.split(',').map(|host| format!("{scheme}://{login}{at}{host}")).collect();
                let first = nodes.first().map_or("", String::as_str);
                let first = Single::new(first, certificates.clone())?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .connection_timeout(timeout * CONNECT_TIMEOUT_FACTOR)
                    .response_timeout(timeout)
                    // A redirection is an error, so that a new topology is detected.
                    .retries(0);
                if scheme == "rediss" {
                    builder = builder.certs(certificates);
                }
                Target::Cluster(Box::new(builder.build()?), Box::new(first))
            }
            None => Target::Single(Box::new(Single::new(url, certificates)?)),
        };
        Ok(Self { target, timeout })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(..))
    }

    /// Returns the number of the database. A cluster has only one.
    pub(super) fn database(&self) -> i64 {
        match &self.target {
            Target::Single(single) => single.database(),
            Target::Sentinel(sentinels) => sentinels.database(),
            Target::Cluster(..) => 0,
        }
    }

    /// Connects. Returns the address of the primary as well, if Sentinel has named it.
    pub(super) async fn connect(&self) -> Result<(Connection, Option<Address>), LinkError> {
        let timeout = self.timeout * CONNECT_TIMEOUT_FACTOR;
        let connect = async {
            match &self.target {
                Target::Single(single) => {
                    Ok((Connection::Single(single.connect(timeout).await?), None))
                }
                Target::Sentinel(sentinels) => {
                    let (connection, address) = sentinels.connect(timeout).await?;
                    Ok((Connection::Single(connection), Some(address)))
                }
                Target::Cluster(client, first) => match client.get_async_connection().await {
                    Ok(connection) => Ok((Connection::Cluster(connection), None)),
                    // The library hides the error of the node.
                    Err(error) => Err(self.node_error(first).await.unwrap_or(error).into()),
                },
            }
        };
        // The connections to the nodes of a cluster are opened one after the other.
        tokio::time::timeout(timeout * 2, connect)
            .await
            .unwrap_or_else(|_| Err(timeout_error().into()))
    }

    /// Returns the primary that Sentinel names now. Returns `None` without Sentinel, or if
    /// none responds.
    pub(super) async fn named_primary(&self) -> Option<Address> {
        let Target::Sentinel(sentinels) = &self.target else { return None };
        sentinels.find_primary(self.timeout * CONNECT_TIMEOUT_FACTOR).await.ok()
    }

    /// Returns the error of a cluster node to the first commands of a connection.
    async fn node_error(&self, node: &Single) -> Option<RedisError> {
        let connection = match node.connect(self.timeout * CONNECT_TIMEOUT_FACTOR).await {
            Ok(connection) => Connection::Single(connection),
            Err(error) => return Some(error),
        };
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        for command in [slots, redis::cmd("PING")] {
            if let Err(error) = self.query::<Value>(connection.clone(), &command).await {
                return Some(error);
            }
        }
        None
    }

    /// Sends a command and waits for its response until the timeout.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        mut connection: Connection,
        command: &Cmd,
    ) -> RedisResult<T> {
        self.with_timeout(command.query_async(&mut connection)).await
    }

    /// Sends commands at once and waits for their responses until the timeout. On a cluster,
    /// all keys must be on one slot.
    pub(super) async fn query_pipeline(
        &self,
        mut connection: Connection,
        pipeline: &Pipeline,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        self.with_timeout(pipeline.query_async(&mut connection)).await
    }

    /// Sends a command to every primary and returns each response.
    pub(super) async fn query_primaries(
        &self,
        connection: &Connection,
        command: Cmd,
    ) -> RedisResult<Vec<String>> {
        match connection.clone() {
            Connection::Single(single) => {
                let response = self.query(Connection::Single(single), &command).await?;
                Ok(vec![response])
            }
            Connection::Cluster(mut cluster) => {
                let primaries = (MultipleNodeRoutingInfo::AllMasters, None);
                let sent = cluster.route_command(command, RoutingInfo::MultiNode(primaries));
                let responses: Vec<(String, Value)> =
                    redis::from_redis_value(self.with_timeout(sent).await?)?;
                let texts = responses
                    .into_iter()
                    .map(|(_, response)| Ok(redis::from_redis_value(response.extract_error()?)?));
                texts.collect()
            }
        }
    }

    async fn with_timeout<T>(
        &self,
        response: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let mut response = std::pin::pin!(response);
        // The second wait is for a thread that was busy for so long that it sent the command
        // only now.
        for wait in [self.timeout, self.timeout / 4] {
            if let Ok(response) = tokio::time::timeout(wait, &mut response).await {
                return response;
            }
        }
        Err(timeout_error())
    }
}

/// A connection, shared by all threads or owned by one. It multiplexes the commands of many
/// requests.
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

/// Returns the message of Redis itself, or of the library if Redis did not respond.
pub(super) fn redis_message(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// Returns whether Redis rejected a write because its memory is full. It still responds, and
/// keeps its keys.
pub(super) fn is_out_of_memory(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

fn timeout_error() -> RedisError {
    RedisError::from((ErrorKind::Io, "no response in time"))
}
