//! Forward authentication: the responses to a reverse proxy.

use matchbook_testkit::{ProcessBuilder, TestResponse};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::browser::{Browser, LOGIN_COOKIE};
use crate::oauth::{PASSWORD, REDIRECT_URI, exchange_of, set, text, tokens};
use crate::support::{Server, Tokens};

pub(crate) const COOKIE: &str = "__Secure-matchbook_forward";
const PAGE: &str = "https://app.example.com/x?a=b&c=d";
const LOGIN: &str = "https://auth.example.com/forward-auth/login?return=";

/// A browser that opens a page.
const BROWSER: (&str, &str) = ("accept", "text/html,*/*;q=0.8");

pub(crate) fn settings(launch: ProcessBuilder) -> ProcessBuilder {
    launch
        .set("server.public_url", "https://auth.example.com")
        .set("forward_auth.hosts", "app.example.com, wiki.example.com:8443")
        .set("forward_auth.cookie_domain", "example.com")
}

/// Returns the path that logs in and returns to this address.
pub(crate) fn login_path(address: &str) -> String {
    format!("/forward-auth/login?return={}", utf8_percent_encode(address, NON_ALPHANUMERIC))
}

impl Server {
    /// Asks as a proxy does.
    async fn ask(&self, query: &str, headers: &[(&str, &str)]) -> TestResponse {
        let mut request = self.http.request("GET", &format!("/forward-auth{query}"));
        for header in headers {
            request = request.append_header(*header);
        }
        TestResponse::of(request.send()).await
    }

    /// Asks with a cookie.
    async fn ask_with(&self, cookie: &str) -> TestResponse {
        self.ask("", &[("cookie", &format!("theme=dark; {COOKIE}={cookie}; a=b"))]).await
    }

    /// Asks with an access token.
    async fn ask_as(&self, token: &str) -> TestResponse {
        self.ask("", &[("authorization", &format!("Bearer {token}"))]).await
    }
}

/// Returns the cookie of a browser that is logged in.
pub(crate) async fn cookie_of(browser: &Browser) -> String {
    let response = browser.get(&login_path(PAGE)).await;
    assert_eq!((response.status, response.header("location")), (303, PAGE), "{}", response.text);
    browser.cookie(COOKIE).unwrap()
}

#[actix_rt::test]
async fn browser_logs_in_and_returns_to_the_application_with_a_cookie() {
    let server = Server::with(settings);
    let id = server.register("ann", PASSWORD).await;
    let browser = Browser::at(&server);
    let response = browser.get(&login_path(PAGE)).await;
    assert_eq!(response.status, 303);
    let location = response.header("location").strip_prefix("..").unwrap().to_owned();
    assert!(browser.cookie(COOKIE).is_none());
    let form = browser.get(&location).await;
    let policy = form.header("content-security-policy");
    assert!(policy.contains("form-action 'self' https://app.example.com"), "{policy}");
    let response = browser.submit(&form, &[("name", "ann"), ("password", PASSWORD)]).await;
    assert_eq!(response.status, 303, "{}", response.text);
    let response = browser.get(&format!("/{}", response.header("location"))).await;
    assert_eq!((response.status, response.header("location")), (303, PAGE));
    let cookie = response.header("set-cookie");
    assert!(cookie.ends_with("; Domain=example.com"), "{cookie}");

    let permitted = server.ask_with(&browser.cookie(COOKIE).unwrap()).await;
    assert_eq!((permitted.status, &*permitted.text), (204, ""));
    assert_eq!(permitted.header("x-auth-user"), id);
    assert_eq!(permitted.header("x-auth-name"), "ann");
    for empty in ["x-auth-email", "x-auth-groups"] {
        assert_eq!(permitted.headers.get(empty).unwrap(), "", "{empty}");
    }
    assert!(!permitted.headers.contains_key("set-cookie"));
    assert_eq!(permitted.header("cache-control"), "no-store");
}

