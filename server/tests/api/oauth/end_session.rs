//! `/oauth/logout`: a logout that a client initiates (RP-Initiated Logout 1.0).

use std::time::Duration;

use matchbook_testkit::TestResponse;
use serde_json::Value;
use url::form_urlencoded;

use super::{
    Client, PASSWORD, REDIRECT_URI, exchange_of, server_with, set, tampered, text, tokens,
};
use crate::browser::{Browser, LOGIN_COOKIE, between};
use crate::login_pages::OTHER;
use crate::support::Server;

/// The registered URI, which has a query of its own.
const BYE: &str = "https://app.example/bye?from=matchbook";

impl Server {
    /// Registers a public client of the operator that initiates logouts.
    pub(super) fn add_logout_app(&self, name: &str, options: &[&str]) -> Client {
        let common = ["--public", "--first-party", "--redirect-uri", REDIRECT_URI];
        let uris = ["--post-logout-redirect-uri", BYE];
        self.register_client(name, &[&common[..], &uris, options].concat())
    }

    /// Logs a browser in at a client, with an ID token.
    pub(super) async fn open_id(&self, browser: &Browser, client: &Client, scope: &str) -> Value {
        let mut request = client.request();
        set(&mut request, "scope", scope);
        let code = browser.code(&request).await;
        tokens(&self.token(client, &exchange_of(&code)).await)
    }

    /// Whether the session of these tokens can be refreshed.
    pub(super) async fn is_alive(&self, client: &Client, tokens: &Value) -> bool {
        let response = self.refresh_by(client, &text(tokens, "refresh_token")).await;
        let ended = response.status == 400 && response.json()["reason"] == "logged_out";
        assert!(ended || response.status == 200, "{}", response.text);
        !ended
    }
}

impl Browser {
    /// Sends a logout request.
    pub(crate) async fn end_session(&self, parameters: &[(&str, &str)]) -> TestResponse {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.extend_pairs(parameters).finish();
        self.get(&format!("/oauth/logout?{query}")).await
    }

    /// Confirms a logout on a page that asks.
    pub(crate) async fn confirm_logout(&self, page: &TestResponse) -> TestResponse {
        let field = |name: &str| {
            let value = between(&page.text, &format!("name=\"{name}\" value=\""), "\"");
            (name.to_owned(), value)
        };
        self.post("/oauth/logout", &[field("csrf"), field("continue")]).await
    }
}

fn assert_page(response: &TestResponse, status: u16, title: &str) {
    assert_eq!(response.status, status, "{}", response.text);
    assert!(!response.headers.contains_key("location"), "{:?}", response.headers);
    assert!(response.text.contains(&format!("<h1>{title}</h1>")), "{}", response.text);
    assert_eq!(response.header("cache-control"), "no-store");
    assert!(response.header("content-security-policy").contains("frame-ancestors 'none'"));
}

fn assert_redirect(response: &TestResponse, to: &str) {
    assert_eq!((response.status, response.header("location")), (303, to), "{}", response.text);
}

#[actix_rt::test]
async fn valid_hint_ends_the_session_and_redirects_with_exactly_the_state() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    for (state, expected) in [
        (None, BYE.to_owned()),
        (Some("a b&c=%2B+é"), format!("{BYE}&state=a+b%26c%3D%252B%2B%C3%A9")),
        (Some(""), BYE.to_owned()),
    ] {
        let session = server.open_id(&browser, &client, "openid").await;
        let access = text(&session, "access_token");
        let hint = text(&session, "id_token");
        let mut request = vec![
            ("id_token_hint", hint.as_str()),
            ("client_id", client.id.as_str()),
            ("post_logout_redirect_uri", BYE),
            ("logout_hint", "ann"),
            ("ui_locales", "de"),
            ("unknown", "x"),
        ];
        request.extend(state.map(|state| ("state", state)));
        let response = browser.end_session(&request).await;
        assert_redirect(&response, &expected);
        assert_eq!(response.header("referrer-policy"), "no-referrer");
        assert!(!browser.is_logged_in().await);
        assert_eq!(browser.cookie(LOGIN_COOKIE), None, "the cookie is deleted");
        assert!(!server.is_alive(&client, &session).await);
        let userinfo = server.http.get_as("/oauth/userinfo", &access).await;
        assert_eq!(userinfo.status, 401, "{}", userinfo.text);
        browser.log_in("ann", PASSWORD).await;
    }
    let events = "SELECT count(*) AS number FROM events WHERE kind = 'browser_logged_out'";
    assert_eq!(server.number(events), 3);
    assert_eq!(server.process.logged("id_token_hint"), 0);
}

