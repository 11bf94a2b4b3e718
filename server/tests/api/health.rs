//! Health: the state of each component, and of the server as a whole.

use crate::support::{Server, binary, eventually, http};
use matchbook_testkit::TestEnv;

#[actix_rt::test]
async fn health_reports_live_ready_and_each_component() {
    let server = Server::start();
    assert_eq!(server.http.get("/health/live").await.status, 200);
    let ready = server.http.get("/health/ready").await;
    assert_eq!(ready.status, 200);
    let expected = match server.world.redis_url() {
        Some(_) => serde_json::json!({"status": "ready", "database": "up", "redis": "up"}),
        None => serde_json::json!({"status": "ready", "database": "up"}),
    };
    assert_eq!(ready.json(), expected);
    let serving = server.http.get("/health/serving").await;
    assert_eq!((serving.status, serving.json()), (200, expected));
}

#[actix_rt::test]
async fn health_command_reports_whether_the_server_is_ready() {
    let mut server = Server::start();
    let port = server.process.url().rsplit(':').next().unwrap().to_owned();
    let command = server.world.server(binary()).set("server.address", &format!("0.0.0.0:{port}"));
    assert!(command.run(&["health"]).status.success());
    assert!(server.process.stop().success());
    let output = command.run(&["health"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/health/ready does not respond"), "{said}");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn readiness_follows_the_database() {
    let world = TestEnv::new();
    let (relay, url) = world.database_proxy();
    let launch = world
        .server(binary())
        .variable("DATABASE_URL", &url)
        .set("database.acquire_timeout", "500ms");
    let process = launch.start();
    let server = Server { http: http(&world, &process), process, world };
    let tokens = server.log_in().await;

    relay.disconnect();
    let ready = server.http.get("/health/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["status"], "unavailable");
    assert_eq!(ready.json()["database"], "down");
    let problems = ready.json()["problems"].to_string();
    assert!(problems.contains("The database takes no writes"), "{problems}");
    let address = server.process.url().rsplit('/').next().unwrap().to_owned();
    let output = launch.set("server.address", &address).run(&["health"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("responds with 503: The database takes no writes"), "{said}");
    assert_eq!(server.http.get("/health/live").await.status, 200);
    let refused = server.refresh(&tokens.refresh).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.field("error"), "temporarily_unavailable");

    relay.restore();
    eventually(200, async || server.http.get("/health/ready").await.status).await;
    assert_eq!(server.refresh(&tokens.refresh).await.status, 200, "the outage cost nothing");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn server_without_its_database_serves_access_tokens_from_redis() {
    let world = TestEnv::new();
    let (database, url) = world.database_proxy();
    let (redis, redis_url) = world.redis_proxy();
    let launch = world.server(binary()).variable("DATABASE_URL", &url);
    let process = launch.variable("REDIS_URL", &redis_url).start();
    let server = Server { http: http(&world, &process), process, world };
    let tokens = server.log_in().await;
    assert_eq!(server.http.get("/health/serving").await.field("status"), "ready");

    database.disconnect();
    let both = async || {
        let ready = server.http.get("/health/ready").await.status;
        (ready, server.http.get("/health/serving").await.status)
    };
    // On a busy machine the lease of Redis may expire before the next poll renews it.
    eventually((503, 200), both).await;
    let degraded = async || {
        let serving = server.http.get("/health/serving").await;
        ["status", "database", "redis"].map(|name| serving.field(name))
    };
    let expected = ["degraded", "down", "up"].map(str::to_owned);
    eventually(expected, degraded).await;
    eventually(200, async || server.user(&tokens.access).await).await;
    for _ in 0..5 {
        let rejected = server.refresh(&tokens.refresh).await;
        assert_eq!((rejected.status, rejected.header("retry-after")), (503, "1"));
    }
    assert_eq!(server.process.logged("requests fail with 503"), 1, "one line for the outage");
    assert_eq!(server.process.logged("not ready"), 1);

    redis.disconnect();
    eventually((503, 503), both).await;
    let serving = server.http.get("/health/serving").await;
    assert_eq!(
        (serving.field("status"), serving.header("retry-after")),
        ("unavailable".into(), "1")
    );

    database.restore();
    eventually((200, 200), both).await;
    assert_eq!(server.process.logged("ready again"), 1);
    server.process.await_log("requests no longer fail with 503");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn server_without_redis_is_degraded_and_correct() {
    let world = TestEnv::new();
    let (relay, url) = world.redis_proxy();
    let process = world.server(binary()).variable("REDIS_URL", &url).start();
    let server = Server { http: http(&world, &process), process, world };
    let before = server.log_in().await;

    relay.disconnect();
    let ready = server.http.get("/health/ready").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["status"], "degraded");
    assert_eq!(ready.json()["redis"], "down");
    assert_eq!(server.user(&before.access).await, 200);
    let during = server.log_in().await;
    assert_eq!(server.user(&during.access).await, 200);
    let form = format!("refresh_token={}", during.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(server.user(&during.access).await, 401, "the database knows of the end");

    relay.restore();
    eventually("ready".to_owned(), async || server.http.get("/health/ready").await.field("status"))
        .await;
    assert_eq!(server.user(&before.access).await, 200);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn server_starts_while_redis_is_unavailable() {
    let world = TestEnv::new();
    let (relay, url) = world.redis_proxy();
    relay.disconnect();
    let process = world.server(binary()).variable("REDIS_URL", &url).start();
    let server = Server { http: http(&world, &process), process, world };
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);
    relay.restore();
    eventually("ready".to_owned(), async || server.http.get("/health/ready").await.field("status"))
        .await;
}
