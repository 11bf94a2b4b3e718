//! The authorization endpoint: error pages, errors for the client, and its successful responses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use matchbook_testkit::TestResponse;
use url::{Url, form_urlencoded};

use super::{
    PASSWORD, Parameters, REDIRECT_URI, Redirect, challenge, exchange_of, redirect_of, server_with,
    set, tokens,
};
use crate::accounts_pages::assert_page;
use crate::browser::{Browser, between};
use crate::support::Server;

/// The claim `iss` by the default settings.
const ISSUER: &str = "https://localhost:5001";

/// Encodes a query.
fn query_of(parameters: &Parameters<'_>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// Returns the path and the query to which a response of `from` redirects.
pub(crate) fn redirect_path(from: &str, response: &TestResponse) -> String {
    assert_eq!(response.status, 303, "{}", response.text);
    let base = Url::parse(&format!("https://here{from}")).unwrap();
    let url = base.join(response.header("location")).unwrap();
    assert_eq!(url.host_str(), Some("here"), "{url}");
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

impl Browser {
    /// Sends an authorization request as a form, and follows the redirect to `GET`.
    pub(crate) async fn authorize_by_post(&self, parameters: &Parameters<'_>) -> TestResponse {
        let form: Vec<(String, String)> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into_owned()))
            .collect();
        let response = self.post("/oauth/authorize", &form).await;
        let path = redirect_path("/oauth/authorize", &response);
        assert!(path.starts_with("/oauth/authorize?"), "{path}");
        self.get(&path).await
    }

    /// Logs in at the page to which an authorization request redirects, and repeats it.
    pub(crate) async fn log_in_and_continue(&self, asked: &TestResponse) -> TestResponse {
        self.log_in_as_and_continue("ann", asked).await
    }

    /// Logs in as another user, as [`Self::log_in_and_continue`] does.
    pub(crate) async fn log_in_as_and_continue(
        &self,
        name: &str,
        asked: &TestResponse,
    ) -> TestResponse {
        let path = redirect_path("/oauth/authorize", asked);
        assert!(path.starts_with("/login?continue="), "{path}");
        let form = self.get(&path).await;
        let done = self.submit(&form, &[("name", name), ("password", PASSWORD)]).await;
        let path = redirect_path("/login", &done);
        assert!(path.starts_with("/oauth/authorize?"), "{path}");
        self.get(&path).await
    }
}

/// Checks that an error is sent to the client, with the state and the issuer.
pub(crate) fn assert_error_redirect(response: &TestResponse, error: &str) -> Redirect {
    let redirect = redirect_of(response);
    assert_eq!(redirect.get("error").map(String::as_str), Some(error), "{redirect:?}");
    assert_eq!(redirect["state"], "a state");
    assert_eq!(redirect["iss"], ISSUER);
    assert!(!redirect.contains_key("code"), "{redirect:?}");
    redirect
}

fn assert_error_page(response: &TestResponse) {
    assert_page(response, 400);
    assert_eq!(response.header("location"), "", "no redirect");
}

#[actix_rt::test]
async fn unknown_client_or_redirect_uri_gets_a_page_and_no_redirect() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let long = "x".repeat(200);
    let changes = [
        ("client_id", vec!["", "unknown", "cl_", "a\0b", "é", &long]),
        (
            "redirect_uri",
            vec![
                "https://app.example/cb/",
                "https://app.example/CB",
                "https://app.example/cb?x=1",
                "https://app.example/cb#x",
                "https://app.example/cb/../cb",
                "https://app.example/%63b",
                "https://app.example/c",
                "https://app.example:443/cb",
                "https://APP.example/cb",
                "https://user@app.example/cb",
                "https://app.example@evil.example/cb",
                "https://app.example.evil.example/cb",
                "https://app.example\\@evil.example/cb",
                "http://app.example/cb",
                " https://app.example/cb",
                "//evil.example/cb",
                "javascript:alert(1)",
                "x\r\nLocation: https://evil.example",
            ],
        ),
    ];
    for (name, values) in changes {
        for value in values {
            let mut request = client.request();
            set(&mut request, name, value);
            assert_error_page(&browser.authorize(&request).await);
            assert_error_page(&browser.authorize_by_post(&request).await);
        }
    }
    for repeated in ["client_id", "redirect_uri", "state"] {
        let mut request = client.request();
        request.push((repeated, "https://evil.example".into()));
        assert_error_page(&browser.authorize(&request).await);
    }
    let mut request = client.request();
    set(&mut request, "state", "");
    let query = query_of(&request);
    let unreadable = browser.get(&format!("/oauth/authorize?{query}&state=%FF")).await;
    assert_error_page(&unreadable);
    assert_error_page(&browser.get("/oauth/authorize").await);
}

