//! The environment of one test: a directory and a database.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{Integer, Text};
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{ProcessBuilder, TcpProxy};

/// A directory and a database. Dropping this deletes both.
pub struct TestEnv {
    folder: TempDir,
    database: Option<PostgresDatabase>,
    redis: Option<String>,
}

/// A database on the PostgreSQL server of `TEST_DATABASE_URL`, or on all nodes of the Citus
/// cluster of `TEST_CITUS_URL`.
struct PostgresDatabase {
    /// The URLs of a database on each node. The first one is the coordinator.
    nodes: Vec<String>,
    name: String,
}

impl TestEnv {
    /// Creates an environment with Citus or PostgreSQL and Redis, if the variables are set, else
    /// with SQLite.
    #[expect(clippy::new_without_default, reason = "has side effects and may panic")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let on_citus = std::env::var("TEST_CITUS_URL").ok();
        let on_citus = on_citus.map(|coordinator| PostgresDatabase::create_on_citus(&coordinator));
        let database = on_citus.or_else(|| {
            let server = std::env::var("TEST_DATABASE_URL").ok()?;
            Some(PostgresDatabase::create(vec![server]))
        });
        Self { folder, database, redis: std::env::var("TEST_REDIS_URL").ok() }
    }

    /// Creates an environment with a directory alone.
    pub fn without_database() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), database: None, redis: None }
    }

    /// Returns the working directory of processes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the URL of the database.
    pub fn database_url(&self) -> String {
        match &self.database {
            Some(database) => with_database(&database.nodes[0], &database.name),
            None => format!("sqlite://{}", self.folder().join("matchbook.db").display()),
        }
    }

    /// Returns the URLs of the database on the workers of Citus, if the test has them.
    pub fn citus_workers(&self) -> Vec<String> {
        let database = self.database.iter();
        let urls = database.flat_map(|database| {
            let workers = database.nodes.iter().skip(1);
            workers.map(|node| with_database(node, &database.name))
        });
        urls.collect()
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

/// Returns the URL of another database on the same server.
fn with_database(server: &str, name: &str) -> String {
    let (base, query) = server.split_once('?').unwrap_or((server, ""));
    let (authority, _) = base.rsplit_once('/').filter(|(a, _)| a.contains("//")).unwrap();
    if query.is_empty() {
        format!("{authority}/{name}")
    } else {
        format!("{authority}/{name}?{query}")
    }
}

impl PostgresDatabase {
    fn create(nodes: Vec<String>) -> Self {
        let name = format!("matchbook_test_{}", Uuid::new_v4().simple());
        for node in &nodes {
            let mut conn = PgConnection::establish(node).expect("the server of tests is reachable");
            conn.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        }
        Self { nodes, name }
    }

    /// Creates a database with the extension on each node, and connects the nodes.
    fn create_on_citus(coordinator: &str) -> Self {
        let mut conn = PgConnection::establish(coordinator).expect("TEST_CITUS_URL is reachable");
        let nodes: Vec<CitusNode> = diesel::sql_query(
            "SELECT nodename AS host, nodeport AS port FROM pg_dist_node ORDER BY groupid",
        )
        .load(&mut conn)
        .unwrap();
        let authority = coordinator.split(['/', '?']).nth(2).unwrap();
        let own = authority.rsplit('@').next().unwrap();
        let urls = nodes.iter().map(|CitusNode { host, port }| {
            coordinator.replacen(own, &format!("{host}:{port}"), 1)
        });
        let database = Self::create(urls.collect());
        let connections = database.nodes.iter().map(|node| {
            let mut conn = PgConnection::establish(&with_database(node, &database.name)).unwrap();
            conn.batch_execute("CREATE EXTENSION citus").unwrap();
            conn
        });
        let mut connections: Vec<PgConnection> = connections.collect();
        for (number, CitusNode { host, port }) in nodes.iter().enumerate() {
            let call = if number == 0 { "citus_set_coordinator_host" } else { "citus_add_node" };
            connections[0].batch_execute(&format!("SELECT {call}('{host}', {port})")).unwrap();
        }
        database
    }
}

#[derive(QueryableByName)]
struct CitusNode {
    #[diesel(sql_type = Text)]
    host: String,
    #[diesel(sql_type = Integer)]
    port: i32,
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        for node in &self.nodes {
            if let Ok(mut conn) = PgConnection::establish(node) {
                let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
                let _ = conn.batch_execute(&drop);
            }
        }
    }
}
