//! The page in a browser: a real server, a real client app, headless Chromium.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse};
use serde_json::{Value, json};

/// How long to wait for what should happen soon, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A phone's width, and a desktop's.
const NARROW: u32 = 360;
const WIDE: u32 = 1280;

/// The server's binary lies beside the client's.
fn server_binary() -> PathBuf {
    let binary =
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")).with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    binary
}

struct Pair {
    server: Process,
    client: Process,
    world: TestEnv,
}

impl Pair {
    fn start(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        let world = TestEnv::new();
        let server = settings(world.server(&server_binary())).start();
        let client = app(&world, server.url()).start();
        Self { server, client, world }
    }
}

fn app(world: &TestEnv, server: &str) -> ProcessBuilder {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
    ProcessBuilder::new(binary, world.folder(), "MATCHBOOK_CLIENT")
        .set("client.address", "127.0.0.1:0")
        .set("client.workers", "2")
        .set("server.url", server)
}

fn address(process: &Process) -> String {
    process.url().rsplit('/').next().unwrap().to_owned()
}

/// The driver of Chromium as a process. It is killed when this is dropped.
struct Driver {
    child: Child,
    url: String,
}

impl Driver {
    fn start() -> Self {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program `chromedriver` is on the PATH");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.by_ref().find_map(|line| {
            let line = line.unwrap();
            let port = line.split_once("started successfully on port ")?.1;
            Some(port.trim_end_matches('.').to_owned())
        });
        let url = format!("http://127.0.0.1:{}", port.expect("it says on which port it listens"));
        // It must not meet a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser with the page open.
struct Page {
    browser: Client,
    driver: Http,
}

impl Page {
    /// Opens `url` in a window of this width, has `test` use it, and closes the
    /// browser, whatever came of it.
    async fn visit<F>(url: &str, width: u32, test: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let driver = Driver::start();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(width))
            .connect(&driver.url)
            .await
            .expect("Chromium starts");
        let page = Self { browser: client.clone(), driver: Http::new(&driver.url, None) };
        client.goto(url).await.unwrap();
        let outcome = actix_rt::spawn(test(page)).await;
        client.close().await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    async fn value(&self, expression: &str) -> Value {
        self.browser.execute(&format!("return {expression};"), Vec::new()).await.unwrap()
    }

