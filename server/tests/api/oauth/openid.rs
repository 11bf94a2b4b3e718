//! `OpenID` Connect: ID tokens, the userinfo endpoint, and the claims of scopes.

use std::time::Duration;

use matchbook_testkit::TestResponse;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sign::Verifier;
use serde_json::{Value, json};

use super::authorization::{assert_error_redirect, redirect_path};
use super::refreshing::claims;
use super::{
    Client, PASSWORD, Parameters, exchange_of, redirect_of, server_with, set, text, tokens,
};
use crate::browser::Browser;
use crate::support::{Server, binary, decode, encode};

const USERINFO: &str = "/oauth/userinfo";

impl Server {
    /// Exchanges a code for this scope, and returns the response.
    pub(super) async fn log_in_for(
        &self,
        browser: &Browser,
        client: &Client,
        scope: &str,
    ) -> Value {
        let mut request = client.request();
        set(&mut request, "scope", scope);
        set(&mut request, "nonce", "a nonce");
        let code = browser.code(&request).await;
        tokens(&self.token(client, &exchange_of(&code)).await)
    }

    /// Verifies the ID token of a response with the published keys, and returns its claims.
    pub(crate) async fn id_token(&self, body: &Value) -> Value {
        let token = text(body, "id_token");
        let parts: Vec<&str> = token.split('.').collect();
        let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
        assert_eq!((&header["alg"], &header["typ"]), (&json!("RS256"), &json!("JWT")));
        let keys = self.http.get("/.well-known/jwks.json").await.json();
        let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]);
        let number =
            |name: &str| BigNum::from_slice(&decode(key.unwrap()[name].as_str().unwrap())).unwrap();
        let key = Rsa::from_public_components(number("n"), number("e")).unwrap();
        let key = PKey::from_rsa(key).unwrap();
        let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
        let signed = format!("{}.{}", parts[0], parts[1]);
        assert!(verifier.verify_oneshot(&decode(parts[2]), signed.as_bytes()).unwrap());
        serde_json::from_slice(&decode(parts[1])).unwrap()
    }

    async fn userinfo(&self, access_token: &str) -> TestResponse {
        self.http.get_as(USERINFO, access_token).await
    }
}

fn hash_of(access_token: &str) -> String {
    encode(&openssl::sha::sha256(access_token.as_bytes())[..16])
}

#[actix_rt::test]
async fn id_token_belongs_to_client_session_and_access_token() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let body = server.log_in_for(&browser, &client, "openid read").await;
    let (id, access) = (server.id_token(&body).await, claims(&body));
    assert_eq!(id["aud"], client.id);
    for name in ["iss", "sub", "sid", "exp", "iat", "auth_time"] {
        assert!(!id[name].is_null(), "{name}");
        assert_eq!(id[name], access[name], "{name}");
    }
    assert_eq!(id["nonce"], "a nonce");
    assert_eq!(id["at_hash"], hash_of(&text(&body, "access_token")));
    assert_eq!(body["scope"], "openid read");
    // Without the scopes, there is nothing about the user.
    let mut names: Vec<_> = id.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["at_hash", "aud", "auth_time", "exp", "iat", "iss", "nonce", "sid", "sub"]);
}

#[actix_rt::test]
async fn response_has_an_id_token_only_with_the_scope_openid() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    for scope in ["read", "profile email", "openid2", "open id"] {
        let mut request = client.request();
        set(&mut request, "scope", scope);
        let response = browser.authorize(&request).await;
        if scope.contains("open") {
            assert_error_redirect(&response, "invalid_scope");
            continue;
        }
        let code = redirect_of(&response)["code"].clone();
        let body = tokens(&server.token(&client, &exchange_of(&code)).await);
        assert!(body["id_token"].is_null(), "{scope}");
        let refreshed = server.refresh_by(&client, &text(&body, "refresh_token")).await;
        assert!(tokens(&refreshed)["id_token"].is_null(), "{scope}");
    }
    // A request without nonce gets a token without it.
    let mut request = client.request();
    set(&mut request, "scope", "openid");
    let code = browser.code(&request).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    assert!(server.id_token(&body).await.get("nonce").is_none());
}

#[actix_rt::test]
async fn refresh_returns_a_new_id_token_of_the_same_login() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let first = server.log_in_for(&browser, &client, "openid read").await;
    let old = server.id_token(&first).await;
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let second = tokens(&server.refresh_by(&client, &text(&first, "refresh_token")).await);
    let new = server.id_token(&second).await;
    for name in ["iss", "sub", "aud", "sid", "auth_time"] {
        assert_eq!(new[name], old[name], "{name}");
    }
    assert!(new["iat"].as_i64() > old["iat"].as_i64());
    assert!(new.get("nonce").is_none());
    assert_eq!(new["at_hash"], hash_of(&text(&second, "access_token")));
    // The same refresh again gets the same access token, and an ID token for it.
    let again = tokens(&server.refresh_by(&client, &text(&first, "refresh_token")).await);
    assert_eq!(server.id_token(&again).await, new);
    // A narrower access token without `openid` comes without an ID token.
    let form: Parameters<'_> = vec![
        ("grant_type", "refresh_token".into()),
        ("refresh_token", text(&second, "refresh_token").into()),
        ("scope", "read".into()),
    ];
    let narrowed = tokens(&server.token(&client, &form).await);
    assert!(narrowed["id_token"].is_null());
    assert_eq!(server.userinfo(&text(&narrowed, "access_token")).await.status, 403);
}

