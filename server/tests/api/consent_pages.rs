//! The consent of users to what clients request.

use futures_util::future::{join, join_all};
use matchbook_testkit::TestResponse;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::browser::{Browser, between};
use crate::oauth::{
    Client, PASSWORD, REDIRECT_URI, exchange_of, redirect_of, server_with, set, text, tokens,
};
use crate::support::Server;

/// Registers a public client that needs consent.
fn add_client(server: &Server) -> Client {
    let options = ["--public", "--redirect-uri", REDIRECT_URI, "--scope", "files:read files:write"];
    server.register_client("Photo <Printer>", &options)
}

/// Asserts the headers of the page of consent.
fn assert_consent(response: &TestResponse, status: u16) {
    assert_eq!(response.status, status, "{}", response.text);
    let policy = response.header("content-security-policy");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(policy.contains("form-action 'self' https://app.example"), "{policy}");
    assert!(!policy.contains("script"), "{policy}");
    assert_eq!(response.header("x-frame-options"), "DENY");
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.header("referrer-policy"), "no-referrer");
    assert!(response.text.contains("Photo &#60;Printer&#62;"), "{}", response.text);
}

/// Follows the redirect of an authorization request to the page of consent.
async fn ask(browser: &Browser, client: &Client, scope: &str) -> TestResponse {
    let mut request = client.request();
    set(&mut request, "scope", scope);
    let asked = browser.authorize(&request).await;
    let location = asked.header("location").to_owned();
    let page = location.strip_prefix("..").unwrap_or_else(|| panic!("{location}"));
    assert!(page.starts_with("/consent?continue="), "{page}");
    browser.get(page).await
}

/// Follows a redirect to the authorization request.
async fn follow(browser: &Browser, response: &TestResponse) -> TestResponse {
    let location = response.header("location");
    assert!(location.starts_with("oauth/authorize?"), "{}: {location}", response.status);
    browser.get(&format!("/{location}")).await
}

#[actix_rt::test]
async fn consent_shows_client_host_and_scopes_and_is_remembered_for_them() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    let page = ask(&browser, &client, "files:read offline_access").await;
    assert_consent(&page, 200);
    for part in ["<strong>app.example</strong>", "“files:read”", "while you do not use it", "ann"]
    {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert!(!page.text.contains("files:write"), "{}", page.text);
    let allowed = browser.submit(&page, &[("decision", "allow")]).await;
    let redirect = redirect_of(&follow(&browser, &allowed).await);
    tokens(&server.token(&client, &exchange_of(&redirect["code"])).await);

    // The same or less needs no question, and more does.
    for scope in ["files:read offline_access", "files:read"] {
        let mut request = client.request();
        set(&mut request, "scope", scope);
        assert!(redirect_of(&browser.authorize(&request).await).contains_key("code"), "{scope}");
    }
    assert_consent(&ask(&browser, &client, "files:read files:write").await, 200);
    // Another browser of the same user is not asked, and another user is.
    let other = server.log_browser_in().await;
    let mut request = client.request();
    set(&mut request, "scope", "files:read");
    assert!(redirect_of(&other.authorize(&request).await).contains_key("code"));
    server.register("bob", PASSWORD).await;
    let bob = Browser::at(&server);
    bob.log_in("bob", PASSWORD).await;
    assert_consent(&ask(&bob, &client, "files:read").await, 200);
}

#[actix_rt::test]
async fn prompt_consent_asks_once_for_each_request() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    for _ in 0..2 {
        let mut request = client.request();
        set(&mut request, "scope", "files:read");
        set(&mut request, "prompt", "consent");
        let asked = browser.authorize(&request).await;
        let page = asked.header("location").strip_prefix("..").unwrap().to_owned();
        let page = browser.get(&page).await;
        assert_consent(&page, 200);
        let allowed = browser.submit(&page, &[("decision", "allow")]).await;
        assert!(redirect_of(&follow(&browser, &allowed).await).contains_key("code"));
    }
}

#[actix_rt::test]
async fn denial_goes_to_the_client_and_is_not_remembered() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    let page = ask(&browser, &client, "files:read").await;
    let denied = redirect_of(&browser.submit(&page, &[("decision", "deny")]).await);
    assert_eq!((denied["error"].as_str(), denied["state"].as_str()), ("access_denied", "a state"));
    assert!(denied.contains_key("iss"), "{denied:?}");
    assert_consent(&ask(&browser, &client, "files:read").await, 200);
    assert_eq!(server.number("SELECT count(*) AS number FROM consents"), 0);
}

