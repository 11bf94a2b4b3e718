//! PostgreSQL with a standby: the server uses only a database that accepts writes.

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use matchbook_testkit::{Postgres, ProcessBuilder, Stop, TcpProxy, TestEnv, TestResponse};

use super::parts::{on, until_ready};
use crate::support::{Server, Tokens, binary, eventually, http};

fn is_unavailable(response: &TestResponse) {
    assert_eq!(response.status, 503, "{}", response.text);
}

/// A primary and a standby that has replayed everything.
fn pair() -> (Postgres, Postgres, String) {
    let primary = Postgres::new();
    let url = primary.create("matchbook");
    let standby = Postgres::standby_of(&primary);
    standby.catch_up(&primary);
    (primary, standby, url)
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn standby_is_rejected_at_startup() {
    let (_primary, standby, _) = pair();
    let url = standby.url_of("matchbook");
    for url in [url.clone(), format!("{url}?target_session_attrs=any")] {
        let world = TestEnv::new();
        let launch = on(world.server(binary()), &url).set("database.start_timeout", "10ms");
        let output = launch.run(&[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("cannot open the database"),
            "{url}: {said}"
        );
        assert!(said.contains("read-only"), "{url}: {said}");
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn primary_of_several_hosts_is_used_and_followed_after_a_promotion() {
    let (mut primary, standby, _) = pair();
    let hosts = format!("{},{}", standby.address(), primary.address());
    let url = format!("postgres://postgres@{hosts}/matchbook");
    let server = Server::within(TestEnv::new(), |launch| on(launch, &url));
    let tokens = server.log_in().await;
    let mut tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    standby.catch_up(&primary);

    primary.stop(Stop::Immediate);
    is_unavailable(&server.refresh(&tokens.refresh).await);
    is_unavailable(&server.http.get("/health/ready").await);
    standby.promote();
    until_ready(&server).await;
    for _ in 0..3 {
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
        assert_eq!(server.user(&tokens.access).await, 200);
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn standby_behind_the_same_address_accepts_no_ended_session() {
    let (primary, standby, url) = pair();
    let relay = TcpProxy::to(&primary.address());
    let world = TestEnv::new();
    for parameters in ["", "?target_session_attrs=any"] {
        let through = format!("postgres://postgres@{}/matchbook{parameters}", relay.address());
        // Without Redis, which would know the ended sessions.
        let launch = |url: &str| {
            let launch = ProcessBuilder::new(binary(), world.folder(), "MATCHBOOK");
            let settings = [
                ("server.address", "127.0.0.1:0"),
                ("metrics.address", "off"),
                ("tls.mode", "off"),
            ];
            on(settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value)), url)
        };
        let (process, other) = (launch(&through).start(), launch(&url).start());
        let there = http(&world, &other);
        let here = Server { http: http(&world, &process), process, world: TestEnv::new() };
        let tokens = here.log_in().await;
        standby.catch_up(&primary);
        replay(&standby, "pause");
        switch_to(&relay, &standby);
        let form = format!("refresh_token={}", tokens.refresh);
        assert_eq!(there.post("/logout", &form).await.status, 204);
        for _ in 0..20 {
            assert_eq!(here.user(&tokens.access).await, 503);
            is_unavailable(&here.refresh(&tokens.refresh).await);
            is_unavailable(&here.http.get("/health/ready").await);
        }
        replay(&standby, "resume");
        switch_to(&relay, &primary);
        until_ready(&here).await;
        assert_eq!(here.user(&tokens.access).await, 401);
    }
}

/// Pauses or resumes the replay of the standby.
fn replay(standby: &Postgres, what: &str) {
    let mut conn = PgConnection::establish(&standby.url()).unwrap();
    conn.batch_execute(&format!("SELECT pg_wal_replay_{what}()")).unwrap();
}

fn switch_to(relay: &TcpProxy, postgres: &Postgres) {
    relay.forward_to(&postgres.address());
    relay.disconnect();
    relay.restore();
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn connections_that_become_read_only_are_dropped() {
    let postgres = Postgres::new();
    let url = postgres.create("matchbook");
    let server = Server::within(TestEnv::new(), |launch| on(launch, &url));
    let tokens = server.log_in().await;
    until_ready(&server).await;

    postgres.configure("default_transaction_read_only", "on");
    eventually(503, async || server.http.get("/health/ready").await.status).await;
    is_unavailable(&server.refresh(&tokens.refresh).await);
    is_unavailable(&server.http.get("/register").await);
    postgres.configure("default_transaction_read_only", "off");
    until_ready(&server).await;
    let tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    assert_eq!(server.user(&tokens.access).await, 200);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn standby_that_the_url_permits_is_passed_over_and_used_once_it_is_promoted() {
    let (mut primary, standby, _) = pair();
    let hosts = format!("{},{}", standby.address(), primary.address());
    let url = format!("postgres://postgres@{hosts}/matchbook?target_session_attrs=any");
    let server = Server::within(TestEnv::new(), |launch| on(launch, &url));
    until_ready(&server).await;
    let tokens = server.log_in().await;
    let tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    standby.catch_up(&primary);

    // The primary becomes read-only in place, and the standby takes over.
    primary.configure("default_transaction_read_only", "on");
    eventually(503, async || server.http.get("/health/ready").await.status).await;
    standby.promote();
    until_ready(&server).await;
    let tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    primary.stop(Stop::Fast);
    assert_eq!(server.user(&tokens.access).await, 200);
    Tokens::of(&server.refresh(&tokens.refresh).await);
    assert!(server.process.logged("read-only") > 0, "{}", server.process.log());
}