#[actix_rt::test]
async fn logout_without_a_redirect_uri_ends_in_a_page() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let session = server.open_id(&browser, &client, "openid").await;
    let hint = text(&session, "id_token");
    let response = browser.end_session(&[("id_token_hint", &hint), ("state", "s")]).await;
    assert_page(&response, 200, "You are logged out");
    assert!(!browser.is_logged_in().await && !server.is_alive(&client, &session).await);
    assert!(!response.text.contains("href=\"https"), "{}", response.text);
}

#[actix_rt::test]
async fn logout_ends_the_sessions_of_all_clients_that_the_login_opened_and_no_other() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let other = server.add_spa();
    let keeper = server.add_logout_app("Keeper", &["--keep-offline-access"]);
    let here = server.open_id(&browser, &client, "openid").await;
    let second = server.open_id(&browser, &other, "openid offline_access").await;
    let kept = server.open_id(&browser, &keeper, "openid offline_access").await;
    let online = server.open_id(&browser, &keeper, "openid").await;
    let code = browser.code(&other.request()).await;
    let tv = server.add_tv();
    let device = server.begin_device(&tv, "openid").await;
    browser.approve(&device).await;
    let on_device = tokens(&server.poll(&device).await);
    let waiting = server.begin_device(&tv, "openid").await;
    browser.approve(&waiting).await;
    let elsewhere = server.log_browser_in().await;
    let there = server.open_id(&elsewhere, &client, "openid").await;
    let hint = text(&here, "id_token");
    browser.end_session(&[("id_token_hint", &hint)]).await;
    for (name, client, session, expected) in [
        ("the client that asks", &client, &here, false),
        ("another client", &other, &second, false),
        ("a client that keeps offline access, without the scope", &keeper, &online, false),
        ("a client that keeps offline access", &keeper, &kept, true),
        ("a device that was approved in the browser", &tv, &on_device, false),
        ("another browser", &client, &there, true),
    ] {
        assert_eq!(server.is_alive(client, session).await, expected, "{name}");
    }
    let late = server.token(&other, &exchange_of(&code)).await;
    assert_eq!(late.status, 400, "a code that was not exchanged yet: {}", late.text);
    let late = server.poll(&waiting).await;
    assert_eq!(late.status, 400, "an approval that was not used yet: {}", late.text);
    assert!(elsewhere.is_logged_in().await);
    // The client that keeps offline access can still end that session itself.
    let hint = text(&kept, "id_token");
    browser.end_session(&[("id_token_hint", &hint)]).await;
    let ended = tokens_ended(&server, &kept).await;
    assert!(ended, "the session of the hint");
}

/// Whether the access token of a session is rejected.
async fn tokens_ended(server: &Server, session: &Value) -> bool {
    let access = text(session, "access_token");
    server.http.get_as("/oauth/userinfo", &access).await.status == 401
}

