//! The client app against a real server: both as processes.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::cell::RefCell;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use awc::ClientRequest;
use futures_util::StreamExt;
use matchbook_testkit::{Http, Process, ProcessBuilder, TcpProxy, TestEnv, TestResponse};
use serde_json::{Value, json};

/// The server's binary lies beside the client's.
fn server_binary() -> PathBuf {
    let binary =
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")).with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    binary
}

/// A client app that talks to `server`, with its files in the folder of `world`.
fn client(world: &TestEnv, server: &str) -> ProcessBuilder {
    ProcessBuilder::new(
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")),
        world.folder(),
        "MATCHBOOK_CLIENT",
    )
    .set("client.address", "127.0.0.1:0")
    .set("client.workers", "4")
    .set("server.url", server)
}

struct Pair {
    server: Process,
    client: Process,
    http: Http,
    world: TestEnv,
}

impl Pair {
    fn start(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        let world = TestEnv::new();
        let server = settings(world.server(&server_binary())).start();
        let client = client(&world, server.url()).start();
        let http = Http::new(client.url(), None);
        Self { server, client, http, world }
    }

    /// Waits until the access token has expired, without the client's doing.
    async fn outlive(&self, lifetime: u64) {
        actix_rt::time::sleep(std::time::Duration::from_secs(lifetime)).await;
    }
}

#[actix_rt::test]
async fn the_article_told_by_the_console() {
    let mut pair = Pair::start(|server| server.set("tokens.access_lifetime", "2s"));
    let login = pair.http.get("/login").await;
    assert_eq!((login.status, login.text.as_str()), (200, "Logged in"));
    let before = pair.http.get("/info").await;
    assert_eq!(before.status, 200);
    assert!(before.text.starts_with("User Id: "), "{}", before.text);

    pair.outlive(2).await;
    let after = pair.http.get("/info").await;
    assert_eq!((after.status, after.text), (200, before.text));

    assert!(pair.client.stop().success());
    let console = pair.client.log();
    let exchanges: Vec<&str> = console
        .lines()
        .filter_map(|line| line.find("GET /").or(line.find("POST /")).map(|at| &line[at..]))
        .collect();
    assert_eq!(
        exchanges,
        [
            "GET /register 200",
            "GET /token 200",
            "GET /user 200",
            "GET /user 401",
            "POST /refresh 200",
            "GET /user 200",
        ]
    );
}

#[actix_rt::test]
async fn fifty_at_once_on_an_expired_token_cause_one_refresh_and_get_fifty_answers() {
    let mut pair = Pair::start(|server| server.set("tokens.access_lifetime", "4s"));
    assert_eq!(pair.http.get("/login").await.status, 200);
    let expected = pair.http.get("/info").await.text;
    for _ in 0..3 {
        pair.outlive(4).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let http = Http::new(pair.client.url(), None);
                actix_rt::spawn(async move { http.get("/info").await })
            })
            .collect();
        for task in tasks {
            let answer = task.await.unwrap();
            assert_eq!((answer.status, answer.text), (200, expected.clone()));
        }
    }
    assert!(pair.client.stop().success() && pair.server.stop().success());
    assert_eq!(pair.client.logged("POST /refresh"), 3);
    assert_eq!(pair.client.logged("POST /refresh 200"), 3);
    assert!(pair.client.logged("GET /user 401") > 3, "many did meet the 401");
    assert_eq!(pair.server.logged("refresh token reused"), 0);
}

#[actix_rt::test]
async fn info_before_login_says_what_to_do() {
    let pair = Pair::start(|server| server);
    let answer = pair.http.get("/info").await;
    assert_eq!((answer.status, answer.text.as_str()), (401, "Not logged in: open /login first."));
}

#[actix_rt::test]
async fn with_the_server_away_the_client_says_so_keeps_its_tokens_and_goes_on_when_it_is_back() {
    let mut pair = Pair::start(|server| server);
    let address = pair.server.url().rsplit('/').next().unwrap().to_owned();
    assert_eq!(pair.http.get("/login").await.status, 200);
    let expected = pair.http.get("/info").await.text;

    assert!(pair.server.stop().success());
    for path in ["/info", "/login"] {
        let answer = pair.http.get(path).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
        assert!(answer.text.contains("cannot connect to the server"), "{}", answer.text);
    }

    let again = pair.world.server(&server_binary()).set("server.address", &address);
    pair.server = again.start();
    let answer = pair.http.get("/info").await;
    assert_eq!((answer.status, answer.text), (200, expected));
}

