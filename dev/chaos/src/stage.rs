//! PostgreSQL, Redis and two servers, and what is done to them.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use tempfile::TempDir;
use uuid::Uuid;

use crate::fault::{Fault, Lengths};
use crate::history::Scene;
use matchbook_testkit::through_proxy;
use matchbook_testkit::{Postgres, Process, ProcessBuilder, Redis, Stop, TcpProxy, free_port};

/// Every setting of the servers, but where they and their parts are. Both share
/// a folder, and with it the secret that the first of them makes.
const SETTINGS: &[(&str, &str)] = &[
    ("server.workers", "2"),
    ("tls.mode", "off"),
    ("limits.enabled", "false"),
    ("metrics.address", "off"),
    // Short, so that clients see tokens expire; longer than any fault, so that
    // what a fault made forgotten is still shown after it.
    ("tokens.access_lifetime", "15s"),
    ("log.level", "info"),
];

/// What a run happens on.
pub(super) struct Stage {
    servers: Vec<Server>,
    redis: Redis,
    postgres: Postgres,
    database_url: String,
    /// What the first server reaches them through.
    redis_relay: TcpProxy,
    postgres_relay: TcpProxy,
    _folder: TempDir,
}

/// A server at an address that it keeps.
struct Server {
    address: String,
    launch: ProcessBuilder,
    process: Process,
    /// What it logged before it was last killed.
    log: String,
}

impl Stage {
    /// Starts everything.
    pub(super) fn set(binary: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = binary.canonicalize();
        let binary = binary.expect("the server's binary is there: build it, or see --server");
        let (postgres, redis) = (Postgres::new(), Redis::new());
        let database_url = postgres.create("matchbook");
        let (postgres_relay, relayed_database) = through_proxy(&database_url);
        let (redis_relay, relayed_redis) = through_proxy(&redis.url());
        let launch = |database: &str, redis: &str| {
            let launch = ProcessBuilder::new(&binary, folder.path(), "MATCHBOOK")
                .variable("DATABASE_URL", database)
                .variable("REDIS_URL", redis);
            SETTINGS.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
        };
        let servers = vec![
            Server::start(&launch(&relayed_database, &relayed_redis)),
            Server::start(&launch(&database_url, &redis.url())),
        ];
        Self {
            servers,
            redis,
            postgres,
            database_url,
            redis_relay,
            postgres_relay,
            _folder: folder,
        }
    }

    /// Where the servers listen: `host:port`.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address.clone()).collect()
    }

    pub(super) fn database_url(&self) -> &str {
        &self.database_url
    }

    pub(super) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Does it, and undoes it after its time.
    pub(super) fn inflict(&mut self, fault: Fault, on: usize, scene: &Scene, lengths: &Lengths) {
        match fault {
            Fault::KillServer => self.servers[on].kill_and_start(),
            Fault::FreezeServer => {
                let process = &self.servers[on].process;
                process.freeze();
                thread::sleep(lengths.freeze);
                process.thaw();
            }
            Fault::RestartPostgres => self.postgres.restart(Stop::Fast),
            Fault::CrashPostgres => self.postgres.restart(Stop::Immediate),
            Fault::StopPostgres => {
                self.postgres.stop(Stop::Fast);
                thread::sleep(lengths.stop);
                self.postgres.start();
            }
            Fault::FreezePostgres => {
                self.postgres.freeze();
                thread::sleep(lengths.freeze);
                self.postgres.thaw();
            }
            Fault::StallCommits => {
                // Commits wait for a standby that is not there.
                self.postgres.configure("synchronous_standby_names", "nobody");
                thread::sleep(lengths.stall);
                self.postgres.configure("synchronous_standby_names", "");
            }
            Fault::CutPostgres => cut(&self.postgres_relay, lengths.stop),
            Fault::StandbyInPool => {
                stand_in(&self.postgres, &self.postgres_relay, lengths.stop);
            }
            Fault::CutRedis => cut(&self.redis_relay, lengths.stop),
            Fault::SplitRedis => split(&self.redis, &self.redis_relay, lengths.stop),
            Fault::KillRedis => {
                self.redis.kill();
                self.redis.start();
            }
            Fault::FlushRedis => self.redis.flush(),
            Fault::StopRedis => {
                self.redis.stop();
                thread::sleep(lengths.stop);
                self.redis.start();
            }
            Fault::FreezeRedis => {
                self.redis.freeze();
                thread::sleep(lengths.freeze);
                self.redis.thaw();
            }
            Fault::CutClients => {
                scene.cut(true);
                thread::sleep(lengths.cut);
                scene.cut(false);
            }
        }
    }

    /// The generation of each session in the database.
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

    /// Writes what each server logged into a folder.
    pub(super) fn write_logs(&self, folder: &Path) {
        for (i, server) in self.servers.iter().enumerate() {
            let log = format!("{}{}\n", server.log, server.process.log());
            std::fs::write(folder.join(format!("server-{}.log", i + 1)), log).unwrap();
        }
    }
}

fn cut(relay: &TcpProxy, time: Duration) {
    relay.cut();
    thread::sleep(time);
    relay.mend();
}

/// A standby that takes over the address of its primary for a while: it has everything
/// so far, and follows no more.
fn stand_in(primary: &Postgres, relay: &TcpProxy, time: Duration) {
    let standby = Postgres::standby_of(primary);
    standby.catch_up(primary);
    let mut conn = PgConnection::establish(&standby.url()).unwrap();
    conn.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    lead(relay, &standby.address());
    thread::sleep(time);
    lead(relay, &primary.address());
}

/// A replica has everything so far, and then lives its own life.
fn split(redis: &Redis, relay: &TcpProxy, time: Duration) {
    let replica = Redis::new();
    replica.replicate(redis);
    replica.promote();
    lead(relay, &format!("127.0.0.1:{}", replica.port()));
    thread::sleep(time);
    lead(relay, &format!("127.0.0.1:{}", redis.port()));
}

/// Leads a server to another address: what is connected to the one before is closed.
fn lead(relay: &TcpProxy, address: &str) {
    relay.lead_to(address);
    relay.cut();
    relay.mend();
}

impl Server {
    fn start(launch: &ProcessBuilder) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let launch = launch.clone().set("server.address", &address);
        Self { address, process: launch.start(), launch, log: String::new() }
    }

    fn kill_and_start(&mut self) {
        self.process.kill();
        self.log += &self.process.log();
        self.log += "\n(killed)\n";
        self.process = self.launch.start();
    }
}
