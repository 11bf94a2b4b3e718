//! Refresh by OAuth clients: the policy of each client, narrowing, lifetimes, and what must
//! never end a session.

use std::time::Duration;

use matchbook_testkit::TestResponse;
use serde_json::Value;

use super::{
    Client, Parameters, REDIRECT_URI, assert_error, exchange_of, server_with, set, text, tokens,
};
use crate::browser::{Browser, LOGIN_COOKIE};
use crate::support::{Server, Tokens, decode};

/// The claims of an access token, not verified.
pub(super) fn claims(body: &Value) -> Value {
    let access = text(body, "access_token");
    serde_json::from_slice(&decode(access.split('.').nth(1).unwrap())).unwrap()
}

fn refresh_form(refresh_token: &str) -> Parameters<'_> {
    vec![("grant_type", "refresh_token".into()), ("refresh_token", refresh_token.into())]
}

impl Server {
    /// Sends a refresh from an address, which a trusted proxy reports.
    async fn refresh_from(&self, address: &str, client: &Client, token: &str) -> TestResponse {
        let mut form = refresh_form(token);
        form.push(("client_id", client.id.as_str().into()));
        let request = self.http.request("POST", "/oauth/token");
        let request = request.insert_header(("x-forwarded-for", address));
        TestResponse::of(request.send_form(&form)).await
    }

    /// Counts the entries of a kind in the audit log.
    pub(super) fn events(&self, kind: &str) -> i64 {
        self.number(&format!("SELECT count(*) AS number FROM events WHERE kind = '{kind}'"))
    }

    /// Dates the last rotation of every session back.
    fn age_rotations(&self, seconds: u64) {
        self.sql(&if self.world.database_url().starts_with("postgres") {
            format!("UPDATE sessions SET rotated_at = rotated_at - interval '{seconds} s'")
        } else {
            format!("UPDATE sessions SET rotated_at = rotated_at - {seconds}000000")
        });
    }

    /// Registers a public client with a grace period.
    fn add_with_grace_period(&self, period: &str) -> Client {
        let options = ["--public", "--redirect-uri", REDIRECT_URI, "--first-party"];
        self.register_client("app", &[&options[..], &["--grace-period", period]].concat())
    }
}

#[actix_rt::test]
async fn two_addresses_get_the_same_pair_within_the_grace_period() {
    let (server, browser) =
        server_with(|launch| launch.set("server.trusted_proxies", "127.0.0.0/8")).await;
    let client = server.add_spa();
    let first = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    let one = tokens(&server.refresh_from("192.0.2.1", &client, &first).await);
    assert_eq!(server.events("reissued_elsewhere"), 0);
    let same = tokens(&server.refresh_from("192.0.2.1", &client, &first).await);
    assert_eq!(server.events("reissued_elsewhere"), 0);
    let other = tokens(&server.refresh_from("198.51.100.7", &client, &first).await);
    for again in [&same, &other] {
        assert_eq!(again["refresh_token"], one["refresh_token"]);
        assert_eq!(claims(again)["jti"], claims(&one)["jti"]);
    }
    assert_eq!(server.events("reissued_elsewhere"), 1);
}

#[actix_rt::test]
async fn grace_period_is_that_of_the_client() {
    let (server, browser) = server_with(|launch| launch).await;
    for (period, accepted, late) in [("default", 118, 4), ("20s", 18, 4), ("10m", 590, 15)] {
        let client = server.add_with_grace_period(period);
        let first = text(&server.log_in_with(&browser, &client).await, "refresh_token");
        let second = tokens(&server.refresh_by(&client, &first).await);
        server.age_rotations(accepted);
        let again = tokens(&server.refresh_by(&client, &first).await);
        assert_eq!(again["refresh_token"], second["refresh_token"], "{period}");
        server.age_rotations(late);
        let reused = server.refresh_by(&client, &first).await;
        assert_error(&reused, 400, "invalid_grant");
        assert_eq!(reused.json()["reason"], "reuse", "{period}");
        assert_eq!(server.user(&text(&second, "access_token")).await, 401);
    }
    let strict = server.add_with_grace_period("strict");
    let first = text(&server.log_in_with(&browser, &strict).await, "refresh_token");
    let second = tokens(&server.refresh_by(&strict, &first).await);
    assert_error(&server.refresh_by(&strict, &first).await, 400, "invalid_grant");
    assert_eq!(server.user(&text(&second, "access_token")).await, 401);
}

#[actix_rt::test]
async fn dead_token_that_is_presented_again_is_one_event() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_with_grace_period("strict");
    let first = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    tokens(&server.refresh_by(&client, &first).await);
    for _ in 0..4 {
        let reused = server.refresh_by(&client, &first).await;
        assert_error(&reused, 400, "invalid_grant");
        assert_eq!(reused.json()["reason"], "reuse");
    }
    assert_eq!(server.events("reuse_detected"), 1);
    assert!(server.events("refresh_rejected") <= 1);
}

