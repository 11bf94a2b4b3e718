//! The parts of a run and two servers, and the injection of faults.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;
use uuid::Uuid;

use crate::databases::Databases;
use crate::fault::{Fault, Timings};
use crate::history::RunContext;
use crate::operator::Operator;
use crate::redis_servers::RedisServers;
use crate::topology::Topology;
use matchbook_testkit::through_proxy;
use matchbook_testkit::{
    Balancer, Postgres, Process, ProcessBuilder, Redis, Stop, TcpProxy, free_port,
};

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
    // A killed server delays logouts for as long, if Redis fails as well.
    ("redis.trusted_without_database", "1s"),
    ("log.level", "info"),
];

/// The settings of servers whose PostgreSQL has a standby. A request to a frozen primary must
/// not keep its connection for longer than it takes to promote the standby.
const SETTINGS_WITH_STANDBY: &[(&str, &str)] = &[("database.query_timeout", "2s")];

/// The parts of a run.
pub(super) struct Cluster {
    servers: Vec<Server>,
    databases: Databases,
    redis: RedisServers,
    /// The first server connects through these.
    relays: Option<Relays>,
    balancer: Option<Balancer>,
    folder: TempDir,
}

/// Proxies to PostgreSQL and Redis.
struct Relays {
    postgres: TcpProxy,
    redis: TcpProxy,
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
    pub(super) fn start(binary: &Path, topology: Topology) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = binary.canonicalize();
        let binary = binary.expect("the server's binary exists: build it, or set --server");
        let databases = Databases::start(topology);
        let redis = RedisServers::start(topology);
        let ahead = topology.loses_writes().to_string();
        let builder = |database: &str, redis: &str| {
            let builder = ProcessBuilder::new(&binary, folder.path(), "MATCHBOOK")
                .variable("DATABASE_URL", database)
                .variable("REDIS_URL", redis)
                .set("rotation.accept_ahead_of_database", &ahead);
            let more = if databases.has_standby() { SETTINGS_WITH_STANDBY } else { &[] };
            let settings = SETTINGS.iter().chain(more);
            settings.fold(builder, |builder, (key, value)| builder.set(key, value))
        };
        let (relays, first) = match topology {
            Topology::Single => {
                let (postgres, database_url) = through_proxy(&databases.url(false));
                let (redis, redis_url) = through_proxy(&redis.url());
                (Some(Relays { postgres, redis }), builder(&database_url, &redis_url))
            }
            _ => (None, builder(&databases.url(false), &redis.url())),
        };
        let standby_first = topology == Topology::Synchronous;
        let second = builder(&databases.url(standby_first), &redis.url());
        let servers = vec![Server::start(&first), Server::start(&second)];
        let balancer = (topology == Topology::Balanced).then(|| {
            let addresses: Vec<String> =
                servers.iter().map(|server| server.address.clone()).collect();
            Balancer::of(&addresses)
        });
        Self { servers, databases, redis, relays, balancer, folder }
    }

    /// Returns the number of servers.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Returns the addresses for clients, one per server: `host:port`. With a balancer, all
    /// are the balancer's.
    pub(super) fn addresses(&self) -> Vec<String> {
        let address = |server: &Server| match &self.balancer {
            Some(balancer) => balancer.address(),
            None => server.address.clone(),
        };
        self.servers.iter().map(address).collect()
    }

    /// Returns the operator, who reaches the database even if the first server does not.
    pub(super) fn operator(&self) -> Operator {
        let binary = self.servers[1].builder.clone();
        Operator::new(binary, self.folder.path().to_owned())
    }

    pub(super) fn database_url(&self) -> String {
        self.databases.primary_url()
    }

    pub(super) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Injects a fault and repairs it after its time. A part that has failed over is repaired
    /// by [`Self::repair`].
    pub(super) fn inject(
        &mut self,
        fault: Fault,
        on: usize,
        context: &RunContext,
        timings: &Timings,
    ) {
        match fault {
            Fault::KillServer => self.servers[on].kill_and_start(),
            Fault::RestartServer => self.servers[on].restart(),
            Fault::FreezeServer => {
                let process = &self.servers[on].process;
                process.pause();
                thread::sleep(timings.freeze);
                process.resume();
            }
            Fault::CutClients => {
                context.cut(true);
                thread::sleep(timings.cut);
                context.cut(false);
            }
            Fault::KillRedis
            | Fault::FlushRedis
            | Fault::StopRedis
            | Fault::FreezeRedis
            | Fault::SwitchRedis
            | Fault::KillRedisPrimary => self.inject_into_redis(fault, timings),
            Fault::CutPostgres | Fault::StandbyInPool | Fault::CutRedis | Fault::SplitRedis => {
                self.inject_into_relay(fault, timings);
            }
            _ => self.inject_into_postgres(fault, timings),
        }
    }

    fn inject_into_postgres(&mut self, fault: Fault, timings: &Timings) {
        match fault {
            Fault::RestartPostgres => self.databases.primary_mut().restart(Stop::Fast),
            Fault::CrashPostgres => self.databases.primary_mut().restart(Stop::Immediate),
            Fault::StopPostgres => self.databases.stop(timings.stop),
            Fault::FreezePostgres => {
                self.databases.primary().pause();
                thread::sleep(timings.freeze);
                self.databases.primary().resume();
            }
            // Commits wait for a standby that does not exist.
            Fault::StallCommits => {
                self.databases.set(("synchronous_standby_names", "missing"), timings.stall);
            }
            Fault::ReadOnlyPostgres => {
                self.databases.set(("default_transaction_read_only", "on"), timings.stop);
            }
            _ => self.databases.fail_over(fault, timings),
        }
    }

    fn inject_into_redis(&mut self, fault: Fault, timings: &Timings) {
        match fault {
            Fault::SwitchRedis => return self.redis.switch(),
            Fault::KillRedisPrimary => return self.redis.kill_primary(),
            _ => {}
        }
        let redis = self.redis.single();
        match fault {
            Fault::KillRedis => {
                redis.kill();
                redis.start();
            }
            Fault::FlushRedis => redis.flush(),
            Fault::StopRedis => {
                redis.stop();
                thread::sleep(timings.stop);
                redis.start();
            }
            _ => {
                redis.pause();
                thread::sleep(timings.freeze);
                redis.resume();
            }
        }
    }

    fn inject_into_relay(&mut self, fault: Fault, timings: &Timings) {
        let Some(relays) = &self.relays else { panic!("this fault needs a single database") };
        match fault {
            Fault::CutPostgres => cut(&relays.postgres, timings.stop),
            Fault::CutRedis => cut(&relays.redis, timings.stop),
            Fault::SplitRedis => split(self.redis.single(), &relays.redis, timings.stop),
            _ => serve_from_standby(self.databases.primary(), &relays.postgres, timings.stop),
        }
    }

    /// Starts the parts that a fault has left stopped, as replicas. The servers have recovered
    /// before.
    pub(super) fn repair(&mut self, fault: Fault) {
        match fault {
            Fault::KillPrimary
            | Fault::FreezePrimary
            | Fault::DemotePrimary
            | Fault::LosePrimary => self.databases.repair(),
            Fault::SwitchRedis | Fault::KillRedisPrimary => self.redis.repair(),
            _ => {}
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
        let mut conn = PgConnection::establish(&self.database_url()).unwrap();
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

    /// Stops it gracefully and starts it again.
    fn restart(&mut self) {
        assert!(self.process.stop().success(), "{}", self.process.log());
        self.log += &self.process.log();
        self.log += "\n(stopped)\n";
        self.process = self.builder.start();
    }

    fn kill_and_start(&mut self) {
        self.process.kill();
        self.log += &self.process.log();
        self.log += "\n(killed)\n";
        self.process = self.builder.start();
    }
}
