//! Accounts on the page: registration, login, several sessions, their ends.

use matchbook_client::{Client, Credentials, FileStore, RootCerts, Server};
use matchbook_testkit::{Http, ScriptedServer, TestEnv, TestResponse};
use serde_json::{Value, json};
use std::time::Duration;

use super::support::{Browser, Setup, assert_error, client, cookie_of, server_binary};

const FIREFOX: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0";

const CHROME: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Mobile Safari/537.36";

const LOG_IN: &str = "/api/account/login";

const REGISTER: &str = "/api/account/register";

const PASSWORD: &str = "violet tractor seven hums";

fn form(name: &str, password: &str) -> Value {
    json!({ "name": name, "password": password })
}

/// Opens a browser and registers an account with it.
async fn registered(setup: &Setup, user_agent: &'static str) -> Browser {
    let browser = Browser::open(&setup.client).await.with_user_agent(user_agent);
    let response = browser.submit(REGISTER, &form("anna@example.com", PASSWORD)).await;
    assert_eq!((response.status, response.json()), (200, json!({ "loggedIn": true })));
    browser
}

/// Opens a browser and logs in to the account.
async fn logged_in(setup: &Setup, user_agent: &'static str) -> Browser {
    let browser = Browser::open(&setup.client).await.with_user_agent(user_agent);
    let response = browser.submit(LOG_IN, &form("anna@example.com", PASSWORD)).await;
    assert_eq!(response.status, 204, "{}", response.text);
    browser
}

/// Returns the sessions that a browser lists: its own first.
async fn sessions(browser: &Browser) -> Vec<Value> {
    let listed = browser.call("GET", "/api/sessions").await.json();
    let mut listed = listed.as_array().unwrap().clone();
    listed.sort_by_key(|session| session["current"] == false);
    listed
}

fn devices(sessions: &[Value]) -> Vec<&str> {
    sessions.iter().map(|session| session["device"].as_str().unwrap()).collect()
}

#[actix_rt::test]
async fn two_browsers_of_an_account_are_listed_by_name_and_one_ends_the_other() {
    let setup = Setup::start(|server| server);
    let one = registered(&setup, FIREFOX).await;
    let other = logged_in(&setup, CHROME).await;
    assert_eq!(one.user().await, other.user().await);
    let info = one.call("POST", "/api/info").await;
    assert_eq!(info.field("name"), "anna@example.com");
    let listed = sessions(&one).await;
    assert_eq!(devices(&listed), ["Firefox on Windows", "Chrome on Android"]);
    assert_eq!(listed[1]["userAgent"], CHROME);
    assert!(listed[1]["lastUsedAt"].is_string() && listed[1]["ip"].is_string());

    let mut page = other.events().await;
    let id = listed[1]["id"].as_str().unwrap();
    assert_eq!(one.call("DELETE", &format!("/api/sessions/{id}")).await.status, 204);
    let ended = other.call("POST", "/api/info").await;
    assert_error(&ended, 401, "logged_out");
    let message = "The session has ended because it was logged out, here or from another device: \
                   log in again.";
    assert_eq!(ended.field("message"), message);
    assert_eq!(page.session_end().await["message"], message);
    assert_eq!(devices(&sessions(&one).await), ["Firefox on Windows"]);
}

#[actix_rt::test]
async fn the_server_sees_the_address_of_the_browser_if_it_trusts_the_app() {
    for (trusted, expected) in [("127.0.0.1", "198.51.100.7"), ("none", "127.0.0.1")] {
        let setup = Setup::start(|server| server.set("server.trusted_proxies", trusted));
        let browser = Browser::open(&setup.client).await;
        // Here the address of the browser itself is trusted, so that of its request counts.
        let login = browser
            .bare("POST", "/api/login")
            .insert_header(("x-matchbook", "page"))
            .insert_header(("x-forwarded-for", "198.51.100.7"));
        let login = TestResponse::of(login.send()).await;
        assert_eq!(login.status, 204, "{}", login.text);
        let browser = Browser::with_cookie(&setup.client, cookie_of(&login));
        assert_eq!(sessions(&browser).await[0]["ip"], expected);
    }
}