#[actix_rt::test]
async fn repeated_exchange_returns_the_nonce_again() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let mut request = client.request();
    set(&mut request, "scope", "openid");
    set(&mut request, "nonce", "n-0S6_WzA2Mj");
    let code = browser.code(&request).await;
    for _ in 0..2 {
        let body = tokens(&server.token(&client, &exchange_of(&code)).await);
        assert_eq!(server.id_token(&body).await["nonce"], "n-0S6_WzA2Mj");
    }
}

#[actix_rt::test]
async fn scopes_give_their_claims_in_id_token_and_userinfo() {
    let server = Server::start();
    server.register("ann@example.com", PASSWORD).await;
    let browser = Browser::at(&server);
    assert_eq!(browser.log_in("ann@example.com", PASSWORD).await.status, 303);
    let client = server.add_web_app();
    let body = server.log_in_for(&browser, &client, "openid profile email groups").await;
    let sub = server.id_token(&body).await["sub"].clone();
    let id = sub.as_str().unwrap();
    let added = server.command_json(&["users", "group", "add", id, "staff", "--json"]);
    assert_eq!(added, json!({"changed": true, "groups": ["staff"]}));
    for group in ["admins", "staff"] {
        server.command_json(&["users", "group", "add", id, group, "--json"]);
    }
    let native = server.log_in_as("ann@example.com", PASSWORD).await;
    let rename = server.http.request("PATCH", "/account").bearer_auth(&native.access);
    let renamed = TestResponse::of(rename.send_json(&json!({"displayName": "Ann B."}))).await;
    assert_eq!(renamed.status, 200, "{}", renamed.text);
    let cases = [
        ("openid", json!({})),
        ("openid profile", json!({"name": "Ann B.", "preferred_username": "ann@example.com"})),
        ("openid email", json!({"email": "ann@example.com", "email_verified": false})),
        ("openid groups", json!({"groups": ["admins", "staff"]})),
        ("openid address phone", json!({})),
    ];
    for (scope, expected) in cases {
        let body = server.log_in_for(&browser, &client, scope).await;
        let userinfo = server.userinfo(&text(&body, "access_token")).await;
        assert_eq!(userinfo.status, 200, "{}", userinfo.text);
        assert_eq!(userinfo.header("cache-control"), "no-store");
        let mut userinfo = userinfo.json();
        assert_eq!(userinfo.as_object_mut().unwrap().remove("sub"), Some(sub.clone()), "{scope}");
        assert_eq!(userinfo, expected, "{scope}");
        let mut id = server.id_token(&body).await;
        let protocol = ["at_hash", "aud", "auth_time", "exp", "iat", "iss", "nonce", "sid", "sub"];
        id.as_object_mut().unwrap().retain(|name, _| !protocol.contains(&name.as_str()));
        assert_eq!(id, expected, "{scope}");
    }
    // The next token has what changed.
    let removed = server.command_json(&["users", "group", "remove", id, "staff", "--json"]);
    assert_eq!(removed, json!({"changed": true, "groups": ["admins"]}));
    let refreshed = tokens(&server.refresh_by(&client, &text(&body, "refresh_token")).await);
    let refreshed = server.id_token(&refreshed).await;
    assert_eq!(refreshed["groups"], json!(["admins"]));
    assert_eq!(refreshed["email"], "ann@example.com");
}

#[actix_rt::test]
async fn user_name_is_the_preferred_username() {
    let (server, browser) = server_with(|launch| launch).await;
    let body = server.log_in_for(&browser, &server.add_web_app(), "openid profile").await;
    let id = server.id_token(&body).await;
    assert_eq!(id["preferred_username"], "ann");
    assert!(id.get("name").is_none() && id.get("email").is_none());
}