#[actix_rt::test]
async fn pages_are_sent_to_the_login_and_requests_of_programs_are_rejected() {
    let server = Server::with(settings);
    let forwarded = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.example.com"),
        ("x-forwarded-uri", "/x?a=b&c=d"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&forwarded[..], more].concat();
    let expected = |response: &TestResponse, header: &str| {
        let address = response.header(header).strip_prefix(LOGIN).unwrap();
        assert_eq!(percent_decode_str(address).decode_utf8().unwrap(), PAGE);
    };
    let page = server.ask("", &with(&[BROWSER])).await;
    assert_eq!(page.status, 302, "{}", page.text);
    expected(&page, "location");

    // nginx passes only 401 and 403.
    let page = server.ask("", &[("x-original-url", PAGE), BROWSER]).await;
    assert_eq!((page.status, page.header("location")), (401, ""));
    expected(&page, "x-auth-login");

    let basic = ("authorization", "Basic YTpi");
    let json = ("accept", "application/json");
    for headers in [
        with(&[]),
        with(&[json]),
        with(&[BROWSER, basic]),
        vec![("x-original-url", PAGE), json],
        vec![BROWSER],
        vec![],
        // Hosts that are not configured, and pages without TLS.
        vec![BROWSER, forwarded[0], ("x-forwarded-host", "evil.example"), forwarded[2]],
        vec![BROWSER, ("x-forwarded-proto", "http"), forwarded[1], forwarded[2]],
        vec![BROWSER, forwarded[0], forwarded[1], ("x-forwarded-uri", "@evil.example")],
        vec![BROWSER, forwarded[0], forwarded[1]],
        vec![BROWSER, ("x-original-url", "https://evil.example/")],
    ] {
        let refused = server.ask("", &headers).await;
        assert_eq!(refused.status, 401, "{headers:?}");
        assert!(refused.header("www-authenticate").starts_with("Bearer realm="), "{headers:?}");
        assert_eq!(refused.field("error"), "missing_token", "{headers:?}");
        for absent in ["location", "x-auth-login", "x-auth-user"] {
            assert!(!refused.headers.contains_key(absent), "{absent}: {headers:?}");
        }
    }
}

#[actix_rt::test]
async fn misspelled_parameter_permits_no_user() {
    let server = Server::with(settings);
    server.register("ann", PASSWORD).await;
    let browser = Browser::at(&server);
    browser.log_in("ann", PASSWORD).await;
    let cookie = format!("{COOKIE}={}", cookie_of(&browser).await);
    for query in ["?groups=admin", "?Group=admin", "?group[]=admin", "?=admin", "?a"] {
        for headers in [[("cookie", cookie.as_str()), BROWSER].as_slice(), &[BROWSER]] {
            let response = server.ask(query, headers).await;
            assert_eq!(response.status, 400, "{query} {}", response.text);
            assert!(!response.headers.contains_key("x-auth-user"));
        }
    }
    assert_eq!(server.ask("?group=admin", &[("cookie", &cookie)]).await.status, 403);
    assert_eq!(server.ask("?", &[("cookie", &cookie)]).await.status, 204);
}

#[actix_rt::test]
async fn cookie_is_found_behind_others_of_its_name() {
    let server = Server::with(settings);
    server.register("ann", PASSWORD).await;
    let browser = Browser::at(&server);
    browser.log_in("ann", PASSWORD).await;
    let cookie = cookie_of(&browser).await;
    let status = async |planted: usize| {
        let others = format!("{COOKIE}=stale; ").repeat(planted);
        let cookies = format!("{others}{COOKIE}={cookie}");
        server.ask("", &[("cookie", &cookies)]).await.status
    };
    assert_eq!((status(0).await, status(3).await, status(4).await), (204, 204, 401));
}

#[actix_rt::test]
async fn log_has_only_scheme_and_host_of_addresses() {
    let server = Server::with(settings);
    let address = [
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "app.example.com"),
        ("x-forwarded-uri", "/reset?token=hidden"),
        BROWSER,
    ];
    assert_eq!(server.ask("", &address).await.status, 401);
    let browser = Browser::at(&server);
    let path = login_path("https://other.example/?token=hidden");
    assert_eq!(browser.get(&path).await.status, 400);
    assert_eq!(server.process.logged("hidden"), 0);
    assert_eq!(server.process.logged("http://app.example.com"), 1);
    assert_eq!(server.process.logged("https://other.example"), 1);
}