#[actix_rt::test]
async fn an_answer_to_a_refresh_that_was_lost_is_had_again_after_the_retry_window() {
    let world = TestEnv::new();
    let server = world
        .server(&server_binary())
        .set("tokens.access_lifetime", "3s")
        .set("rotation.grace_period", "1s")
        .set("tls.mode", "off")
        .start();
    let relay = TcpProxy::to(server.url().rsplit('/').next().unwrap());
    let url = format!("http://{}", relay.address());
    let file = world.folder().join("matchbook-client.toml");
    std::fs::write(file, "[server]\nca_file = ''\ntimeout = '3s'").unwrap();
    let app = client(&world, &url).start();
    let http = Http::new(app.url(), None);
    assert_eq!(http.get("/login").await.status, 200);
    actix_rt::time::sleep(std::time::Duration::from_secs(3)).await;

    relay.lose_responses_to("POST /refresh");
    assert_eq!(http.get("/info").await.status, 503);
    app.await_log("POST /refresh failed");
    relay.mend();
    actix_rt::time::sleep(std::time::Duration::from_millis(1100)).await;
    let answer = http.get("/info").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    server.await_log("refresh repeated");
}

#[actix_rt::test]
async fn a_session_that_the_server_ended_is_over_and_a_login_starts_another() {
    let mut pair = Pair::start(|server| {
        server.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "1s")
    });
    assert_eq!(pair.http.get("/login").await.status, 200);
    pair.outlive(2).await;
    let ended = pair.http.get("/info").await;
    assert_eq!(ended.status, 401);
    assert_eq!(
        ended.text,
        "The session has ended because it was not used for longer than the server allows: open /login to log in again."
    );
    let after = pair.http.get("/info").await;
    assert_eq!(after.text, "Not logged in: open /login first.", "the tokens are erased");
    assert_eq!(pair.http.get("/login").await.status, 200);
    assert!(pair.client.stop().success());
    assert_eq!(pair.client.logged("POST /refresh"), 1, "what is over is not refreshed again");
}

#[actix_rt::test]
async fn a_server_under_a_foreign_certificate_is_not_talked_to() {
    let (pair, other) = (Pair::start(|server| server), TestEnv::new());
    let stranger = other.server(&server_binary()).start();
    let misled = client(&pair.world, stranger.url()).start();
    let answer = Http::new(misled.url(), None).get("/login").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text.contains("certificate"), "{}", answer.text);
    assert_eq!(stranger.logged("session opened"), 0);
}

#[actix_rt::test]
async fn a_client_without_a_ca_to_trust_does_not_start_and_says_why() {
    let world = TestEnv::new();
    let output = client(&world, "https://localhost:5001").run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains("`server.ca_file`: the CA file data/tls/ca.pem cannot be read"),
        "{error}"
    );
    assert!(error.contains("start the server first"), "{error}");
}

#[actix_rt::test]
async fn a_ca_file_that_cannot_be_used_is_named_with_the_reason() {
    let world = TestEnv::new();
    let torn = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    for (text, reason) in [
        ("", "ca.pem holds no certificate in PEM"),
        ("nothing of the kind", "ca.pem holds no certificate in PEM"),
        (torn, "ca.pem holds a certificate that cannot be parsed"),
    ] {
        std::fs::write(world.folder().join("ca.pem"), text).unwrap();
        let launch = client(&world, "https://localhost:5001").set("server.ca_file", "ca.pem");
        for arguments in [&[][..], &["login"], &["info"]] {
            let output = launch.run(arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && error.contains("`server.ca_file`"), "{error}");
            assert!(error.contains(reason) && !error.contains("error:"), "{error}");
        }
    }
}

