//! Authorization codes: their exchange, their single use, and what a copy of one does.

use std::time::Duration;

use futures_util::future::join_all;

use super::{
    Client, REDIRECT_URI, VERIFIER, assert_error, exchange_of, server_with, set, text, tokens,
};
use crate::support::Server;

fn sessions(server: &Server) -> i64 {
    server.number("SELECT count(*) AS number FROM sessions WHERE client_id IS NOT NULL")
}

fn live_sessions(server: &Server) -> i64 {
    let live = "client_id IS NOT NULL AND ended_at IS NULL";
    server.number(&format!("SELECT count(*) AS number FROM sessions WHERE {live}"))
}

#[actix_rt::test]
async fn code_gives_tokens_that_refresh_and_reach_the_user() {
    let (server, browser) = server_with(|launch| launch).await;
    for client in [server.add_web_app(), server.add_spa()] {
        let body = server.log_in_with(&browser, &client).await;
        assert_eq!(server.user(&text(&body, "access_token")).await, 200);
        assert!(text(&body, "scope").contains("read"), "{body}");
        let mut refresh_token = text(&body, "refresh_token");
        for _ in 0..3 {
            let body = tokens(&server.refresh_by(&client, &refresh_token).await);
            assert_eq!(server.user(&text(&body, "access_token")).await, 200);
            refresh_token = text(&body, "refresh_token");
        }
    }
    assert_eq!(sessions(&server), 2);
}

#[actix_rt::test]
async fn repeated_exchange_within_the_retry_time_gets_the_same_tokens() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let code = browser.code(&client.request()).await;
    let exchanges = (0..6).map(|_| async { server.token(&client, &exchange_of(&code)).await });
    let all = join_all(exchanges).await;
    let first = tokens(&all[0]);
    for response in &all {
        assert_eq!(tokens(response)["refresh_token"], first["refresh_token"]);
    }
    assert_eq!(sessions(&server), 1);
    // Go's library tries another authentication method.
    let mut by_post = exchange_of(&code);
    set(&mut by_post, "client_id", &client.id);
    set(&mut by_post, "client_secret", client.secret.as_ref().unwrap());
    let public = Client { secret: None, ..client.clone() };
    let again = tokens(&server.token(&public, &by_post).await);
    assert_eq!(again["refresh_token"], first["refresh_token"]);
}

#[actix_rt::test]
async fn code_used_again_later_ends_the_session() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_retry", "1s")).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let again = server.token(&client, &exchange_of(&code)).await;
    assert_error(&again, 400, "invalid_grant");
    assert_eq!(server.user(&text(&body, "access_token")).await, 401);
    let refreshed = server.refresh_by(&client, &text(&body, "refresh_token")).await;
    assert_error(&refreshed, 400, "invalid_grant");
    assert_eq!(refreshed.json()["reason"], "reuse");
    assert_eq!(live_sessions(&server), 0);
}

#[actix_rt::test]
async fn strict_setting_ends_the_session_at_the_first_repetition() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_retry", "none")).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    tokens(&server.token(&client, &exchange_of(&code)).await);
    let again = server.token(&client, &exchange_of(&code)).await;
    assert_error(&again, 400, "invalid_grant");
    assert_eq!(live_sessions(&server), 0);
}

#[actix_rt::test]
async fn code_is_still_recognized_after_its_row_was_deleted() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    tokens(&server.token(&client, &exchange_of(&code)).await);
    server.sql("DELETE FROM authorization_codes");
    let again = server.token(&client, &exchange_of(&code)).await;
    assert_error(&again, 400, "invalid_grant");
    assert_eq!(live_sessions(&server), 0);
}

#[actix_rt::test]
async fn exchange_that_is_repeated_after_a_refresh_ends_nothing() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    let body = tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
    let again = server.token(&client, &exchange_of(&code)).await;
    assert_error(&again, 400, "invalid_grant");
    tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
}

#[actix_rt::test]
async fn code_used_again_later_ends_the_session_although_it_was_refreshed_a_moment_ago() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_retry", "2s")).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    actix_rt::time::sleep(Duration::from_millis(2100)).await;
    tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
    let again = server.token(&client, &exchange_of(&code)).await;
    assert_error(&again, 400, "invalid_grant");
    assert_eq!(again.json()["reason"], "reuse");
    assert_eq!(live_sessions(&server), 0);
}

#[actix_rt::test]
async fn wrong_verifier_spends_the_code() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    for wrong in ["", &VERIFIER.replace('d', "e"), "short", &"é".repeat(30)] {
        let code = browser.code(&client.request()).await;
        let mut exchange = exchange_of(&code);
        set(&mut exchange, "code_verifier", wrong);
        assert_error(&server.token(&client, &exchange).await, 400, "invalid_grant");
        let right = server.token(&client, &exchange_of(&code)).await;
        assert_error(&right, 400, "invalid_grant");
    }
    assert_eq!(sessions(&server), 0);
}

#[actix_rt::test]
async fn wrong_verifier_after_the_exchange_ends_the_session() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    let mut exchange = exchange_of(&code);
    set(&mut exchange, "code_verifier", "");
    assert_error(&server.token(&client, &exchange).await, 400, "invalid_grant");
    assert_eq!(server.user(&text(&body, "access_token")).await, 401);
    let kinds = "SELECT count(*) AS number FROM events WHERE kind = 'wrong_code_verifier'";
    assert_eq!(server.number(kinds), 1);
}

