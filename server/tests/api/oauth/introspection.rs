//! Introspection (RFC 7662).

use serde_json::{Value, json};

use super::{Client, REDIRECT_URI, assert_error, exchange_of, server_with, tampered, text, tokens};
use crate::support::{Server, eventually};

impl Server {
    /// Introspects a token.
    pub(super) async fn introspect(&self, client: &Client, token: &str) -> Value {
        let form = vec![("token", token.into())];
        let response = self.as_client("/oauth/introspect", client, &form).await;
        assert_eq!(response.status, 200, "{}", response.text);
        assert_eq!(response.header("cache-control"), "no-store");
        response.json()
    }
}

#[actix_rt::test]
async fn active_tokens_are_described_to_their_client() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let body = server.log_in_with(&browser, &client).await;
    let access = server.introspect(&client, &text(&body, "access_token")).await;
    assert_eq!(access["active"], true);
    for (name, expected) in [
        ("client_id", json!(client.id)),
        ("iss", json!("https://localhost:5001")),
        ("aud", json!("https://localhost:5001")),
        ("token_type", json!("Bearer")),
        ("scope", json!("read")),
    ] {
        assert_eq!(access[name], expected, "{name}");
    }
    let user = server.http.get_as("/user", &text(&body, "access_token")).await;
    assert_eq!(access["sub"], user.json()["userId"]);
    for name in ["sub", "jti", "sid"] {
        assert!(access[name].is_string(), "{name}");
    }
    let lifetime = access["exp"].as_i64().unwrap() - access["iat"].as_i64().unwrap();
    assert_eq!(lifetime, 900);

    let refresh = server.introspect(&client, &text(&body, "refresh_token")).await;
    for name in ["active", "sub", "client_id", "iss", "sid", "scope"] {
        assert_eq!(refresh[name], access[name], "{name}");
    }
    assert!(refresh["exp"].as_i64() > access["exp"].as_i64());
}

#[actix_rt::test]
async fn inactive_and_foreign_tokens_look_the_same() {
    let (server, browser) = server_with(|launch| launch.set("tokens.access_lifetime", "3s")).await;
    let (web, spa) = (server.add_web_app(), server.add_spa());
    let inactive = json!({ "active": false });
    let body = server.log_in_with(&browser, &web).await;
    let foreign = server.log_in_with(&browser, &spa).await;
    let native = server.log_in().await;
    let refresh = text(&body, "refresh_token");
    let tampered = tampered(&refresh);
    for token in [
        "x",
        "a.b.c",
        "\0",
        &tampered,
        &native.access,
        &native.refresh,
        &text(&foreign, "access_token"),
        &text(&foreign, "refresh_token"),
        &browser.code(&web.request()).await,
    ] {
        assert_eq!(server.introspect(&web, token).await, inactive, "{token}");
    }
    let next = tokens(&server.refresh_by(&web, &refresh).await);
    assert_eq!(server.introspect(&web, &refresh).await, inactive, "rotated");
    let access = text(&next, "access_token");
    assert_eq!(server.introspect(&web, &access).await["active"], true);
    eventually(inactive.clone(), async || server.introspect(&web, &access).await).await;
    let current = text(&next, "refresh_token");
    assert_eq!(server.introspect(&web, &current).await["active"], true);
    let form = vec![("token", current.as_str().into())];
    assert_eq!(server.as_client("/oauth/revoke", &web, &form).await.status, 200);
    assert_eq!(server.introspect(&web, &current).await, inactive);
    assert_eq!(server.introspect(&web, &access).await, inactive);
}

#[actix_rt::test]
async fn resource_server_may_introspect_tokens_for_its_audience() {
    let (server, browser) = server_with(|launch| launch).await;
    let api = "https://api.example/v1";
    let resource_server =
        server.register_client("api", &["--confidential", "--machine", "--audience", api]);
    let options = ["--public", "--redirect-uri", REDIRECT_URI, "--first-party"];
    let app = server.register_client("app", &[&options[..], &["--audience", api]].concat());
    let mut request = app.request();
    request.push(("resource", api.into()));
    let code = browser.code(&request).await;
    let body = tokens(&server.token(&app, &exchange_of(&code)).await);
    let access = server.introspect(&resource_server, &text(&body, "access_token")).await;
    assert_eq!((&access["active"], &access["client_id"]), (&json!(true), &json!(app.id)));
    let refresh = server.introspect(&resource_server, &text(&body, "refresh_token")).await;
    assert_eq!(refresh, json!({ "active": false }), "a refresh token is for its client");
    let other = server.log_in_with(&browser, &app).await;
    let other = server.introspect(&resource_server, &text(&other, "access_token")).await;
    assert_eq!(other, json!({ "active": false }), "for another audience");
}

#[actix_rt::test]
async fn caller_is_authenticated_before_the_token_is_read() {
    let (server, browser) = server_with(|launch| launch).await;
    let (web, spa) = (server.add_web_app(), server.add_spa());
    let body = server.log_in_with(&browser, &spa).await;
    let wrong = Client { secret: Some("wrong".to_owned()), ..web.clone() };
    let mut bodies = std::collections::BTreeSet::new();
    for token in
        [text(&body, "access_token"), text(&body, "refresh_token"), "x".to_owned(), String::new()]
    {
        let form = vec![("token", token.as_str().into())];
        let public = server.as_client("/oauth/introspect", &spa, &form).await;
        assert_error(&public, 400, "invalid_client");
        let rejected = server.as_client("/oauth/introspect", &wrong, &form).await;
        assert_error(&rejected, 401, "invalid_client");
        bodies.insert(rejected.text);
    }
    assert_eq!(bodies.len(), 1);
    let missing = server.as_client("/oauth/introspect", &web, &vec![]).await;
    assert_error(&missing, 400, "invalid_request");
}