#[actix_rt::test]
async fn plain_http_and_the_system_s_authorities_need_no_ca_file() {
    let world = TestEnv::new();
    let server = world.server(&server_binary()).set("tls.mode", "off").start();
    let app = client(&world, server.url()).start();
    assert_eq!(Http::new(app.url(), None).get("/login").await.status, 200);
    for command in ["login", "info", "logout"] {
        let output = client(&world, server.url()).run(&[command]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let public = client(&world, "https://localhost:1").set("server.ca_file", "system");
    assert!(public.start().url().starts_with("http://"));
}

#[actix_rt::test]
async fn variable_similar_to_a_setting_is_reported() {
    let world = TestEnv::new();
    let launch = client(&world, "http://localhost:1")
        .variable("MATCHBOOK_CLIENT_SERVER_TIMEOUT", "1s")
        .variable("MATCHBOOK__TOKENS__ISSUER", "https://localhost");
    let said = "did you mean MATCHBOOK_CLIENT__SERVER__TIMEOUT?";
    let checked = launch.run(&["check-config"]);
    let error = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success() && error.contains(said), "{error}");
    assert!(!error.contains("ISSUER"), "{error}");
    let info = String::from_utf8(launch.run(&["info"]).stderr).unwrap();
    assert!(info.contains(said), "{info}");
    launch.start().await_log(said);
}

#[actix_rt::test]
async fn the_health_command_says_whether_the_app_answers() {
    let mut pair = Pair::start(|server| server);
    let address = pair.client.url().rsplit('/').next().unwrap().to_owned();
    let command = client(&pair.world, pair.server.url()).set("client.address", &address);
    assert!(command.run(&["health"]).status.success());
    assert_eq!(pair.client.stop().code(), Some(0));
    assert!(!command.run(&["health"]).status.success());
}

#[actix_rt::test]
async fn no_token_reaches_the_console_or_the_caller() {
    let pair = Pair::start(|server| server);
    let mut talkative = client(&pair.world, pair.server.url()).set("log.level", "trace").start();
    let http = Http::new(talkative.url(), None);
    let answers: [TestResponse; 2] = [http.get("/login").await, http.get("/info").await];
    assert!(talkative.stop().success());
    let console = talkative.log();
    assert!(console.contains("GET /token 200"), "{console}");
    for text in [&console, &answers[0].text, &answers[1].text] {
        assert!(!text.contains("mb_rt_") && !text.contains("eyJ"), "{text}");
    }
}

/// A browser with the page open: it has a cookie, and calls as the page does.
struct Browser {
    http: Http,
    cookie: RefCell<String>,
}

impl Browser {
    async fn open(app: &Process) -> Self {
        let http = Http::new(app.url(), None);
        let page = http.get("/").await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        let cookie = page.header("set-cookie").split(';').next().unwrap().to_owned();
        Self { http, cookie: RefCell::new(cookie) }
    }

    fn cookie(&self) -> String {
        self.cookie.borrow().clone()
    }

    /// Keeps the cookie of an answer, if there is one.
    fn keep(&self, answer: TestResponse) -> TestResponse {
        let set = answer.header("set-cookie");
        if !set.is_empty() {
            self.cookie.replace(set.split(';').next().unwrap().to_owned());
        }
        answer
    }

    /// A request with the cookie and nothing else.
    fn bare(&self, method: &str, path: &str) -> ClientRequest {
        self.http.request(method, path).insert_header(("cookie", self.cookie()))
    }

    async fn get(&self, path: &str) -> TestResponse {
        self.keep(TestResponse::of(self.bare("GET", path).send()).await)
    }

    async fn call(&self, method: &str, path: &str) -> TestResponse {
        let origin = self.http.request("GET", "").get_uri().to_string();
        let request = self
            .bare(method, path)
            .insert_header(("x-matchbook", "page"))
            .insert_header(("sec-fetch-site", "same-origin"))
            .insert_header(("origin", origin.trim_end_matches('/')));
        self.keep(TestResponse::of(request.send()).await)
    }

    async fn log_in(&self) {
        assert_eq!(self.call("POST", "/api/login").await.status, 204);
    }

    async fn user(&self) -> String {
        self.call("POST", "/api/info").await.field("userId")
    }

    async fn events(&self) -> Events {
        let response = self.bare("GET", "/api/events").send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("content-type").unwrap(), "text/event-stream");
        let chunks = response.map(|chunk| chunk.unwrap().to_vec());
        Events { chunks: Box::pin(chunks), read: Vec::new(), text: String::new() }
    }
}

/// What an open page is told.
struct Events {
    chunks: std::pin::Pin<Box<dyn futures_util::Stream<Item = Vec<u8>>>>,
    read: Vec<u8>,
    text: String,
}

impl Events {
    /// The next event and its data; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let rest = self.read.split_off(end + 2);
                let event = String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
                self.text.push_str(&event);
                let Some(event) = event.strip_prefix("event: ") else { continue };
                let (name, data) = event.trim_end().split_once("\ndata: ").unwrap();
                return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
            }
            self.read.extend(self.chunks.next().await?);
        }
    }

    /// All up to the browser's own call of `path`, as `GET /user 401`.
    async fn exchanges_until(&mut self, path: &str) -> Vec<String> {
        let mut exchanges = Vec::new();
        loop {
            let (name, data) = self.next().await.expect("the stream goes on");
            if name != "exchange" {
                continue;
            }
            assert!(data["at"].is_u64() && data["took"].is_u64(), "{data}");
            let told = |name: &str| data[name].as_str().unwrap();
            if (told("from"), told("to"), told("path")) == ("browser", "client", path) {
                return exchanges;
            }
            if told("from") == "client" {
                exchanges.push(format!("{} {} {}", told("method"), told("path"), data["status"]));
            }
        }
    }

    /// The next state.
    async fn state(&mut self) -> Value {
        loop {
            let (name, data) = self.next().await.expect("the stream goes on");
            if name == "state" {
                return data;
            }
        }
    }
}

