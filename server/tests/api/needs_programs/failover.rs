//! PostgreSQL that is silent, down or replaced, at the start and later.

use std::net::TcpListener;
use std::time::Duration;

use actix_rt::time::sleep;
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use matchbook_server::store;
use matchbook_testkit::{Postgres, ProcessBuilder, Redis, Stop, TestEnv};

use super::parts::{on, until_ready};
use crate::support::{Server, Tokens, binary, eventually, http};

/// The number of threads of the server.
fn threads(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap().count()
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn promoted_standby_is_used_while_the_old_primary_is_frozen() {
    let primary = Postgres::new();
    primary.create("matchbook");
    let standby = Postgres::standby_of(&primary);
    let hosts = format!("{},{}", primary.address(), standby.address());
    let url = format!("postgres://postgres@{hosts}/matchbook");
    let server = Server::within(TestEnv::new(), |launch| on(launch, &url));
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let tokens = server.log_in().await;
        sessions.push(Tokens::of(&server.refresh(&tokens.refresh).await));
    }
    standby.catch_up(&primary);

    primary.pause();
    assert_eq!(server.refresh(&sessions[0].refresh).await.status, 503);
    standby.promote();
    until_ready(&server).await;
    for tokens in &mut sessions {
        eventually(200, async || {
            let response = server.refresh(&tokens.refresh).await;
            if response.status == 200 {
                *tokens = Tokens::of(&response);
            }
            response.status
        })
        .await;
    }
    // The old primary returns, and accepts writes as well. No connection goes back to it.
    primary.resume();
    for tokens in &sessions {
        let next = Tokens::of(&server.refresh(&tokens.refresh).await);
        assert_eq!(server.user(&next.access).await, 200);
    }
    server.process.await_log("database available again");
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn frozen_database_keeps_no_threads_and_is_one_outage() {
    let (postgres, redis) = (Postgres::new(), Redis::new());
    let url = postgres.create("matchbook");
    let server = Server::within(TestEnv::new(), |launch| {
        on(launch, &url).variable("REDIS_URL", &redis.url())
    });
    let tokens = server.log_in().await;
    postgres.pause();
    let refresh = async |seconds: u64| {
        for _ in 0..seconds {
            assert_eq!(server.refresh(&tokens.refresh).await.status, 503);
            sleep(Duration::from_secs(1)).await;
        }
    };
    refresh(8).await;
    let before = threads(&server);
    refresh(8).await;
    let after = threads(&server);
    assert!(after <= before + 4, "{before} threads, then {after}: a poll each second leaves none");
    postgres.resume();
    until_ready(&server).await;
    Tokens::of(&server.refresh(&tokens.refresh).await);
    server.process.await_log("database available again");
    // A busy machine may delay a check, which is an outage of its own.
    let outages = server.process.logged("database unavailable");
    assert!((1..=4).contains(&outages), "not one for each request: {}", server.process.log());
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn start_waits_for_its_database() {
    let mut postgres = Postgres::new();
    let url = postgres.create("matchbook");
    postgres.stop(Stop::Fast);
    let world = TestEnv::new();
    let launch = world.server(binary()).variable("DATABASE_URL", &url);
    let starting = std::thread::spawn(move || launch.start());
    std::thread::sleep(Duration::from_secs(1));
    postgres.start();
    let process = starting.join().unwrap();
    let waiting = process.await_log("waiting for the database");
    assert!(waiting.contains("Connection refused"), "{waiting}");
    process.await_log("database available");
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn start_and_commands_pass_over_a_silent_host() {
    let postgres = Postgres::new();
    postgres.create("matchbook");
    // The system accepts connections for it, and nothing ever responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = format!("{},{}", silent.local_addr().unwrap(), postgres.address());
    let url = format!("postgres://postgres@{hosts}/matchbook");
    // Less than the silent host takes.
    let set = |launch: ProcessBuilder| {
        on(launch, &url).set("database.start_timeout", "1s").set("log.level", "debug")
    };
    let server = Server::within(TestEnv::new(), set);
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);
    let output = set(server.world.server(binary())).run(&["keys", "list"]);
    assert!(output.status.success(), "{output:?}");
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn start_does_not_wait_for_what_only_an_operator_can_repair() {
    let postgres = Postgres::with(
        &[],
        &[("pg_hba.conf", "host matchbook postgres all trust\nhost all all all scram-sha-256\n")],
    );
    let address = postgres.address();
    for (url, problem) in [
        (format!("postgres://postgres@{address}/matchbook"), "does not exist"),
        (format!("postgres://me:hush@{address}/postgres"), "password authentication failed"),
        (format!("postgres://me@{address}/postgres"), "no password supplied"),
    ] {
        let world = TestEnv::new();
        let launch = world.server(binary()).variable("DATABASE_URL", &url);
        // Longer than a test waits for a process.
        let output = launch.set("database.start_timeout", "1h").run(&[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{url}");
        assert!(said.contains(problem) && !said.contains("hush"), "{url}: {said}");
        assert!(!said.contains("waiting for the database"), "{url}: {said}");
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn start_that_waits_in_vain_names_the_problem_of_each_host() {
    let world = TestEnv::new();
    let launch = world.server(binary()).set("database.start_timeout", "10ms");
    let url = "postgres://me:hush@127.0.0.1:9,127.0.0.1:1/matchbook";
    let output = launch.variable("DATABASE_URL", url).run(&[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !said.contains("hush"), "{said}");
    for host in ["127.0.0.1:9: ", "127.0.0.1:1: "] {
        assert!(said.contains(host), "{host} is not in: {said}");
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn frozen_database_delays_shutdown_only_up_to_the_timeout() {
    let (postgres, redis) = (Postgres::new(), Redis::new());
    let url = postgres.create("matchbook");
    let world = TestEnv::new();
    let launch = world.server(binary()).variable("DATABASE_URL", &url);
    // A statement may take longer than a test waits for a process.
    let launch = launch.set("database.query_timeout", "1h").set("server.shutdown_timeout", "2s");
    let mut process = launch.variable("REDIS_URL", &redis.url()).start();
    let http = http(&world, &process);
    let id = http.get("/register").await.json().as_str().unwrap().to_owned();
    let tokens = Tokens::of(&http.get(&format!("/token?userId={id}")).await);
    postgres.pause();
    // Their client does not wait for the response.
    for _ in 0..3 {
        let form = format!("refresh_token={}", tokens.refresh);
        let request = http.post("/refresh", &form);
        assert!(actix_rt::time::timeout(Duration::from_millis(500), request).await.is_err());
    }
    assert_eq!(process.stop().code(), Some(0), "{}", process.log());
    assert_eq!(process.logged("shutdown timeout reached"), 1, "{}", process.log());
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn shutdown_finishes_work_whose_client_is_gone() {
    let postgres = Postgres::new();
    let url = postgres.create("matchbook");
    let mut server = Server::within(TestEnv::new(), |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("database.acquire_timeout", "30s")
            .set("server.shutdown_timeout", "50s")
    });
    let tokens = server.log_in().await;
    postgres.pause();
    let form = format!("refresh_token={}", tokens.refresh);
    let logout = server.http.post("/logout", &form);
    assert!(actix_rt::time::timeout(Duration::from_secs(2), logout).await.is_err());
    let resuming = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        postgres.resume();
        postgres
    });
    assert_eq!(server.process.stop().code(), Some(0), "{}", server.process.log());
    assert_eq!(server.process.logged("shutdown timeout reached"), 0, "{}", server.process.log());
    let _postgres = resuming.join().unwrap();
    let mut conn = store::connect(&url.parse().unwrap()).unwrap();
    let ended = "SELECT count(*) AS number FROM sessions WHERE ended_at IS NOT NULL";
    assert_eq!(sql_query(ended).get_result::<Number>(&mut conn).unwrap().number, 1);
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}