#[actix_rt::test]
async fn verifier_without_a_challenge_is_rejected() {
    let (server, browser) = server_with(|launch| launch).await;
    let options = ["--confidential", "--redirect-uri", REDIRECT_URI, "--first-party", "--no-pkce"];
    let client = server.register_client("old", &options);
    let mut request = client.request();
    set(&mut request, "code_challenge", "");
    set(&mut request, "code_challenge_method", "");
    let code = browser.code(&request).await;
    assert_error(&server.token(&client, &exchange_of(&code)).await, 400, "invalid_grant");
    let code = browser.code(&request).await;
    let mut exchange = exchange_of(&code);
    set(&mut exchange, "code_verifier", "");
    set(&mut exchange, "redirect_uri", "");
    assert_error(&server.token(&client, &exchange).await, 400, "invalid_request");
    set(&mut exchange, "redirect_uri", REDIRECT_URI);
    tokens(&server.token(&client, &exchange).await);
}

#[actix_rt::test]
async fn failed_authentication_and_wrong_redirect_uri_do_not_spend_the_code() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let other = server.add_spa();
    let code = browser.code(&client.request()).await;
    let wrong = Client { secret: Some("wrong".to_owned()), ..client.clone() };
    assert_error(&server.token(&wrong, &exchange_of(&code)).await, 401, "invalid_client");
    let none = Client { secret: None, ..client.clone() };
    assert_error(&server.token(&none, &exchange_of(&code)).await, 400, "invalid_client");
    assert_error(&server.token(&other, &exchange_of(&code)).await, 400, "invalid_grant");
    let mut exchange = exchange_of(&code);
    set(&mut exchange, "redirect_uri", "https://app.example/cb/");
    assert_error(&server.token(&client, &exchange).await, 400, "invalid_grant");
    let mut exchange = exchange_of(&code);
    set(&mut exchange, "resource", "https://other.example");
    assert_error(&server.token(&client, &exchange).await, 400, "invalid_target");
    tokens(&server.token(&client, &exchange_of(&code)).await);
}

#[actix_rt::test]
async fn expired_code_is_rejected() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_lifetime", "1s")).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    assert_error(&server.token(&client, &exchange_of(&code)).await, 400, "invalid_grant");
    assert_eq!(sessions(&server), 0);
}

#[actix_rt::test]
async fn codes_end_with_the_sessions_of_their_user() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let native = server.log_in_as("ann", super::PASSWORD).await;
    let code = browser.code(&client.request()).await;
    let request = server.http.request("DELETE", "/sessions").bearer_auth(&native.access);
    assert_eq!(matchbook_testkit::TestResponse::of(request.send()).await.status, 200);
    assert_error(&server.token(&client, &exchange_of(&code)).await, 400, "invalid_grant");
}

#[actix_rt::test]
async fn concurrent_request_leaves_no_code_after_a_logout_everywhere() {
    let (server, _) = server_with(|launch| launch).await;
    let client = server.add_spa();
    for _ in 0..4 {
        let browser = server.log_browser_in().await;
        let native = server.log_in_as("ann", super::PASSWORD).await;
        let requests =
            join_all((0..12).map(|_| async { browser.authorize(&client.request()).await }));
        let logout = async {
            actix_rt::time::sleep(Duration::from_millis(2)).await;
            let request = server.http.request("DELETE", "/sessions").bearer_auth(&native.access);
            matchbook_testkit::TestResponse::of(request.send()).await
        };
        let (responses, logout) = futures_util::future::join(requests, logout).await;
        assert_eq!(logout.status, 200);
        for response in responses {
            let location = response.header("location");
            let Some((_, code)) = location.split_once("?code=") else {
                assert!(location.starts_with("../login?"), "{location}");
                continue;
            };
            let code = code.split('&').next().unwrap();
            let exchanged = server.token(&client, &exchange_of(code)).await;
            assert_error(&exchanged, 400, "invalid_grant");
        }
    }
}

#[actix_rt::test]
async fn code_of_a_disabled_user_opens_no_session() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let code = browser.code(&client.request()).await;
    // Without the command, which would delete the code.
    server.sql("UPDATE accounts SET disabled_at = created_at");
    let response = server.token(&client, &exchange_of(&code)).await;
    assert_error(&response, 400, "invalid_grant");
    assert_eq!(response.json()["reason"], "user_disabled");
    assert_eq!(sessions(&server), 0);
}

#[actix_rt::test]
async fn forged_codes_and_refresh_tokens_are_not_accepted_as_codes() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let body = server.log_in_with(&browser, &client).await;
    let refresh_token = text(&body, "refresh_token");
    let disguised = refresh_token.replace("mb_rt_", "mb_ac_");
    for code in ["x", "mb_ac_", &refresh_token, &disguised, "\0", "é"] {
        let response = server.token(&client, &exchange_of(code)).await;
        assert_error(&response, 400, "invalid_grant");
    }
    let code = browser.code(&client.request()).await;
    for token in [code.clone(), code.replace("mb_ac_", "mb_rt_")] {
        assert_error(&server.refresh_by(&client, &token).await, 400, "invalid_grant");
        assert_eq!(server.refresh(&token).await.status, 401);
    }
    tokens(&server.token(&client, &exchange_of(&code)).await);
}
