//! Connections to Redis, to a single server or to a cluster.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    TlsCertificates, Value,
};

/// Which Redis, and how long to wait for it.
#[derive(Clone)]
pub struct Options {
    target: Target,
    timeout: Duration,
}

#[derive(Clone)]
enum Target {
    Single(Box<Single>),
    /// And its first node.
    Cluster(Box<ClusterClient>, Box<Single>),
}

/// A single Redis. The library keeps to itself why a login was refused, so the
/// commands that log in are sent from here.
#[derive(Clone)]
struct Single {
    /// Knows neither login nor database.
    client: Client,
    login: Option<Cmd>,
    select: Option<Cmd>,
}

impl Single {
    fn new(url: &str, certificates: TlsCertificates) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings();
        let login = settings.password().map(|password| {
            let mut login = redis::cmd("AUTH");
            login.arg(settings.username()).arg(password);
            login
        });
        let select = (settings.db() != 0).then(|| {
            let mut select = redis::cmd("SELECT");
            select.arg(settings.db());
            select
        });
        let plain = RedisConnectionInfo::default().set_skip_set_lib_name();
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let info = info.set_redis_settings(plain);
        let client =
            if is_tls { Client::build_with_tls(info, certificates)? } else { Client::open(info)? };
        Ok(Self { client, login, select })
    }

    async fn connect(&self, timeout: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            // Each command has its own.
            .set_response_timeout(None);
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        for command in [&self.login, &self.select].into_iter().flatten() {
            command.exec_async(&mut connection).await?;
        }
        Ok(connection)
    }
}

/// How many times as long as a response a connection may take, which no request
/// waits for.
const CONNECTING: u32 = 4;

/// What is in front of the URL of a cluster.
const CLUSTER: &str = "-cluster://";

impl Options {
    /// Takes `redis[s]://[user:password@]host[:port][/database]`, or
    /// `redis[s]-cluster://[user:password@]host[:port],host[:port],…`, a CA in
    /// PEM where the system's are not the ones to trust, and the longest that a
    /// request waits for a response before it falls back to the database.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(url: &str, ca: Option<Vec<u8>>, timeout: Duration) -> RedisResult<Self> {
        let certificates = TlsCertificates { client_tls: None, root_cert: ca };
        let target = match url.split_once(CLUSTER) {
            Some((scheme, nodes)) => {
                let (login, hosts) = nodes.rsplit_once('@').unwrap_or(("", nodes));
                let at = if login.is_empty() { "" } else { "@" };
                let nodes: Vec<String> =
                    hosts.split(',').map(|host| format!("{scheme}://{login}{at}{host}")).collect();
                let first = nodes.first().map_or("", String::as_str);
                let first = Single::new(first, certificates.clone())?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .connection_timeout(timeout * CONNECTING)
                    .response_timeout(timeout)
                    // A redirection is an error, so that a new topology is noticed.
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

    /// Connects.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        let timeout = self.timeout;
        let connect = async {
            match &self.target {
                Target::Single(single) => {
                    single.connect(timeout * CONNECTING).await.map(Connection::Single)
                }
                Target::Cluster(client, first) => match client.get_async_connection().await {
                    Ok(connection) => Ok(Connection::Cluster(connection)),
                    // The library does not say what a node has said.
                    Err(error) => Err(self.refusal(first).await.unwrap_or(error)),
                },
            }
        };
        // A cluster is several connections, made one after the other.
        tokio::time::timeout(timeout * CONNECTING * 2, connect)
            .await
            .unwrap_or_else(|_| Err(too_slow()))
    }

    /// What a node of a cluster says to the commands that a connection begins with.
    async fn refusal(&self, node: &Single) -> Option<RedisError> {
        let connection = match node.connect(self.timeout * CONNECTING).await {
            Ok(connection) => Connection::Single(connection),
            Err(error) => return Some(error),
        };
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        for command in [slots, redis::cmd("PING")] {
            if let Err(error) = self.ask::<Value>(connection.clone(), &command).await {
                return Some(error);
            }
        }
        None
    }

    /// Sends a command and waits for its response, as long as a request may.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        mut connection: Connection,
        command: &Cmd,
    ) -> RedisResult<T> {
        self.in_time(command.query_async(&mut connection)).await
    }

    /// Sends a command to every primary; returns the response of each.
    pub(super) async fn ask_each(
        &self,
        connection: &Connection,
        command: Cmd,
    ) -> RedisResult<Vec<String>> {
        match connection.clone() {
            Connection::Single(single) => {
                let response = self.ask(Connection::Single(single), &command).await?;
                Ok(vec![response])
            }
            Connection::Cluster(mut cluster) => {
                let primaries = (MultipleNodeRoutingInfo::AllMasters, None);
                let sent = cluster.route_command(command, RoutingInfo::MultiNode(primaries));
                let responses: Vec<(String, Value)> =
                    redis::from_redis_value(self.in_time(sent).await?)?;
                let texts = responses
                    .into_iter()
                    .map(|(_, response)| Ok(redis::from_redis_value(response.extract_error()?)?));
                texts.collect()
            }
        }
    }

    async fn in_time<T>(&self, response: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        let mut response = std::pin::pin!(response);
        // The second time is for a thread that was itself busy for so long that the
        // command has only just left.
        for patience in [self.timeout, self.timeout / 4] {
            if let Ok(response) = tokio::time::timeout(patience, &mut response).await {
                return response;
            }
        }
        Err(too_slow())
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

/// An error in Redis's own words, where it has said something.
pub(super) fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// Whether Redis refuses a write because it has no memory left. It responds all the
/// same, and loses nothing.
pub(super) fn is_out_of_memory(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

fn too_slow() -> RedisError {
    RedisError::from((ErrorKind::Io, "no response in time"))
}
