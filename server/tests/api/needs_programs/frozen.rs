//! Health checks while the database does not respond.

use std::time::{Duration, Instant};

use actix_rt::time::sleep;
use futures_util::future::join_all;
use matchbook_testkit::{Postgres, Redis, TestEnv};

use crate::support::{Server, eventually};

/// A health check may take two seconds, and a busy machine delays it. Without a bound it would
/// take `database.acquire_timeout` or `database.query_timeout`: minutes.
const BOUND: Duration = Duration::from_secs(30);

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn health_checks_respond_while_the_database_is_frozen() {
    let postgres = Postgres::new();
    let url = postgres.create("matchbook");
    let server = Server::within(TestEnv::new(), |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("database.acquire_timeout", "10m")
            .set("database.query_timeout", "10m")
            .set("database.pool_size", "2")
    });
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);

    postgres.pause();
    let started = Instant::now();
    // More checks than connections.
    let checks = (0..10).map(|_| server.http.get("/health/ready"));
    for check in join_all(checks).await {
        assert_eq!((check.status, check.field("database")), (503, "down".to_owned()));
    }
    server.http.get("/health/serving").await;
    assert_eq!(server.http.get("/health/live").await.status, 200);
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());

    postgres.resume();
    eventually(200, async || server.http.get("/health/ready").await.status).await;
    eventually(200, async || server.http.get("/health/serving").await.status).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn cached_token_stays_active_while_the_database_is_frozen() {
    let (postgres, redis) = (Postgres::new(), Redis::new());
    let url = postgres.create("matchbook");
    let server = Server::within(TestEnv::new(), |launch| {
        let launch = launch.variable("DATABASE_URL", &url).variable("REDIS_URL", &redis.url());
        launch.set("database.acquire_timeout", "300ms")
    });
    let tokens = server.log_in().await;
    eventually("ready".to_owned(), async || server.http.get("/health/ready").await.field("status"))
        .await;
    assert_eq!(server.user(&tokens.access).await, 200);
    postgres.pause();
    // Longer than a poll waits for the database.
    let frozen = Instant::now();
    while frozen.elapsed() < Duration::from_secs(8) {
        assert_eq!(server.user(&tokens.access).await, 200, "{:?}", frozen.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    let serving = server.http.get("/health/serving").await;
    assert_eq!((serving.status, serving.field("status")), (200, "degraded".to_owned()));
    postgres.resume();
    eventually(200, async || server.http.get("/health/ready").await.status).await;
}