#[actix_rt::test]
async fn refresh_right_after_the_exchange_can_be_repeated_after_the_retry_time_of_the_code() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_retry", "1s")).await;
    let client = server.add_spa();
    let first = server.log_in_with(&browser, &client).await;
    let first = text(&first, "refresh_token");
    let second = tokens(&server.refresh_by(&client, &first).await);
    assert_eq!(server.user(&text(&second, "access_token")).await, 200, "valid at once");
    // The sweeper clears the salt of the code, but not that of the refresh.
    actix_rt::time::sleep(Duration::from_millis(4500)).await;
    let again = tokens(&server.refresh_by(&client, &first).await);
    assert_eq!(again["refresh_token"], second["refresh_token"]);
}

#[actix_rt::test]
async fn scope_may_be_narrowed_for_one_access_token_and_never_widened() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    for wider in ["read admin", "read write read2", "offline_access", "\"", "é"] {
        let mut form = refresh_form(&token);
        set(&mut form, "scope", wider);
        assert_error(&server.token(&client, &form).await, 400, "invalid_scope");
    }
    let mut form = refresh_form(&token);
    set(&mut form, "scope", "write");
    let narrow = tokens(&server.token(&client, &form).await);
    assert_eq!((&narrow["scope"], &claims(&narrow)["scope"]), (&"write".into(), &"write".into()));
    let full = tokens(&server.refresh_by(&client, &text(&narrow, "refresh_token")).await);
    assert_eq!(claims(&full)["scope"], "read write");
}

#[actix_rt::test]
async fn resource_selects_among_the_audiences_of_the_grant() {
    let (server, browser) = server_with(|launch| launch).await;
    let (one, two) = ("https://one.example/api", "https://two.example/");
    let options = ["--public", "--redirect-uri", REDIRECT_URI, "--first-party"];
    let audiences = ["--audience", one, "--audience", two];
    let client = server.register_client("app", &[&options[..], &audiences].concat());
    let mut request = client.request();
    request.extend([("resource", one.into()), ("resource", two.into())]);
    let code = browser.code(&request).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    assert_eq!(claims(&body)["aud"], serde_json::json!([one, two]));
    assert_eq!(server.user(&text(&body, "access_token")).await, 401, "not for this server");

    let mut token = text(&body, "refresh_token");
    for foreign in
        ["https://localhost:5001", "https://one.example/", "https://one.example/api/", "x"]
    {
        let mut form = refresh_form(&token);
        set(&mut form, "resource", foreign);
        assert_error(&server.token(&client, &form).await, 400, "invalid_target");
    }
    for (resources, expected) in
        [(vec![one], serde_json::json!(one)), (vec![], serde_json::json!([one, two]))]
    {
        let mut form = refresh_form(&token);
        form.extend(resources.into_iter().map(|resource| ("resource", resource.into())));
        let body = tokens(&server.token(&client, &form).await);
        assert_eq!(claims(&body)["aud"], expected);
        token = text(&body, "refresh_token");
    }

    // The exchange of the code may narrow, too.
    let code = browser.code(&request).await;
    let mut exchange = exchange_of(&code);
    exchange.push(("resource", two.into()));
    let body = tokens(&server.token(&client, &exchange).await);
    assert_eq!(claims(&body)["aud"], two);
    // Without `resource` a token is for the default audience.
    let code = browser.code(&client.request()).await;
    let body = tokens(&server.token(&client, &exchange_of(&code)).await);
    assert_eq!(claims(&body)["aud"], "https://localhost:5001");
    assert_eq!(server.user(&text(&body, "access_token")).await, 200);
}