fn assert_refused(answer: &TestResponse, status: u16, code: &str) {
    assert_eq!((answer.status, answer.field("error").as_str()), (status, code), "{}", answer.text);
    assert!(answer.field("message").ends_with('.'), "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json");
}

#[actix_rt::test]
async fn two_browsers_are_two_users_and_whoever_has_no_cookie_is_a_third() {
    let pair = Pair::start(|server| server);
    let (one, other) = (Browser::open(&pair.client).await, Browser::open(&pair.client).await);
    assert_ne!(one.cookie, other.cookie);
    one.log_in().await;
    assert_refused(&other.call("POST", "/api/info").await, 401, "not_logged_in");
    assert_eq!(pair.http.get("/info").await.status, 401);
    assert_eq!(other.get("/login").await.text, "Logged in", "the article's way");
    assert_eq!(pair.http.get("/login").await.status, 200);

    let info = |user: &str| format!("User Id: {user}");
    let (first, second) = (one.user().await, other.user().await);
    let demo = pair.http.get("/info").await.text;
    assert_eq!(one.get("/info").await.text, info(&first));
    assert_eq!(other.get("/info").await.text, info(&second));
    assert!(first != second && demo != info(&first) && demo != info(&second));

    assert_eq!(one.call("POST", "/api/logout").await.status, 204);
    assert_refused(&one.call("POST", "/api/info").await, 401, "not_logged_in");
    assert_eq!((other.user().await, pair.http.get("/info").await.text), (second, demo));
}

#[actix_rt::test]
async fn without_the_demo_only_browsers_are_somebody() {
    let world = TestEnv::new();
    let server = world.server(&server_binary()).start();
    let app = client(&world, server.url()).set("client.demo", "false").start();
    let http = Http::new(app.url(), None);
    for path in ["/login", "/info"] {
        let answer = http.get(path).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.text, "Open / in a browser first: it gets a cookie there.");
    }
    assert_eq!(server.logged("session opened"), 0);
    let browser = Browser::open(&app).await;
    browser.log_in().await;
    assert!(browser.get("/info").await.text.starts_with("User Id: "));
}

#[actix_rt::test]
async fn the_cookie_is_for_this_site_and_for_no_script() {
    let pair = Pair::start(|server| server);
    let secure = client(&pair.world, pair.server.url()).set("client.cookie_secure", "true").start();
    for (app, name, more) in
        [(&pair.client, "matchbook_client", ""), (&secure, "__Host-matchbook_client", "; Secure")]
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
        assert_eq!(again.await.header("set-cookie"), "", "it has one");
    }
}

#[actix_rt::test]
async fn a_cookie_that_the_app_did_not_make_is_not_taken_over() {
    let mut pair = Pair::start(|server| server);
    let planted = format!("matchbook_client={}", "ab".repeat(32));
    let http = Http::new(pair.client.url(), None);
    let browser = Browser { http, cookie: RefCell::new(planted.clone()) };
    assert_refused(&browser.call("POST", "/api/login").await, 401, "no_cookie");
    assert_refused(&browser.get("/api/events").await, 401, "no_cookie");
    assert_eq!(browser.get("/info").await.status, 401);
    let login = browser.get("/login").await;
    assert_eq!((login.status, login.header("set-cookie")), (401, ""));
    assert_eq!(
        login.text,
        "The app was restarted, or you were away for a day: open / and log in again."
    );
    let page = TestResponse::of(browser.bare("GET", "/").send()).await;
    let given = page.header("set-cookie");
    assert!(page.status == 200 && given.contains('=') && !given.contains(&planted), "{given}");
    assert_refused(&browser.call("POST", "/api/info").await, 401, "no_cookie");
    assert_refused(
        &TestResponse::of(pair.http.request("GET", "/api/sessions").send()).await,
        401,
        "no_cookie",
    );
    assert!(pair.server.stop().success());
    assert_eq!(pair.server.logged("session opened"), 0);
}

