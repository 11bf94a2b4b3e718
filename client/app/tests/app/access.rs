//! Access to the app: cookies, the demo guest, cross-site requests, host names, limits.

use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse};

use super::support::{Browser, Setup, assert_error, client, cookie_of, server_binary};

/// A server without TLS.
fn server(env: &TestEnv) -> ProcessBuilder {
    env.server(&server_binary()).set("tls.mode", "off")
}

fn http_to(app: &Process) -> Http {
    Http::new(&app.url().replace("0.0.0.0", "127.0.0.1"), None)
}

async fn post(http: &Http, path: &str) -> TestResponse {
    TestResponse::of(http.request("POST", path).send()).await
}

#[actix_rt::test]
async fn each_browser_and_the_demo_guest_have_their_own_user() {
    let setup = Setup::start(|server| server);
    let one = Browser::open(&setup.client).await;
    let other = Browser::open(&setup.client).await;
    assert_ne!(one.cookie(), other.cookie());
    one.log_in().await;
    assert_error(&other.call("POST", "/api/info").await, 401, "not_logged_in");
    assert_eq!(setup.http.get("/info").await.status, 401);
    assert_eq!(other.get("/login").await.text, "Logged in");
    assert_eq!(setup.http.get("/login").await.status, 200);

    let info = |user: &str| format!("User Id: {user}");
    let first = one.user().await;
    let second = other.user().await;
    let demo = setup.http.get("/info").await.text;
    assert_eq!(one.get("/info").await.text, info(&first));
    assert_eq!(other.get("/info").await.text, info(&second));
    assert!(first != second && demo != info(&first) && demo != info(&second));

    assert_eq!(one.call("POST", "/api/logout").await.status, 204);
    assert_error(&one.call("POST", "/api/info").await, 401, "not_logged_in");
    assert_eq!(other.user().await, second);
    assert_eq!(setup.http.get("/info").await.text, demo);
}

#[actix_rt::test]
async fn without_the_demo_guest_a_cookie_is_required() {
    let env = TestEnv::new();
    let server = env.server(&server_binary()).start();
    let app = client(&env, server.url()).set("client.demo", "false").start();
    let http = Http::new(app.url(), None);
    for path in ["/login", "/info"] {
        let response = http.get(path).await;
        assert_eq!(response.status, 401);
        assert_eq!(response.text, "No cookie: open / in a browser first.");
    }
    assert_eq!(server.logged("session opened"), 0);
    let browser = Browser::open(&app).await;
    browser.log_in().await;
    assert!(browser.get("/info").await.text.starts_with("User Id: "));
}

#[actix_rt::test]
async fn the_cookie_is_http_only_and_same_site() {
    let setup = Setup::start(|server| server);
    let secure = client(&setup.env, setup.server.url()).set("client.cookie_secure", "true").start();
    for (app, name, more) in
        [(&setup.client, "matchbook_client", ""), (&secure, "__Host-matchbook_client", "; Secure")]
    {
        let http = Http::new(app.url(), None);
        let page = http.get("/").await;
        let (cookie, attributes) = page.header("set-cookie").split_once("; ").unwrap();
        assert_eq!(attributes, format!("HttpOnly; SameSite=Strict; Path=/{more}"));
        let (given, id) = cookie.split_once('=').unwrap();
        assert_eq!(given, name);
        assert!(id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
        let again =
            TestResponse::of(http.request("GET", "/").insert_header(("cookie", cookie)).send());
        assert_eq!(again.await.header("set-cookie"), "", "the browser has a cookie");
    }
}

#[actix_rt::test]
async fn an_unknown_cookie_is_not_adopted() {
    let mut setup = Setup::start(|server| server);
    let planted = format!("matchbook_client={}", "ab".repeat(32));
    let browser = Browser::with_cookie(&setup.client, planted.clone());
    assert_error(&browser.call("POST", "/api/login").await, 401, "no_cookie");
    assert_error(&browser.get("/api/events").await, 401, "no_cookie");
    assert_eq!(browser.get("/info").await.status, 401);
    let login = browser.get("/login").await;
    assert_eq!((login.status, login.header("set-cookie")), (401, ""));
    assert_eq!(
        login.text,
        "The app does not know this browser, as after a day without a request: open / and log in \
         again."
    );
    let page = TestResponse::of(browser.bare("GET", "/").send()).await;
    let given = page.header("set-cookie");
    assert!(page.status == 200 && given.contains('=') && !given.contains(&planted), "{given}");
    assert_error(&browser.call("POST", "/api/info").await, 401, "no_cookie");
    assert_error(
        &TestResponse::of(setup.http.request("GET", "/api/sessions").send()).await,
        401,
        "no_cookie",
    );
    assert!(setup.server.stop().success());
    assert_eq!(setup.server.logged("session opened"), 0);
}

#[actix_rt::test]
async fn cross_site_requests_are_rejected_without_effect() {
    let mut setup = Setup::start(|server| server);
    let browser = Browser::open(&setup.client).await;
    browser.log_in().await;
    let user = browser.user().await;
    let calls = [
        ("POST", "/api/login"),
        ("POST", "/api/account/login"),
        ("POST", "/api/account/register"),
        ("DELETE", "/api/sessions?keep=current"),
        ("POST", "/api/refresh"),
        ("POST", "/api/logout"),
        ("POST", "/api/logout-everywhere"),
        ("POST", "/api/burst"),
        ("POST", "/api/info"),
        ("DELETE", "/api/sessions/8c3a8ee5-0000-4000-8000-000000000000"),
    ];
    let page = ("x-matchbook", "page");
    let attempts: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-matchbook", "other")],
        &[page, ("origin", "http://evil.example")],
        &[page, ("origin", "null")],
        &[page, ("sec-fetch-site", "cross-site")],
        &[page, ("sec-fetch-site", "same-site")],
    ];
    for (method, path) in calls {
        for attempt in attempts {
            let mut request = browser.bare(method, path);
            for header in attempt {
                request = request.insert_header(*header);
            }
            assert_error(&TestResponse::of(request.send()).await, 403, "forbidden");
        }
    }
    for path in ["/login", "/info"] {
        for site in ["cross-site", "same-site"] {
            let request = browser.bare("GET", path).insert_header(("sec-fetch-site", site));
            assert_eq!(TestResponse::of(request.send()).await.status, 403);
        }
    }
    assert_eq!(browser.user().await, user);
    assert!(setup.client.stop().success());
    let console = setup.client.log();
    let requests = console.lines().filter(|line| line.contains("GET /") || line.contains("POST /"));
    assert_eq!(requests.count(), 4, "register, token, and the user twice: {console}");
}