#[actix_rt::test]
async fn response_tells_the_remaining_lifetimes_exactly() {
    let (server, browser) = server_with(|launch| {
        launch.set("sessions.idle_lifetime", "1h").set("sessions.absolute_lifetime", "61m")
    })
    .await;
    let client = server.add_spa();
    let first = server.log_in_with(&browser, &client).await;
    let lifetimes = |body: &Value| {
        let seconds = |name: &str| body[name].as_u64().unwrap();
        (seconds("refresh_token_timeout"), seconds("authorization_expires_in"))
    };
    let (timeout, expires_in) = lifetimes(&first);
    assert!((3598..=3600).contains(&timeout), "{timeout}");
    assert!((3658..=3660).contains(&expires_in), "{expires_in}");
    let opened = std::time::Instant::now();
    actix_rt::time::sleep(Duration::from_secs(3)).await;
    let second = tokens(&server.refresh_by(&client, &text(&first, "refresh_token")).await);
    let (timeout, later) = lifetimes(&second);
    assert!((3598..=3600).contains(&timeout), "it begins again: {timeout}");
    let passed = opened.elapsed().as_secs();
    assert!((3..=passed + 1).contains(&(expires_in - later)), "{expires_in} {later}");
    // Near its end, the session limits both.
    server.sql(&if server.world.database_url().starts_with("postgres") {
        "UPDATE sessions SET expires_at = expires_at - interval '1800 s'".to_owned()
    } else {
        "UPDATE sessions SET expires_at = expires_at - 1800000000".to_owned()
    });
    let third = tokens(&server.refresh_by(&client, &text(&second, "refresh_token")).await);
    let (timeout, expires_in) = lifetimes(&third);
    assert_eq!(timeout, expires_in);
    assert!((1840..=1860).contains(&expires_in), "{expires_in}");
    let metadata = server.http.get("/.well-known/oauth-authorization-server").await.json();
    assert!(metadata["refresh_token_expiration_types_supported"].is_array(), "{metadata}");
}