#[actix_rt::test]
async fn every_other_error_is_sent_to_the_client_with_state_and_issuer() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let (long, plain) = ("x".repeat(2049), challenge("x"));
    for (name, value, error) in [
        ("response_type", "", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("response_type", "code id_token", "unsupported_response_type"),
        ("response_type", "Code", "unsupported_response_type"),
        ("response_mode", "fragment", "invalid_request"),
        ("response_mode", "x", "invalid_request"),
        ("code_challenge", "", "invalid_request"),
        ("code_challenge", "abc", "invalid_request"),
        ("code_challenge_method", "", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge_method", "s256", "invalid_request"),
        ("code_challenge_method", &plain, "invalid_request"),
        ("scope", "read admin", "invalid_scope"),
        ("scope", "READ", "invalid_scope"),
        ("scope", "re\"ad", "invalid_scope"),
        ("scope", "re\0ad", "invalid_scope"),
        ("resource", "https://other.example", "invalid_target"),
        ("resource", "https://localhost:5001/", "invalid_target"),
        ("resource", "https://localhost:5001#x", "invalid_target"),
        ("resource", "localhost", "invalid_target"),
        ("resource", "a\0b", "invalid_target"),
        ("request", "e30.e30.", "request_not_supported"),
        ("request_uri", "urn:x", "request_uri_not_supported"),
        ("registration", "{}", "registration_not_supported"),
        ("prompt", "none login", "invalid_request"),
        ("prompt", "register", "invalid_request"),
        ("max_age", "soon", "invalid_request"),
        ("max_age", "-1", "invalid_request"),
        ("nonce", "a\0b", "invalid_request"),
        ("nonce", &long, "invalid_request"),
    ] {
        let mut request = client.request();
        set(&mut request, name, value);
        let redirect = assert_error_redirect(&browser.authorize(&request).await, error);
        assert!(!redirect["error_description"].is_empty(), "{redirect:?}");
        assert_error_redirect(&browser.authorize_by_post(&request).await, error);
    }
    for repeated in ["response_type", "scope", "code_challenge", "nonce", "prompt", "unknown"] {
        let mut request = client.request();
        request.retain(|(name, _)| *name != repeated);
        request.push((repeated, "x".into()));
        request.push((repeated, "x".into()));
        assert_error_redirect(&browser.authorize(&request).await, "invalid_request");
    }
    let mut request = client.request();
    set(&mut request, "state", &long);
    let redirect = redirect_of(&browser.authorize(&request).await);
    assert_eq!(redirect["error"], "invalid_request");
    assert_eq!(server.number("SELECT count(*) AS number FROM authorization_codes"), 0);
}

#[actix_rt::test]
async fn state_comes_back_byte_for_byte_and_every_response_names_the_issuer() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let long = "x".repeat(2048);
    for state in
        [" a b ", "a+b", "%41%zz", "ä€😀", "a&b=c#d?e", "\"<b>'\\", "\0\r\n\t\u{7f}", &long]
    {
        for scope in ["read", "admin"] {
            let mut request = client.request();
            set(&mut request, "state", state);
            set(&mut request, "scope", scope);
            let redirect = redirect_of(&browser.authorize(&request).await);
            assert_eq!(redirect["state"], state);
            assert_eq!(redirect["iss"], ISSUER);
            assert_eq!(redirect.contains_key("code"), scope == "read", "{redirect:?}");
            let redirect = redirect_of(&browser.authorize_by_post(&request).await);
            assert_eq!(redirect["state"], state);
        }
    }
    let mut without = client.request();
    set(&mut without, "state", "");
    let redirect = redirect_of(&browser.authorize(&without).await);
    let names: Vec<&str> = redirect.keys().map(String::as_str).collect();
    assert_eq!(names, ["code", "iss"]);
}

#[actix_rt::test]
async fn unknown_parameters_are_ignored_and_empty_ones_count_as_omitted() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let mut request = client.request();
    for name in ["display", "ui_locales", "claims_locales", "acr_values", "claims", "login_hint"] {
        request.push((name, "x".into()));
    }
    request.extend([("foo", "bar".into()), ("id_token_hint", "x".into())]);
    request.extend([("foo2", "".into()), ("foo2", "".into()), ("state", "".into())]);
    for name in ["response_mode", "prompt", "nonce", "max_age", "scope", "request", "resource"] {
        request.push((name, "".into()));
    }
    let redirect = redirect_of(&browser.authorize(&request).await);
    assert!(redirect.contains_key("code"), "{redirect:?}");
    assert_eq!(redirect["state"], "a state", "the empty one does not count");
}

#[actix_rt::test]
async fn redirects_are_303_and_neither_cached_nor_sent_as_referrer() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let anonymous = Browser::at(&server);
    let mut rejected = client.request();
    set(&mut rejected, "scope", "admin");
    for response in [
        browser.authorize(&client.request()).await,
        browser.authorize(&rejected).await,
        anonymous.authorize(&client.request()).await,
    ] {
        assert_page(&response, 303);
    }
}

