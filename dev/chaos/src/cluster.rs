//! PostgreSQL, Redis and two servers, and the injection of faults.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;
use uuid::Uuid;

use crate::fault::{Fault, Timings};
use crate::history::RunContext;
use crate::operator::Operator;
use matchbook_testkit::through_proxy;
use matchbook_testkit::{Postgres, Process, ProcessBuilder, Redis, Stop, TcpProxy, free_port};

/// The settings of both servers, except addresses. Both share a directory, and with it the
/// secret that the first of them creates.
const SETTINGS: &[(&str, &str)] = &[
    ("server.workers", "2"),
    ("tls.mode", "off"),
    ("limits.enabled", "false"),
    ("accounts.registration", "open"),
    ("metrics.address", "off"),
    // Short, so that tokens expire during the run; longer than most faults, so that tokens
    // of ended sessions are still presented after a fault.
    ("tokens.access_lifetime", "15s"),
    ("log.level", "info"),
];

/// The parts of a run.
pub(super) struct Cluster {
    servers: Vec<Server>,
    redis: Redis,
    postgres: Postgres,
    database_url: String,
    /// The first server connects through these.
    redis_proxy: TcpProxy,
    postgres_proxy: TcpProxy,
    folder: TempDir,
}

/// A server with a fixed address.
struct Server {
    address: String,
    builder: ProcessBuilder,
    process: Process,
    /// The log up to the last kill.
    log: String,
}

impl Cluster {
    /// Starts all parts.
    pub(super) fn start(binary: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = binary.canonicalize();
        let binary = binary.expect("the server's binary exists: build it, or set --server");
        let postgres = Postgres::new();
        let redis = Redis::new();
        let database_url = postgres.create("matchbook");
        let (postgres_proxy, relayed_database) = through_proxy(&database_url);
        let (redis_proxy, relayed_redis) = through_proxy(&redis.url());
        let builder = |database: &str, redis: &str| {
            let builder = ProcessBuilder::new(&binary, folder.path(), "MATCHBOOK")
                .variable("DATABASE_URL", database)
                .variable("REDIS_URL", redis);
            SETTINGS.iter().fold(builder, |builder, (key, value)| builder.set(key, value))
        };
        let servers = vec![
            Server::start(&builder(&relayed_database, &relayed_redis)),
            Server::start(&builder(&database_url, &redis.url())),
        ];
        Self { servers, redis, postgres, database_url, redis_proxy, postgres_proxy, folder }
    }

    /// Returns the addresses of the servers: `host:port`.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address.clone()).collect()
    }

    /// Returns the operator, who reaches the database even if the first server does not.
    pub(super) fn operator(&self) -> Operator {
        let binary = self.servers[1].builder.clone();
        Operator::new(binary, self.folder.path().to_owned())
    }

    pub(super) fn database_url(&self) -> &str {
        &self.database_url
    }

    pub(super) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Injects a fault and repairs it after its time.
    pub(super) fn inject(
        &mut self,
        fault: Fault,
        on: usize,
        context: &RunContext,
        timings: &Timings,
    ) {
        match fault {
            Fault::KillServer => self.servers[on].kill_and_start(),
            Fault::FreezeServer => {
                let process = &self.servers[on].process;
                process.pause();
                thread::sleep(timings.freeze);
                process.resume();
            }
            Fault::RestartPostgres => self.postgres.restart(Stop::Fast),
            Fault::CrashPostgres => self.postgres.restart(Stop::Immediate),
            Fault::StopPostgres => {
                self.postgres.stop(Stop::Fast);
                thread::sleep(timings.stop);
                self.postgres.start();
            }
            Fault::FreezePostgres => {
                self.postgres.pause();
                thread::sleep(timings.freeze);
                self.postgres.resume();
            }
            Fault::StallCommits => {
                // Commits wait for a standby that does not exist.
                self.postgres.configure("synchronous_standby_names", "missing");
                thread::sleep(timings.stall);
                self.postgres.configure("synchronous_standby_names", "");
            }
            Fault::CutPostgres => cut(&self.postgres_proxy, timings.stop),
            Fault::StandbyInPool => {
                serve_from_standby(&self.postgres, &self.postgres_proxy, timings.stop);
            }
            Fault::CutRedis => cut(&self.redis_proxy, timings.stop),
            Fault::SplitRedis => split(&self.redis, &self.redis_proxy, timings.stop),
            Fault::KillRedis => {
                self.redis.kill();
                self.redis.start();
            }
            Fault::FlushRedis => self.redis.flush(),
            Fault::StopRedis => {
                self.redis.stop();
                thread::sleep(timings.stop);
                self.redis.start();
            }
            Fault::FreezeRedis => {
                self.redis.pause();
                thread::sleep(timings.freeze);
                self.redis.resume();
            }
            Fault::CutClients => {
                context.cut(true);
                thread::sleep(timings.cut);
                context.cut(false);
            }
        }
    }

    /// Returns the generation of each session in the database.
    pub(super) fn generations(&self) -> HashMap<Uuid, u64> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            id: String,
            #[diesel(sql_type = BigInt)]
            generation: i64,
        }
        let mut conn = PgConnection::establish(&self.database_url).unwrap();
        let rows = diesel::sql_query("SELECT id::text AS id, generation FROM sessions");
        let rows = rows.load::<Row>(&mut conn).unwrap().into_iter();
        rows.map(|row| (row.id.parse().unwrap(), row.generation.try_into().unwrap_or(0))).collect()
    }

    /// Writes the servers' logs to a directory.
    pub(super) fn write_logs(&self, folder: &Path) {
        for (i, server) in self.servers.iter().enumerate() {
            let log = format!("{}{}\n", server.log, server.process.log());
            std::fs::write(folder.join(format!("server-{}.log", i + 1)), log).unwrap();
        }
    }
}

fn cut(proxy: &TcpProxy, time: Duration) {
    proxy.disconnect();
    thread::sleep(time);
    proxy.restore();
}

/// Connects a server to a standby of its primary for a while. The standby is up to date,
/// then its replay is paused.
fn serve_from_standby(primary: &Postgres, proxy: &TcpProxy, time: Duration) {
    let standby = Postgres::standby_of(primary);
    standby.catch_up(primary);
    let mut conn = PgConnection::establish(&standby.url()).unwrap();
    conn.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    switch_to(proxy, &standby.address());
    thread::sleep(time);
    switch_to(proxy, &primary.address());
}

/// Connects a server to a promoted replica for a while. The replica is up to date, then
/// diverges.
fn split(redis: &Redis, proxy: &TcpProxy, time: Duration) {
    let replica = Redis::new();
    replica.replicate(redis);
    replica.promote();
    switch_to(proxy, &format!("127.0.0.1:{}", replica.port()));
    thread::sleep(time);
    switch_to(proxy, &format!("127.0.0.1:{}", redis.port()));
}

/// Connects a server to another address and closes its connections to the previous one.
fn switch_to(proxy: &TcpProxy, address: &str) {
    proxy.forward_to(address);
    proxy.disconnect();
    proxy.restore();
}

impl Server {
    fn start(builder: &ProcessBuilder) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let builder = builder.clone().set("server.address", &address);
        Self { address, process: builder.start(), builder, log: String::new() }
    }

    fn kill_and_start(&mut self) {
        self.process.kill();
        self.log += &self.process.log();
        self.log += "\n(killed)\n";
        self.process = self.builder.start();
    }
}
