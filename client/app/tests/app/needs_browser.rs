//! The page in headless Chromium.

mod accounts;

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::{Client, Locator};
use matchbook_testkit::{BrowserDriver, BrowserWindow, Reaction, ScriptedServer, TestEnv};
use serde_json::{Value, json};

use super::support::{Setup, authority, client, server_binary};

/// Window widths in pixels.
const PHONE_WIDTH: u32 = 360;

const DESKTOP_WIDTH: u32 = 1280;

/// A browser with the page open.
struct Page {
    window: BrowserWindow,
}

impl Deref for Page {
    type Target = BrowserWindow;

    fn deref(&self) -> &BrowserWindow {
        &self.window
    }
}

impl Page {
    /// Opens `url` in a window of this width, runs `test`, and closes the browser even if
    /// the test panics.
    async fn visit<F>(url: &str, width: u32, test: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let driver = BrowserDriver::start();
        let page = Self::open(&driver, url, width, None).await;
        let browser = page.browser();
        let outcome = actix_rt::spawn(test(page)).await;
        browser.close().await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    async fn open(driver: &BrowserDriver, url: &str, width: u32, user_agent: Option<&str>) -> Self {
        Self { window: BrowserWindow::open(driver, url, width, user_agent).await }
    }

    /// Returns a handle of the browser, which closes it.
    fn browser(&self) -> Client {
        Client::clone(&self.window)
    }

    async fn wait_for_text(&self, id: &str, text: &str) {
        let expression =
            format!("document.getElementById('{id}').textContent.includes({})", json!(text));
        self.wait_until(&format!("#{id} says {text:?}"), &expression).await;
    }

    async fn press(&self, id: &str) {
        let button = self.find(Locator::Id(id)).await.unwrap();
        button.click().await.unwrap();
    }

    /// Presses a button and waits for its message.
    async fn press_and_expect(&self, id: &str, text: &str) {
        self.press(id).await;
        self.wait_for_text("message", text).await;
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

    /// Asserts that there is no token, no resource of another origin, and no console entry.
    async fn assert_clean(&self) {
        let source = self.source().await.unwrap();
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
        page.execute(&call("/api/login"), Vec::new()).await.unwrap();
        page.wait_for_text("message", "Another login with the same cookie has replaced").await;
        actix_rt::time::sleep(Duration::from_millis(3500)).await;
        page.execute(&call("/api/info"), Vec::new()).await.unwrap();
        let why = "The session has ended because it was not used for longer than the server \
                   allows: log in again.";
        page.wait_for_text("message", why).await;
        page.wait_for_text("login-state", "Logged out").await;
    })
    .await;
}