#[actix_rt::test]
async fn login_returns_to_no_other_host() {
    let server = Server::with(settings);
    let browser = server.browser_of_ann().await;
    for address in [
        "",
        "https://evil.example/",
        "//evil.example/",
        "https://app.example.com@evil.example/",
        "https://app.example.com.evil.example/",
        "http://app.example.com/",
        "https://wiki.example.com/",
        "javascript:alert(1)",
        "/account",
    ] {
        let response = browser.get(&login_path(address)).await;
        assert_eq!((response.status, response.header("location")), (400, ""), "{address}");
        // Nor by the page for the login.
        let next = format!("forward-auth/login?return={address}");
        let next = utf8_percent_encode(&next, NON_ALPHANUMERIC).to_string();
        let form = browser.get(&format!("/login?continue={next}")).await;
        let response = browser.submit(&form, &[("name", "ann"), ("password", PASSWORD)]).await;
        let location = response.header("location");
        assert!(location.starts_with("forward-auth/login?return="), "{location}");
        let response = browser.get(&format!("/{location}")).await;
        assert_eq!((response.status, response.header("location")), (400, ""), "{address}");
        assert!(browser.cookie(COOKIE).is_none(), "{address}");
    }
    assert_eq!(browser.get("/forward-auth/login").await.status, 400);
}

#[actix_rt::test]
async fn end_of_the_login_blocks_at_the_next_request() {
    let server = Server::with(settings);
    let browser = server.browser_of_ann().await;
    let cookie = cookie_of(&browser).await;
    assert_eq!(server.ask_with(&cookie).await.status, 204);
    let page = browser.get("/account").await;
    let response = browser.submit(&page, &[("action", "log-out")]).await;
    assert_eq!(response.status, 303, "{}", response.text);
    assert_eq!(server.ask_with(&cookie).await.status, 401);

    let cookie = cookie_of(&server.log_browser_in().await).await;
    assert_eq!(server.ask_with(&cookie).await.status, 204);
    server.users(&["disable", "ann"]).unwrap();
    assert_eq!(server.ask_with(&cookie).await.status, 401);
    server.users(&["enable", "ann"]).unwrap();

    let cookie = cookie_of(&server.log_browser_in().await).await;
    server.sql("UPDATE accounts SET disabled_at = created_at");
    assert_eq!(server.ask_with(&cookie).await.status, 401, "whatever became of the login session");
}

#[actix_rt::test]
async fn request_extends_the_idle_lifetime_but_not_the_absolute_one() {
    let server = Server::with(settings);
    let cookie = cookie_of(&server.browser_of_ann().await).await;
    let is_postgres = server.world.database_url().starts_with("postgres");
    let earlier = |column: &str, seconds: i64| {
        let time = if is_postgres {
            format!("{column} - INTERVAL '{seconds} seconds'")
        } else {
            format!("{column} - {seconds} * 1000000")
        };
        server.sql(&format!("UPDATE login_sessions SET {column} = {time}"));
    };
    let idle = || {
        let column = if is_postgres {
            "CAST(EXTRACT(EPOCH FROM idle_expires_at) AS bigint)"
        } else {
            "idle_expires_at / 1000000"
        };
        server.number(&format!("SELECT {column} AS number FROM login_sessions"))
    };
    let before = idle();
    earlier("idle_expires_at", 23 * 3600);
    assert_eq!(server.ask_with(&cookie).await.status, 204);
    assert!(idle() >= before, "the day begins again");
    earlier("idle_expires_at", 24 * 3600);
    assert_eq!(server.ask_with(&cookie).await.status, 401);

    let cookie = cookie_of(&server.log_browser_in().await).await;
    earlier("expires_at", 30 * 24 * 3600);
    assert_eq!(server.ask_with(&cookie).await.status, 401);
}

#[actix_rt::test]
async fn headers_have_the_verified_address_and_the_groups_but_no_chosen_name() {
    let server = Server::with(settings);
    server.register("ann@example.com", PASSWORD).await;
    server.users(&["group", "add", "ann@example.com", "staff"]).unwrap();
    server.users(&["group", "add", "ann@example.com", "ops/night"]).unwrap();
    server.sql("UPDATE accounts SET display_name = 'admin'");
    let browser = Browser::at(&server);
    browser.log_in("ann@example.com", PASSWORD).await;
    let cookie = cookie_of(&browser).await;
    let unverified = server.ask_with(&cookie).await;
    assert_eq!(unverified.header("x-auth-name"), "ann@example.com");
    assert_eq!(unverified.header("x-auth-email"), "", "a user may claim any address");
    server.sql("UPDATE identities SET verified_at = created_at");
    let verified = server.ask_with(&cookie).await;
    assert_eq!(verified.header("x-auth-email"), "ann@example.com");
    assert_eq!(verified.header("x-auth-groups"), "ops/night,staff");

    let header = format!("{COOKIE}={cookie}");
    for (query, status) in [
        ("?group=staff", 204),
        ("?group=admin&group=staff", 204),
        ("?group=ops%2Fnight", 204),
        ("?group=admin", 403),
        ("?group=staf", 403),
        ("?group=Staff", 403),
        ("?group=ops%2Fnight%2Cstaff", 403),
        ("?group=", 403),
        ("?other=x", 400),
    ] {
        let response = server.ask(query, &[("cookie", &header)]).await;
        assert_eq!(response.status, status, "{query}");
        assert_eq!(response.headers.contains_key("x-auth-user"), status == 204, "{query}");
    }
    let refused = server.ask("?group=admin", &[("cookie", &header), BROWSER]).await;
    assert_eq!((refused.status, &*refused.field("error")), (403, "not_in_group"));
    assert_eq!(server.ask("?group=staff", &[]).await.status, 401);
}

