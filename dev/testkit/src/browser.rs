//! Headless Chromium, controlled by chromedriver.

use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::{Http, TestResponse};

/// Timeout for a condition on the page, long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A chromedriver process. Dropping this kills it.
pub struct BrowserDriver {
    child: Child,
    url: String,
}

impl BrowserDriver {
    /// Starts chromedriver on a free port.
    pub fn start() -> Self {
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

impl Drop for BrowserDriver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser with one window. It dereferences to the client of its driver.
#[derive(Clone)]
pub struct BrowserWindow {
    client: Client,
    driver: Http,
}

impl Deref for BrowserWindow {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl BrowserWindow {
    /// Opens `url` in a window of this width, in pixels. The browser accepts any certificate.
    pub async fn open(
        driver: &BrowserDriver,
        url: &str,
        width: u32,
        user_agent: Option<&str>,
    ) -> Self {
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(width, user_agent))
            .connect(&driver.url)
            .await
            .expect("Chromium starts");
        client.goto(url).await.unwrap();
        Self { client, driver: Http::new(&driver.url, None) }
    }

    /// Returns the value of a JavaScript expression.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return {expression};"), Vec::new()).await.unwrap()
    }

    /// Waits until a JavaScript expression is truthy.
    pub async fn wait_until(&self, what: &str, expression: &str) {
        let start = Instant::now();
        while self.value(&format!("!({expression})")).await == true {
            if start.elapsed() > TIMEOUT {
                let text = self.value("document.body.innerText").await;
                panic!("timeout: {what}. The page shows: {text}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Presses a key on the element that has the focus.
    pub async fn press_key(&self, key: Key) {
        let focused = self.client.active_element().await.unwrap();
        focused.send_keys(&char::from(key).to_string()).await.unwrap();
    }

    /// Presses the tab key until the expression is true for the focus.
    pub async fn tab_to(&self, wanted: &str) {
        for _ in 0..40 {
            self.press_key(Key::Tab).await;
            if self.value(wanted).await == true {
                return;
            }
        }
        panic!("the focus never came to {wanted}");
    }

    /// Chooses the color scheme that the user prefers: `light` or `dark`.
    pub async fn prefer_scheme(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        let body = json!({
            "cmd": "Emulation.setEmulatedMedia",
            "params": { "features": [feature] },
        });
        self.command("goog/cdp/execute", &body).await;
    }

    /// Returns and clears the browser's console: errors, and violations of the content
    /// security policy.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.command("se/log", &json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("a list of entries");
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// Asserts that the page fits into a window of this width.
    pub async fn assert_fits(&self, width: u32) {
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

    /// Sends a command of chromedriver that is not in the standard.
    async fn command(&self, path: &str, body: &Value) -> Value {
        let session = self.client.session_id().await.unwrap().unwrap();
        let command = self.driver.request("POST", &format!("/session/{session}/{path}"));
        let response = TestResponse::of(command.send_json(body)).await;
        assert_eq!(response.status, 200, "{}", response.text);
        response.json()["value"].clone()
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
        "acceptInsecureCerts": true,
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

/// Returns whether the tests run as root.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("the program `id` exists");
    id.stdout.trim_ascii() == b"0"
}