#[actix_rt::test]
async fn the_other_sessions_or_all_sessions_are_ended_at_once() {
    let setup = Setup::start(|server| server);
    let one = registered(&setup, FIREFOX).await;
    let others = [logged_in(&setup, CHROME).await, logged_in(&setup, CHROME).await];
    assert_error(&one.call("DELETE", "/api/sessions?keep=none").await, 404, "not_found");
    let ended = one.call("DELETE", "/api/sessions?keep=current").await;
    assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 2 })));
    for other in &others {
        assert_error(&other.call("POST", "/api/info").await, 401, "logged_out");
    }
    let other = logged_in(&setup, CHROME).await;
    let ended = one.call("POST", "/api/logout-everywhere").await;
    assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 2 })));
    for browser in [&one, &other] {
        assert_eq!(browser.call("POST", "/api/info").await.status, 401);
    }
}

#[actix_rt::test]
async fn a_second_login_of_a_browser_ends_its_previous_session_and_renews_its_cookie() {
    let setup = Setup::start(|server| server);
    let browser = registered(&setup, FIREFOX).await;
    let before = browser.cookie();
    assert_eq!(browser.submit(LOG_IN, &form("ANNA@example.com", PASSWORD)).await.status, 204);
    assert_ne!(browser.cookie(), before);
    assert_eq!(sessions(&browser).await.len(), 1);
    let attacker = Browser::with_cookie(&setup.client, before);
    assert_error(&attacker.call("POST", "/api/info").await, 401, "no_cookie");
}

#[actix_rt::test]
async fn a_guest_that_registers_keeps_its_id_and_its_session() {
    let setup = Setup::start(|server| server);
    let browser = Browser::open(&setup.client).await;
    browser.log_in().await;
    let guest = browser.user().await;
    let session = sessions(&browser).await[0]["id"].clone();
    let before = browser.cookie();
    let response = browser.submit(REGISTER, &form("bert", PASSWORD)).await;
    assert_eq!((response.status, response.json()), (200, json!({ "loggedIn": true })));
    assert_ne!(browser.cookie(), before, "against session fixation");
    assert_eq!(browser.user().await, guest);
    assert_eq!(sessions(&browser).await[0]["id"], session);
    let again = browser.submit(REGISTER, &form("carla", PASSWORD)).await;
    assert_error(&again, 409, "already_registered");
}

#[actix_rt::test]
async fn a_rejected_form_gets_a_sentence_and_keeps_the_session() {
    let setup = Setup::start(|server| server);
    let browser = registered(&setup, FIREFOX).await;
    let wrong = browser.submit(LOG_IN, &form("anna@example.com", "wrong")).await;
    assert_error(&wrong, 401, "invalid_credentials");
    assert_eq!(wrong.field("message"), "The name or the password is wrong.");
    let unknown = browser.submit(LOG_IN, &form("bert@example.com", PASSWORD)).await;
    assert_eq!(unknown.text, wrong.text);
    browser.user().await;
    let other = Browser::open(&setup.client).await;
    for (form, status, code) in [
        (form("anna@example.com", PASSWORD), 409, "name_taken"),
        (form("two words", PASSWORD), 400, "invalid_name"),
        (form("dora", "short"), 400, "unacceptable_password"),
        (json!({ "name": "dora" }), 400, "invalid_form"),
    ] {
        assert_error(&other.submit(REGISTER, &form).await, status, code);
    }
    assert_error(&other.call("POST", "/api/info").await, 401, "not_logged_in");
}

#[actix_rt::test]
async fn no_log_and_no_event_shows_a_password() {
    let mut setup = Setup::start(|server| server.set("log.level", "trace"));
    let app = client(&setup.env, setup.server.url()).set("log.level", "trace");
    let mut app = app.set("store.browsers", "none").start();
    let browser = Browser::open(&app).await;
    let mut events = browser.events().await;
    let (registered, wrong) = (form("anna", PASSWORD), form("anna", "wrong tractor password"));
    assert_eq!(browser.submit(REGISTER, &registered).await.status, 200);
    assert_eq!(browser.submit(LOG_IN, &wrong).await.status, 401);
    let text = r#"{"name":"anna","password":"another tractor","code":5}"#;
    let malformed = browser
        .bare("POST", LOG_IN)
        .insert_header(("x-matchbook", "page"))
        .insert_header(("content-type", "application/json"))
        .send_body(text);
    assert_error(&TestResponse::of(malformed).await, 400, "invalid_form");
    assert_eq!(browser.submit(LOG_IN, &registered).await.status, 204);
    for path in [REGISTER, LOG_IN, LOG_IN, LOG_IN] {
        events.exchanges_until(path).await;
    }
    assert!(app.stop().success() && setup.server.stop().success());
    for text in [&events.text, &app.log(), &setup.server.log()] {
        assert!(text.contains("/login"), "requests are shown: {text}");
        assert!(!text.contains("tractor"), "{text}");
    }
}

