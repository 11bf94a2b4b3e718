//! The forms of an account and the list of its sessions.

use serde_json::json;

use super::*;

const FIREFOX: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0";

const CHROME: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Mobile Safari/537.36";

/// The width of the narrowest supported window (WCAG 2.2, 1.4.10).
const NARROW_WIDTH: u32 = 320;

const NAME: &str = "anna@example.com";

const PASSWORD: &str = "violet tractor seven hums";

impl Page {
    async fn fill(&self, id: &str, text: &str) {
        let field = self.find(Locator::Id(id)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Fills in the form `login` or `register` and sends it.
    async fn submit(&self, form: &str, name: &str, password: &str) {
        let open = format!("document.getElementById('{form}-section').open");
        if self.value(&open).await == false {
            let summary = format!("#{form}-section summary");
            self.find(Locator::Css(&summary)).await.unwrap().click().await.unwrap();
        }
        self.fill(&format!("{form}-name"), name).await;
        self.fill(&format!("{form}-password"), password).await;
        self.press(&format!("{form}-submit")).await;
    }

    async fn wait_for_devices(&self, devices: &[&str]) {
        let shown = "[...document.querySelectorAll('#sessions .device')].map((one) => \
                     one.textContent).sort()";
        let expression =
            format!("JSON.stringify({shown}) === {}", json!(json!(devices).to_string()));
        self.wait_until(&format!("the list has {devices:?}"), &expression).await;
    }

    /// Asserts that the password is nowhere in the page, its address, or its history.
    async fn assert_no_password(&self) {
        let everything = self
            .value(
                "document.documentElement.outerHTML + location.href + \
                 [...document.querySelectorAll('input')].map((one) => one.value).join() + \
                 performance.getEntries().map((one) => one.name).join()",
            )
            .await
            .to_string();
        assert!(!everything.contains("tractor"), "{everything}");
    }
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn an_account_is_used_on_two_browsers_over_a_restart_and_one_ends_the_other() {
    let mut setup = Setup::start(|server| server);
    let url = setup.client.url().to_owned();
    let driver = BrowserDriver::start();
    let one = Page::open(&driver, &url, DESKTOP_WIDTH, Some(FIREFOX)).await;
    let other = Page::open(&driver, &url, NARROW_WIDTH, Some(CHROME)).await;
    let browsers = [one.browser(), other.browser()];
    let journey = async move {
        one.submit("register", NAME, PASSWORD).await;
        one.wait_for_text("message", "Registered and logged in as anna@example.com.").await;
        one.wait_for_text("login-state", "Logged in as anna@example.com").await;
        one.wait_for_devices(&["Firefox on Windows"]).await;
        one.assert_clean().await;

        other.assert_fits(NARROW_WIDTH).await;
        other.submit("login", NAME, "wrong tractor").await;
        other.wait_for_text("login-error", "The name or the password is wrong.").await;
        let focused = "document.activeElement.id === 'login-password' && \
                       document.activeElement.getAttribute('aria-invalid') === 'true'";
        assert_eq!(other.value(focused).await, true);
        assert_eq!(other.console().await.len(), 1, "the browser logs the 401");
        other.submit("login", NAME, PASSWORD).await;
        other.wait_for_text("message", "Logged in as anna@example.com.").await;
        other.wait_for_devices(&["Chrome on Android", "Firefox on Windows"]).await;
        other.assert_fits(NARROW_WIDTH).await;
        for page in [&one, &other] {
            page.assert_no_password().await;
            page.assert_clean().await;
        }

        let address = authority(setup.client.url());
        assert!(setup.client.stop().success());
        let _app = client(&setup.env, setup.server.url()).set("client.address", &address).start();
        for page in [&one, &other] {
            let live = "document.getElementById('disconnected').hidden";
            page.wait_until("the page is live again", live).await;
            page.wait_for_text("login-state", "Logged in").await;
            page.press_and_expect("reload", "The sessions are up to date.").await;
            page.wait_for_text("login-state", "Logged in as anna@example.com").await;
            page.console().await;
        }

        one.wait_for_devices(&["Chrome on Android", "Firefox on Windows"]).await;
        let title = "document.querySelector('[data-current=false] .device').title";
        assert_eq!(one.value(title).await, CHROME);
        let end = Locator::Css("#sessions [data-current=false] button");
        one.find(end).await.unwrap().click().await.unwrap();
        one.wait_for_text("message", "That session has ended.").await;
        one.wait_for_devices(&["Firefox on Windows"]).await;
        let why = "The session has ended because it was logged out, here or from another device";
        other.press_and_expect("info", why).await;
        other.wait_for_text("login-state", "Logged out").await;
        let open = "document.getElementById('login-section').open";
        other.wait_until("the form to log in is open", open).await;

        other.submit("login", NAME, PASSWORD).await;
        other.wait_for_text("login-state", "Logged in as anna@example.com").await;
        one.press("reload").await;
        one.wait_for_devices(&["Chrome on Android", "Firefox on Windows"]).await;
        one.press_and_expect("end-others", "The other session has ended.").await;
        one.wait_for_devices(&["Firefox on Windows"]).await;
        one.press_and_expect("logout-everywhere", "Logged out: 1 session has ended.").await;
        one.assert_clean().await;
    };
    let outcome = actix_rt::spawn(journey).await;
    for browser in browsers {
        browser.close().await.unwrap();
    }
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn a_guest_registers_by_keyboard_and_keeps_its_user_id() {
    let setup = Setup::start(|server| server);
    Page::visit(setup.client.url(), DESKTOP_WIDTH, async |page: Page| {
        page.log_in().await;
        page.wait_for_text("login-state", "Logged in as a guest").await;
        let user = "document.querySelector('#login-state .id').textContent";
        let guest = page.value(user).await;
        page.tab_to("document.activeElement.id === 'register-title'").await;
        page.press_key(Key::Enter).await;
        page.tab_to("document.activeElement.id === 'register-name'").await;
        page.active_element().await.unwrap().send_keys("anna").await.unwrap();
        page.press_key(Key::Tab).await;
        page.active_element().await.unwrap().send_keys("short").await.unwrap();
        page.press_key(Key::Enter).await;
        page.wait_for_text("register-error", "12 characters").await;
        page.console().await;
        let focused = "document.activeElement.id";
        assert_eq!(page.value(focused).await, "register-password");
        page.active_element().await.unwrap().send_keys(PASSWORD).await.unwrap();
        page.press_key(Key::Enter).await;
        page.wait_for_text("message", "Registered and logged in as anna.").await;
        page.wait_for_text("login-state", "Logged in as anna").await;
        assert_eq!(page.value(user).await, guest);
        let hidden = "document.getElementById('register-section').hidden";
        assert_eq!(page.value(hidden).await, true, "an account cannot be registered again");
        assert_eq!(page.value(focused).await, "message-box", "the focus is not lost");
        page.assert_no_password().await;
        page.assert_clean().await;
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn each_field_has_a_label_and_is_known_to_password_managers() {
    let setup = Setup::start(|server| server);
    Page::visit(setup.client.url(), DESKTOP_WIDTH, async |page: Page| {
        let fields = page
            .value(
                "Object.fromEntries([...document.querySelectorAll('input')].map((one) => \
                 [one.id, [one.autocomplete, one.labels.length, one.form.method]]))",
            )
            .await;
        let expected = json!({
            "login-name": ["username", 1, "post"],
            "login-password": ["current-password", 1, "post"],
            "login-code": ["one-time-code", 1, "post"],
            "register-name": ["username", 1, "post"],
            "register-password": ["new-password", 1, "post"],
        });
        assert_eq!(fields, expected);
    })
    .await;
}

#[actix_rt::test]
#[ignore = "needs Chromium and its driver"]
async fn the_code_of_the_second_factor_is_asked_for_when_the_server_requires_it() {
    let script = ScriptedServer::start();
    script.add_account(NAME, PASSWORD);
    let body = json!({ "error": "second_factor_required", "message": "code" }).to_string();
    script.on("/login", [Reaction::json(401, &body).marked()]);
    let env = TestEnv::new();
    let app = client(&env, script.origin()).start();
    Page::visit(app.url(), NARROW_WIDTH, async move |page: Page| {
        page.wait_for_text("login-state", "Logged out").await;
        let shown = "document.getElementById('login-code').checkVisibility()";
        assert_eq!(page.value(shown).await, false);
        page.submit("login", NAME, PASSWORD).await;
        page.wait_for_text("login-error", "Enter the code of your authenticator app").await;
        assert_eq!(page.value("document.activeElement.id").await, "login-code");
        page.assert_fits(NARROW_WIDTH).await;
        page.active_element().await.unwrap().send_keys("123456").await.unwrap();
        page.press_key(Key::Enter).await;
        page.wait_for_text("message", "Logged in as anna@example.com.").await;
        let sent: Value = serde_json::from_slice(&script.received("/login")[1].body).unwrap();
        assert_eq!(sent, json!({ "name": NAME, "password": PASSWORD, "code": "123456" }));
    })
    .await;
}
