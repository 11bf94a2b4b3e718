//! The page of the account.

use matchbook_testkit::TestResponse;
use serde_json::json;

use crate::accounts_pages::assert_page;
use crate::browser::{Browser, LOGIN_COOKIE, between};
use crate::second_factor::{code, code_of};
use crate::support::{Server, Tokens};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

const FIREFOX: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0";

/// A server with the account `ann`, and a browser that is logged in to it.
async fn logged_in() -> (Server, Browser) {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let browser = Browser::at(&server);
    assert_eq!(browser.log_in("ann", PASSWORD).await.status, 303);
    (server, browser)
}

/// Submits an action from the page of the account.
async fn act(browser: &Browser, action: &str, fields: &[(&str, &str)]) -> TestResponse {
    let page = browser.get("/account").await;
    assert_page(&page, 200);
    let fields = [&[("action", action)], fields].concat();
    browser.submit(&page, &fields).await
}

fn assert_redirect(response: &TestResponse, to: &str) {
    assert_eq!((response.status, response.header("location")), (303, to), "{}", response.text);
}

#[actix_rt::test]
async fn page_is_for_browsers_and_the_native_endpoint_stays() {
    let (server, browser) = logged_in().await;
    let page = browser.get("/account").await;
    assert_page(&page, 200);
    assert!(page.text.contains("<strong>ann</strong>"), "{}", page.text);
    let logged_out = Browser::at(&server);
    assert_redirect(&logged_out.get("/account").await, "login");
    assert_redirect(
        &logged_out.post("/account", &[("action".into(), "delete".into())]).await,
        "login",
    );

    let without = server.http.get("/account").await;
    assert_eq!((without.status, without.field("error")), (401, "missing_token".into()));
    let tokens = server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.account(&tokens).await["names"][0]["name"], "ann");
    let request = server.http.request("GET", "/account").bearer_auth(&tokens.access);
    let both = TestResponse::of(request.insert_header(("accept", "text/html")).send()).await;
    assert_eq!(both.header("content-type"), "application/json");
}

