//! Work that is committed late, or whose response from the database is lost. No honest client
//! is logged out, and nothing remains of a login that its client does not know.

use std::time::Duration;

use actix_rt::time::sleep;
use diesel::connection::SimpleConnection;
use futures_util::future::join;
use matchbook_server::store::Conn;
use matchbook_testkit::{TcpProxy, TestEnv, TestResponse};

use crate::oauth::{exchange_of, server_with, text, tokens};
use crate::support::{Server, Tokens, eventually};

/// The time in which these servers let a code be exchanged again. Each delay is longer.
const CODE_RETRY: &str = "5s";
const LONGER: Duration = Duration::from_secs(7);

/// A server behind a proxy to PostgreSQL. It gives up after a second.
fn behind_proxy() -> (Server, TcpProxy) {
    behind_proxy_with("500ms")
}

fn behind_proxy_with(query_timeout: &str) -> (Server, TcpProxy) {
    let world = TestEnv::new();
    let (relay, url) = world.database_proxy();
    let server = Server::within(world, |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("oauth.code_retry", CODE_RETRY)
            .set("database.acquire_timeout", "500ms")
            .set("database.query_timeout", query_timeout)
            .set("server.shutdown_timeout", "60s")
    });
    (server, relay)
}

/// Sends a request like an honest client: retries while the server responds with 503.
async fn until_answered(ask: impl AsyncFn() -> TestResponse) -> TestResponse {
    loop {
        let response = ask().await;
        if response.status != 503 {
            return response;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Blocks the undoing of a guest's login, but not another login.
fn refer_to_users(server: &Server) -> Conn {
    let mut conn = server.database();
    conn.batch_execute("BEGIN; SELECT 1 FROM users FOR KEY SHARE").unwrap();
    conn
}

async fn log_in(server: &Server, guest: &str) -> TestResponse {
    server.http.get(&format!("/token?userId={guest}")).await
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn exchange_that_took_long_can_be_repeated_from_its_commit_on() {
    let (server, browser) = server_with(|launch| {
        launch.set("oauth.code_retry", CODE_RETRY).set("database.query_timeout", "5m")
    })
    .await;
    let client = server.add_spa();
    let device = server.begin_device(&server.add_tv(), "").await;
    browser.approve(&device).await;
    let code = browser.code(&client.request()).await;
    let exchange = async || server.token(&client, &exchange_of(&code)).await;
    let poll = async || server.poll(&device).await;

    // Each session that opens waits for this.
    let mut conn = server.database();
    conn.batch_execute("BEGIN; LOCK TABLE events IN EXCLUSIVE MODE").unwrap();
    let delay = async {
        sleep(LONGER).await;
        conn.batch_execute("ROLLBACK").unwrap();
    };
    let ((exchanged, polled), ()) = join(join(exchange(), poll()), delay).await;
    let again = join(until_answered(exchange), until_answered(poll)).await;
    for (first, again) in [(exchanged, again.0), (polled, again.1)] {
        let (first, again) = (tokens(&first), tokens(&again));
        assert_eq!(first["refresh_token"], again["refresh_token"]);
        assert_eq!(server.user(&text(&again, "access_token")).await, 200);
    }
    assert_eq!(server.process.logged("reused"), 0, "{}", server.process.log());
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn exchange_without_a_response_of_the_database_can_be_repeated_once_it_responds() {
    let (server, relay) = behind_proxy();
    let browser = server.browser_of_ann().await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    let exchange = async || server.token(&client, &exchange_of(&code)).await;
    relay.drop_responses_to("COMMIT");
    assert_eq!(exchange().await.status, 503);
    let opened = "SELECT count(*) AS number FROM sessions WHERE client_id IS NOT NULL";
    assert_eq!(server.number(opened), 1, "the exchange was committed");
    sleep(LONGER).await;
    relay.restore();
    let body = tokens(&until_answered(exchange).await);
    assert_eq!(server.user(&text(&body, "access_token")).await, 200);
    tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
    assert_eq!(server.number(opened), 1);
    assert_eq!(server.process.logged("reused"), 0, "{}", server.process.log());
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn guest_whose_login_is_about_to_be_undone_is_told_to_retry() {
    let (server, relay) = behind_proxy();
    let guest = server.guest().await;
    let reference = refer_to_users(&server);
    relay.drop_responses_to("COMMIT");
    assert_eq!(log_in(&server, &guest).await.status, 503);
    relay.restore();
    for _ in 0..5 {
        let retried = log_in(&server, &guest).await;
        assert_eq!(retried.status, 503, "{}", retried.text);
    }
    drop(reference);
    Tokens::of(&until_answered(async || log_in(&server, &guest).await).await);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn stopping_server_undoes_a_login_first() {
    let (mut server, relay) = behind_proxy();
    let guest = server.guest().await;
    let reference = refer_to_users(&server);
    relay.drop_responses_to("COMMIT");
    assert_eq!(log_in(&server, &guest).await.status, 503);
    relay.restore();
    let sessions = "SELECT count(*) AS number FROM sessions";
    assert_eq!(server.number(sessions), 1);
    server.process.send_sigterm();
    // A server that does not wait for the reversal ends within this time.
    sleep(Duration::from_secs(3)).await;
    drop(reference);
    assert_eq!(server.process.wait().code(), Some(0), "{}", server.process.log());
    assert_eq!(server.number(sessions), 0);
    let used = "SELECT count(*) AS number FROM users WHERE logged_in_at IS NOT NULL";
    assert_eq!(server.number(used), 0);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn token_that_looks_reused_after_an_outage_ends_nothing_until_dates_are_corrected() {
    // Dates may be corrected for longer than this after an outage. A busy machine is slow.
    let (server, relay) = behind_proxy_with("10s");
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let rotated = |sign: &str| {
        server.sql(&format!("UPDATE sessions SET rotated_at = rotated_at {sign} interval '2 min'"));
    };
    // As if another server had rotated the session, but does not know it yet. The sweeper keeps
    // the salt for longer.
    rotated("-");
    relay.disconnect();
    eventually(503, async || server.http.get("/health/ready").await.status).await;
    relay.restore();
    eventually(200, async || server.http.get("/health/ready").await.status).await;
    assert_eq!(server.refresh(&first.refresh).await.status, 503);
    rotated("+");
    let again = Tokens::of(&until_answered(async || server.refresh(&first.refresh).await).await);
    assert_eq!(again.refresh, second.refresh);
    // Later the date is final.
    rotated("-");
    let reused = until_answered(async || server.refresh(&first.refresh).await).await;
    assert_eq!((reused.status, reused.field("reason").as_str()), (401, "reuse"));
}
