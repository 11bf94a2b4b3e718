//! The JSON API of the page, its events, and the files of the page.

use matchbook_testkit::TestResponse;
use serde_json::json;

use super::support::{Browser, Setup, assert_error, wait_for_expiry};

#[actix_rt::test]
async fn an_open_page_receives_the_401_the_refresh_and_the_retry_in_order() {
    let setup = Setup::start(|server| server.set("tokens.access_lifetime", "2s"));
    let browser = Browser::open(&setup.client).await;
    let mut events = browser.events().await;
    assert_eq!(events.next().await, Some(("state".to_owned(), json!({ "loggedIn": false }))));
    browser.log_in().await;
    let state = events.state().await;
    assert_eq!((&state["loggedIn"], &state["generation"]), (&json!(true), &json!(0)));
    assert_eq!(state["lifetime"].as_f64(), Some(2.0), "{state}");
    assert!(state["age"].is_f64(), "{state}");
    assert!((0.0..=2.0).contains(&state["remaining"].as_f64().unwrap()), "{state}");
    events.exchanges_until("/api/login").await;
    browser.user().await;
    assert_eq!(events.exchanges_until("/api/info").await, ["GET /user 200"]);

    wait_for_expiry(2).await;
    browser.user().await;
    assert_eq!(
        events.exchanges_until("/api/info").await,
        ["GET /user 401", "POST /refresh 200", "GET /user 200"]
    );
    assert_eq!(browser.call("POST", "/api/refresh").await.status, 204);
    assert_eq!(events.state().await["generation"], 2);
    assert_eq!(browser.call("POST", "/api/logout").await.status, 204);
    let state = events.state().await;
    assert_eq!(state["loggedIn"], false, "{state}");
    assert_eq!(state["ended"]["reason"], "logged_out", "{state}");
}

#[actix_rt::test]
async fn a_page_receives_no_events_of_other_browsers() {
    let setup = Setup::start(|server| server);
    let one = Browser::open(&setup.client).await;
    let other = Browser::open(&setup.client).await;
    let mut events = other.events().await;
    one.log_in().await;
    one.user().await;
    setup.http.get("/login").await;
    other.call("POST", "/api/logout").await;
    assert_eq!(events.state().await, json!({ "loggedIn": false }));
    assert_eq!(events.exchanges_until("/api/logout").await, [""; 0]);
}

#[actix_rt::test]
async fn a_burst_with_an_expired_token_causes_one_refresh() {
    let mut setup = Setup::start(|server| server.set("tokens.access_lifetime", "3s"));
    let browser = Browser::open(&setup.client).await;
    assert_error(&browser.call("POST", "/api/burst").await, 401, "not_logged_in");
    browser.log_in().await;
    let mut events = browser.events().await;
    wait_for_expiry(3).await;
    let burst = browser.call("POST", "/api/burst").await;
    assert_eq!((burst.status, burst.json()), (200, json!({ "succeeded": 50, "failed": 0 })));
    let exchanges = events.exchanges_until("/api/burst").await;
    let count = |text: &str| exchanges.iter().filter(|exchange| *exchange == text).count();
    assert_eq!((count("POST /refresh 200"), count("GET /user 200")), (1, 50), "{exchanges:?}");
    assert_eq!(count("GET /user 401"), exchanges.len() - 51, "{exchanges:?}");
    assert!(count("GET /user 401") > 1, "many requests got 401");
    assert!(setup.client.stop().success());
    assert_eq!(setup.client.logged("POST /refresh"), 1);
}

#[actix_rt::test]
async fn the_page_lists_and_ends_sessions() {
    let setup = Setup::start(|server| server);
    let browser = Browser::open(&setup.client).await;
    browser.log_in().await;
    let listed = browser.call("GET", "/api/sessions").await.json();
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["current"]), (1, &json!(true)));
    for name in ["createdAt", "lastUsedAt", "expiresAt", "ip"] {
        assert!(listed[0][name].is_string(), "{listed}");
    }
    assert_error(&browser.call("DELETE", "/api/sessions/none").await, 404, "not_found");
    assert_eq!(browser.call("DELETE", &format!("/api/sessions/{id}")).await.status, 204);
    assert_error(&browser.call("POST", "/api/info").await, 401, "not_logged_in");

    browser.log_in().await;
    let ended = browser.call("POST", "/api/logout-everywhere").await;
    assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 1 })));
    assert_error(&browser.call("GET", "/api/sessions").await, 401, "not_logged_in");
    assert_error(&browser.call("GET", "/api/nothing").await, 404, "not_found");
}