#[actix_rt::test]
async fn a_link_from_another_site_does_not_replace_the_cookie() {
    let setup = Setup::start(|server| server);
    let request = setup.http.request("GET", "/").insert_header(("sec-fetch-site", "cross-site"));
    let response = TestResponse::of(request.send()).await;
    assert_eq!((response.status, response.header("set-cookie")), (200, ""));
    assert_eq!(response.header("refresh"), "0; url=/", "the browser loads it with its cookie");
}

#[actix_rt::test]
async fn login_replaces_the_cookie_against_session_fixation() {
    let setup = Setup::start(|server| server);
    for (method, path) in [("POST", "/api/login"), ("GET", "/login")] {
        let browser = Browser::open(&setup.client).await;
        let mut events = browser.events().await;
        let attacker = Browser::with_cookie(&setup.client, browser.cookie());
        let login = browser.call(method, path).await;
        assert!(login.header("set-cookie").ends_with("; HttpOnly; SameSite=Strict; Path=/"));
        assert_ne!(browser.cookie(), attacker.cookie());
        let user = browser.user().await;
        assert!(!user.is_empty());
        assert_error(&attacker.call("POST", "/api/info").await, 401, "no_cookie");
        assert_eq!(attacker.get("/info").await.status, 401);
        events.exchanges_until("/api/info").await;
    }
}

#[actix_rt::test]
async fn unknown_host_names_are_rejected_against_dns_rebinding() {
    let setup = Setup::start(|server| server);
    let app = client(&setup.env, setup.server.url()).set("client.hosts", "App.example").start();
    let get = async |app: &Process, path: &str, host: &'static str| {
        let http = Http::new(app.url(), None);
        TestResponse::of(http.request("GET", path).insert_header(("host", host)).send()).await
    };
    for path in ["/", "/login", "/info", "/page.js", "/api/events", "/nothing"] {
        let response = get(&setup.client, path, "evil.example:5002").await;
        assert_eq!((response.status, response.header("set-cookie")), (421, ""), "{path}");
        assert!(response.text.contains("`client.hosts`"), "{}", response.text);
        assert_eq!(response.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(get(&setup.client, "/health/live", "10.0.0.7").await.status, 200);
    assert_eq!(get(&setup.client, "/", "app.example").await.status, 421);
    for host in ["localhost", "localhost:1", "[::1]:5002", "app.example:443"] {
        assert_eq!(get(&app, "/", host).await.status, 200, "{host}");
    }
    let wrong = client(&setup.env, setup.server.url()).set("client.hosts", "http://a").run(&[]);
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && error.contains("`http://a` is neither"), "{error}");
}

