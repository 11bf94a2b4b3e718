//! Rotation: one successor for each refresh token within the grace period.

use std::time::{Duration, Instant};

use crate::support::{Server, Tokens, eventually};

/// Two idempotency keys.
const KEY: &str = "0d9e5f0c-5a3e-4a56-9d2c-6a1f6f0f2f11";
const OTHER: &str = "7c1b8a52-40ce-4f6b-8f8e-2d3c4b5a6978";

#[actix_rt::test]
async fn refresh_chain_keeps_user_and_session() {
    let server = Server::start();
    let first = server.log_in().await;
    let mut tokens = first.clone();
    for _ in 0..20 {
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
        assert_eq!(server.user(&tokens.access).await, 200);
    }
    let (before, after) = (first.claims(), tokens.claims());
    assert_eq!((&before["sub"], &before["sid"]), (&after["sub"], &after["sid"]));
    assert_ne!(before["jti"], after["jti"]);
}

#[actix_rt::test]
async fn rotated_token_within_the_grace_period_gets_the_same_pair() {
    let server = Server::start();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..3 {
        let again = Tokens::of(&server.refresh(&first.refresh).await);
        assert_eq!((&again.refresh, &again.access), (&second.refresh, &second.access));
        assert!(again.expires_in < second.expires_in, "the remaining lifetime");
        assert_eq!(server.user(&again.access).await, 200);
    }
    assert_eq!(server.number("SELECT generation AS number FROM sessions"), 1);
    server.process.await_log("refresh reissued");
    Tokens::of(&server.refresh(&second.refresh).await);
}

#[actix_rt::test]
async fn grace_period_counts_from_the_first_use_and_later_reuse_ends_the_session() {
    let server = Server::with(|launch| launch.set("rotation.grace_period", "2s"));
    let first = server.log_in().await;
    let begun = Instant::now();
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let reused = loop {
        let response = server.refresh(&first.refresh).await;
        if response.status != 200 {
            break response;
        }
        assert_eq!(Tokens::of(&response).refresh, second.refresh);
        assert!(begun.elapsed() < Duration::from_secs(30), "it slides");
        actix_rt::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!((reused.status, reused.field("error").as_str()), (401, "invalid_grant"));
    assert_eq!(reused.field("reason"), "reuse");
    server.process.await_log("refresh token reused, session ended");
    assert_eq!(server.user(&second.access).await, 401);
    assert_eq!(server.refresh(&second.refresh).await.field("reason"), "reuse");
}

#[actix_rt::test]
async fn lost_response_is_recovered_with_its_idempotency_key_after_the_grace_period() {
    let server = Server::with(|launch| launch.set("rotation.grace_period", "1s"));
    let (kept, lost) = (server.log_in().await, server.log_in().await);
    let second = Tokens::of(&server.refresh_with(&kept.refresh, KEY).await);
    Tokens::of(&server.refresh_with(&lost.refresh, KEY).await);
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let quoted = format!("\"{KEY}\"");
    for key in [KEY, &quoted] {
        let again = Tokens::of(&server.refresh_with(&kept.refresh, key).await);
        assert_eq!((&again.refresh, &again.access), (&second.refresh, &second.access));
    }
    assert_eq!(server.refresh_with(&lost.refresh, OTHER).await.field("reason"), "reuse");
}

#[actix_rt::test]
async fn reissued_response_has_a_new_access_token_after_expiry() {
    let server = Server::with(|launch| launch.set("tokens.access_lifetime", "1s"));
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    eventually(401, async || server.user(&second.access).await).await;
    let again = Tokens::of(&server.refresh(&first.refresh).await);
    assert_eq!(again.refresh, second.refresh);
    assert_ne!(again.claims()["jti"], second.claims()["jti"]);
    assert_eq!(again.expires_in, 1);
    assert_eq!(server.number("SELECT generation AS number FROM sessions"), 1);
}

#[actix_rt::test]
async fn token_two_generations_old_is_superseded_and_its_session_continues() {
    let server = Server::start();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let third = Tokens::of(&server.refresh(&second.refresh).await);
    let old = server.refresh(&first.refresh).await;
    assert_eq!((old.status, old.field("reason").as_str()), (401, "superseded"));
    assert_eq!(server.user(&third.access).await, 200);
    Tokens::of(&server.refresh(&third.refresh).await);
}

#[actix_rt::test]
async fn same_key_only_reissues_only_to_the_same_idempotency_key() {
    let server = Server::with(|launch| launch.set("rotation.same_key_only", "true"));
    let (keyed, plain) = (server.log_in().await, server.log_in().await);
    let second = Tokens::of(&server.refresh_with(&keyed.refresh, KEY).await);
    let again = Tokens::of(&server.refresh_with(&keyed.refresh, KEY).await);
    assert_eq!(again.refresh, second.refresh);
    assert_eq!(server.refresh(&keyed.refresh).await.field("reason"), "reuse");
    assert_eq!(server.refresh_with(&keyed.refresh, KEY).await.field("reason"), "reuse");
    assert_eq!(server.user(&second.access).await, 401);

    // A session rotated without a key keeps the usual rules.
    let second = Tokens::of(&server.refresh(&plain.refresh).await);
    let again = Tokens::of(&server.refresh_with(&plain.refresh, OTHER).await);
    assert_eq!(again.refresh, second.refresh);
}

#[actix_rt::test]
async fn short_idempotency_key_is_rejected_and_nothing_is_rotated() {
    let server = Server::start();
    let first = server.log_in().await;
    for key in ["1", "fifteen-letters", "with a space in the middle", &"k".repeat(129)] {
        let response = server.refresh_with(&first.refresh, key).await;
        assert_eq!((response.status, response.field("error").as_str()), (400, "invalid_request"));
    }
    let twice = server
        .http
        .request("POST", "/refresh")
        .append_header(("Idempotency-Key", KEY))
        .append_header(("Idempotency-Key", OTHER))
        .send_form(&[("refresh_token", &first.refresh)]);
    assert_eq!(matchbook_testkit::TestResponse::of(twice).await.status, 400);
    assert_eq!(server.number("SELECT generation AS number FROM sessions"), 0);
    Tokens::of(&server.refresh(&first.refresh).await);
}

#[actix_rt::test]
async fn strict_mode_reuse_ends_the_session_and_its_access_tokens_at_once() {
    let server = Server::strict();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh_with(&first.refresh, KEY).await);
    assert_eq!(server.user(&second.access).await, 200);

    let reused = server.refresh_with(&first.refresh, KEY).await;
    assert_eq!((reused.status, reused.field("error").as_str()), (401, "invalid_grant"));
    assert_eq!(reused.field("reason"), "reuse");
    server.process.await_log("refresh token reused, session ended");

    assert_eq!(server.user(&first.access).await, 401);
    assert_eq!(server.user(&second.access).await, 401);
    let ended = server.refresh(&second.refresh).await;
    assert_eq!((ended.status, ended.field("reason").as_str()), (401, "reuse"));
}