#[actix_rt::test]
async fn logins_with_a_password_are_limited_like_those_of_guests() {
    let setup = Setup::start(|server| server);
    let app = client(&setup.env, setup.server.url()).set("client.logins", "2").start();
    let browser = Browser::open(&app).await;
    for _ in 0..2 {
        let wrong = browser.submit(LOG_IN, &form("anna", "wrong")).await;
        assert_error(&wrong, 401, "invalid_credentials");
    }
    let limited = browser.submit(LOG_IN, &form("anna", "wrong")).await;
    assert_error(&limited, 429, "slow_down");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() > 0);
}

#[actix_rt::test]
async fn a_browser_keeps_the_device_token_and_sends_it_with_the_next_login() {
    let script = ScriptedServer::start();
    script.add_account("anna", PASSWORD);
    let env = TestEnv::new();
    let app = client(&env, script.origin()).set("server.ca_file", "system").start();
    let browser = Browser::open(&app).await;
    let login = browser.submit(LOG_IN, &form("anna", PASSWORD)).await;
    let set: Vec<_> = login.headers.get_all("set-cookie").collect();
    assert_eq!(set.len(), 2);
    for cookie in set {
        assert!(cookie.to_str().unwrap().contains("; HttpOnly; SameSite=Strict; Path=/"));
    }
    assert_eq!(browser.call("POST", "/api/logout").await.status, 204);
    assert_eq!(browser.submit(LOG_IN, &form("anna", PASSWORD)).await.status, 204);
    let received = script.received("/login");
    assert_eq!(received[0].headers.get("cookie"), None);
    let expected = format!("__Host-matchbook_device=device-{}", ScriptedServer::SECRET);
    assert_eq!(received[1].headers["cookie"], expected);
}

#[actix_rt::test]
async fn a_changed_password_is_reported_as_the_end_of_the_other_sessions() {
    let setup = Setup::start(|server| server.set("tls.mode", "off"));
    let browser = registered(&setup, FIREFOX).await;
    let mut page = browser.events().await;
    let file = setup.env.folder().join("tokens.json");
    let at = Server::new(setup.server.url(), &RootCerts::System, Duration::from_secs(10)).unwrap();
    let stored = Credentials::builder().store(FileStore::new(&file)).build();
    Client::new(&at, stored).log_in("anna@example.com", PASSWORD).await.unwrap();

    let http = Http::new(setup.server.url(), None);
    let login = http.request("POST", "/login").send_json(&form("anna@example.com", PASSWORD));
    let token = TestResponse::of(login).await.field("token");
    let change = json!({ "current": PASSWORD, "new": "orange tractor eight hums" });
    let change = http.request("POST", "/password").bearer_auth(token).send_json(&change);
    assert_eq!(TestResponse::of(change).await.status, 204);

    let message = "the session has ended because the password of the account was changed or reset \
                   on another device";
    let ended = browser.call("POST", "/api/info").await;
    assert_error(&ended, 401, "logged_out");
    assert_eq!(ended.field("reason"), "password_changed");
    let sentence = format!("T{}: log in again.", &message[1..]);
    assert_eq!(ended.field("message"), sentence);
    assert_eq!(page.session_end().await["message"], sentence);
    let command = client(&setup.env, setup.server.url());
    let output = command.run(&["info", "--store", "tokens.json"]);
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    let advice = ": run `matchbook-client login` to log in again";
    assert_eq!(error, format!("matchbook-client: {message}{advice}\n"));
}

#[actix_rt::test]
async fn a_disabled_account_is_reported_as_the_end_of_the_session_and_at_the_next_login() {
    let setup = Setup::start(|server| server);
    let browser = registered(&setup, FIREFOX).await;
    let mut page = browser.events().await;
    let operator = setup.env.server(&server_binary());
    let disabled = operator.run(&["users", "disable", "anna@example.com"]);
    assert!(disabled.status.success(), "{}", String::from_utf8_lossy(&disabled.stderr));
    let ended = browser.call("POST", "/api/refresh").await;
    assert_error(&ended, 401, "logged_out");
    assert_eq!(ended.field("reason"), "user_disabled");
    let message =
        "The session has ended because the account was disabled or deleted: log in again.";
    assert_eq!(ended.field("message"), message);
    assert_eq!(page.session_end().await["message"], message);
    let login = browser.submit(LOG_IN, &form("anna@example.com", PASSWORD)).await;
    assert_error(&login, 403, "user_disabled");
    assert_eq!(login.field("message"), "This account is disabled: ask the operator of the server.");
}