#[actix_rt::test]
async fn logout_ends_what_the_browser_opened_before_its_last_login() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let first = server.open_id(&browser, &client, "openid").await;
    let form = browser.get("/login?continue=a").await;
    browser.submit(&form, &[("name", "ann"), ("password", PASSWORD)]).await;
    let second = server.open_id(&browser, &client, "openid").await;
    let hint = text(&second, "id_token");
    browser.end_session(&[("id_token_hint", &hint)]).await;
    assert!(!server.is_alive(&client, &second).await);
    assert!(!server.is_alive(&client, &first).await);
}

#[actix_rt::test]
async fn request_without_a_hint_asks_and_does_not_redirect() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let session = server.open_id(&browser, &client, "openid").await;
    let requests: [&[(&str, &str)]; 5] = [
        &[],
        &[("state", "s")],
        &[("post_logout_redirect_uri", BYE)],
        &[("post_logout_redirect_uri", "https://evil.example/")],
        &[("id_token_hint", ""), ("state", "s")],
    ];
    for request in requests {
        let page = browser.end_session(request).await;
        assert_page(&page, 200, "Log out?");
        assert!(page.text.contains("You are logged in as <strong>ann</strong>"), "{}", page.text);
        assert!(browser.is_logged_in().await);
    }
    assert!(tokens_alive(&server, &session).await);
    for request in requests {
        let page = browser.end_session(request).await;
        let done = browser.confirm_logout(&page).await;
        assert_page(&done, 200, "You are logged out");
        assert!(!done.text.contains("href=\"http"), "{}", done.text);
        assert!(!browser.is_logged_in().await);
        assert_page(&browser.end_session(request).await, 200, "You are logged out");
        browser.log_in("ann", PASSWORD).await;
    }
    assert!(!server.is_alive(&client, &session).await);
}

async fn tokens_alive(server: &Server, session: &Value) -> bool {
    !tokens_ended(server, session).await
}

#[actix_rt::test]
async fn client_without_a_hint_gets_a_link_to_its_uri_and_no_redirect() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let request = [("client_id", &*client.id), ("post_logout_redirect_uri", BYE), ("state", "<s>")];
    let page = browser.end_session(&request).await;
    assert_page(&page, 200, "Log out?");
    assert!(page.text.contains("<strong>App</strong> has asked"), "{}", page.text);
    let done = browser.confirm_logout(&page).await;
    assert_page(&done, 200, "You are logged out");
    assert_eq!(between(&done.text, "<a href=\"", "\""), format!("{BYE}&state=%3Cs%3E"));
}

#[actix_rt::test]
async fn invalid_request_is_an_error_page_from_which_the_user_can_log_out() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let other = server.add_spa();
    let session = server.open_id(&browser, &client, "openid").await;
    let hint = text(&session, "id_token");
    let access = text(&session, "access_token");
    let foreign_server = Server::start();
    let foreign_browser = foreign_server.browser_of_ann().await;
    let foreign = foreign_server.add_logout_app("App", &["--id", "app"]);
    let foreign = foreign_server.open_id(&foreign_browser, &foreign, "openid").await;
    let foreign = text(&foreign, "id_token");
    let modified = tampered(&hint);
    let uri = |uri| vec![("id_token_hint", hint.as_str()), ("post_logout_redirect_uri", uri)];
    let with_hint = |hint| vec![("id_token_hint", hint), ("post_logout_redirect_uri", BYE)];
    for request in [
        with_hint(modified.as_str()),
        with_hint(&foreign),
        with_hint(&access),
        with_hint("x"),
        with_hint("a.b.c"),
        uri("https://evil.example/"),
        uri("https://app.example/bye"),
        uri("https://app.example/bye?from=matchbook&more=1"),
        uri("https://app.example/bye?from=matchbook/"),
        uri(REDIRECT_URI),
        uri("javascript:alert(1)"),
        vec![("id_token_hint", &hint), ("client_id", &other.id)],
        vec![("id_token_hint", &hint), ("client_id", "unknown")],
        vec![("client_id", "unknown")],
        vec![("client_id", "a\0")],
        vec![("client_id", &client.id), ("post_logout_redirect_uri", "https://evil.example/")],
        vec![("id_token_hint", &hint), ("id_token_hint", &hint)],
        vec![("state", "a"), ("state", "b")],
    ] {
        let page = browser.end_session(&request).await;
        assert_page(&page, 400, "This application cannot log you out");
        assert!(page.text.contains("role=\"alert\""), "{}", page.text);
        assert!(browser.is_logged_in().await, "{request:?}");
        let anonymous = Browser::at(&server).end_session(&request).await;
        assert_page(&anonymous, 400, "This application cannot log you out");
    }
    assert!(tokens_alive(&server, &session).await);
    let page = browser.end_session(&uri("https://evil.example/")).await;
    assert_page(&browser.confirm_logout(&page).await, 200, "You are logged out");
    assert!(!browser.is_logged_in().await && !server.is_alive(&client, &session).await);
    let bytes = browser.get("/oauth/logout?state=%FF%00&id_token_hint=%FF").await;
    assert_page(&bytes, 400, "This application cannot log you out");
}