#[actix_rt::test]
async fn without_fetch_metadata_origin_and_referer_decide() {
    let setup = Setup::start(|server| server);
    for header in [("origin", "http://evil.example"), ("referer", "http://evil.example/page")] {
        for (path, status) in [("/login", 403), ("/info", 403), ("/", 200)] {
            let request = setup.http.request("GET", path).insert_header(header);
            let response = TestResponse::of(request.send()).await;
            assert_eq!((response.status, response.header("set-cookie")), (status, ""), "{path}");
        }
    }
    let own = format!("{}/", setup.client.url());
    let request = setup.http.request("GET", "/login").insert_header(("referer", own));
    assert_eq!(TestResponse::of(request.send()).await.status, 200);
}

#[actix_rt::test]
async fn a_logged_in_browser_is_not_evicted() {
    let setup = Setup::start(|server| server);
    let app = client(&setup.env, setup.server.url()).set("client.sessions", "1").start();
    Browser::open(&app).await;
    let browser = Browser::open(&app).await;
    browser.log_in().await;
    let http = Http::new(app.url(), None);
    let full = http.get("/").await;
    assert_eq!(
        (full.status, full.header("retry-after"), full.header("set-cookie")),
        (503, "60", "")
    );
    browser.user().await;
    assert_eq!(browser.call("POST", "/api/logout").await.status, 204);
    assert_eq!(http.get("/").await.status, 200);
    assert_error(&browser.call("POST", "/api/info").await, 401, "no_cookie");
}

#[actix_rt::test]
async fn logins_per_address_are_limited_and_other_requests_are_not() {
    let env = TestEnv::new();
    let server = server(&env).start();
    let app = client(&env, server.url()).set("client.logins", "2").start();
    let http = http_to(&app);
    assert_eq!(http.get("/login").await.status, 200);
    assert_eq!(post(&http, "/login").await.status, 200);
    let page = http.get("/").await;
    let cookie = cookie_of(&page);
    let by_page = http.request("POST", "/api/login").insert_header(("x-matchbook", "page"));
    let by_page = TestResponse::of(by_page.insert_header(("cookie", cookie)).send()).await;
    for rejected in [http.get("/login").await, post(&http, "/login").await, by_page] {
        assert_eq!(rejected.status, 429, "{}", rejected.text);
        assert!(rejected.header("retry-after").parse::<u64>().unwrap() > 0);
        assert!(rejected.text.contains("Too many logins"), "{}", rejected.text);
    }
    assert_eq!(http.get("/info").await.status, 200);
    assert_eq!(server.logged("session opened"), 2);
}

#[actix_rt::test]
async fn on_a_network_address_there_is_no_demo_guest_and_no_login_by_get() {
    let env = TestEnv::new();
    let server = server(&env).start();
    let builder = client(&env, server.url()).set("client.address", "0.0.0.0:0");
    let app = builder.start();
    let http = http_to(&app);
    let by_get = http.get("/login").await;
    assert_eq!((by_get.status, by_get.header("allow")), (405, "POST"));
    assert_eq!(post(&http, "/login").await.status, 401);
    assert_eq!(http.get("/info").await.status, 401);
    let page = http.get("/").await;
    let cookie = cookie_of(&page);
    let login = |header: (&'static str, &'static str)| {
        let request = http.request("POST", "/login").insert_header(("cookie", cookie.clone()));
        TestResponse::of(request.insert_header(header).send())
    };
    assert_eq!(login(("sec-fetch-site", "cross-site")).await.status, 403);
    assert_eq!(login(("origin", "http://evil.example")).await.status, 403);
    assert_eq!(server.logged("session opened"), 0);
    assert_eq!(login(("sec-fetch-site", "same-origin")).await.status, 200);

    let shared = builder.set("client.demo", "true").start();
    assert_eq!(http_to(&shared).get("/login").await.status, 200);
    let wrong = client(&env, server.url()).set("client.demo", "maybe").run(&[]);
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert!(error.contains("`client.demo`"), "{error}");
}

#[actix_rt::test]
async fn an_unknown_cookie_is_reported_and_not_an_ended_session() {
    let env = TestEnv::new();
    let server = server(&env).start();
    let app = client(&env, server.url()).start();
    let http = http_to(&app);
    let send = |method: &'static str, path: &'static str| {
        let request = http.request(method, path).insert_header(("x-matchbook", "page"));
        TestResponse::of(request.insert_header(("cookie", "matchbook_client=before")).send())
    };
    for (method, path) in [("GET", "/info"), ("POST", "/login"), ("POST", "/api/info")] {
        let response = send(method, path).await;
        assert_eq!(response.status, 401, "{path}");
        assert!(response.text.contains("The app does not know this browser"), "{}", response.text);
    }
    let page = send("GET", "/").await;
    assert!(
        page.text.contains("<body data-unknown-cookie>") && !page.header("set-cookie").is_empty()
    );
    assert!(!http.get("/").await.text.contains("<body data-unknown-cookie>"), "a new browser");
}