#[actix_rt::test]
async fn exceeded_limit_never_looks_like_the_end_of_a_session() {
    let limits = [("limits.enabled", "true"), ("limits.refresh", "4"), ("limits.login", "100")];
    let (server, browser) =
        server_with(|launch| limits.iter().fold(launch, |launch, (k, v)| launch.set(k, v))).await;
    let (public, confidential) = (server.add_spa(), server.add_web_app());
    let first = text(&server.log_in_with(&browser, &public).await, "refresh_token");
    let code = browser.code(&public.request()).await;
    let own = text(&server.log_in_with(&browser, &confidential).await, "refresh_token");
    for _ in 0..2 {
        server.refresh_by(&public, "junk").await;
    }
    for response in
        [server.refresh_by(&public, &first).await, server.token(&public, &exchange_of(&code)).await]
    {
        assert_error(&response, 503, "temporarily_unavailable");
        let wait: u64 = response.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    for response in [
        server.refresh_by(&public, "junk").await,
        server.refresh_by(&public, &own).await,
        server.token(&public, &exchange_of("junk")).await,
        server.refresh_by(&Client { id: "unknown".to_owned(), secret: None }, &first).await,
    ] {
        assert_error(&response, 429, "too_many_requests");
        assert!(!response.header("retry-after").is_empty());
    }
    // The server of a confidential client acts for all its users from one address.
    tokens(&server.refresh_by(&confidential, &own).await);
    let machine = vec![("grant_type", "client_credentials".into())];
    let rejected = server.token(&confidential, &machine).await;
    assert_error(&rejected, 400, "unauthorized_client");
    let guess = Client { secret: Some("wrong".to_owned()), ..confidential };
    assert_error(&server.token(&guess, &machine).await, 429, "too_many_requests");
    assert_eq!(server.events("refresh_rejected"), 0);
}

#[actix_rt::test]
async fn exceeded_limit_of_a_session_is_503() {
    let (server, browser) =
        server_with(|launch| launch.set("limits.enabled", "true").set("limits.session", "2")).await;
    let client = server.add_spa();
    let mut token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    for _ in 0..2 {
        token = text(&tokens(&server.refresh_by(&client, &token).await), "refresh_token");
    }
    let busy = server.refresh_by(&client, &token).await;
    assert_error(&busy, 503, "temporarily_unavailable");
    assert_eq!(busy.header("retry-after"), "30");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn unavailable_database_is_503_and_ends_nothing() {
    let world = matchbook_testkit::TestEnv::new();
    let (relay, url) = world.database_proxy();
    let server = Server::within(world, |launch| {
        launch.variable("DATABASE_URL", &url).set("database.acquire_timeout", "300ms")
    });
    let browser = server.browser_of_ann().await;
    let client = server.add_web_app();
    let token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    let code = browser.code(&client.request()).await;
    relay.disconnect();
    let mut narrowing = refresh_form(&token);
    set(&mut narrowing, "scope", "read");
    let presented = vec![("token", token.as_str().into())];
    for response in [
        server.refresh_by(&client, &token).await,
        server.token(&client, &narrowing).await,
        server.token(&client, &exchange_of(&code)).await,
        server.as_client("/oauth/revoke", &client, &presented).await,
        server.as_client("/oauth/introspect", &client, &presented).await,
        server.refresh_by(&Client { id: "unread".to_owned(), secret: None }, &token).await,
    ] {
        assert_error(&response, 503, "temporarily_unavailable");
        assert_eq!(response.header("retry-after"), "1");
    }
    relay.restore();
    crate::support::eventually(200, async || server.refresh_by(&client, &token).await.status).await;
    tokens(&server.token(&client, &exchange_of(&code)).await);
}

#[actix_rt::test]
async fn refresh_token_of_another_client_is_invalid_and_its_session_untouched() {
    let (server, browser) = server_with(|launch| launch).await;
    let (web, spa) = (server.add_web_app(), server.add_spa());
    let own = text(&server.log_in_with(&browser, &web).await, "refresh_token");
    let native = server.log_in().await;
    for (client, token) in [(&spa, &own), (&spa, &native.refresh), (&web, &native.refresh)] {
        let response = server.refresh_by(client, token).await;
        assert_error(&response, 400, "invalid_grant");
        assert!(response.json().get("reason").is_none(), "{}", response.text);
    }
    let at_native = server.refresh(&own).await;
    assert_eq!((at_native.status, at_native.field("error").as_str()), (401, "invalid_grant"));
    assert!(at_native.json().get("reason").is_none(), "{}", at_native.text);
    let logout = server.http.post("/logout", &format!("refresh_token={own}")).await;
    assert_eq!(logout.status, 401, "{}", logout.text);
    tokens(&server.refresh_by(&web, &own).await);
    Tokens::of(&server.refresh(&native.refresh).await);
    assert_eq!(server.events("refresh_rejected") + server.events("reuse_detected"), 0);
}

#[actix_rt::test]
async fn access_token_of_a_client_does_not_manage_sessions_or_the_account() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let access = text(&server.log_in_with(&browser, &client).await, "access_token");
    for (method, path) in [
        ("GET", "/sessions"),
        ("DELETE", "/sessions"),
        ("DELETE", "/sessions/0190f1de-8f2c-7c3a-9b1a-3f3a4b5c6d7e"),
        ("POST", "/logout"),
        ("GET", "/account"),
        ("PATCH", "/account"),
        ("DELETE", "/account"),
        ("POST", "/password"),
        ("POST", "/account/totp"),
    ] {
        let request = server.http.request(method, path).bearer_auth(&access);
        let body = serde_json::json!({ "current": super::PASSWORD, "password": super::PASSWORD });
        let response = match method {
            "GET" => TestResponse::of(request.send()).await,
            _ if path == "/logout" => TestResponse::of(request.send()).await,
            _ => TestResponse::of(request.send_json(&body)).await,
        };
        assert_eq!(response.status, 403, "{method} {path}: {}", response.text);
        assert_eq!(response.field("error"), "insufficient_scope");
        let challenge = response.header("www-authenticate");
        assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    }
    assert_eq!(server.user(&access).await, 200);
}

#[actix_rt::test]
async fn user_shows_what_the_scope_permits() {
    let (server, browser) = server_with(|launch| launch).await;
    let options = ["--public", "--redirect-uri", REDIRECT_URI, "--first-party"];
    let scopes = ["--scope", "read profile email"];
    let client = server.register_client("app", &[&options[..], &scopes].concat());
    for (scope, has_name) in [("read", false), ("profile", true), ("email", false)] {
        let mut request = client.request();
        set(&mut request, "scope", scope);
        let code = browser.code(&request).await;
        let body = tokens(&server.token(&client, &exchange_of(&code)).await);
        let user = server.http.get_as("/user", &text(&body, "access_token")).await.json();
        assert_eq!(user.get("name").is_some_and(|name| name == "ann"), has_name, "{scope} {user}");
        assert_eq!(user.get("emailVerified").is_some_and(Value::is_boolean), scope == "email");
    }
}

#[actix_rt::test]
async fn end_of_the_login_in_the_browser_ends_no_refresh_token() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    browser.set_cookie(LOGIN_COOKIE, "");
    server.sql("DELETE FROM login_sessions");
    assert!(!Browser::is_logged_in(&browser).await);
    tokens(&server.refresh_by(&client, &token).await);
}

#[actix_rt::test]
async fn idempotency_key_works_as_at_the_native_endpoint() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_with_grace_period("1s");
    let token = text(&server.log_in_with(&browser, &client).await, "refresh_token");
    let with_key = async |key: &str| {
        let mut form = refresh_form(&token);
        form.push(("client_id", client.id.as_str().into()));
        let request = server.http.request("POST", "/oauth/token");
        TestResponse::of(request.insert_header(("idempotency-key", key)).send_form(&form)).await
    };
    assert_error(&with_key("short").await, 400, "invalid_request");
    let first = tokens(&with_key("a-key-of-some-length").await);
    server.age_rotations(3600);
    let again = tokens(&with_key("a-key-of-some-length").await);
    assert_eq!(again["refresh_token"], first["refresh_token"]);
    assert_eq!(server.events("refresh_recovered"), 1);
}