#[actix_rt::test]
async fn access_tokens_of_accounts_are_accepted_and_those_of_guests_are_not() {
    let server = Server::with(settings);
    let id = server.register("ann", PASSWORD).await;
    let tokens: Tokens = server.log_in_as("ann", PASSWORD).await;
    let permitted = server.ask_as(&tokens.access).await;
    assert_eq!((permitted.status, permitted.header("x-auth-user")), (204, &*id));
    assert_eq!(permitted.header("x-auth-name"), "ann");
    let guest = server.log_in().await;
    let refused = server.ask_as(&guest.access).await;
    assert_eq!((refused.status, &*refused.field("error")), (403, "insufficient_scope"));
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    let refused = server.ask_as(&tokens.access).await;
    assert_eq!((refused.status, &*refused.field("error")), (401, "invalid_token"));
    assert_eq!(server.ask_as("junk").await.status, 401);
}

#[actix_rt::test]
async fn token_of_a_client_needs_the_scope_for_it() {
    let server = Server::with(settings);
    let browser = server.browser_of_ann().await;
    let options = ["--public", "--redirect-uri", REDIRECT_URI, "--first-party", "--scope"];
    let client = server.register_client("tool", &[&options[..], &["read forward_auth"]].concat());
    for (scope, status) in [("openid profile email groups read", 403), ("openid forward_auth", 204)]
    {
        let mut request = client.request();
        set(&mut request, "scope", scope);
        let code = browser.code(&request).await;
        let body = tokens(&server.token(&client, &exchange_of(&code)).await);
        let response = server.ask_as(&text(&body, "access_token")).await;
        assert_eq!(response.status, status, "{scope}: {}", response.text);
        assert_eq!(server.ask_as(&text(&body, "id_token")).await.status, 401);
    }
    let other = server.register_client("other", &[&options[..], &["read"]].concat());
    let mut request = other.request();
    set(&mut request, "scope", "openid forward_auth");
    let response = browser.authorize(&request).await;
    assert!(response.header("location").contains("error=invalid_scope"), "not for every client");
}

#[actix_rt::test]
async fn cookies_are_good_for_one_purpose() {
    let server = Server::with(settings);
    let browser = server.browser_of_ann().await;
    let cookie = cookie_of(&browser).await;
    let login = browser.cookie(LOGIN_COOKIE).unwrap();
    assert_eq!(server.ask_with(&login).await.status, 401);
    assert_eq!(server.ask("", &[("cookie", &format!("{LOGIN_COOKIE}={login}"))]).await.status, 401);
    let other = Browser::at(&server);
    other.set_cookie(LOGIN_COOKIE, &cookie);
    assert!(!other.is_logged_in().await);
    other.set_cookie(COOKIE, &cookie);
    assert_eq!(other.get("/account").await.status, 303, "it does not log in");
    for junk in ["", "x", &cookie[1..], &format!("{cookie}A")] {
        assert_eq!(server.ask_with(junk).await.status, 401, "{junk}");
    }
}

#[actix_rt::test]
async fn without_hosts_there_is_no_forward_authentication() {
    let server = Server::start();
    let browser = server.browser_of_ann().await;
    assert_eq!(server.ask("", &[BROWSER]).await.status, 404);
    let tokens = server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.ask_as(&tokens.access).await.status, 404);
    let response = browser.get(&login_path(PAGE)).await;
    assert_eq!((response.status, response.header("location")), (404, ""));
}