#[actix_rt::test]
async fn api_calls_get_503_with_retry_after_while_the_server_is_unavailable() {
    let mut setup = Setup::start(|server| server);
    let browser = Browser::open(&setup.client).await;
    browser.log_in().await;
    assert!(setup.server.stop().success());
    for path in ["/api/info", "/api/burst", "/api/login", "/api/logout"] {
        let response = browser.call("POST", path).await;
        assert_error(&response, 503, "unavailable");
        assert_eq!(response.header("retry-after"), "1");
    }
    assert_eq!(browser.events().await.state().await["loggedIn"], true, "the tokens are kept");
}

#[actix_rt::test]
async fn every_response_has_the_security_headers() {
    let setup = Setup::start(|server| server);
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (path, status, kind) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/page.js", 200, "text/javascript; charset=utf-8"),
        ("/diagram.js", 200, "text/javascript; charset=utf-8"),
        ("/accounts.js", 200, "text/javascript; charset=utf-8"),
        ("/accounts.css", 200, "text/css; charset=utf-8"),
        ("/style.css", 200, "text/css; charset=utf-8"),
        ("/diagram.css", 200, "text/css; charset=utf-8"),
        ("/favicon.svg", 200, "image/svg+xml"),
        ("/info", 401, "text/plain; charset=utf-8"),
        ("/login", 200, "text/plain; charset=utf-8"),
        ("/api/events", 401, "application/json"),
        ("/nothing", 404, ""),
    ] {
        let response = setup.http.get(path).await;
        assert_eq!((response.status, response.header("content-type")), (status, kind), "{path}");
        assert_eq!(response.header("content-security-policy"), policy);
        assert_eq!(response.header("x-content-type-options"), "nosniff");
        assert_eq!(response.header("referrer-policy"), "no-referrer");
        assert_eq!(response.header("cache-control"), "no-store");
        assert_eq!(response.header("cross-origin-resource-policy"), "same-origin");
    }
}

#[actix_rt::test]
async fn the_page_never_receives_a_token() {
    let setup = Setup::start(|server| server.set("tokens.access_lifetime", "1s"));
    let browser = Browser::open(&setup.client).await;
    let mut events = browser.events().await;
    browser.log_in().await;
    wait_for_expiry(1).await;
    let mut received = String::new();
    for (method, path) in [
        ("POST", "/api/info"),
        ("POST", "/api/burst"),
        ("POST", "/api/refresh"),
        ("GET", "/api/sessions"),
        ("GET", "/"),
        ("POST", "/api/logout-everywhere"),
        ("POST", "/api/refresh"),
    ] {
        let response = browser.call(method, path).await;
        received = format!("{received}{:?}{}", response.headers, response.text);
    }
    events.exchanges_until("/api/logout-everywhere").await;
    received.push_str(&events.text);
    assert!(received.contains("POST\",\"path\":\"/refresh\",\"status\":200"), "{received}");
    let cookie = browser.cookie();
    let id = cookie.split_once('=').unwrap().1;
    for secret in ["mb_rt_", "eyJ", id] {
        assert!(!received.contains(secret), "{secret} in {received}");
    }
}

#[actix_rt::test]
async fn head_responses_equal_get_without_the_body() {
    let setup = Setup::start(|server| server);
    for path in ["/", "/page.js", "/style.css", "/favicon.svg", "/health/live"] {
        let head = TestResponse::of(setup.http.request("HEAD", path).send()).await;
        let get = setup.http.get(path).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    assert_eq!(TestResponse::of(setup.http.request("HEAD", "/login").send()).await.status, 404);
}