#[actix_rt::test]
async fn expired_hint_is_accepted() {
    let (server, browser) = server_with(|launch| {
        launch.set("tokens.access_lifetime", "1s").set("rotation.grace_period", "1s")
    })
    .await;
    let client = server.add_logout_app("App", &[]);
    let session = server.open_id(&browser, &client, "openid").await;
    actix_rt::time::sleep(Duration::from_millis(2100)).await;
    let hint = text(&session, "id_token");
    let request = [("id_token_hint", &*hint), ("post_logout_redirect_uri", BYE)];
    assert_redirect(&browser.end_session(&request).await, BYE);
    assert!(!browser.is_logged_in().await);
}

#[actix_rt::test]
async fn hint_of_another_user_asks_before_the_browser_is_logged_out() {
    let (server, ann) = server_with(|launch| launch).await;
    server.register("bob", OTHER).await;
    let bob = Browser::at(&server);
    bob.log_in("bob", OTHER).await;
    let client = server.add_logout_app("App", &[]);
    let of_ann = server.open_id(&ann, &client, "openid").await;
    let second_of_ann = server.open_id(&ann, &client, "openid").await;
    let of_bob = server.open_id(&bob, &client, "openid").await;
    let hint = text(&of_ann, "id_token");
    let request = [("id_token_hint", &*hint), ("post_logout_redirect_uri", BYE), ("state", "s")];
    let page = bob.end_session(&request).await;
    assert_page(&page, 200, "Log out?");
    assert!(
        page.header("content-security-policy").contains("form-action 'self' https://app.example")
    );
    assert!(page.text.contains("You are logged in as <strong>bob</strong>"), "{}", page.text);
    assert!(bob.is_logged_in().await && tokens_alive(&server, &of_bob).await);
    assert!(tokens_ended(&server, &of_ann).await, "the session that the client has ended");
    assert!(ann.is_logged_in().await && tokens_alive(&server, &second_of_ann).await);
    assert_redirect(&bob.confirm_logout(&page).await, &format!("{BYE}&state=s"));
    assert!(!bob.is_logged_in().await && tokens_ended(&server, &of_bob).await);
    assert!(ann.is_logged_in().await);
}

#[actix_rt::test]
async fn session_of_the_hint_ends_without_a_login_of_the_browser() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let session = server.open_id(&browser, &client, "openid").await;
    let hint = text(&session, "id_token");
    let request = [("id_token_hint", &*hint), ("post_logout_redirect_uri", BYE)];
    assert_redirect(&Browser::at(&server).end_session(&request).await, BYE);
    assert!(!server.is_alive(&client, &session).await);
    assert!(browser.is_logged_in().await, "another browser");
    // A second time, and after the client was removed.
    assert_redirect(&Browser::at(&server).end_session(&request).await, BYE);
    server.command_json(&["clients", "remove", &client.id, "--json"]);
    let page = browser.end_session(&[("id_token_hint", &hint)]).await;
    assert_page(&page, 200, "You are logged out");
    assert!(!browser.is_logged_in().await);
    assert_page(&browser.end_session(&request).await, 400, "This application cannot log you out");
}