#[actix_rt::test]
async fn what_another_site_has_a_browser_ask_for_is_refused_and_changes_nothing() {
    let mut pair = Pair::start(|server| server);
    let browser = Browser::open(&pair.client).await;
    browser.log_in().await;
    let user = browser.user().await;
    let calls = [
        ("POST", "/api/login"),
        ("POST", "/api/refresh"),
        ("POST", "/api/logout"),
        ("POST", "/api/logout-everywhere"),
        ("POST", "/api/burst"),
        ("POST", "/api/info"),
        ("DELETE", "/api/sessions/8c3a8ee5-0000-4000-8000-000000000000"),
    ];
    let page = ("x-matchbook", "page");
    let lures: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-matchbook", "other")],
        &[page, ("origin", "http://evil.example")],
        &[page, ("origin", "null")],
        &[page, ("sec-fetch-site", "cross-site")],
        &[page, ("sec-fetch-site", "same-site")],
    ];
    for (method, path) in calls {
        for lure in lures {
            let mut request = browser.bare(method, path);
            for header in lure {
                request = request.insert_header(*header);
            }
            assert_refused(&TestResponse::of(request.send()).await, 403, "forbidden");
        }
    }
    for path in ["/login", "/info"] {
        for site in ["cross-site", "same-site"] {
            let request = browser.bare("GET", path).insert_header(("sec-fetch-site", site));
            assert_eq!(TestResponse::of(request.send()).await.status, 403);
        }
    }
    assert_eq!(browser.user().await, user);
    assert!(pair.client.stop().success());
    let console = pair.client.log();
    let asked = console.lines().filter(|line| line.contains("GET /") || line.contains("POST /"));
    assert_eq!(asked.count(), 4, "register, token, and the user twice: {console}");
}

#[actix_rt::test]
async fn who_follows_a_link_from_another_site_keeps_the_cookie_that_was_not_sent() {
    let pair = Pair::start(|server| server);
    let request = pair.http.request("GET", "/").insert_header(("sec-fetch-site", "cross-site"));
    let answer = TestResponse::of(request.send()).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, ""));
    assert_eq!(answer.header("refresh"), "0; url=/", "which the browser asks for with its cookie");
}

#[actix_rt::test]
async fn an_open_page_is_told_of_the_401_the_refresh_and_the_second_try_in_that_order() {
    let pair = Pair::start(|server| server.set("tokens.access_lifetime", "2s"));
    let browser = Browser::open(&pair.client).await;
    let mut events = browser.events().await;
    assert_eq!(events.next().await, Some(("state".to_owned(), json!({ "loggedIn": false }))));
    browser.log_in().await;
    let state = events.state().await;
    assert_eq!((&state["loggedIn"], &state["generation"]), (&json!(true), &json!(0)));
    assert!((state["lifetime"].as_f64(), state["age"].is_f64()) == (Some(2.0), true), "{state}");
    assert!((0.0..=2.0).contains(&state["remaining"].as_f64().unwrap()), "{state}");
    events.exchanges_until("/api/login").await;
    browser.user().await;
    assert_eq!(events.exchanges_until("/api/info").await, ["GET /user 200"]);

    pair.outlive(2).await;
    browser.user().await;
    assert_eq!(
        events.exchanges_until("/api/info").await,
        ["GET /user 401", "POST /refresh 200", "GET /user 200"]
    );
    assert_eq!(browser.call("POST", "/api/refresh").await.status, 204);
    assert_eq!(events.state().await["generation"], 2);
    assert_eq!(browser.call("POST", "/api/logout").await.status, 204);
    assert_eq!(events.state().await, json!({ "loggedIn": false }));
}

#[actix_rt::test]
async fn a_page_is_told_nothing_of_other_browsers() {
    let pair = Pair::start(|server| server);
    let (one, other) = (Browser::open(&pair.client).await, Browser::open(&pair.client).await);
    let mut events = other.events().await;
    one.log_in().await;
    one.user().await;
    pair.http.get("/login").await;
    other.call("POST", "/api/logout").await;
    assert_eq!(events.state().await, json!({ "loggedIn": false }));
    assert_eq!(events.exchanges_until("/api/logout").await, [""; 0]);
}

