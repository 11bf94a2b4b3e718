//! The pages in headless Chromium.

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;

use fantoccini::Locator;
use fantoccini::key::Key;
use matchbook_testkit::{BrowserDriver, BrowserWindow, ProcessBuilder};
use serde_json::json;

use crate::oauth::{REDIRECT_URI, tokens};
use crate::second_factor::code_of;
use crate::support::Server;

const PASSWORD: &str = "violet tractor seven hums";

/// The width of the narrowest supported window (WCAG 2.2, 1.4.10).
const WIDTH: u32 = 320;

/// The version of axe-core, which finds mistakes of accessibility.
const AXE: &str = "axe-core@4.14.1";

/// A page in the browser.
struct Page {
    window: BrowserWindow,
    url: String,
    /// The source of axe-core, if npm can install it.
    axe: Option<String>,
}

/// Runs `test` in a browser at a server, and closes the browser even if the test panics.
async fn visit<F>(server: &Server, test: impl FnOnce(Page) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let driver = BrowserDriver::start();
    let url = server.process.url().replace("127.0.0.1", "localhost");
    let window = BrowserWindow::open(&driver, &format!("{url}/login"), WIDTH, None).await;
    let page = Page { window: window.clone(), url, axe: axe() };
    let outcome = actix_rt::spawn(test(page)).await;
    (*window).clone().close().await.unwrap();
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Returns the source of axe-core. Without npm the pages are not checked with it.
fn axe() -> Option<String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("npm");
    let source = folder.join("node_modules/axe-core/axe.min.js");
    if !source.exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
        let installed = npm.arg(&folder).arg(AXE).output();
        if !installed.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: npm cannot install {AXE}, so accessibility is not checked");
            return None;
        }
    }
    Some(std::fs::read_to_string(source).unwrap())
}

impl Page {
    async fn open(&self, path: &str) {
        self.window.goto(&format!("{}{path}", self.url)).await.unwrap();
    }

