//! The login session of a browser.

use std::time::Duration;

use matchbook_server::clock;
use matchbook_server::store::{Page, login_sessions};
use matchbook_testkit::TestResponse;

use crate::accounts_lifecycle::Operation;
use crate::browser::{Browser, LOGIN_COOKIE};
use crate::login_pages::{OTHER, PASSWORD, server_with, sessions};
use crate::support::{Server, Tokens};

#[actix_rt::test]
async fn database_has_the_digest_of_the_secret_and_the_place_of_the_user() {
    let server = server_with(|launch| launch).await;
    let browser = Browser::at(&server);
    browser.log_in("ann", PASSWORD).await;
    let cookie = crate::support::decode(&browser.cookie(LOGIN_COOKIE).unwrap());
    assert_eq!(cookie.len(), 48);
    let place = i64::from(cookie[8] & 0x3f);
    assert_eq!(server.number("SELECT CAST(place AS bigint) AS number FROM login_sessions"), place);
    let users = "SELECT count(*) AS number FROM login_sessions JOIN users \
                 ON users.place = login_sessions.place AND users.id = login_sessions.user_id";
    assert_eq!(server.number(users), 1);
    let digest = hex(&openssl::sha::sha256(&cookie[16..]));
    let column = if server.world.database_url().starts_with("postgres") {
        "encode(secret_digest, 'hex')"
    } else {
        "lower(hex(secret_digest))"
    };
    let query =
        format!("SELECT count(*) AS number FROM login_sessions WHERE {column} = '{digest}'");
    assert_eq!(server.number(&query), 1);
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[actix_rt::test]
async fn login_replaces_the_cookie_that_was_in_the_browser_before() {
    let server = server_with(|launch| launch).await;
    // An attacker logs in, and plants the cookie in the browser of the victim.
    server.register("eve", OTHER).await;
    let attacker = Browser::at(&server);
    attacker.log_in("eve", OTHER).await;
    let planted = attacker.cookie(LOGIN_COOKIE).unwrap();
    let victim = Browser::at(&server);
    victim.set_cookie(LOGIN_COOKIE, &planted);
    let form = victim.get("/login?continue=a").await;
    victim.submit(&form, &[("name", "ann"), ("password", PASSWORD)]).await;
    assert_ne!(victim.cookie(LOGIN_COOKIE).unwrap(), planted);
    assert!(victim.is_logged_in().await);
    assert!(!attacker.is_logged_in().await, "the planted cookie is worth nothing");
    assert_eq!(sessions(&server), 1);
    // A cookie with the id of a session and another secret logs no browser in, or out.
    let genuine = crate::support::decode(&victim.cookie(LOGIN_COOKIE).unwrap());
    let forged = crate::support::encode([&genuine[..16], &[0; 32]].concat());
    attacker.set_cookie(LOGIN_COOKIE, &forged);
    assert!(!attacker.is_logged_in().await);
    attacker.log_in("eve", OTHER).await;
    assert!(victim.is_logged_in().await);
}

#[actix_rt::test]
async fn logging_out_everywhere_ends_the_login_of_browsers() {
    let server = server_with(|launch| launch).await;
    server.register("bob", PASSWORD).await;
    let bystander = Browser::at(&server);
    bystander.log_in("bob", PASSWORD).await;
    let browser = Browser::at(&server);
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let body = serde_json::json!({ "current": PASSWORD, "new": OTHER });
    browser.log_in("ann", PASSWORD).await;
    assert_eq!(server.post_json_as("/password", &body, &tokens.access).await.status, 204);
    assert!(!browser.is_logged_in().await, "a changed password");

    browser.log_in("ann", OTHER).await;
    assert!(browser.is_logged_in().await);
    let all = server.http.request("DELETE", "/sessions").bearer_auth(&tokens.access).send();
    assert_eq!(TestResponse::of(all).await.status, 200);
    assert!(!browser.is_logged_in().await, "a logout everywhere");

    browser.log_in("ann", OTHER).await;
    let id = Server::id_of(&tokens);
    server.reset(&server.reset_link(&id), PASSWORD).await;
    assert!(!browser.is_logged_in().await, "a reset");

    browser.log_in("ann", PASSWORD).await;
    assert!(server.operate(Operation::Disable, &id).await);
    assert!(!browser.is_logged_in().await, "a disabled account");
    assert!(server.operate(Operation::Enable, &id).await);
    assert!(!browser.is_logged_in().await);

    browser.log_in("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let delete = server.http.request("DELETE", "/account").bearer_auth(&tokens.access);
    let delete = delete.send_json(&serde_json::json!({ "password": PASSWORD }));
    assert_eq!(TestResponse::of(delete).await.status, 204);
    assert!(!browser.is_logged_in().await, "a deleted account");
    assert!(bystander.is_logged_in().await, "another user");
}

#[actix_rt::test]
async fn end_of_a_login_session_ends_no_refresh_token() {
    let server = server_with(|launch| launch).await;
    let browser = Browser::at(&server);
    browser.log_in("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    server.sql("DELETE FROM login_sessions");
    assert!(!browser.is_logged_in().await);
    Tokens::of(&server.refresh(&tokens.refresh).await);
}

#[actix_rt::test]
async fn login_session_expires_when_idle_and_after_its_lifetime() {
    let server = server_with(|launch| {
        launch
            .set("login_session.idle_lifetime", "90s")
            .set("login_session.absolute_lifetime", "1h")
    })
    .await;
    let browser = Browser::at(&server);
    browser.log_in("ann", PASSWORD).await;
    let idle = "SELECT CAST(idle_expires_at AS bigint) AS number FROM login_sessions";
    let idle = if server.world.database_url().starts_with("postgres") {
        "SELECT CAST(extract(epoch FROM idle_expires_at) * 1000000 AS bigint) AS number \
         FROM login_sessions"
    } else {
        idle
    };
    let before = server.number(idle);
    assert!(browser.is_logged_in().await);
    assert_eq!(server.number(idle), before, "it is extended once a minute");
    let minus = |column: &str, seconds: u64| {
        if server.world.database_url().starts_with("postgres") {
            format!("UPDATE login_sessions SET {column} = {column} - interval '{seconds} s'")
        } else {
            format!("UPDATE login_sessions SET {column} = {column} - {seconds}000000")
        }
    };
    server.sql(&minus("idle_expires_at", 61));
    assert!(browser.is_logged_in().await);
    let after = server.number(idle);
    assert!(after >= before && after < before + 60_000_000, "{before} {after}");
    server.sql(&minus("idle_expires_at", 100));
    assert!(!browser.is_logged_in().await);

    browser.log_in("ann", PASSWORD).await;
    assert!(browser.is_logged_in().await);
    server.sql(&minus("expires_at", 3601));
    assert!(!browser.is_logged_in().await);
    let sweep = |before| {
        let page = Page { after: None, limit: 10 };
        login_sessions::sweep(&mut server.database(), page, before).unwrap().deleted
    };
    let now = clock::now();
    assert_eq!(sessions(&server), 1, "the second login has replaced the first");
    assert_eq!(sweep(now.before(Duration::from_secs(3600))), 0);
    assert_eq!(sweep(now), 1);
    assert_eq!(sessions(&server), 0);
}