#[actix_rt::test]
async fn consent_needs_the_value_of_this_browser_and_a_login() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    let page = ask(&browser, &client, "files:read").await;
    let next = between(&page.text, "name=\"continue\" value=\"", "\"");
    server.register("eve", PASSWORD).await;
    let attacker = Browser::at(&server);
    attacker.log_in("eve", PASSWORD).await;
    let of_attacker = ask(&attacker, &client, "files:read").await;
    let stolen = between(&of_attacker.text, "name=\"csrf\" value=\"", "\"");
    for csrf in ["", "x", &stolen] {
        let forged = browser.submit(&page, &[("decision", "allow"), ("csrf", csrf)]).await;
        assert_consent(&forged, 403);
        assert!(forged.text.contains("role=\"alert\""), "{}", forged.text);
    }
    let csrf = between(&page.text, "name=\"csrf\" value=\"", "\"");
    let fields = [("csrf", csrf.as_str()), ("continue", &next), ("decision", "allow")];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for header in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let request = server.http.request("POST", "/consent").insert_header(header);
        assert_consent(&browser.send(request, Some(&fields)).await, 403);
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM consents"), 0);

    let logged_out = Browser::at(&server);
    let encoded = utf8_percent_encode(&next, NON_ALPHANUMERIC).to_string();
    let path = format!("/consent?continue={encoded}");
    for response in [logged_out.get(&path).await, logged_out.post("/consent", &fields).await] {
        assert_eq!(response.status, 303, "{}", response.text);
        assert_eq!(response.header("location"), format!("login?continue={encoded}"));
    }
}

#[actix_rt::test]
async fn consent_page_of_an_unknown_client_redirects_nowhere() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    for query in [
        String::new(),
        "https://evil.example".to_owned(),
        "client_id=unknown&redirect_uri=https://evil.example".to_owned(),
        format!("client_id={}&redirect_uri=https://evil.example/", client.id),
    ] {
        let encoded = utf8_percent_encode(&query, NON_ALPHANUMERIC);
        let page = browser.get(&format!("/consent?continue={encoded}")).await;
        assert_eq!((page.status, page.header("location")), (400, ""), "{}", page.text);
        let form = browser.get("/account").await;
        let csrf = between(&form.text, "name=\"csrf\" value=\"", "\"");
        let fields = [("csrf", csrf.as_str()), ("continue", &query), ("decision", "deny")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let denied = browser.post("/consent", &fields).await;
        assert_eq!((denied.status, denied.header("location")), (400, ""), "{}", denied.text);
    }
}

#[actix_rt::test]
async fn user_revokes_a_consent_and_its_sessions_end() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    let page = ask(&browser, &client, "files:read").await;
    let allowed = browser.submit(&page, &[("decision", "allow")]).await;
    let redirect = redirect_of(&follow(&browser, &allowed).await);
    let pair = tokens(&server.token(&client, &exchange_of(&redirect["code"])).await);
    let native = server.log_in_as("ann", PASSWORD).await;

    let account = browser.get("/account").await;
    assert!(account.text.contains("Applications with access"), "{}", account.text);
    assert!(account.text.contains("Photo &#60;Printer&#62;, "), "the session: {}", account.text);
    let fields = [("action", "revoke-consent"), ("id", client.id.as_str())];
    let revoked = browser.submit(&account, &fields).await;
    assert_eq!(revoked.header("location"), "account?done=consent-revoked", "{}", revoked.text);
    let refused = server.refresh_by(&client, &text(&pair, "refresh_token")).await;
    assert_eq!(refused.field("error"), "invalid_grant");
    assert_eq!(server.user(&native.access).await, 200, "another session");
    assert_consent(&ask(&browser, &client, "files:read").await, 200);
    let account = browser.get("/account").await;
    assert!(!account.text.contains("Photo"), "{}", account.text);
}

#[actix_rt::test]
async fn no_code_survives_the_revocation_of_its_consent() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = add_client(&server);
    for _ in 0..10 {
        let page = ask(&browser, &client, "files:read").await;
        browser.submit(&page, &[("decision", "allow")]).await;
        let account = browser.get("/account").await;
        let fields = [("action", "revoke-consent"), ("id", client.id.as_str())];
        let mut request = client.request();
        set(&mut request, "scope", "files:read");
        let requests = (0..8).map(|_| browser.authorize(&request));
        let (responses, revoked) =
            join(join_all(requests), browser.submit(&account, &fields)).await;
        assert_eq!(revoked.header("location"), "account?done=consent-revoked", "{}", revoked.text);
        for response in responses {
            let location = response.header("location");
            let Some((_, code)) = location.split_once("?code=") else { continue };
            let code = code.split('&').next().unwrap();
            let response = server.token(&client, &exchange_of(code)).await;
            assert_eq!(response.field("error"), "invalid_grant", "{}", response.text);
        }
    }
}