    async fn fill(&self, id: &str, text: &str) {
        let field = self.window.find(Locator::Id(id)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    async fn press(&self, css: &str) {
        self.window.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    /// Waits for a page with this title.
    async fn wait_for(&self, title: &str) {
        let expression = format!(
            "document.readyState === 'complete' && \
             document.querySelector('h1')?.textContent === {}",
            json!(title)
        );
        self.window.wait_until(&format!("the page {title}"), &expression).await;
    }

    async fn wait_for_text(&self, text: &str) {
        let expression = format!("document.body.innerText.includes({})", json!(text));
        self.window.wait_until(&format!("the text {text}"), &expression).await;
    }

    async fn log_in(&self, password: &str) {
        self.fill("name", "ann").await;
        self.fill("password", password).await;
        self.press("button[type=submit]").await;
    }

    /// Asserts that a page fits into the window, is accessible in both schemes, and keeps to
    /// its own policy.
    async fn assert_good(&self) {
        // Sections that are closed would not be checked.
        let open = "document.querySelectorAll('details').forEach((one) => { one.open = true; })";
        self.window.execute(open, Vec::new()).await.unwrap();
        self.window.assert_fits(WIDTH).await;
        let mut console = self.window.console().await;
        // Browsers look for an icon by themselves.
        console.retain(|entry| !entry.contains("/favicon.ico"));
        assert_eq!(console, [""; 0]);
        let Some(axe) = &self.axe else { return };
        for scheme in ["light", "dark"] {
            self.window.prefer_scheme(scheme).await;
            self.window.execute(axe, Vec::new()).await.unwrap();
            let run = "const done = arguments[0]; axe.run().then((found) => done(\
                       found.violations.map((one) => [one.id, one.nodes.map((node) => \
                       node.html + node.failureSummary)])));";
            let violations = self.window.execute_async(run, Vec::new()).await.unwrap();
            assert_eq!(violations, json!([]), "{scheme}");
        }
        self.window.console().await;
    }
}

fn server_with(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Server {
    Server::with(settings)
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn login_with_a_second_factor_and_the_account_work_and_are_accessible() {
    let server = server_with(|launch| launch);
    server.register("ann", PASSWORD).await;
    server.log_in_as("ann", PASSWORD).await;
    visit(&server, async |page: Page| {
        page.wait_for("Log in").await;
        page.assert_good().await;
        page.log_in("marble lantern drifts north").await;
        page.wait_for_text("The name, the password or the code is wrong.").await;
        page.window.console().await;
        page.assert_good().await;
        page.log_in(PASSWORD).await;
        page.wait_for("Your account").await;
        page.assert_good().await;

        page.fill("totp-current", PASSWORD).await;
        page.press("[value=begin-totp]").await;
        page.wait_for("Add your authenticator app").await;
        page.assert_good().await;
        let secret = page.window.value("document.getElementById('secret').textContent").await;
        let secret = secret.as_str().unwrap().replace(' ', "");
        page.fill("code", &code_of(&secret, 0)).await;
        page.press("[value=confirm-totp]").await;
        page.wait_for("Keep your recovery codes").await;
        page.assert_good().await;
        let recovery = page.window.value("document.querySelector('.codes code').textContent").await;
        page.open("/account").await;
        page.press("[value=log-out]").await;
        page.wait_for("Log in").await;

        page.log_in(PASSWORD).await;
        page.wait_for("Enter your code").await;
        page.assert_good().await;
        page.fill("code", recovery.as_str().unwrap()).await;
        page.press("button[type=submit]").await;
        page.wait_for("Your account").await;
        page.wait_for_text("matchbook-test").await;
        page.press("[value=end-session]").await;
        page.wait_for_text("That session has ended.").await;
        page.wait_for_text("No application has a session of yours.").await;
        page.press("[value=end-all]").await;
        page.wait_for("Log in").await;
    })
    .await;
    assert_eq!(server.number("SELECT count(*) AS number FROM login_sessions"), 0);
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn registration_and_consent_work_over_plain_http_on_loopback_and_lead_to_the_client() {
    let server = server_with(|launch| launch.set("tls.mode", "off"));
    let options = ["--public", "--redirect-uri", REDIRECT_URI, "--scope", "files:read"];
    let client = server.register_client("Photos", &options);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(client.request())
        .finish();
    visit(&server, async move |page: Page| {
        page.open(&format!("/oauth/authorize?{query}")).await;
        page.wait_for("Log in").await;
        page.press("a[href^=create-account]").await;
        page.wait_for("Create your account").await;
        page.assert_good().await;
        page.fill("name", "ann").await;
        page.fill("password", PASSWORD).await;
        page.fill("repeated", PASSWORD).await;
        page.press("button[type=submit]").await;
        page.wait_for("Allow access?").await;
        page.assert_good().await;
        // No host has the name of the client: the address is that of the redirect.
        page.press("[value=allow]").await;
        let left = "!document.querySelector('[value=allow]')";
        page.window.wait_until("the browser goes to the client", left).await;
        let address = page.window.current_url().await.unwrap();
        assert!(address.as_str().starts_with("https://app.example/cb?code="), "{address}");
        page.open("/forgot-password").await;
        page.wait_for("Forgot your password?").await;
        page.window.console().await;
        page.assert_good().await;
        page.open("/reset?token=x").await;
        page.wait_for("This does not work").await;
        page.window.console().await;
        page.assert_good().await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn device_is_approved_after_a_login() {
    let server = server_with(|launch| launch);
    server.register("ann", PASSWORD).await;
    let client = server.add_tv();
    let device = server.begin_device(&client, "openid read").await;
    let code = device.user_code.clone();
    visit(&server, async move |page: Page| {
        page.open(&format!("/device?user_code={code}")).await;
        page.wait_for("Log in").await;
        page.log_in(PASSWORD).await;
        page.wait_for("Log this device in?").await;
        page.wait_for_text(&code).await;
        page.assert_good().await;
        page.open("/device").await;
        page.wait_for("Log a device in").await;
        page.assert_good().await;
        page.fill("user_code", "bbbb bbbb").await;
        page.press("button[type=submit]").await;
        page.wait_for_text("This code is unknown").await;
        page.window.console().await;
        page.assert_good().await;
        page.fill("user_code", &code.to_lowercase()).await;
        page.press("button[type=submit]").await;
        page.wait_for("Log this device in?").await;
        page.press("[value=allow]").await;
        page.wait_for("The device is logged in").await;
        page.assert_good().await;
    })
    .await;
    tokens(&server.poll(&device).await);
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn login_works_by_keyboard() {
    let server = server_with(|launch| launch);
    server.register("ann", PASSWORD).await;
    visit(&server, async |page: Page| {
        page.window.tab_to("document.activeElement.id === 'name'").await;
        let outline = "getComputedStyle(document.activeElement).outlineStyle";
        assert_eq!(page.window.value(outline).await, "solid", "the focus is visible");
        page.window.active_element().await.unwrap().send_keys("ann").await.unwrap();
        page.window.press_key(Key::Tab).await;
        page.window.active_element().await.unwrap().send_keys(PASSWORD).await.unwrap();
        page.window.press_key(Key::Enter).await;
        page.wait_for("Your account").await;
    })
    .await;
}