#[actix_rt::test]
async fn a_burst_of_fifty_on_an_expired_token_is_fifty_answers_and_one_refresh() {
    let mut pair = Pair::start(|server| server.set("tokens.access_lifetime", "3s"));
    let browser = Browser::open(&pair.client).await;
    assert_refused(&browser.call("POST", "/api/burst").await, 401, "not_logged_in");
    browser.log_in().await;
    let mut events = browser.events().await;
    pair.outlive(3).await;
    let burst = browser.call("POST", "/api/burst").await;
    assert_eq!((burst.status, burst.json()), (200, json!({ "succeeded": 50, "failed": 0 })));
    let told = events.exchanges_until("/api/burst").await;
    let count = |exchange: &str| told.iter().filter(|told| *told == exchange).count();
    assert_eq!((count("POST /refresh 200"), count("GET /user 200")), (1, 50), "{told:?}");
    assert_eq!(count("GET /user 401"), told.len() - 51, "{told:?}");
    assert!(count("GET /user 401") > 1, "many did meet the 401");
    assert!(pair.client.stop().success());
    assert_eq!(pair.client.logged("POST /refresh"), 1);
}

#[actix_rt::test]
async fn sessions_are_seen_and_ended_from_the_page() {
    let pair = Pair::start(|server| server);
    let browser = Browser::open(&pair.client).await;
    browser.log_in().await;
    let listed = browser.call("GET", "/api/sessions").await.json();
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["current"]), (1, &json!(true)));
    for name in ["createdAt", "lastUsedAt", "expiresAt", "ip"] {
        assert!(listed[0][name].is_string(), "{listed}");
    }
    assert_refused(&browser.call("DELETE", "/api/sessions/none").await, 404, "not_found");
    assert_eq!(browser.call("DELETE", &format!("/api/sessions/{id}")).await.status, 204);
    assert_refused(&browser.call("POST", "/api/info").await, 401, "not_logged_in");

    browser.log_in().await;
    let ended = browser.call("POST", "/api/logout-everywhere").await;
    assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 1 })));
    assert_refused(&browser.call("GET", "/api/sessions").await, 401, "not_logged_in");
    assert_refused(&browser.call("GET", "/api/nothing").await, 404, "not_found");
}

#[actix_rt::test]
async fn with_the_server_away_the_page_is_told_that_and_when_to_try_again() {
    let mut pair = Pair::start(|server| server);
    let browser = Browser::open(&pair.client).await;
    browser.log_in().await;
    assert!(pair.server.stop().success());
    for path in ["/api/info", "/api/burst", "/api/login", "/api/logout"] {
        let answer = browser.call("POST", path).await;
        assert_refused(&answer, 503, "away");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(browser.events().await.state().await["loggedIn"], true, "the tokens are kept");
}

#[actix_rt::test]
async fn every_answer_carries_the_security_headers() {
    let pair = Pair::start(|server| server);
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (path, status, kind) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/page.js", 200, "text/javascript; charset=utf-8"),
        ("/style.css", 200, "text/css; charset=utf-8"),
        ("/favicon.svg", 200, "image/svg+xml"),
        ("/info", 401, "text/plain; charset=utf-8"),
        ("/login", 200, "text/plain; charset=utf-8"),
        ("/api/events", 401, "application/json"),
        ("/nothing", 404, ""),
    ] {
        let answer = pair.http.get(path).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, kind), "{path}");
        assert_eq!(answer.header("content-security-policy"), policy);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
    }
}

