//! The primary of a service that Redis Sentinel watches.
//!
//! The Sentinels may differ for some seconds during a failover, or while one is cut off. The
//! response with the highest configuration epoch is the newest.
//!
//! The client of the redis crate is not used: it takes the first response, has no timeout, and
//! hides the error of a Sentinel.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, TlsCertificates, Value};
use tokio::sync::Mutex;

use super::identity::LinkError;
use super::single::Single;

/// The part of a URL that marks Sentinels.
pub(super) const SENTINEL: &str = "+sentinel://";
/// The port of a Sentinel whose URL has none.
const DEFAULT_PORT: u16 = 26_379;

/// The host and the port of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The Sentinels of one service.
pub(super) struct Sentinels {
    service: String,
    nodes: Vec<Sentinel>,
    /// The login, database and TLS settings of the primary. Its address is not used.
    primary: Single,
}

/// A Sentinel, and the connection to it while it works.
struct Sentinel {
    client: Single,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What a Sentinel says about the service.
struct Naming {
    primary: Address,
    epoch: u64,
}

/// The parts of a URL behind its scheme:
/// `[user:password@]host:port,…/service[/database][?sentinel_user=…&sentinel_password=…]`.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    /// With its `@`, unless it is empty.
    login: &'a str,
    hosts: Vec<&'a str>,
    service: &'a str,
    database: &'a str,
    sentinel_user: &'a str,
    sentinel_password: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn parse(rest: &'a str) -> Result<Self, &'static str> {
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let at = rest.rfind('@').map_or(0, |at| at + 1);
        let (login, rest) = rest.split_at(at);
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err("it names no service: redis+sentinel://host:port,host:port/service");
        }
        let hosts: Vec<&str> = hosts.split(',').collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err("a Sentinel has no host");
        }
        let mut parts =
            Self { login, hosts, service, database, sentinel_user: "", sentinel_password: None };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sentinel_user", user)) => parts.sentinel_user = user,
                Some(("sentinel_password", password)) => parts.sentinel_password = Some(password),
                _ => return Err("its parameters may be sentinel_user and sentinel_password"),
            }
        }
        Ok(parts)
    }

    /// Returns the login at the Sentinels, with its `@`.
    fn sentinel_login(&self) -> String {
        let user = self.sentinel_user;
        self.sentinel_password.map_or_else(String::new, |password| format!("{user}:{password}@"))
    }
}

/// Returns the host with a port.
fn with_port(host: &str) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    if has_port { host.to_owned() } else { format!("{host}:{DEFAULT_PORT}") }
}

impl Sentinels {
    /// Returns the number of the database at the primary.
    pub(super) fn database(&self) -> i64 {
        self.primary.database()
    }

    /// Parses the URL behind its scheme, which is `redis` or `rediss`.
    pub(super) fn new(
        scheme: &str,
        rest: &str,
        certificates: &TlsCertificates,
    ) -> RedisResult<Self> {
        let parts = Parts::parse(rest).map_err(invalid)?;
        let login = parts.sentinel_login();
        let sentinel = |host: &&str| {
            let url = format!("{scheme}://{login}{}", with_port(host));
            let client = Single::new(&url, certificates.clone())?;
            Ok(Sentinel { client, connection: Mutex::default() })
        };
        let nodes: Vec<_> = parts.hosts.iter().map(sentinel).collect::<RedisResult<_>>()?;
        // Any host: the Sentinels say which one.
        let first = parts.hosts.first().map_or_else(String::new, |host| with_port(host));
        let primary = format!("{scheme}://{}{first}/{}", parts.login, parts.database);
        Ok(Self {
            service: parts.service.to_owned(),
            nodes,
            primary: Single::new(&primary, certificates.clone())?,
        })
    }

