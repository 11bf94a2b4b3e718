//! What one test has to itself: a folder and a database.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{ProcessBuilder, TcpProxy};

/// A folder and a database of its own; both go when it is dropped.
pub struct TestEnv {
    folder: TempDir,
    database: Option<PostgresDatabase>,
    redis: Option<String>,
}

/// A database on the PostgreSQL server of `TEST_DATABASE_URL`.
struct PostgresDatabase {
    server: String,
    name: String,
    url: String,
}

impl TestEnv {
    /// On PostgreSQL and Redis where the environment names them, and on SQLite
    /// alone where it does not.
    #[expect(clippy::new_without_default, reason = "it does things, and may panic")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = std::env::var("TEST_DATABASE_URL").ok().map(PostgresDatabase::create);
        Self { folder, database, redis: std::env::var("TEST_REDIS_URL").ok() }
    }

    /// The folder that processes run in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of the database.
    pub fn database_url(&self) -> String {
        match &self.database {
            Some(database) => database.url.clone(),
            None => format!("sqlite://{}", self.folder().join("matchbook.db").display()),
        }
    }

    /// The URL of Redis, where the test has one.
    pub fn redis_url(&self) -> Option<&str> {
        self.redis.as_deref()
    }

    /// A relay to the PostgreSQL server, and the URL of the database through it.
    pub fn database_relay(&self) -> (TcpProxy, String) {
        through_proxy(&self.database_url())
    }

    /// A relay to Redis, and its URL through it.
    pub fn redis_relay(&self) -> (TcpProxy, String) {
        through_proxy(self.redis_url().expect("TEST_REDIS_URL is set"))
    }

    /// A server on a free port, with this database, its files in this folder.
    pub fn server(&self, binary: &Path) -> ProcessBuilder {
        let launch = ProcessBuilder::new(binary, self.folder(), "MATCHBOOK")
            .set("server.address", "127.0.0.1:0")
            .set("server.workers", "2")
            .set("metrics.address", "off")
            // A busy machine is not a Redis that is away.
            .set("redis.timeout", "2s")
            .set("limits.enabled", "false")
            .variable("DATABASE_URL", &self.database_url());
        match self.redis_url() {
            Some(url) => launch.variable("REDIS_URL", url),
            None => launch,
        }
    }
}

/// A relay to where a URL with a port leads, and the URL through it.
pub fn through_proxy(url: &str) -> (TcpProxy, String) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let authority = rest.split(['/', '?']).next().unwrap();
    let host = authority.rsplit('@').next().unwrap();
    let relay = TcpProxy::to(host);
    let through = rest.replacen(host, &relay.address().to_string(), 1);
    (relay, format!("{scheme}://{through}"))
}

impl PostgresDatabase {
    fn create(server: String) -> Self {
        let name = format!("matchbook_test_{}", Uuid::new_v4().simple());
        let mut conn = PgConnection::establish(&server).expect("TEST_DATABASE_URL is reachable");
        conn.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let (base, query) = server.split_once('?').unwrap_or((&server, ""));
        let (authority, _) = base.rsplit_once('/').filter(|(a, _)| a.contains("//")).unwrap();
        let mut url = format!("{authority}/{name}");
        if !query.is_empty() {
            url = format!("{url}?{query}");
        }
        Self { server, name, url }
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        if let Ok(mut conn) = PgConnection::establish(&self.server) {
            let _ =
                conn.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}
