//! Revocation (RFC 7009).

use std::time::Duration;

use matchbook_testkit::TestResponse;

use super::{Client, Parameters, assert_error, server_with, set, tampered, text, tokens};
use crate::races::Pair;
use crate::support::{Server, Tokens};

fn presented(token: &str) -> Parameters<'_> {
    vec![("token", token.into())]
}

impl Server {
    /// Revokes a token. The response says nothing about it.
    async fn revoke(&self, client: &Client, form: &Parameters<'_>) {
        let response = self.as_client("/oauth/revoke", client, form).await;
        assert_eq!((response.status, response.text.as_str()), (200, "{}"));
        assert_eq!(response.header("cache-control"), "no-store");
    }
}

#[actix_rt::test]
async fn revocation_of_either_token_ends_the_session() {
    let (server, browser) = server_with(|launch| launch).await;
    for client in [server.add_web_app(), server.add_spa()] {
        for (kind, hint) in [
            ("refresh_token", ""),
            ("refresh_token", "access_token"),
            ("refresh_token", "x"),
            ("access_token", "refresh_token"),
            ("access_token", "access_token"),
        ] {
            let body = server.log_in_with(&browser, &client).await;
            let token = text(&body, kind);
            let mut form = presented(&token);
            set(&mut form, "token_type_hint", hint);
            server.revoke(&client, &form).await;
            assert_eq!(server.user(&text(&body, "access_token")).await, 401, "{kind} {hint}");
            let refresh = server.refresh_by(&client, &text(&body, "refresh_token")).await;
            assert_error(&refresh, 400, "invalid_grant");
            assert_eq!(refresh.json()["reason"], "logged_out");
            server.revoke(&client, &form).await;
        }
    }
    assert!(browser.is_logged_in().await, "the login of the browser continues");
}

#[actix_rt::test]
async fn revocation_by_a_rotated_refresh_token_ends_the_session() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let first = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    let second = tokens(&server.refresh_by(&client, &first).await);
    server.revoke(&client, &presented(&first)).await;
    assert_eq!(server.user(&text(&second, "access_token")).await, 401);
}

#[actix_rt::test]
async fn unknown_foreign_and_malformed_tokens_get_the_same_response_and_end_nothing() {
    let (server, browser) = server_with(|launch| launch).await;
    let (web, spa) = (server.add_web_app(), server.add_spa());
    let body = server.log_in_with(&browser, &web).await;
    let native = server.log_in().await;
    let (access, refresh) = (text(&body, "access_token"), text(&body, "refresh_token"));
    let code = browser.code(&spa.request()).await;
    let tampered = tampered(&refresh);
    for token in [
        "x",
        "mb_rt_",
        "a.b.c",
        "\0",
        "é",
        &tampered,
        &access,
        &refresh,
        &native.access,
        &native.refresh,
        &code,
    ] {
        server.revoke(&spa, &presented(token)).await;
    }
    server.revoke(&web, &presented(&native.refresh)).await;
    server.revoke(&web, &presented(&native.access)).await;
    assert_eq!(server.user(&access).await, 200);
    tokens(&server.refresh_by(&web, &refresh).await);
    Tokens::of(&server.refresh(&native.refresh).await);
}

#[actix_rt::test]
async fn request_without_a_token_or_a_client_is_rejected() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let body = server.log_in_with(&browser, &client).await;
    let refresh = text(&body, "refresh_token");
    for form in [vec![], presented("")] {
        let response = server.as_client("/oauth/revoke", &client, &form).await;
        assert_error(&response, 400, "invalid_request");
    }
    let twice = [presented(&refresh), presented(&refresh)].concat();
    let response = server.as_client("/oauth/revoke", &client, &twice).await;
    assert_error(&response, 400, "invalid_request");
    let without = TestResponse::of(
        server.http.request("POST", "/oauth/revoke").send_form(&presented(&refresh)),
    );
    assert_error(&without.await, 400, "invalid_client");
    let no_secret = Client { secret: None, ..client.clone() };
    let response = server.as_client("/oauth/revoke", &no_secret, &presented(&refresh)).await;
    assert_error(&response, 400, "invalid_client");
    tokens(&server.refresh_by(&client, &refresh).await);
}

#[actix_rt::test]
async fn exceeded_limit_says_that_the_token_still_exists() {
    let (server, browser) = server_with(|launch| {
        launch.set("limits.enabled", "true").set("limits.logout", "1").set("limits.login", "100")
    })
    .await;
    let (web, spa) = (server.add_web_app(), server.add_spa());
    let refresh = text(&server.log_in_with(&browser, &spa).await, "refresh_token");
    let own = server.log_in_with(&browser, &web).await;
    server.revoke(&spa, &presented("x")).await;
    let busy = server.as_client("/oauth/revoke", &spa, &presented(&refresh)).await;
    assert_error(&busy, 503, "temporarily_unavailable");
    assert!(!busy.header("retry-after").is_empty());
    let junk = server.as_client("/oauth/revoke", &spa, &presented("x")).await;
    assert_error(&junk, 429, "too_many_requests");
    // The server of a confidential client logs all its users out from one address.
    server.revoke(&web, &presented(&text(&own, "refresh_token"))).await;
    assert_eq!(server.user(&text(&own, "access_token")).await, 401);
    tokens(&server.refresh_by(&spa, &refresh).await);
}

#[actix_rt::test]
async fn nothing_of_a_session_works_after_an_acknowledged_revocation_at_another_server() {
    let pair = Pair::with(&[]);
    let browser = pair.here.browser_of_ann().await;
    let client = pair.here.add_spa();
    for round in 0..10 {
        let first = pair.here.log_in_with(&browser, &client).await;
        let refresh = text(&first, "refresh_token");
        let refreshes: Vec<_> = (0..8)
            .map(|i| {
                let form = [
                    ("grant_type", "refresh_token".to_owned()),
                    ("refresh_token", refresh.clone()),
                    ("client_id", client.id.clone()),
                ];
                let request = pair.server(i).request("POST", "/oauth/token");
                actix_rt::spawn(async move { TestResponse::of(request.send_form(&form)).await })
            })
            .collect();
        actix_rt::time::sleep(Duration::from_millis(2 * round)).await;
        let form = [("token", refresh.as_str()), ("client_id", &client.id)];
        let there = pair.server(usize::try_from(round).unwrap()).request("POST", "/oauth/revoke");
        assert_eq!(TestResponse::of(there.send_form(&form)).await.status, 200);
        let mut held = vec![first];
        for response in refreshes {
            let response = response.await.unwrap();
            match response.status {
                200 => held.push(tokens(&response)),
                _ => assert_eq!(response.json()["reason"], "logged_out", "{}", response.text),
            }
        }
        for body in held {
            for server in [&pair.here.http, &pair.there] {
                let access = text(&body, "access_token");
                assert_eq!(server.get_as("/user", &access).await.status, 401);
            }
            let again = pair.here.refresh_by(&client, &text(&body, "refresh_token")).await;
            assert_eq!(again.json()["reason"], "logged_out", "{}", again.text);
        }
    }
}
