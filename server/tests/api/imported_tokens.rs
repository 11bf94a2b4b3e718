//! Refresh tokens that another server issued, and that were imported by their digest.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use matchbook_server::clock;
use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use crate::support::{Server, Tokens};

const PASSWORD: &str = "violet tractor seven hums";
const KEY: &str = "0123456789abcdef";

pub(crate) fn sha256(token: &str) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
    digest(&SHA256, token.as_bytes()).as_ref().iter().flat_map(digits).flatten().collect()
}

/// A user with a refresh token.
fn user(name: &str, token: &str) -> Value {
    json!({ "name": name, "refresh_token_sha256": sha256(token) })
}

fn reason(response: &TestResponse) -> (u16, String, String) {
    let reason = response.json()["reason"].as_str().unwrap_or_default().to_owned();
    (response.status, response.field("error"), reason)
}

fn rejected(reason: &str) -> (u16, String, String) {
    (401, "invalid_grant".to_owned(), reason.to_owned())
}

#[actix_rt::test]
async fn imported_token_is_exchanged_for_a_session_of_its_user() {
    let server = Server::start();
    // The server knows by now that no token was imported.
    assert_eq!(reason(&server.refresh("ann-token").await), rejected(""));
    server.import(&[user("ann", "ann-token"), user("bob", "bob-token")], &[]).unwrap();
    let tokens = Tokens::of(&server.refresh("ann-token").await);
    assert!(tokens.refresh.starts_with("mb_rt_"), "{}", tokens.refresh);
    assert_eq!(tokens.claims()["sub"], server.users_json(&["show", "ann"])["id"]);
    assert_eq!(server.user(&tokens.access).await, 200);
    let next = Tokens::of(&server.refresh(&tokens.refresh).await);
    assert_eq!(next.claims()["sid"], tokens.claims()["sid"]);
    let shown = server.users_json(&["show", "ann"]);
    assert_eq!(shown["importedRefreshTokens"], 0);
    let kinds: Vec<&str> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["account_imported", "logged_in", "imported_token_exchanged"]);
    assert_eq!(reason(&server.refresh("carol-token").await), rejected(""));
    let log = server.process.log();
    assert!(!log.contains("ann-token") && !log.contains(&sha256("ann-token")), "{log}");
}

