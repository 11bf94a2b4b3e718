//! A server and a client app as processes, and browsers that send what the page sends.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use awc::ClientRequest;
use futures_util::{Stream, StreamExt};
use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse};
use serde_json::Value;

/// The binary of the client app.
pub(crate) fn client_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_matchbook-client"))
}

/// The server's binary, in the same directory.
pub(crate) fn server_binary() -> PathBuf {
    let binary = client_binary().with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    binary
}

/// A client app that uses `server`, with its files in the directory of `env`.
pub(crate) fn client(env: &TestEnv, server: &str) -> ProcessBuilder {
    ProcessBuilder::new(client_binary(), env.folder(), "MATCHBOOK_CLIENT")
        .set("client.address", "127.0.0.1:0")
        .set("client.workers", "4")
        .set("server.url", server)
}

/// A server and a client app that uses it.
pub(crate) struct Setup {
    pub(crate) server: Process,
    pub(crate) client: Process,
    pub(crate) http: Http,
    pub(crate) env: TestEnv,
}

impl Setup {
    /// Starts both. `settings` configures the server.
    pub(crate) fn start(settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder) -> Self {
        let env = TestEnv::new();
        let server = settings(env.server(&server_binary())).start();
        let client = client(&env, server.url()).start();
        let http = Http::new(client.url(), None);
        Self { server, client, http, env }
    }
}

/// Waits until an access token with this lifetime, in seconds, has expired.
pub(crate) async fn wait_for_expiry(lifetime: u64) {
    actix_rt::time::sleep(Duration::from_secs(lifetime)).await;
}

/// Returns the host and port of a URL.
pub(crate) fn authority(url: &str) -> String {
    url.rsplit('/').next().unwrap().to_owned()
}

/// Returns the cookie that a response sets, as `name=value`.
pub(crate) fn cookie_of(response: &TestResponse) -> String {
    response.header("set-cookie").split(';').next().unwrap().to_owned()
}

/// A browser with the page open. It keeps its cookie and sends what the page sends.
pub(crate) struct Browser {
    http: Http,
    cookie: RefCell<String>,
    /// The cookie with the token of an earlier login.
    device: RefCell<Option<String>>,
    user_agent: &'static str,
}

impl Browser {
    pub(crate) async fn open(app: &Process) -> Self {
        let http = Http::new(app.url(), None);
        let page = http.get("/").await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        Self::with_cookie(app, cookie_of(&page))
    }

    /// A browser with this cookie, which has not opened the page.
    pub(crate) fn with_cookie(app: &Process, cookie: String) -> Self {
        let http = Http::new(app.url(), None);
        let cookie = RefCell::new(cookie);
        Self { http, cookie, device: RefCell::default(), user_agent: "matchbook-test" }
    }

    /// Sends this `User-Agent` from now on.
    pub(crate) fn with_user_agent(mut self, user_agent: &'static str) -> Self {
        self.user_agent = user_agent;
        self
    }

    pub(crate) fn cookie(&self) -> String {
        self.cookie.borrow().clone()
    }

    /// Stores the cookie of a response, if it sets one.
    fn store_cookie(&self, response: TestResponse) -> TestResponse {
        let set = response.headers.get_all("set-cookie");
        for set in set.map(|set| set.to_str().unwrap().split(';').next().unwrap().to_owned()) {
            if set.contains("_device=") {
                self.device.replace(Some(set));
            } else {
                self.cookie.replace(set);
            }
        }
        response
    }

    /// A request with the cookie only.
    pub(crate) fn bare(&self, method: &str, path: &str) -> ClientRequest {
        let cookies = self.device.borrow().iter().fold(self.cookie(), |all, one| all + "; " + one);
        let request = self.http.request(method, path).insert_header(("cookie", cookies));
        request.insert_header(("user-agent", self.user_agent))
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.store_cookie(TestResponse::of(self.bare("GET", path).send()).await)
    }

    pub(crate) async fn call(&self, method: &str, path: &str) -> TestResponse {
        self.store_cookie(TestResponse::of(self.page_request(method, path).send()).await)
    }

    /// Sends a form of the page.
    pub(crate) async fn submit(&self, path: &str, form: &Value) -> TestResponse {
        let request = self.page_request("POST", path).send_json(form);
        self.store_cookie(TestResponse::of(request).await)
    }

    fn page_request(&self, method: &str, path: &str) -> ClientRequest {
        let origin = self.http.request("GET", "").get_uri().to_string();
        self.bare(method, path)
            .insert_header(("x-matchbook", "page"))
            .insert_header(("sec-fetch-site", "same-origin"))
            .insert_header(("origin", origin.trim_end_matches('/')))
    }

    pub(crate) async fn log_in(&self) {
        assert_eq!(self.call("POST", "/api/login").await.status, 204);
    }

    pub(crate) async fn user(&self) -> String {
        self.call("POST", "/api/info").await.field("userId")
    }

    pub(crate) async fn events(&self) -> Events {
        let response = self.bare("GET", "/api/events").send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("content-type").unwrap(), "text/event-stream");
        let chunks = response.map(|chunk| chunk.unwrap().to_vec());
        Events { chunks: Box::pin(chunks), read: Vec::new(), text: String::new() }
    }
}

/// The events that an open page receives.
pub(crate) struct Events {
    chunks: Pin<Box<dyn Stream<Item = Vec<u8>>>>,
    read: Vec<u8>,
    /// All events so far, as received.
    pub(crate) text: String,
}

impl Events {
    /// Returns the next event and its data. `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
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

    /// Returns the app's requests before the browser's call of `path`, like `GET /user 401`.
    pub(crate) async fn exchanges_until(&mut self, path: &str) -> Vec<String> {
        let mut exchanges = Vec::new();
        loop {
            let (name, data) = self.next().await.expect("the stream goes on");
            if name != "exchange" {
                continue;
            }
            assert!(data["at"].is_u64() && data["took"].is_u64(), "{data}");
            let field = |name: &str| data[name].as_str().unwrap();
            if [field("from"), field("to"), field("path")] == ["browser", "client", path] {
                return exchanges;
            }
            if field("from") == "client" {
                exchanges.push(format!("{} {} {}", field("method"), field("path"), data["status"]));
            }
        }
    }

    /// Returns the next state.
    pub(crate) async fn state(&mut self) -> Value {
        loop {
            let (name, data) = self.next().await.expect("the stream goes on");
            if name == "state" {
                return data;
            }
        }
    }

    /// Returns the data about the session's end, once a state says that it has ended.
    pub(crate) async fn session_end(&mut self) -> Value {
        loop {
            let state = self.state().await;
            if state["loggedIn"] == false {
                return state["ended"].clone();
            }
        }
    }
}

/// Asserts an error response of the JSON API.
pub(crate) fn assert_error(response: &TestResponse, status: u16, code: &str) {
    assert_eq!(
        (response.status, response.field("error").as_str()),
        (status, code),
        "{}",
        response.text
    );
    assert!(response.field("message").ends_with('.'), "{}", response.text);
    assert_eq!(response.header("content-type"), "application/json");
}