#[actix_rt::test]
async fn ending_one_session_leaves_others_active() {
    let server = Server::strict();
    let (mine, other) = (server.log_in().await, server.log_in().await);
    Tokens::of(&server.refresh(&mine.refresh).await);
    assert_eq!(server.refresh(&mine.refresh).await.status, 401);
    assert_eq!(server.user(&other.access).await, 200);
    Tokens::of(&server.refresh(&other.refresh).await);
}

#[actix_rt::test]
async fn session_without_refresh_expires() {
    let server = Server::with(|launch| {
        launch.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "2s")
    });
    let mut tokens = server.log_in().await;
    // Each refresh moves the idle expiry.
    for _ in 0..3 {
        eventually(401, async || server.user(&tokens.access).await).await;
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    actix_rt::time::sleep(std::time::Duration::from_millis(2100)).await;
    let response = server.refresh(&tokens.refresh).await;
    assert_eq!((response.status, response.field("reason").as_str()), (401, "expired_idle"));
}

#[actix_rt::test]
async fn refresh_does_not_extend_the_absolute_expiry() {
    let server = Server::with(|launch| {
        launch
            .set("tokens.access_lifetime", "2s")
            .set("sessions.idle_lifetime", "3s")
            .set("sessions.absolute_lifetime", "3s")
    });
    let mut tokens = server.log_in().await;
    let opened = tokens.claims()["iat"].as_i64().unwrap();
    let began = std::time::Instant::now();
    let reason = loop {
        let response = server.refresh(&tokens.refresh).await;
        if response.status != 200 {
            break response.field("reason");
        }
        assert!(began.elapsed().as_secs() < 30, "it is refreshed beyond its absolute expiry");
        tokens = Tokens::of(&response);
        let ends = tokens.claims()["exp"].as_i64().unwrap();
        assert!(ends <= opened + 3, "an access token ends no later than its session");
    };
    assert_eq!(reason, "expired_absolute");
    assert_eq!(server.user(&tokens.access).await, 401);
}

#[actix_rt::test]
async fn refresh_token_of_another_server_is_rejected() {
    let (here, there) = (Server::start(), Server::start());
    let token = there.log_in().await.refresh;
    let response = here.refresh(&token).await;
    assert_eq!(response.status, 401);
    assert!(response.json().get("reason").is_none());
}