#[actix_rt::test]
async fn repeated_exchange_within_the_grace_period_gets_the_same_token() {
    let server = Server::start();
    server.import(&[user("ann", "ann-token")], &[]).unwrap();
    let requests = (0..8).map(|_| server.refresh("ann-token"));
    let responses = join_all(requests).await;
    let first = Tokens::of(&responses[0]);
    for response in &responses {
        assert_eq!(Tokens::of(response).refresh, first.refresh);
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM sessions"), 1);
    assert_eq!(Tokens::of(&server.refresh("ann-token").await).refresh, first.refresh);
    let next = Tokens::of(&server.refresh(&first.refresh).await);
    assert_eq!(reason(&server.refresh("ann-token").await), rejected("superseded"));
    assert_eq!(server.user(&next.access).await, 200);
}

#[actix_rt::test]
async fn exchange_after_the_grace_period_is_reuse_and_ends_the_session() {
    let server = Server::with(|launch| launch.set("rotation.grace_period", "1s"));
    server.import(&[user("ann", "ann-token"), user("bob", "bob-token")], &[]).unwrap();
    let keyed = Tokens::of(&server.refresh_with("bob-token", KEY).await);
    let tokens = Tokens::of(&server.refresh("ann-token").await);
    actix_rt::time::sleep(Duration::from_secs(3)).await;
    // The recovery window is for the same key.
    assert_eq!(Tokens::of(&server.refresh_with("bob-token", KEY).await).refresh, keyed.refresh);
    assert_eq!(reason(&server.refresh("ann-token").await), rejected("reuse"));
    assert_eq!(server.user(&tokens.access).await, 401);
    assert_eq!(reason(&server.refresh(&tokens.refresh).await), rejected("reuse"));
    assert_eq!(server.user(&keyed.access).await, 200);
    let reuse = "SELECT count(*) AS number FROM events WHERE kind = 'reuse_detected'";
    assert_eq!(server.number(reuse), 1);
}

#[actix_rt::test]
async fn strict_rotation_accepts_an_imported_token_once() {
    let server = Server::strict();
    server.import(&[user("ann", "ann-token")], &[]).unwrap();
    let tokens = Tokens::of(&server.refresh("ann-token").await);
    assert_eq!(reason(&server.refresh("ann-token").await), rejected("reuse"));
    assert_eq!(server.user(&tokens.access).await, 401);
}

#[actix_rt::test]
async fn tokens_of_disabled_and_deleted_users_and_expired_ones_are_rejected() {
    let server = Server::start();
    let soon = clock::now().after(Duration::from_secs(8)).to_string();
    let past = json!([{ "sha256": sha256("old"), "expires_at": "2020-01-01T00:00:00Z" },
                      { "sha256": sha256("soon"), "expires_at": soon }]);
    let lines = [
        user("ann", "ann-token"),
        user("bob", "bob-token"),
        json!({ "name": "carol", "refresh_token_sha256": past }),
    ];
    let report = server.import(&lines, &[]).unwrap();
    assert!(
        report.contains("3 users and 3 refresh tokens imported\n1 refresh tokens have"),
        "{report}"
    );
    server.sql("UPDATE accounts SET disabled_at = created_at WHERE user_id = (SELECT user_id FROM identities WHERE name = 'ann')");
    server.sql("DELETE FROM users WHERE id = (SELECT user_id FROM identities WHERE name = 'bob')");
    assert_eq!(reason(&server.refresh("ann-token").await), rejected("user_disabled"));
    assert_eq!(reason(&server.refresh("bob-token").await), rejected("unknown"));
    assert_eq!(reason(&server.refresh("old").await), rejected(""));
    actix_rt::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(reason(&server.refresh("soon").await), rejected("expired_absolute"));
    assert_eq!(server.number("SELECT count(*) AS number FROM sessions"), 0);
    // The user that is enabled again continues.
    server.sql("UPDATE accounts SET disabled_at = NULL");
    Tokens::of(&server.refresh("ann-token").await);
}

#[actix_rt::test]
async fn logout_everywhere_revokes_tokens_that_were_not_exchanged_yet() {
    let server = Server::start();
    let hash = "$2y$04$uVFuNQBst6Ff8zvgQG.VB.Ahl9mJvnlE4HODtd7VyWFit.1P00ePO";
    let devices = json!([sha256("phone"), sha256("tablet")]);
    let ann = json!({ "name": "ann", "password_hash": hash, "refresh_token_sha256": devices });
    server.import(&[ann, user("bob", "bob-token"), user("carol", "carol-token")], &[]).unwrap();
    let phone = Tokens::of(&server.refresh("phone").await);
    let laptop = server.log_in_as("ann", PASSWORD).await;
    let all = server.http.request("DELETE", "/sessions").bearer_auth(&laptop.access).send();
    assert_eq!(TestResponse::of(all).await.json()["ended"], 2);
    assert_eq!(reason(&server.refresh("tablet").await), rejected(""));
    assert_eq!(reason(&server.refresh("phone").await), rejected("logged_out"));
    assert_eq!(server.user(&phone.access).await, 401);
    Tokens::of(&server.refresh("bob-token").await);
    server.users(&["sessions", "carol", "--end"]).unwrap();
    assert_eq!(reason(&server.refresh("carol-token").await), rejected(""));
}

#[actix_rt::test]
async fn junk_costs_no_query_of_its_own() {
    let server = Server::start();
    assert_eq!(reason(&server.refresh("junk").await), rejected(""));
    // Without its table every query fails. The server has just read that it is empty, and
    // a token with the prefix of this server cannot be of another.
    server.sql("ALTER TABLE imported_refresh_tokens RENAME TO hidden");
    for junk in ["junk", "other-junk", "mb_rt_junk"] {
        assert_eq!(reason(&server.refresh(junk).await), rejected(""), "{junk}");
    }
    actix_rt::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(reason(&server.refresh("mb_rt_junk").await), rejected(""));
    assert_eq!(server.refresh("junk").await.status, 500);
}