#[actix_rt::test]
async fn expired_login_of_the_browser_ends_what_it_opened() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let first = server.open_id(&browser, &client, "openid").await;
    let second = server.open_id(&browser, &client, "openid").await;
    server.sql("UPDATE login_sessions SET idle_expires_at = created_at");
    assert!(!browser.is_logged_in().await);
    let hint = text(&first, "id_token");
    browser.end_session(&[("id_token_hint", &hint)]).await;
    assert!(!server.is_alive(&client, &second).await);
}

#[actix_rt::test]
async fn form_of_another_site_is_redirected_so_that_the_browser_sends_its_cookie() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let session = server.open_id(&browser, &client, "openid").await;
    let form = [
        ("id_token_hint", text(&session, "id_token")),
        ("post_logout_redirect_uri", BYE.to_owned()),
        ("state", "a state".to_owned()),
    ];
    let form = form.map(|(name, value)| (name.to_owned(), value));
    let response = Browser::at(&server).post("/oauth/logout", &form).await;
    assert_eq!(response.status, 303, "{}", response.text);
    let location = response.header("location");
    assert!(location.starts_with("logout?id_token_hint="), "{location}");
    assert!(tokens_alive(&server, &session).await);
    let response = browser.get(&format!("/oauth/{location}")).await;
    assert_redirect(&response, &format!("{BYE}&state=a+state"));
    assert!(!browser.is_logged_in().await && !server.is_alive(&client, &session).await);
    let long = [("state".to_owned(), "x".repeat(17_000))];
    assert_eq!(browser.post("/oauth/logout", &long).await.status, 413);
}

#[actix_rt::test]
async fn form_of_another_browser_logs_no_user_out() {
    let (server, browser) = server_with(|launch| launch).await;
    let page = browser.end_session(&[]).await;
    let attacker = server.log_browser_in().await;
    let foreign = attacker.end_session(&[]).await;
    let csrf = |page: &TestResponse| between(&page.text, "name=\"csrf\" value=\"", "\"");
    for value in [csrf(&foreign), String::new(), "x".to_owned()] {
        let form = [("csrf".to_owned(), value), ("continue".to_owned(), "state=s".to_owned())];
        let response = browser.post("/oauth/logout", &form).await;
        assert_page(&response, 403, "Log out?");
        assert!(browser.is_logged_in().await);
    }
    browser.confirm_logout(&page).await;
    assert!(!browser.is_logged_in().await && attacker.is_logged_in().await);
    // A form of another site comes without cookies: it does not claim that the user is logged out.
    let form = [("csrf".to_owned(), "x".to_owned()), ("continue".to_owned(), "state=s".to_owned())];
    let response = Browser::at(&server).post("/oauth/logout", &form).await;
    assert_redirect(&response, "logout?state=s");
}

/// The browser keeps its login until every server rejects the tokens of its sessions, so that a
/// repetition finds them.
#[actix_rt::test]
async fn logout_that_a_server_has_not_confirmed_can_be_repeated() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_logout_app("App", &[]);
    let session = server.open_id(&browser, &client, "openid").await;
    server.add_silent_server();
    for _ in 0..2 {
        let page = browser.end_session(&[]).await;
        let response = browser.confirm_logout(&page).await;
        assert_eq!(response.status, 503, "{}", response.text);
        assert!(browser.is_logged_in().await);
    }
    assert!(!server.is_alive(&client, &session).await);
    server.stop_silent_server();
    let page = browser.end_session(&[]).await;
    let response = browser.confirm_logout(&page).await;
    assert_page(&response, 200, "You are logged out");
    assert!(!browser.is_logged_in().await);
}
