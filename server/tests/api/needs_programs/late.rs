//! Statements that PostgreSQL executes or commits after the caller gave up: a stall
//! must not make an honest client look like a thief.

use std::time::Duration;

use actix_rt::time::sleep;
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use futures_util::future::join_all;
use matchbook_server::store;
use matchbook_testkit::{Postgres, TestEnv};

use super::parts::until_ready;
use crate::support::{Server, Tokens, eventually};

/// The grace period of these servers; each stall is longer.
const GRACE: &str = "5s";
const STANDSTILL: Duration = Duration::from_millis(6500);

fn start(postgres: &Postgres) -> Server {
    let url = postgres.create("matchbook");
    Server::within(TestEnv::new(), |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("rotation.grace_period", GRACE)
            .set("database.acquire_timeout", "200ms")
            .set("database.query_timeout", "500ms")
    })
}

/// Makes commits wait for a standby that does not exist, or continue.
fn stall_commits(postgres: &Postgres, stalled: bool) {
    postgres.configure("synchronous_standby_names", if stalled { "absent" } else { "" });
}

/// Number of rotations of all sessions.
fn generations(postgres: &Postgres) -> i64 {
    let url = postgres.url_of("matchbook").parse().unwrap();
    let mut conn = store::connect(&url).unwrap();
    let query = sql_query("SELECT coalesce(sum(generation), 0)::bigint AS number FROM sessions");
    query.get_result::<Number>(&mut conn).unwrap().number
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

/// Refreshes until there is no response; returns the last tokens.
async fn until_stalled(server: &Server, mut tokens: Tokens) -> Tokens {
    loop {
        let response = server.refresh(&tokens.refresh).await;
        if response.status == 503 {
            return tokens;
        }
        tokens = Tokens::of(&response);
    }
}

/// Refreshes like an honest client: retries while the server responds with 503.
async fn is_logged_in(server: &Server, tokens: &Tokens) {
    let mut response = server.refresh(&tokens.refresh).await;
    while response.status == 503 {
        sleep(Duration::from_millis(50)).await;
        response = server.refresh(&tokens.refresh).await;
    }
    let next = Tokens::of(&response);
    assert_eq!(server.user(&next.access).await, 200);
    let next = Tokens::of(&server.refresh(&next.refresh).await);
    assert_eq!(server.user(&next.access).await, 200);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn abandoned_rotation_is_not_executed_later() {
    let postgres = Postgres::new();
    let server = start(&postgres);
    let tokens = server.log_in().await;
    postgres.pause();
    assert_eq!(server.refresh(&tokens.refresh).await.status, 503);
    sleep(STANDSTILL).await;
    postgres.resume();
    until_ready(&server).await;
    assert_eq!(generations(&postgres), 0);
    is_logged_in(&server, &tokens).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn rotation_committed_late_starts_its_grace_period_at_the_commit() {
    let postgres = Postgres::new();
    let server = start(&postgres);
    let (first, second) = (server.log_in().await, server.log_in().await);
    stall_commits(&postgres, true);
    let first = until_stalled(&server, first).await;
    let second = until_stalled(&server, second).await;
    sleep(STANDSTILL).await;
    // Some requests wait for the row lock of the first one while it is released.
    let asking = join_all((0..3).map(|_| server.refresh(&first.refresh)));
    let releasing = async {
        sleep(Duration::from_millis(100)).await;
        stall_commits(&postgres, false);
    };
    let (responses, ()) = futures_util::future::join(asking, releasing).await;
    for response in responses {
        assert!([200, 503].contains(&response.status), "{} {}", response.status, response.text);
    }
    until_ready(&server).await;
    is_logged_in(&server, &first).await;
    is_logged_in(&server, &second).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn login_committed_late_leaves_the_guest_id_usable() {
    let postgres = Postgres::new();
    let server = start(&postgres);
    let (first, second, other) =
        (server.guest().await, server.guest().await, server.log_in().await);
    let log_in = async |id: &str| server.http.get(&format!("/token?userId={id}")).await;
    postgres.pause();
    assert_eq!(log_in(&first).await.status, 503);
    sleep(STANDSTILL).await;
    postgres.resume();
    until_ready(&server).await;
    stall_commits(&postgres, true);
    until_stalled(&server, other).await;
    assert_eq!(log_in(&second).await.status, 503);
    sleep(STANDSTILL).await;
    stall_commits(&postgres, false);
    for id in [&first, &second] {
        eventually(200, async || log_in(id).await.status).await;
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn database_that_freezes_under_load_logs_nobody_out() {
    let postgres = Postgres::new();
    // More rotations are in the middle of their commit.
    postgres.configure("commit_delay", "20000");
    postgres.configure("commit_siblings", "0");
    let server = start(&postgres);
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(server.log_in().await);
    }
    for _ in 0..3 {
        let load = join_all(sessions.into_iter().map(|tokens| until_stalled(&server, tokens)));
        let freeze = async {
            sleep(Duration::from_millis(500)).await;
            postgres.pause();
        };
        let (stalled, ()) = futures_util::future::join(load, freeze).await;
        sleep(STANDSTILL).await;
        postgres.resume();
        sessions = stalled;
        join_all(sessions.iter().map(|tokens| is_logged_in(&server, tokens))).await;
        for tokens in &mut sessions {
            *tokens = server.log_in().await;
        }
    }
    assert_eq!(server.process.logged("reused"), 0, "{}", server.process.log());
}