#[actix_rt::test]
async fn sessions_are_listed_with_their_device_and_end_one_by_one() {
    let (server, browser) = logged_in().await;
    let body = json!({ "name": "ann", "password": PASSWORD });
    let login = server.http.request("POST", "/login").insert_header(("user-agent", FIREFOX));
    let firefox = Tokens::of(&TestResponse::of(login.send_json(&body)).await);
    let other = server.log_in_as("ann", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let bob = server.log_in_as("bob", PASSWORD).await;
    let id = |tokens: &Tokens| tokens.claims()["sid"].as_str().unwrap().to_owned();

    let page = browser.get("/account").await;
    assert!(page.text.contains("Firefox on Windows"), "{}", page.text);
    assert!(page.text.contains("last used <time datetime="), "{}", page.text);
    assert!(!page.text.contains(&id(&bob)), "{}", page.text);
    let ended = act(&browser, "end-session", &[("id", &id(&firefox))]).await;
    assert_redirect(&ended, "account?done=session-ended");
    let next = browser.get("/account?done=session-ended").await;
    assert!(next.text.contains("That session has ended."), "{}", next.text);
    assert!(!next.text.contains("Firefox on Windows"), "{}", next.text);
    assert_eq!((server.user(&firefox.access).await, server.user(&other.access).await), (401, 200));
    act(&browser, "end-session", &[("id", &id(&bob))]).await;
    assert_eq!(server.user(&bob.access).await, 200, "a session of another user");

    assert_redirect(&act(&browser, "end-all", &[]).await, "login");
    assert_eq!((server.user(&other.access).await, server.user(&bob.access).await), (401, 200));
    assert!(!browser.is_logged_in().await);
    assert!(browser.cookie(LOGIN_COOKIE).is_none());
}

#[actix_rt::test]
async fn logging_out_ends_this_browser_only() {
    let (server, browser) = logged_in().await;
    let other = Browser::at(&server);
    other.log_in("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let cookie = browser.cookie(LOGIN_COOKIE).unwrap();
    assert_redirect(&act(&browser, "log-out", &[]).await, "login");
    browser.set_cookie(LOGIN_COOKIE, &cookie);
    assert!(!browser.is_logged_in().await, "the cookie is worth nothing");
    assert!(other.is_logged_in().await);
    Tokens::of(&server.refresh(&tokens.refresh).await);
    let events = "SELECT count(*) AS number FROM events WHERE kind = 'browser_logged_out'";
    assert_eq!(server.number(events), 1);
}

#[actix_rt::test]
async fn form_without_the_value_of_this_browser_changes_nothing() {
    let (server, browser) = logged_in().await;
    let attacker = Browser::at(&server);
    let form = attacker.get("/login").await;
    let csrf = between(&form.text, "name=\"csrf\" value=\"", "\"");
    for value in ["", "x", &csrf] {
        for action in ["log-out", "end-all", "delete"] {
            let fields = [("csrf", value), ("action", action), ("current", PASSWORD)];
            let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let rejected = browser.post("/account", &fields).await;
            assert_page(&rejected, 403);
            assert!(rejected.text.contains("out of date"), "{}", rejected.text);
        }
    }
    let page = browser.get("/account").await;
    let request = server.http.request("POST", "/account");
    let request = request.insert_header(("sec-fetch-site", "cross-site"));
    let csrf = between(&page.text, "name=\"csrf\" value=\"", "\"");
    let fields = [("csrf".to_owned(), csrf), ("action".to_owned(), "end-all".to_owned())];
    assert_page(&browser.send(request, Some(&fields)).await, 403);
    assert!(browser.is_logged_in().await);
}

#[actix_rt::test]
async fn password_changes_with_the_current_one_and_this_browser_stays_logged_in() {
    let (server, browser) = logged_in().await;
    let other = Browser::at(&server);
    other.log_in("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let change = async |current: &str, new: &str, repeated: &str| {
        let fields = [("current", current), ("password", new), ("repeated", repeated)];
        act(&browser, "change-password", &fields).await
    };
    let wrong = change(OTHER, OTHER, OTHER).await;
    assert_page(&wrong, 401);
    assert!(wrong.text.contains("<details open>"), "{}", wrong.text);
    assert_page(&change(PASSWORD, OTHER, PASSWORD).await, 400);
    assert_page(&change(PASSWORD, "short", "short").await, 400);
    assert_redirect(&change(PASSWORD, OTHER, OTHER).await, "account?done=password-changed");
    assert!(browser.is_logged_in().await);
    assert!(!other.is_logged_in().await);
    assert_eq!(server.user(&tokens.access).await, 401);
    server.log_in_as("ann", OTHER).await;
}

#[actix_rt::test]
async fn second_factor_is_added_and_removed() {
    let (server, browser) = logged_in().await;
    assert_page(&act(&browser, "begin-totp", &[("current", OTHER)]).await, 401);
    let page = act(&browser, "begin-totp", &[("current", PASSWORD)]).await;
    assert_page(&page, 200);
    assert!(page.text.contains("<svg class=\"qr\""), "{}", page.text);
    assert!(!page.text.contains("style="), "the policy permits no inline style");
    let secret = between(&page.text, "<code id=\"secret\">", "</code>").replace(' ', "");
    assert!(page.text.contains(&format!("secret={secret}")), "{}", page.text);
    let right = code_of(&secret, 0);
    let wrong = if right == "000000" { "000001" } else { "000000" };
    let confirm = [("action", "confirm-totp"), ("code", wrong)];
    let refused = browser.submit(&page, &confirm).await;
    assert_page(&refused, 401);
    assert!(!refused.text.contains(&secret), "{}", refused.text);
    let done = browser.submit(&refused, &[("action", "confirm-totp"), ("code", &right)]).await;
    assert_page(&done, 200);
    let codes: Vec<&str> = done.text.split("<li><code>").skip(1).collect();
    assert_eq!(codes.len(), 10, "{}", done.text);
    let recovery = codes[0].split('<').next().unwrap();
    let fields = |code| [("current", PASSWORD), ("code", code)];
    assert_page(&act(&browser, "remove-totp", &fields(wrong)).await, 401);
    let removed = act(&browser, "remove-totp", &fields(recovery)).await;
    assert_redirect(&removed, "account?done=totp-removed");
    server.log_in_as("ann", PASSWORD).await;
}

#[actix_rt::test]
async fn account_is_deleted_with_the_password_and_the_second_factor() {
    let (server, browser) = logged_in().await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let (secret, _) = crate::second_factor::enroll(&server, &tokens, PASSWORD).await;
    assert_page(&act(&browser, "delete", &[("current", OTHER)]).await, 401);
    let without = act(&browser, "delete", &[("current", PASSWORD)]).await;
    assert_page(&without, 401);
    assert!(without.text.contains("enter its code"), "{}", without.text);
    let code = code(&server, &secret);
    let deleted = act(&browser, "delete", &[("current", PASSWORD), ("code", &code)]).await;
    assert_page(&deleted, 200);
    assert!(browser.cookie(LOGIN_COOKIE).is_none());
    assert_eq!(server.user(&tokens.access).await, 401);
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts"), 0);
}