#[actix_rt::test]
async fn no_token_reaches_a_page() {
    let pair = Pair::start(|server| server.set("tokens.access_lifetime", "1s"));
    let browser = Browser::open(&pair.client).await;
    let mut events = browser.events().await;
    browser.log_in().await;
    pair.outlive(1).await;
    let mut told = String::new();
    for (method, path) in [
        ("POST", "/api/info"),
        ("POST", "/api/burst"),
        ("POST", "/api/refresh"),
        ("GET", "/api/sessions"),
        ("GET", "/"),
        ("POST", "/api/logout-everywhere"),
        ("POST", "/api/refresh"),
    ] {
        let answer = browser.call(method, path).await;
        told = format!("{told}{:?}{}", answer.headers, answer.text);
    }
    events.exchanges_until("/api/logout-everywhere").await;
    told.push_str(&events.text);
    assert!(told.contains("POST\",\"path\":\"/refresh\",\"status\":200"), "{told}");
    let cookie = browser.cookie();
    let id = cookie.split_once('=').unwrap().1;
    for secret in ["mb_rt_", "eyJ", id] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[actix_rt::test]
async fn a_stop_does_not_wait_for_open_pages() {
    let mut pair = Pair::start(|server| server);
    let browser = Browser::open(&pair.client).await;
    let mut events = browser.events().await;
    events.state().await;
    let asked = Instant::now();
    assert!(pair.client.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(events.next().await, None, "the stream ended in good order");
}

/// What a command printed, and how it ended.
fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn said(text: &str) -> (i32, String, String) {
    (0, format!("{text}\n"), String::new())
}

#[actix_rt::test]
async fn a_script_logs_in_stays_logged_in_and_logs_out() {
    let world = TestEnv::new();
    let server = world.server(&server_binary()).set("tokens.access_lifetime", "2s").start();
    let command = client(&world, server.url());
    let run = |arguments: &[&str]| ended(&command.run(arguments));

    let (code, out, error) = run(&["info"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert_eq!(
        error,
        "matchbook-client: not logged in (no tokens in data/client/tokens.json): run `matchbook-client login` first\n"
    );
    assert_eq!(run(&["login"]), said("Logged in"));
    assert_only_the_owner_can_read(&world.folder().join("data/client/tokens.json"));
    let (code, info, error) = run(&["info"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let user = info.strip_prefix("User Id: ").unwrap().trim_end();

    actix_rt::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(run(&["info"]), (0, info.clone(), String::new()), "with a refresh");
    for url in ["/user".to_owned(), format!("{}/user", server.url())] {
        let (code, body, error) = run(&["get", &url]);
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["userId"], user);
    }
    assert_only_the_owner_can_read(&world.folder().join("data/client/tokens.json"));

    assert_eq!(run(&["logout"]), said("Logged out"));
    assert!(!world.folder().join("data/client/tokens.json").exists());
    assert_eq!(run(&["info"]).0, 3);
    assert_eq!(run(&["logout"]), said("Logged out"), "there is nothing to do");
    server.await_log("logged out");
}

fn assert_only_the_owner_can_read(file: &Path) {
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[actix_rt::test]
async fn a_script_learns_from_the_exit_code_what_went_wrong() {
    let mut pair = Pair::start(|server| server);
    let command = client(&pair.world, pair.server.url()).set("store.path", "kept.json");
    let run = |arguments: &[&str]| ended(&command.run(arguments));
    assert_eq!(run(&["login"]).0, 0);

    let (code, body, error) = run(&["get", "/nowhere"]);
    assert_eq!((code, error.as_str()), (5, "matchbook-client: the server answers 404\n"));
    assert!(body.is_empty() || body.starts_with('{'), "{body}");
    for usage in [&["get"][..], &["get", "user"], &["get", "https://evil.example/"], &["gett"]] {
        let (code, out, error) = run(usage);
        assert_eq!((code, out.as_str()), (2, ""), "{usage:?}: {error}");
        assert!(!error.is_empty());
    }

    // Somebody with a copy of the tokens logs out.
    let folder = pair.world.folder();
    std::fs::copy(folder.join("kept.json"), folder.join("copy.json")).unwrap();
    assert_eq!(run(&["logout", "--store", "copy.json"]), said("Logged out"));
    let (code, _, error) = run(&["info"]);
    assert_eq!(code, 3);
    assert!(error.contains("the session has ended"), "{error}");

    assert_eq!(run(&["login"]).0, 0);
    std::fs::write(folder.join("broken.json"), "{").unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(folder.join("broken.json"), private).unwrap();
    let (code, _, error) = run(&["info", "--store", "broken.json"]);
    assert!(code == 1 && error.contains("broken.json"), "{code} {error}");
    assert!(pair.server.stop().success());
    let (code, out, error) = run(&["get", "/user"]);
    assert_eq!((code, out.as_str()), (4, ""), "{error}");
    assert!(error.contains("try again later"), "{error}");
}

#[actix_rt::test]
async fn a_script_that_has_read_enough_is_no_failure() {
    let pair = Pair::start(|server| server);
    let command = client(&pair.world, pair.server.url());
    assert!(command.run(&["login"]).status.success());
    for arguments in [&["get", "/user"][..], &["info"], &["check-config"]] {
        let mut command = command.command();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(ended(&child.wait_with_output().unwrap()), (0, String::new(), String::new()));
    }
}

#[actix_rt::test]
async fn the_help_names_the_exit_codes_and_a_log_level_that_is_set_is_kept_to() {
    let pair = Pair::start(|server| server);
    let command = client(&pair.world, pair.server.url());
    let (code, help, _) = ended(&command.run(&["--help"]));
    assert!(code == 0 && help.contains("4  this may pass: try again later"), "{help}");
    let (_, out, error) = ended(&command.set("log.level", "debug").run(&["login"]));
    assert_eq!(out, "Logged in\n");
    assert!(error.contains("GET /token 200"), "{error}");
}

#[actix_rt::test]
async fn a_login_gives_a_browser_another_cookie_and_whoever_planted_the_old_one_has_nothing() {
    let pair = Pair::start(|server| server);
    for (method, path) in [("POST", "/api/login"), ("GET", "/login")] {
        let browser = Browser::open(&pair.client).await;
        let mut events = browser.events().await;
        let http = Http::new(pair.client.url(), None);
        let planted = Browser { http, cookie: RefCell::new(browser.cookie()) };
        let login = browser.call(method, path).await;
        assert!(login.header("set-cookie").ends_with("; HttpOnly; SameSite=Strict; Path=/"));
        assert_ne!(browser.cookie(), planted.cookie());
        let user = browser.user().await;
        assert!(!user.is_empty());
        assert_refused(&planted.call("POST", "/api/info").await, 401, "no_cookie");
        assert_eq!(planted.get("/info").await.status, 401);
        events.exchanges_until("/api/info").await;
    }
}

#[actix_rt::test]
async fn a_name_that_was_made_to_resolve_to_here_is_not_answered() {
    let pair = Pair::start(|server| server);
    let app = client(&pair.world, pair.server.url()).set("client.hosts", "App.example").start();
    let asked = async |app: &Process, path: &str, host: &'static str| {
        let http = Http::new(app.url(), None);
        TestResponse::of(http.request("GET", path).insert_header(("host", host)).send()).await
    };
    for path in ["/", "/login", "/info", "/page.js", "/api/events", "/nothing"] {
        let answer = asked(&pair.client, path, "evil.example:5002").await;
        assert_eq!((answer.status, answer.header("set-cookie")), (421, ""), "{path}");
        assert!(answer.text.contains("`client.hosts`"), "{}", answer.text);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(asked(&pair.client, "/health/live", "10.0.0.7").await.status, 200);
    assert_eq!(asked(&pair.client, "/", "app.example").await.status, 421);
    for host in ["localhost", "localhost:1", "[::1]:5002", "app.example:443"] {
        assert_eq!(asked(&app, "/", host).await.status, 200, "{host}");
    }
    let wrong = client(&pair.world, pair.server.url()).set("client.hosts", "http://a").run(&[]);
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && error.contains("`http://a` is none"), "{error}");
}

#[actix_rt::test]
async fn a_browser_without_fetch_metadata_is_refused_by_the_page_it_comes_from() {
    let pair = Pair::start(|server| server);
    for header in [("origin", "http://evil.example"), ("referer", "http://evil.example/page")] {
        for (path, status) in [("/login", 403), ("/info", 403), ("/", 200)] {
            let request = pair.http.request("GET", path).insert_header(header);
            let answer = TestResponse::of(request.send()).await;
            assert_eq!((answer.status, answer.header("set-cookie")), (status, ""), "{path}");
        }
    }
    let own = format!("{}/", pair.client.url());
    let request = pair.http.request("GET", "/login").insert_header(("referer", own));
    assert_eq!(TestResponse::of(request.send()).await.status, 200);
}

#[actix_rt::test]
async fn who_is_logged_in_does_not_have_to_go_for_somebody_new() {
    let pair = Pair::start(|server| server);
    let app = client(&pair.world, pair.server.url()).set("client.sessions", "1").start();
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
    assert_refused(&browser.call("POST", "/api/info").await, 401, "no_cookie");
}

#[actix_rt::test]
async fn a_stop_does_not_wait_long_for_an_answer_that_does_not_come() {
    let world = TestEnv::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let file = world.folder().join("matchbook-client.toml");
    std::fs::write(file, "[server]\nca_file = ''\ntimeout = '60s'").unwrap();
    let mut app = client(&world, &url).start();
    let asking = std::net::TcpStream::connect(app.url().trim_start_matches("http://")).unwrap();
    let request = "GET /login HTTP/1.1\r\nhost: localhost\r\n\r\n";
    std::io::Write::write_all(&mut &asking, request.as_bytes()).unwrap();
    let asked = silent.accept().unwrap();
    let stopping = Instant::now();
    assert!(app.stop().success());
    assert!(stopping.elapsed() < Duration::from_secs(15), "{:?}", stopping.elapsed());
    drop(asked);
}

#[actix_rt::test]
async fn head_is_answered_as_get_is_without_the_body() {
    let pair = Pair::start(|server| server);
    for path in ["/", "/page.js", "/style.css", "/favicon.svg", "/health/live"] {
        let head = TestResponse::of(pair.http.request("HEAD", path).send()).await;
        let get = pair.http.get(path).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    assert_eq!(TestResponse::of(pair.http.request("HEAD", "/login").send()).await.status, 404);
}
