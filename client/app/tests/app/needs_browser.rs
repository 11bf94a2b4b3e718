//! The page in headless Chromium.

mod accounts;

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use matchbook_testkit::{Http, Reaction, ScriptedServer, TestEnv, TestResponse};
use serde_json::{Value, json};

use super::support::{Setup, authority, client, is_root, server_binary};

/// Timeout for a condition on the page, long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Window widths in pixels.
const PHONE_WIDTH: u32 = 360;

const DESKTOP_WIDTH: u32 = 1280;

/// A chromedriver process. Dropping this kills it.
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
        let url = format!("http://127.0.0.1:{}", port.expect("chromedriver prints its port"));
        // Keeps the pipe open.
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
    /// Opens `url` in a window of this width, runs `test`, and closes the browser even if
    /// the test panics.
    async fn visit<F>(url: &str, width: u32, test: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let driver = Driver::start();
        let page = Self::open(&driver, url, capabilities(width, None)).await;
        let browser = page.browser.clone();
        let outcome = actix_rt::spawn(test(page)).await;
        browser.close().await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    async fn open(driver: &Driver, url: &str, capabilities: Capabilities) -> Self {
        let browser = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver.url)
            .await
            .expect("Chromium starts");
        browser.goto(url).await.unwrap();
        Self { browser, driver: Http::new(&driver.url, None) }
    }

    async fn value(&self, expression: &str) -> Value {
        self.browser.execute(&format!("return {expression};"), Vec::new()).await.unwrap()
    }

    /// Waits until a JavaScript expression is truthy.
    async fn wait_until(&self, what: &str, expression: &str) {
        let start = Instant::now();
        while self.value(&format!("!({expression})")).await == true {
            if start.elapsed() > TIMEOUT {
                let text = self.value("document.body.innerText").await;
                panic!("timeout: {what}. The page shows: {text}");
            }
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_for_text(&self, id: &str, text: &str) {
        let expression =
            format!("document.getElementById('{id}').textContent.includes({})", json!(text));
        self.wait_until(&format!("#{id} says {text:?}"), &expression).await;
    }

    async fn press(&self, id: &str) {
        let button = self.browser.find(Locator::Id(id)).await.unwrap();
        button.click().await.unwrap();
    }

    /// Presses a button and waits for its message.
    async fn press_and_expect(&self, id: &str, text: &str) {
        self.press(id).await;
        self.wait_for_text("message", text).await;
    }

    async fn press_key(&self, key: Key) {
        let focused = self.browser.active_element().await.unwrap();
        focused.send_keys(&char::from(key).to_string()).await.unwrap();
    }

    /// Presses the tab key until the expression is true for the focus.
    async fn tab_to(&self, wanted: &str) {
        for _ in 0..40 {
            self.press_key(Key::Tab).await;
            if self.value(wanted).await == true {
                return;
            }
        }
        panic!("the focus never came to {wanted}");
    }

    /// Logs in, and waits until the page lists the session.
    async fn log_in(&self) {
        self.press_and_expect("login", "Logged in").await;
        self.wait_until("a session is listed", "document.querySelector('#sessions li')").await;
    }

    /// Waits until the page shows an expired access token.
    async fn wait_for_expiry(&self) {
        self.wait_until("the token has expired", "document.querySelector('[data-state=expired]')")
            .await;
        assert_eq!(self.value("document.getElementById('remaining').textContent").await, "expired");
    }

    /// Returns the requests from the client to the server in the diagram, from the top.
    async fn server_requests(&self) -> Vec<String> {
        let rows = self
            .value(
                "[...document.querySelectorAll('#exchanges li[data-to=server]')].map((row) => \
                 `${row.dataset.method} ${row.dataset.path} ${row.dataset.status} \
                 ×${row.dataset.count}`)",
            )
            .await;
        serde_json::from_value(rows).unwrap()
    }

    /// Returns and clears the browser's console: errors, and violations of the content
    /// security policy.
    async fn console(&self) -> Vec<String> {
        let session = self.browser.session_id().await.unwrap().unwrap();
        let command = self.driver.request("POST", &format!("/session/{session}/se/log"));
        let response = TestResponse::of(command.send_json(&json!({ "type": "browser" }))).await;
        let entries = response.json()["value"].as_array().expect("a list of entries").clone();
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// Asserts that the page fits into a window of this width.
    async fn assert_fits(&self, width: u32) {
        assert_eq!(self.value("innerWidth").await, width);
        assert_eq!(self.value("document.documentElement.scrollWidth").await, width);
        let wide = self
            .value(&format!(
                "[...document.querySelectorAll('body *')].filter((one) => \
                 one.getBoundingClientRect().right > {width}).map((one) => one.outerHTML)"
            ))
            .await;
        assert_eq!(wide, json!([]), "nothing is clipped");
    }

    /// Asserts that there is no token, no resource of another origin, and no console entry.
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
        assert_eq!(self.value("document.cookie").await, "", "scripts cannot read the cookie");
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

fn capabilities(width: u32, user_agent: Option<&str>) -> Capabilities {
    let user_agent = user_agent.map(|text| format!("--user-agent={text}"));
    let mut arguments = vec!["--headless", "--disable-gpu", "--disable-dev-shm-usage"];
    arguments.extend(["--disable-background-networking", "--no-first-run"]);
    arguments.extend(user_agent.as_deref());
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

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn a_burst_with_an_expired_token_shows_one_refresh() {
    let setup = Setup::start(|server| server.set("tokens.access_lifetime", "4s"));
    Page::visit(setup.client.url(), DESKTOP_WIDTH, async |page: Page| {
        page.wait_for_text("login-state", "Logged out").await;
        page.log_in().await;
        page.wait_for_text("login-state", "Logged in").await;
        page.wait_for_text("lifetime", "of 4 s left").await;
        page.wait_for_expiry().await;
        page.press("clear").await;
        assert_eq!(page.server_requests().await, [""; 0]);

        page.press_and_expect("burst", "All 50 requests succeeded.").await;
        page.wait_until(
            "the burst is drawn",
            "document.querySelector('[data-path=\"/api/burst\"]')",
        )
        .await;
        assert_eq!(
            page.server_requests().await,
            ["GET /user 401 ×50", "POST /refresh 200 ×1", "GET /user 200 ×50"]
        );
        let first = "document.querySelector('#exchanges li').dataset.path";
        assert_eq!(
            page.value(first).await,
            "/api/burst",
            "a call comes before the requests that it caused"
        );
        let badge = "document.querySelector('[data-path=\"/user\"] .count').textContent";
        assert_eq!(page.value(badge).await, "×50");
        page.wait_for_text("generation", "1").await;

        page.press_and_expect("logout", "Logged out.").await;
        page.wait_for_text("login-state", "Logged out").await;
        page.wait_for_text("lifetime", "no access token").await;
        page.assert_clean().await;
    })
    .await;
    assert_eq!(setup.client.logged("POST /refresh 200"), 1);
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn every_action_works_on_a_phone_without_horizontal_scrolling() {
    let setup = Setup::start(|server| server);
    Page::visit(setup.client.url(), PHONE_WIDTH, async |page: Page| {
        page.log_in().await;
        page.press_and_expect("info", "User Id: ").await;
        page.press_and_expect("refresh", "Refreshed").await;
        page.wait_for_text("generation", "1").await;
        page.press_and_expect("burst", "All 50 requests succeeded.").await;
        page.press_and_expect("reload", "The sessions are up to date.").await;
        page.wait_for_text("sessions", "this one").await;
        page.assert_fits(PHONE_WIDTH).await;

        page.press_and_expect("logout-everywhere", "Logged out: 1 session has ended.").await;
        page.press_and_expect("burst", "Log in first.").await;
        page.assert_clean().await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn login_and_ending_the_session_work_by_keyboard() {
    let setup = Setup::start(|server| server);
    Page::visit(setup.client.url(), DESKTOP_WIDTH, async |page: Page| {
        page.wait_for_text("login-state", "Logged out").await;
        page.tab_to("document.activeElement.id === 'login'").await;
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(page.value(outline).await, "solid", "the focus is visible");
        page.press_key(Key::Enter).await;
        page.wait_until("a session is listed", "document.querySelector('#sessions li')").await;
        let current = "document.activeElement.matches('#sessions [data-current=true] button')";
        page.tab_to(current).await;
        page.press_key(Key::Enter).await;
        page.wait_for_text("message", "This session has ended.").await;
        page.wait_for_text("login-state", "Logged out").await;
        page.wait_until("no session is listed", "!document.querySelector('#sessions li')").await;
        page.assert_clean().await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn an_unavailable_server_is_reported_and_retry_works_afterwards() {
    let mut setup = Setup::start(|server| server);
    let address = authority(setup.server.url());
    let url = setup.client.url().to_owned();
    Page::visit(&url, DESKTOP_WIDTH, async move |page: Page| {
        page.log_in().await;
        page.assert_clean().await;
        assert!(setup.server.stop().success());
        page.press_and_expect("info", "The token server is unavailable; you stay logged in.").await;
        page.wait_for_text("exchanges", "no response").await;
        let console = page.console().await;
        assert!(!console.is_empty(), "the errors are logged");
        assert!(console.iter().all(|entry| entry.contains("503")), "{console:?}");
        page.wait_for_text("login-state", "Logged in").await;

        let builder = setup.env.server(&server_binary()).set("server.address", &address);
        let _server = builder.start();
        page.press_and_expect("retry", "User Id: ").await;
        let shown = page.value("document.getElementById('retry').hidden").await;
        assert_eq!(shown, true, "a successful retry hides the button");
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn an_unavailable_app_is_reported_and_the_page_reconnects() {
    let mut setup = Setup::start(|server| server);
    let address = authority(setup.client.url());
    let url = setup.client.url().to_owned();
    Page::visit(&url, DESKTOP_WIDTH, async move |page: Page| {
        page.log_in().await;
        assert!(setup.client.stop().success());
        page.wait_for_text("disconnected", "The client app is not available.").await;
        page.press_and_expect("info", "The client app does not respond.").await;

        let _client =
            client(&setup.env, setup.server.url()).set("client.address", &address).start();
        page.wait_until("the page is live again", "document.getElementById('disconnected').hidden")
            .await;
        page.wait_for_text("login-state", "Logged in").await;
        page.press_and_expect("info", "User Id: ").await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn a_session_end_without_an_action_is_reported_with_its_reason() {
    let setup = Setup::start(|server| {
        server.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "3s")
    });
    Page::visit(setup.client.url(), DESKTOP_WIDTH, async |page: Page| {
        page.log_in().await;
        // Like another tab of this browser.
        let call = |path: &str| {
            format!("fetch('{path}', {{ method: 'POST', headers: {{ 'X-Matchbook': 'page' }} }})")
        };
        actix_rt::time::sleep(Duration::from_millis(1500)).await;
        page.browser.execute(&call("/api/login"), Vec::new()).await.unwrap();
        page.wait_for_text("message", "Another login with the same cookie has replaced").await;
        actix_rt::time::sleep(Duration::from_millis(3500)).await;
        page.browser.execute(&call("/api/info"), Vec::new()).await.unwrap();
        let why = "The session has ended because it was not used for longer than the server \
                   allows: log in again.";
        page.wait_for_text("message", why).await;
        page.wait_for_text("login-state", "Logged out").await;
    })
    .await;
}