#[actix_rt::test]
async fn form_post_sends_the_response_by_a_page_whose_policy_permits_one_script() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let state = "\"><script>alert(1)</script>&#34;";
    for scope in ["read", "admin"] {
        let mut request = client.request();
        set(&mut request, "response_mode", "form_post");
        set(&mut request, "state", state);
        set(&mut request, "scope", scope);
        let page = browser.authorize(&request).await;
        assert_eq!(page.status, 200, "{}", page.text);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        let script = between(&page.text, "<script>", "</script>");
        assert_eq!(page.text.matches("<script").count(), 1, "{}", page.text);
        let digest = STANDARD.encode(openssl::sha::sha256(script.as_bytes()));
        let policy = page.header("content-security-policy");
        assert!(policy.contains(&format!("script-src 'sha256-{digest}'")), "{policy}");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        let form = page.text.split_once("<form").unwrap().1;
        assert_eq!(between(form, "action=\"", "\""), REDIRECT_URI);
        assert_eq!(between(form, "method=\"", "\""), "post");
        let field = |name: &str| between(form, &format!("name=\"{name}\" value=\""), "\"");
        assert_eq!(field("state"), state.replace("&#34;", "\""));
        assert_eq!(field("iss"), ISSUER);
        if scope == "read" {
            tokens(&server.token(&client, &exchange_of(&field("code"))).await);
        } else {
            assert_eq!(field("error"), "invalid_scope");
        }
    }
}

#[actix_rt::test]
async fn malformed_form_gets_a_page() {
    let server = Server::start();
    let client = server.add_spa();
    let mut long = client.request();
    let state = "x".repeat(9000);
    set(&mut long, "state", &state);
    let long = server.http.post("/oauth/authorize", &query_of(&long)).await;
    assert_page(&long, 413);
    let json = server.http.request("POST", "/oauth/authorize").content_type("application/json");
    assert_page(&TestResponse::of(json.send_body("{}")).await, 400);
}

#[actix_rt::test]
async fn user_logs_in_and_returns_to_the_request() {
    let (server, _) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let browser = Browser::at(&server);
    for by_post in [false, true] {
        browser.set_cookie(crate::browser::LOGIN_COOKIE, "");
        let asked = if by_post {
            browser.authorize_by_post(&client.request()).await
        } else {
            browser.authorize(&client.request()).await
        };
        let redirect = redirect_of(&browser.log_in_and_continue(&asked).await);
        assert_eq!(redirect["state"], "a state");
        tokens(&server.token(&client, &exchange_of(&redirect["code"])).await);
    }
}

#[actix_rt::test]
async fn scope_of_a_request_is_within_that_of_the_client() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    for (requested, granted) in [
        ("", "read write"),
        ("write", "write"),
        ("write read", "write read"),
        ("read offline_access", "read offline_access"),
    ] {
        let mut request = client.request();
        set(&mut request, "scope", requested);
        let code = browser.code(&request).await;
        let body = tokens(&server.token(&client, &exchange_of(&code)).await);
        assert_eq!(body["scope"], granted);
        assert!(body["refresh_token"].is_string(), "also without offline_access");
    }
}

#[actix_rt::test]
async fn loopback_redirect_uri_may_have_any_port() {
    let (server, browser) = server_with(|launch| launch).await;
    let uris = ["http://127.0.0.1/cb", "http://[::1]:80/cb", "com.example.app:/cb"];
    let mut options = vec!["--public", "--first-party"];
    options.extend(uris.iter().flat_map(|uri| ["--redirect-uri", uri]));
    let client = server.register_client("cli", &options);
    let authorize = async |uri: &str| {
        let mut request: Parameters<'_> = client.request();
        request.retain(|(name, _)| *name != "redirect_uri");
        if !uri.is_empty() {
            request.push(("redirect_uri", uri.to_owned().into()));
        }
        browser.authorize(&request).await
    };
    for uri in [
        "http://127.0.0.1:49152/cb",
        "http://127.0.0.1/cb",
        "http://[::1]:8080/cb",
        "com.example.app:/cb",
    ] {
        let response = authorize(uri).await;
        assert_eq!(response.status, 303, "{}", response.text);
        assert!(response.header("location").starts_with(&format!("{uri}?code=")), "{uri}");
    }
    for uri in [
        "",
        "http://localhost:49152/cb",
        "http://127.0.0.1:49152/other",
        "http://127.0.0.1:x/cb",
        "http://127.0.0.1:80@evil.example/cb",
        "http://127.0.0.1.evil.example/cb",
        "https://127.0.0.1:49152/cb",
        "http://127.0.0.2/cb",
        "com.example.app:/cb/x",
        "com.example.app://cb",
    ] {
        assert_error_page(&authorize(uri).await);
    }
    let options = ["--public", "--first-party", "--redirect-uri", REDIRECT_URI];
    let single = server.register_client("single", &options);
    let mut request = single.request();
    set(&mut request, "redirect_uri", "");
    assert!(redirect_of(&browser.authorize(&request).await).contains_key("code"));
}