    /// Waits until an expression is neither null, false, 0 nor empty.
    async fn until(&self, what: &str, expression: &str) {
        let asked = Instant::now();
        while self.value(&format!("!({expression})")).await == true {
            if asked.elapsed() > PATIENCE {
                let text = self.value("document.body.innerText").await;
                panic!("never: {what}. The page says: {text}");
            }
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_it_says(&self, id: &str, text: &str) {
        let expression =
            format!("document.getElementById('{id}').textContent.includes({})", json!(text));
        self.until(&format!("#{id} says {text:?}"), &expression).await;
    }

    async fn press(&self, id: &str) {
        let button = self.browser.find(Locator::Id(id)).await.unwrap();
        button.click().await.unwrap();
    }

    /// Presses a button and waits for what is said of it.
    async fn press_and_hear(&self, id: &str, text: &str) {
        self.press(id).await;
        self.until_it_says("message", text).await;
    }

    async fn type_key(&self, key: Key) {
        let focused = self.browser.active_element().await.unwrap();
        focused.send_keys(&char::from(key).to_string()).await.unwrap();
    }

    /// Presses the tabulator until the focus is where an expression wants it.
    async fn tab_to(&self, wanted: &str) {
        for _ in 0..40 {
            self.type_key(Key::Tab).await;
            if self.value(wanted).await == true {
                return;
            }
        }
        panic!("the focus never came to {wanted}");
    }

    /// Logs in, and waits until the page has learnt who that is.
    async fn log_in(&self) {
        self.press_and_hear("login", "Logged in").await;
        self.until("a session is listed", "document.querySelector('#sessions li')").await;
    }

    /// Lets the access token expire.
    async fn outlive(&self) {
        self.until("the token has expired", "document.querySelector('[data-state=expired]')").await;
        assert_eq!(self.value("document.getElementById('remaining').textContent").await, "expired");
    }

    /// The arrows from the client to the server, from the top.
    async fn to_the_server(&self) -> Vec<String> {
        let rows = self
            .value(
                "[...document.querySelectorAll('#exchanges li[data-to=server]')].map((row) => \
                 `${row.dataset.method} ${row.dataset.path} ${row.dataset.status} \
                 ×${row.dataset.count}`)",
            )
            .await;
        serde_json::from_value(rows).unwrap()
    }

    /// The browser's console since it was last read: its errors, and what a
    /// policy refused.
    async fn console(&self) -> Vec<String> {
        let session = self.browser.session_id().await.unwrap().unwrap();
        let command = self.driver.request("POST", &format!("/session/{session}/se/log"));
        let answer = TestResponse::of(command.send_json(&json!({ "type": "browser" }))).await;
        let entries = answer.json()["value"].as_array().expect("a list of entries").clone();
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// Nothing of a token, nothing from elsewhere, nothing in the console.
    async fn assert_clean(&self) {
        let source = self.browser.source().await.unwrap();
        assert!(source.contains("Matchbook"), "{source}");
        let stored = self
            .value(
                "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, \
                 document.documentElement.innerHTML, [...document.querySelectorAll('*')]\
                 .flatMap((one) => [...one.attributes].map((attribute) => attribute.value))])",
            )
            .await
            .to_string();
        for text in [&source, &stored] {
            assert!(!text.contains("mb_rt_") && !text.contains("eyJ"), "{text}");
        }
        assert_eq!(self.value("document.cookie").await, "", "the cookie is not for scripts");
        let loaded = self.value("performance.getEntriesByType('resource').length").await;
        assert!(loaded.as_u64() > Some(2), "style, script and calls: {loaded}");
        let foreign = self
            .value(
                "performance.getEntriesByType('resource').map((one) => one.name)\
                 .filter((name) => new URL(name).origin !== location.origin)",
            )
            .await;
        assert_eq!(foreign, json!([]));
        assert_eq!(self.console().await, [""; 0]);
    }
}

fn capabilities(width: u32) -> Capabilities {
    let mut arguments = vec!["--headless", "--disable-gpu", "--disable-dev-shm-usage"];
    arguments.extend(["--disable-background-networking", "--no-first-run"]);
    if is_root() {
        // Chromium has no sandbox for root.
        arguments.push("--no-sandbox");
    }
    let capabilities = json!({
        "browserName": "chrome",
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": {
            "args": arguments,
            "mobileEmulation": {
                "deviceMetrics": { "width": width, "height": 900, "pixelRatio": 1, "touch": false },
            },
        },
    });
    capabilities.as_object().unwrap().clone()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("the program `id` is there");
    id.stdout.trim_ascii() == b"0"
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn in_a_browser_fifty_at_once_on_an_expired_token_are_seen_to_share_one_refresh() {
    let pair = Pair::start(|server| server.set("tokens.access_lifetime", "4s"));
    Page::visit(pair.client.url(), WIDE, async |page: Page| {
        page.until_it_says("who", "Logged out").await;
        page.log_in().await;
        page.until_it_says("who", "Logged in").await;
        page.until_it_says("of", "of 4 s left").await;
        page.outlive().await;
        page.press("clear").await;
        assert_eq!(page.to_the_server().await, [""; 0]);

        page.press_and_hear("burst", "All 50 requests succeeded.").await;
        page.until("the burst is drawn", "document.querySelector('[data-path=\"/api/burst\"]')")
            .await;
        assert_eq!(
            page.to_the_server().await,
            ["GET /user 401 ×50", "POST /refresh 200 ×1", "GET /user 200 ×50"]
        );
        let first = "document.querySelector('#exchanges li').dataset.path";
        assert_eq!(page.value(first).await, "/api/burst", "it comes before what it caused");
        let badge = "document.querySelector('[data-path=\"/user\"] .count').textContent";
        assert_eq!(page.value(badge).await, "×50");
        page.until_it_says("generation", "1").await;

        page.press_and_hear("logout", "Logged out.").await;
        page.until_it_says("who", "Logged out").await;
        page.until_it_says("of", "no access token").await;
        page.assert_clean().await;
    })
    .await;
    assert_eq!(pair.client.logged("POST /refresh 200"), 1);
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn in_a_browser_everything_is_done_and_seen_on_a_phone_without_scrolling_sideways() {
    let pair = Pair::start(|server| server);
    Page::visit(pair.client.url(), NARROW, async |page: Page| {
        page.log_in().await;
        page.press_and_hear("info", "User Id: ").await;
        page.press_and_hear("refresh", "Refreshed").await;
        page.until_it_says("generation", "1").await;
        page.press_and_hear("burst", "All 50 requests succeeded.").await;
        page.press_and_hear("reload", "The sessions are up to date.").await;
        page.until_it_says("sessions", "this one").await;
        assert_eq!(page.value("innerWidth").await, NARROW);
        assert_eq!(page.value("document.documentElement.scrollWidth").await, NARROW);
        let wide = page
            .value(&format!(
                "[...document.querySelectorAll('body *')].filter((one) => \
                 one.getBoundingClientRect().right > {NARROW}).map((one) => one.outerHTML)"
            ))
            .await;
        assert_eq!(wide, json!([]), "nothing is cut off either");

        page.press_and_hear("logout-everywhere", "Logged out: 1 session has ended.").await;
        page.press_and_hear("burst", "Log in first.").await;
        page.assert_clean().await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn in_a_browser_the_keyboard_alone_logs_in_and_ends_the_session() {
    let pair = Pair::start(|server| server);
    Page::visit(pair.client.url(), WIDE, async |page: Page| {
        page.until_it_says("who", "Logged out").await;
        page.tab_to("document.activeElement.id === 'login'").await;
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(page.value(outline).await, "solid", "the focus is seen");
        page.type_key(Key::Enter).await;
        page.until("a session is listed", "document.querySelector('#sessions li')").await;
        let current = "document.activeElement.matches('#sessions [data-current=true] button')";
        page.tab_to(current).await;
        page.type_key(Key::Enter).await;
        page.until_it_says("message", "This session has ended.").await;
        page.until_it_says("who", "Logged out").await;
        page.until("no session is listed", "!document.querySelector('#sessions li')").await;
        page.assert_clean().await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn in_a_browser_a_server_that_is_away_is_told_of_and_tried_again_when_it_is_back() {
    let mut pair = Pair::start(|server| server);
    let address = address(&pair.server);
    let url = pair.client.url().to_owned();
    Page::visit(&url, WIDE, async move |page: Page| {
        page.log_in().await;
        page.assert_clean().await;
        assert!(pair.server.stop().success());
        page.press_and_hear("info", "The token server is away; you stay logged in.").await;
        page.until_it_says("exchanges", "no answer").await;
        let told = page.console().await;
        assert!(!told.is_empty() && told.iter().all(|one| one.contains("503")), "{told:?}");
        page.until_it_says("who", "Logged in").await;

        let again = pair.world.server(&server_binary()).set("server.address", &address);
        let _server = again.start();
        page.press_and_hear("retry", "User Id: ").await;
        let shown = page.value("document.getElementById('retry').hidden").await;
        assert_eq!(shown, true, "there is nothing to try again");
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn in_a_browser_an_app_that_is_away_is_told_of_and_used_when_it_is_back() {
    let mut pair = Pair::start(|server| server);
    let address = address(&pair.client);
    let url = pair.client.url().to_owned();
    Page::visit(&url, WIDE, async move |page: Page| {
        page.log_in().await;
        assert!(pair.client.stop().success());
        page.until_it_says("away", "The client app is away.").await;
        page.press_and_hear("info", "The client app does not answer.").await;

        let _client = app(&pair.world, pair.server.url()).set("client.address", &address).start();
        page.until("the page is live again", "document.getElementById('away').hidden").await;
        page.until_it_says("who", "Logged out").await;
        page.log_in().await;
        page.until_it_says("who", "Logged in").await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn in_a_browser_an_end_that_no_button_asked_for_is_told_with_its_reason() {
    let pair = Pair::start(|server| {
        server.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "3s")
    });
    Page::visit(pair.client.url(), WIDE, async |page: Page| {
        page.log_in().await;
        // As another tab of this browser does it.
        let call = |path: &str| {
            format!("fetch('{path}', {{ method: 'POST', headers: {{ 'X-Matchbook': 'page' }} }})")
        };
        actix_rt::time::sleep(Duration::from_millis(1500)).await;
        page.browser.execute(&call("/api/login"), Vec::new()).await.unwrap();
        page.until_it_says("message", "Another log-in with the same cookie has replaced").await;
        actix_rt::time::sleep(Duration::from_millis(3500)).await;
        page.browser.execute(&call("/api/info"), Vec::new()).await.unwrap();
        let why = "The session has ended because it was not used for longer than the server \
                   allows: log in again.";
        page.until_it_says("message", why).await;
        page.until_it_says("who", "Logged out").await;
    })
    .await;
}
