//! The poll for revocations, and the database that it reads.

use std::time::{Duration, Instant};

use diesel::Connection;
use diesel::connection::SimpleConnection;
use matchbook_testkit::{Redis, TcpProxy, TestEnv};

use super::parts::start;
use super::redis_loss::Pair;
use crate::support::{Server, binary, eventually, http};

/// A transaction that stays open until it is dropped.
struct Transaction(diesel::PgConnection);

impl Transaction {
    fn begin(server: &Server, statement: &str) -> Self {
        let mut conn = diesel::PgConnection::establish(&server.world.database_url()).unwrap();
        conn.batch_execute(&format!("BEGIN; {statement}")).unwrap();
        Self(conn)
    }

    fn commit(mut self) {
        self.0.batch_execute("COMMIT").unwrap();
    }
}

fn lock(tables: &str) -> String {
    format!("LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
}

fn revoke(transaction_id: &str) -> String {
    format!(
        "INSERT INTO session_revocations (place, session_id, access_expires_at, transaction_id) \
         VALUES (0, gen_random_uuid(), now() + INTERVAL '10 minutes', {transaction_id})"
    )
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn revocation_committed_late_is_read() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    let late = Transaction::begin(&pair.here, &revoke("pg_current_xact_id()::text::bigint"));
    // Other transactions commit meanwhile, and polls see them.
    for number in 1..=3 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        eventually(number, async || pair.process.logged("published revocations=1")).await;
    }
    late.commit();
    eventually(4, async || pair.process.logged("published revocations=1")).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn new_connection_reads_every_revocation() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    // As if the database was restored or failed over, and its transaction ids start again.
    pair.here.sql(&revoke("1"));
    pair.here.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    for process in [&pair.here.process, &pair.process] {
        process.await_log("published revocations=1");
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn slow_poll_stops_trust_in_redis() {
    let redis = Redis::new();
    let relay = TcpProxy::to(&format!("127.0.0.1:{}", redis.port()));
    let redis_here = format!("redis://{}", relay.address());
    let pair = Pair::with([&redis_here, &redis.url()], |_, launch| {
        launch.set("redis.trusted_without_database", "0s")
    });
    let tokens = pair.log_in().await;
    let locked = Transaction::begin(&pair.here, &lock("servers"));
    // The server commits the logout, and can neither publish it nor read the poll of the other.
    relay.disconnect();
    assert_eq!(pair.request_logout(&tokens).await, 503);
    // Also longer than the poll's timeout.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        assert_eq!(pair.status(&tokens).await, (401, 401));
        actix_rt::time::sleep(Duration::from_millis(50)).await;
    }
    drop(locked);
    relay.restore();
    pair.ready().await;
    assert_eq!(pair.request_logout(&tokens).await, 204);
    assert_eq!(pair.status(&tokens).await, (401, 401));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn failing_poll_stops_trust_in_redis() {
    let redis = Redis::new();
    let relay = TcpProxy::to(&format!("127.0.0.1:{}", redis.port()));
    let pair = Pair::start(&format!("redis://{}", relay.address()), &redis.url());
    let tokens = pair.log_in().await;
    // The database works, but this server cannot read it.
    pair.here.sql("ALTER TABLE servers RENAME TO lost");
    relay.disconnect();
    assert_eq!(pair.request_logout(&tokens).await, 503);
    assert_eq!(pair.status(&tokens).await, (401, 401));
    assert_eq!(pair.process.logged("poll for revocations failed"), 1, "{}", pair.process.log());
    pair.here.sql("ALTER TABLE lost RENAME TO servers");
    relay.restore();
    pair.ready().await;
    assert_eq!(pair.request_logout(&tokens).await, 204);
    pair.process.await_log("poll for revocations restored");
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn database_load_does_not_delay_the_poll() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    // The key ring and all requests that read the database wait; polls need neither.
    let locked = Transaction::begin(&pair.here, &lock("signing_keys_by_purpose, sessions, events"));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        assert_eq!(pair.status(&tokens).await, (200, 200), "cached");
        actix_rt::time::sleep(Duration::from_millis(50)).await;
    }
    drop(locked);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn cached_token_stays_active_while_the_database_is_unavailable() {
    let redis = Redis::new();
    let world = TestEnv::new();
    let (relay, url) = world.database_proxy();
    let server = start(world, |launch| {
        let launch = launch.variable("DATABASE_URL", &url).variable("REDIS_URL", &redis.url());
        launch.set("database.acquire_timeout", "300ms")
    });
    let tokens = server.log_in().await;
    // A slow start may outlast the lease, which the next poll renews.
    let polls = "SELECT COALESCE(max(polls), 0) AS number FROM servers";
    eventually(true, async || server.number(polls) >= 2).await;
    relay.disconnect();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        assert_eq!(server.user(&tokens.access).await, 200);
        actix_rt::time::sleep(Duration::from_millis(50)).await;
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_on_sqlite_holds_at_a_server_with_another_redis() {
    let (one, other) = (Redis::new(), Redis::new());
    let world = TestEnv::new();
    let url = format!("sqlite://{}", world.folder().join("shared.db").display());
    let on = |redis: &Redis| {
        let launch = world.server(binary()).variable("REDIS_URL", &redis.url());
        launch.variable("DATABASE_URL", &url).set("log.level", "debug").start()
    };
    let process = on(&other);
    let here = on(&one);
    let (there, here) =
        (http(&world, &process), Server { http: http(&world, &here), process: here, world });
    let pair = Pair { here, there, process };
    for number in 1..=3 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        assert_eq!(pair.status(&tokens).await, (401, 401));
        assert_eq!(pair.process.logged("published revocations=1"), number);
    }
}