#[actix_rt::test]
async fn userinfo_takes_the_token_from_header_or_form() {
    let (server, browser) = server_with(|launch| launch).await;
    let body = server.log_in_for(&browser, &server.add_web_app(), "openid profile").await;
    let access = text(&body, "access_token");
    let expected = server.userinfo(&access).await.json();
    assert_eq!(expected["sub"], server.id_token(&body).await["sub"]);
    let post = || server.http.request("POST", USERINFO);
    let empty: [(&str, &str); 0] = [];
    for response in [
        TestResponse::of(post().bearer_auth(&access).send()).await,
        TestResponse::of(post().bearer_auth(&access).send_form(&empty)).await,
        TestResponse::of(post().bearer_auth(&access).send_body("not a form")).await,
        TestResponse::of(post().send_form(&[("access_token", &access)])).await,
        TestResponse::of(post().send_form(&[("access_token", &access), ("other", &access)])).await,
        server.http.get_as("/oauth/userinfo?schema=openid&claims=x", &access).await,
    ] {
        assert_eq!(response.status, 200, "{}", response.text);
        assert_eq!(response.json(), expected);
    }
    let form = [("access_token", access.as_str())];
    let twice = TestResponse::of(post().bearer_auth(&access).send_form(&form)).await;
    assert_eq!((twice.status, &twice.json()["error"]), (400, &json!("invalid_request")));
    let in_url = server.http.get(&format!("{USERINFO}?access_token={access}")).await;
    assert_eq!(in_url.status, 400);
    let repeated = [("access_token", &access), ("access_token", &access)];
    let repeated = TestResponse::of(post().send_form(&repeated)).await;
    assert_eq!(repeated.status, 400, "{}", repeated.text);
    let large = [("access_token", access.as_str()), ("padding", &"x".repeat(300_000))];
    assert_eq!(TestResponse::of(post().send_form(&large)).await.status, 413);
    let request = server.http.request("POST", &format!("{USERINFO}?access_token=x"));
    assert_eq!(TestResponse::of(request.send_form(&form)).await.status, 400);
    assert_eq!(TestResponse::of(post().send()).await.status, 401);
}

#[actix_rt::test]
async fn userinfo_rejects_tokens_that_do_not_permit_it() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_web_app();
    let rejected = |response: &TestResponse, status: u16, word: &str| {
        assert_eq!(response.status, status, "{}", response.text);
        let challenge = response.header("www-authenticate").to_owned();
        assert!(challenge.starts_with("Bearer ") && challenge.contains(word), "{challenge}");
    };
    let none = server.http.get(USERINFO).await;
    rejected(&none, 401, "realm");
    assert!(!none.header("www-authenticate").contains("error"));
    let without_scope = server.log_in_with(&browser, &client).await;
    let access = text(&without_scope, "access_token");
    rejected(&server.userinfo(&access).await, 403, "insufficient_scope");
    let native = server.log_in_as("ann", PASSWORD).await;
    rejected(&server.userinfo(&native.access).await, 403, "insufficient_scope");
    let body = server.log_in_for(&browser, &client, "openid").await;
    // An ID token is no access token.
    let id_token = text(&body, "id_token");
    rejected(&server.userinfo(&id_token).await, 401, "invalid_token");
    assert_eq!(server.user(&id_token).await, 401);
    let form: Parameters<'_> = vec![("token", text(&body, "refresh_token").into())];
    assert_eq!(server.as_client("/oauth/revoke", &client, &form).await.status, 200);
    rejected(&server.userinfo(&text(&body, "access_token")).await, 401, "invalid_token");
}

#[actix_rt::test]
async fn hint_names_the_user_that_the_client_expects() {
    let (server, browser) = server_with(|launch| launch.set("tokens.access_lifetime", "1s")).await;
    let client = server.add_web_app();
    let hint = text(&server.log_in_for(&browser, &client, "openid").await, "id_token");
    server.register("bob", PASSWORD).await;
    let other = Browser::at(&server);
    assert_eq!(other.log_in("bob", PASSWORD).await.status, 303);
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let mut request = client.request();
    set(&mut request, "id_token_hint", &hint);
    // It has expired meanwhile, which does not matter.
    assert!(redirect_of(&browser.authorize(&request).await).contains_key("code"));
    let asked = other.authorize(&request).await;
    assert!(redirect_path("/oauth/authorize", &asked).starts_with("/login?"));
    // Bob logs in again, and gets no further.
    let done = other.log_in_as_and_continue("bob", &asked).await;
    assert_error_redirect(&done, "login_required");
    set(&mut request, "prompt", "none");
    assert!(redirect_of(&browser.authorize(&request).await).contains_key("code"));
    assert_error_redirect(&other.authorize(&request).await, "login_required");
    let access = text(&server.log_in_for(&browser, &client, "openid").await, "access_token");
    let (signed, _) = hint.rsplit_once('.').unwrap();
    for forged in [format!("{signed}.AAAA"), "x".to_owned(), access] {
        let mut request = request.clone();
        set(&mut request, "id_token_hint", &forged);
        assert_error_redirect(&browser.authorize(&request).await, "login_required");
    }
}

#[actix_rt::test]
async fn group_commands_reject_unknown_users_and_other_names() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    for (arguments, problem) in [
        (["group", "add", "unknown", "staff"], "there is no user"),
        (["group", "add", "ann", "two words"], "the name of a group has"),
        (["group", "remove", "ann", ""], "the name of a group has"),
    ] {
        let output = server.world.server(binary()).run(&[&["users"], &arguments[..]].concat());
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(problem), "{output:?}");
    }
    for i in 0..50 {
        let group = format!("group-{i:02}");
        server.command_json(&["users", "group", "add", "ann", &group, "--json"]);
    }
    let output =
        server.world.server(binary()).run(&["users", "group", "add", "ann", "one-too-many"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("as many groups as possible"));
    let listed = server.command_json(&["users", "group", "list", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 50);
    assert_eq!(listed[0], json!({"group": "group-00", "users": 1}));
    let shown = server.command_json(&["users", "show", "ann", "--json"]);
    assert_eq!(shown["groups"].as_array().unwrap().len(), 50);
}
