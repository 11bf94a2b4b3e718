//! A single Redis server or Sentinel, and the login there.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, TlsCertificates,
};

use super::sentinel::Address;

/// A server. The library hides why a login failed, so the login commands are sent here.
#[derive(Clone)]
pub(super) struct Single {
    /// Without login and database.
    info: ConnectionInfo,
    certificates: TlsCertificates,
    client: Client,
    login: Option<Cmd>,
    /// The number of the database.
    database: i64,
}

impl Single {
    pub(super) fn new(url: &str, certificates: TlsCertificates) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings();
        let login = settings.password().map(|password| {
            let mut login = redis::cmd("AUTH");
            login.arg(settings.username()).arg(password);
            login
        });
        let database = settings.db();
        let plain = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = info.set_redis_settings(plain);
        let client = client(info.clone(), certificates.clone())?;
        Ok(Self { info, certificates, client, login, database })
    }

    pub(super) fn database(&self) -> i64 {
        self.database
    }

    /// Returns the server at another address, with the same login and database.
    pub(super) fn at(&self, address: &Address) -> RedisResult<Self> {
        let Address { host, port } = address.clone();
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: None }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let info = self.info.clone().set_addr(addr);
        let client = client(info.clone(), self.certificates.clone())?;
        Ok(Self { info, client, ..self.clone() })
    }

    /// Connects. A host name is resolved each time.
    pub(super) async fn connect(&self, timeout: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            // Each command has its own timeout.
            .set_response_timeout(None);
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let select = (self.database != 0).then(|| {
            let mut select = redis::cmd("SELECT");
            select.arg(self.database);
            select
        });
        for command in [&self.login, &select].into_iter().flatten() {
            command.exec_async(&mut connection).await?;
        }
        Ok(connection)
    }
}

fn client(info: ConnectionInfo, certificates: TlsCertificates) -> RedisResult<Client> {
    let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    if is_tls { Client::build_with_tls(info, certificates) } else { Client::open(info) }
}