    /// Connects to the primary. Its role must be verified: a failover may be going on.
    pub(super) async fn connect(
        &self,
        timeout: Duration,
    ) -> Result<(MultiplexedConnection, Address), LinkError> {
        let address = self.find_primary(timeout).await.map_err(LinkError::Sentinel)?;
        let connection = self.primary.at(&address)?.connect(timeout).await?;
        Ok((connection, address))
    }

    /// Returns the address of the primary, by the newest of the responses of a majority of the
    /// Sentinels, or of those that respond.
    pub(super) async fn find_primary(&self, timeout: Duration) -> RedisResult<Address> {
        let asked = self.nodes.iter().map(|sentinel| sentinel.ask(&self.service, timeout));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let majority = self.nodes.len() / 2 + 1;
        let mut newest: Option<Naming> = None;
        let mut failure = None;
        let mut responses = 0;
        while let Some(naming) = asked.next().await {
            match naming {
                Ok(naming) => {
                    responses += 1;
                    if newest.as_ref().is_none_or(|newest| newest.epoch < naming.epoch) {
                        newest = Some(naming);
                    }
                }
                Err(error) => failure = Some(error),
            }
            if responses >= majority {
                break;
            }
        }
        match (newest, failure) {
            (Some(newest), _) => Ok(newest.primary),
            (None, Some(error)) => Err(error),
            (None, None) => Err(invalid("there is no Sentinel")),
        }
    }
}

impl Sentinel {
    async fn ask(&self, service: &str, timeout: Duration) -> RedisResult<Naming> {
        let mut kept = self.connection.lock().await;
        if let Some(mut connection) = kept.take() {
            // The connection may have been lost meanwhile.
            let asked = ask_on(&mut connection, service);
            if let Ok(naming) = within(timeout, asked).await {
                *kept = Some(connection);
                return Ok(naming);
            }
        }
        let mut connection = within(timeout, self.client.connect(timeout)).await?;
        let naming = within(timeout, ask_on(&mut connection, service)).await?;
        *kept = Some(connection);
        Ok(naming)
    }
}

async fn ask_on(connection: &mut MultiplexedConnection, service: &str) -> RedisResult<Naming> {
    let mut both = Pipeline::with_capacity(2);
    both.cmd("SENTINEL").arg("MASTER").arg(service);
    // It alone names the promoted replica while others are still being reconfigured.
    both.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    // Otherwise the library hides the text of an error.
    both.ignore_errors();
    let responses: Vec<RedisResult<Value>> = both.query_async(connection).await?;
    let mut responses = responses.into_iter();
    let mut next = || responses.next().unwrap_or_else(|| Err(invalid("a response is missing")));
    let state: HashMap<String, String> = redis::from_redis_value(next()?)?;
    let address: Option<(String, u16)> = redis::from_redis_value(next()?)?;
    let (host, port) = address.ok_or_else(|| invalid("it names no primary"))?;
    let epoch = state.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok(Naming { primary: Address { host, port }, epoch })
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let timed_out = || RedisError::from((ErrorKind::Io, "no response in time"));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(timed_out()))
}

fn invalid(problem: &'static str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_has_sentinels_a_service_and_two_logins() {
        let parts = Parts::parse("u:p@one:1,two/main/3?sentinel_user=s&sentinel_password=q");
        let parts = parts.unwrap();
        assert_eq!((parts.login, parts.service, parts.database), ("u:p@", "main", "3"));
        assert_eq!(parts.hosts, ["one:1", "two"]);
        assert_eq!(parts.sentinel_login(), "s:q@");
        let parts = Parts::parse("one/main").unwrap();
        assert_eq!((parts.login, parts.database, parts.sentinel_login()), ("", "", String::new()));
        for wrong in ["one:1", "one:1/", ",one/main", "one/main?password=x", "/main"] {
            assert!(Parts::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(with_port("one"), "one:26379");
        assert_eq!(with_port("[::1]"), "[::1]:26379");
        assert_eq!(with_port("[::1]:5"), "[::1]:5");
    }
}
