//! Resource counters of the processes, PostgreSQL and Redis.

use std::fs;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl, sql_query};
use matchbook_testkit::{Postgres, Redis};

/// A tick of `/proc/PID/stat` in microseconds. Linux has 100 ticks per second.
const TICK_US: f64 = 10_000.0;

/// Delay after which PostgreSQL has flushed its table statistics.
const STATS_DELAY: Duration = Duration::from_millis(1100);

/// All counters at one time.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Processor time of the server, in microseconds.
    pub(crate) server_us: f64,
    /// Processor time of all PostgreSQL processes.
    pub(crate) postgres_us: f64,
    /// Processor time of Redis.
    pub(crate) redis_us: f64,
    /// Bytes of write-ahead log.
    pub(crate) wal: f64,
    /// Statements on `sessions`.
    pub(crate) statements: f64,
    /// Redis commands.
    pub(crate) commands: f64,
}

/// Samples the counters of a server and its services.
pub(crate) struct Sampler<'a> {
    pub(crate) server: u32,
    postgres: Option<(&'a Postgres, PgConnection)>,
    redis: Option<(&'a Redis, redis::Connection)>,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Returns the version of a PostgreSQL server.
pub(crate) fn version(url: &str) -> String {
    let mut conn = PgConnection::establish(url).unwrap();
    let version = sql_query("SELECT current_setting('server_version') AS value");
    version.get_result::<Line>(&mut conn).unwrap().value
}

impl<'a> Sampler<'a> {
    /// Creates a sampler for a server process and, if used, its database and Redis.
    pub(crate) fn new(
        server: u32,
        postgres: Option<(&'a Postgres, &str)>,
        redis: Option<&'a Redis>,
    ) -> Self {
        let postgres = postgres.map(|(postgres, url)| {
            let conn = PgConnection::establish(url).unwrap();
            (postgres, conn)
        });
        let redis = redis.map(|redis| {
            let client = redis::Client::open(redis.url()).unwrap();
            (redis, client.get_connection().unwrap())
        });
        Self { server, postgres, redis }
    }

    /// Reads all counters.
    pub(crate) fn read(&mut self) -> Counters {
        let mut counters = Counters { server_us: cpu_us(self.server), ..Counters::default() };
        if let Some((postgres, conn)) = &mut self.postgres {
            counters.postgres_us = postgres.id().map_or(0.0, family_cpu_us);
            counters.wal =
                number(conn, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint AS value");
            counters.statements = number(
                conn,
                "SELECT coalesce(sum(calls), 0)::bigint AS value FROM pg_stat_statements \
                 JOIN pg_database ON oid = dbid WHERE datname = current_database() \
                 AND query ~ '\\msessions\\M' AND query !~ 'pg_stat'",
            );
        }
        if let Some((redis, conn)) = &mut self.redis {
            counters.redis_us = redis.id().map_or(0.0, cpu_us);
            let info: String = redis::cmd("INFO").arg("stats").query(conn).unwrap();
            // Excludes this command.
            counters.commands = info_number(&info, "total_commands_processed:") - 1.0;
        }
        counters
    }

    /// Resets the statistics of updated rows.
    pub(crate) fn forget_updates(&mut self) {
        if let Some((_, conn)) = &mut self.postgres {
            conn.batch_execute("SELECT pg_stat_reset_single_table_counters('sessions'::regclass)")
                .unwrap();
        }
    }

    /// Returns the share of HOT updates since the reset, from 0 to 1.
    pub(crate) fn hot_share(&mut self) -> Option<f64> {
        let (_, conn) = self.postgres.as_mut()?;
        std::thread::sleep(STATS_DELAY);
        let mut count = |column| {
            let table = "pg_stat_user_tables WHERE relname = 'sessions'";
            number(conn, &format!("SELECT {column} AS value FROM {table}"))
        };
        let hot = count("n_tup_hot_upd");
        let all = count("n_tup_upd");
        (all > 0.0).then(|| hot / all)
    }
}

impl Counters {
    /// Returns the difference to `before`, per request.
    pub(crate) fn since(self, before: Self, requests: f64) -> Self {
        Self {
            server_us: (self.server_us - before.server_us) / requests,
            postgres_us: (self.postgres_us - before.postgres_us) / requests,
            redis_us: (self.redis_us - before.redis_us) / requests,
            wal: (self.wal - before.wal) / requests,
            statements: (self.statements - before.statements) / requests,
            commands: (self.commands - before.commands - 1.0) / requests,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(conn: &mut PgConnection, query: &str) -> f64 {
    sql_query(query).get_result::<Number>(conn).unwrap().value as f64
}

/// Returns a number from the output of `INFO`.
fn info_number(info: &str, name: &str) -> f64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|number| number.trim().parse().ok()).unwrap()
}

/// Returns the current and peak memory of a process, in KiB.
pub(crate) fn memory(process: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    (kib("VmRSS:").unwrap_or(0), kib("VmHWM:").unwrap_or(0))
}

/// Returns the processor time of a process, in microseconds. 0 if not on Linux.
fn cpu_us(process: u32) -> f64 {
    stat(process).map_or(0.0, |stat| stat.own_us)
}

/// Returns the processor time of a process and its children, including ended ones.
fn family_cpu_us(parent: u32) -> f64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = processes.filter_map(stat).filter(|stat| stat.parent == parent);
    let children: f64 = children.map(|stat| stat.own_us).sum();
    stat(parent).map_or(0.0, |stat| stat.own_us + stat.ended_us) + children
}

struct Stat {
    parent: u32,
    own_us: f64,
    /// Processor time of ended children.
    ended_us: f64,
}

fn stat(process: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The process name may contain any character.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_us: (ticks(11)? + ticks(12)?) * TICK_US,
        ended_us: (ticks(13)? + ticks(14)?) * TICK_US,
    })
}
