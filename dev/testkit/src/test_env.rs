//! The environment of one test: a directory and a database.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{ProcessBuilder, TcpProxy};

/// A directory and a database. Dropping this deletes both.
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
    /// Creates an environment with PostgreSQL and Redis, if the variables are set, else with
    /// SQLite.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = std::env::var("TEST_DATABASE_URL").ok().map(PostgresDatabase::create);
        Self { folder, database, redis: std::env::var("TEST_REDIS_URL").ok() }
    }

    /// Returns the working directory of processes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the URL of the database.
    pub fn database_url(&self) -> String {
        match &self.database {
            Some(database) => database.url.clone(),
            None => format!("sqlite://{}", self.folder().join("matchbook.db").display()),
        }
    }

    /// Returns the URL of Redis, if the test has one.
    pub fn redis_url(&self) -> Option<&str> {
        self.redis.as_deref()
    }

    /// Starts a proxy to the PostgreSQL server. Returns it and the database's URL through it.
    pub fn database_proxy(&self) -> (TcpProxy, String) {
        through_proxy(&self.database_url())
    }

    /// Starts a proxy to Redis. Returns it and Redis' URL through it.
    pub fn redis_proxy(&self) -> (TcpProxy, String) {
        through_proxy(self.redis_url().expect("TEST_REDIS_URL is set"))
    }

    /// Configures a server on a free port, with this database and directory.
    pub fn server(&self, binary: &Path) -> ProcessBuilder {
        let builder = ProcessBuilder::new(binary, self.folder(), "MATCHBOOK")
            .set("server.address", "127.0.0.1:0")
            .set("server.workers", "2")
            .set("metrics.address", "off")
            // On a busy machine a slow response must not count as unavailable.
            .set("redis.timeout", "2s")
            .set("limits.enabled", "false")
            .variable("DATABASE_URL", &self.database_url());
        match self.redis_url() {
            Some(url) => builder.variable("REDIS_URL", url),
            None => builder,
        }
    }
}

/// Starts a proxy to the host of a URL. Returns it and the URL through it.
pub fn through_proxy(url: &str) -> (TcpProxy, String) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let authority = rest.split(['/', '?']).next().unwrap();
    let host = authority.rsplit('@').next().unwrap();
    let proxy = TcpProxy::to(host);
    let through = rest.replacen(host, &proxy.address().to_string(), 1);
    (proxy, format!("{scheme}://{through}"))
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
