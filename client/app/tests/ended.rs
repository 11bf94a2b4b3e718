//! Why a session is over, as the commands, the calls of the page and an open page say
//! it: each reason brought about at a real server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use matchbook_client::{Client, Credentials, RootCerts, Server, TokenResponse};
use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv, TestResponse};
use serde_json::Value;

/// Longer than an access token lives here.
const EXPIRED: Duration = Duration::from_millis(1100);

const SECRET: &str = "K7v2mQ9xT4cL8wZ1pR6sN3hJ5bF0dG7y";

/// What happens to the session before its client uses it again.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Its refresh token is used by the holder of a copy, so many times.
    Copied(usize),
    /// The holder of a copy logs out.
    LoggedOut,
    /// Nothing, for so many milliseconds.
    Unused(u64),
    /// The server comes back with an empty database.
    Forgotten,
}

struct Case {
    settings: &'static [(&'static str, &'static str)],
    fate: Fate,
    reason: &'static str,
    sentence: &'static str,
}

#[actix_rt::test]
async fn a_copied_token_is_named_as_the_reason() {
    assert_said(&Case {
        settings: &[("rotation.mode", "strict")],
        fate: Fate::Copied(1),
        reason: "reuse",
        sentence: "the session has ended because an old refresh token of it was used: there may be \
                   a copy of the tokens, so look at where they are stored",
    })
    .await;
}

#[actix_rt::test]
async fn a_logout_elsewhere_is_named_as_the_reason() {
    assert_said(&Case {
        settings: &[],
        fate: Fate::LoggedOut,
        reason: "logged_out",
        sentence: "the session has ended because it was logged out, here or from another device",
    })
    .await;
}

#[actix_rt::test]
async fn a_session_that_was_not_used_is_named_as_the_reason() {
    assert_said(&Case {
        settings: &[("sessions.idle_lifetime", "2s")],
        fate: Fate::Unused(2100),
        reason: "expired_idle",
        sentence: "the session has ended because it was not used for longer than the server allows",
    })
    .await;
}

#[actix_rt::test]
async fn the_longest_lifetime_is_named_as_the_reason() {
    assert_said(&Case {
        settings: &[("sessions.idle_lifetime", "2s"), ("sessions.absolute_lifetime", "2s")],
        fate: Fate::Unused(2100),
        reason: "expired_absolute",
        sentence: "the session has ended because it reached the longest lifetime that the server \
                   allows",
    })
    .await;
}

#[actix_rt::test]
async fn a_session_that_the_server_does_not_know_is_named_as_the_reason() {
    assert_said(&Case {
        settings: &[],
        fate: Fate::Forgotten,
        reason: "unknown",
        sentence: "the server does not know this session: it was removed after its end, or the \
                   server's database was replaced",
    })
    .await;
}

#[actix_rt::test]
async fn newer_tokens_elsewhere_are_named_and_the_tokens_are_kept() {
    let case = Case { settings: &[], fate: Fate::Copied(2), reason: "superseded", sentence: "" };
    let sentence = "newer tokens of this session were issued to another process, or to a copy of \
                    the tokens; you stay logged in";
    let (mut scene, file) = Scene::with_command(&case);
    scene.meet(case.fate, &refresh_token_of(&file)).await;
    let (code, error) = scene.info();
    assert_eq!(code, Some(4), "{error}");
    let advice = ": use one token file for all processes, and try again";
    assert_eq!(error, format!("matchbook-client: {sentence}{advice}\n"));
    assert!(fs::metadata(&file).unwrap().len() > 0, "the tokens are kept");

    let mut scene = Scene::new(&case);
    let (browser, _) = scene.logged_in().await;
    let token = scene.tap.last_refresh_token();
    scene.meet(case.fate, &token).await;
    let answer = browser.call("/api/info").await;
    assert_eq!((answer.status, answer.field("error")), (503, "superseded".to_owned()));
    let message =
        format!("This did not work: {sentence}. Try again; when that fails, log in again.");
    assert_eq!(answer.field("message"), message);
}

#[actix_rt::test]
async fn another_log_in_of_the_same_browser_is_named_on_its_open_page() {
    let scene =
        Scene::new(&Case { settings: &[], fate: Fate::Unused(0), reason: "", sentence: "" });
    let (browser, mut page) = scene.logged_in().await;
    assert_eq!(page.state().await.get("ended"), None, "the first log-in replaces nothing");
    assert_eq!(browser.call("/api/login").await.status, 204);
    let state = page.state().await;
    assert_eq!((&state["loggedIn"], &state["ended"]["reason"]), (&true.into(), &"replaced".into()));
    let message = "Another log-in with the same cookie has replaced the session: this page shows \
                   the new one.";
    assert_eq!(state["ended"]["message"], message);
}

#[actix_rt::test]
async fn tokens_from_elsewhere_end_the_session_before_unless_they_are_of_the_same_one() {
    let world = TestEnv::new();
    let server = server(&world, &[]).start();
    let http = Http::new(server.url(), None);
    let tokens = async || {
        let user = http.get("/register").await.json().as_str().unwrap().to_owned();
        http.get(&format!("/token?userId={user}")).await.text
    };
    let refreshed = async |tokens: &str| {
        let tokens: TokenResponse = serde_json::from_str(tokens).unwrap();
        http.post("/refresh", &format!("refresh_token={}", tokens.refresh_token)).await
    };
    let (first, second) = (tokens().await, tokens().await);
    let at = Server::new(server.url(), &RootCerts::System, Duration::from_secs(10)).unwrap();
    let session = Client::new(&at, Credentials::default());
    let log_in = async |tokens: &str| {
        session.log_in_with(serde_json::from_str(tokens).unwrap()).await.unwrap();
    };
    log_in(&first).await;
    let first_again = refreshed(&first).await.text;
    log_in(&first_again).await;
    let first_again = refreshed(&first_again).await;
    assert_eq!(first_again.status, 200, "newer tokens of the same session do not end it");
    log_in(&second).await;
    let ended = refreshed(&first_again.text).await;
    assert_eq!((ended.status, ended.field("reason")), (401, "logged_out".to_owned()));
    assert_eq!(refreshed(&second).await.status, 200);
}

/// Has the command line, the API and an open page meet the end of their session.
async fn assert_said(case: &Case) {
    let (mut scene, file) = Scene::with_command(case);
    scene.meet(case.fate, &refresh_token_of(&file)).await;
    let (code, error) = scene.info();
    assert_eq!(code, Some(3), "{error}");
    let sentence = case.sentence;
    let advice = ": run `matchbook-client login` to log in again";
    assert_eq!(error, format!("matchbook-client: {sentence}{advice}\n"));

    let mut scene = Scene::new(case);
    let (mut browser, mut page) = scene.logged_in().await;
    let token = scene.tap.last_refresh_token();
    scene.meet(case.fate, &token).await;
    let answer = browser.call("/api/info").await;
    assert_eq!((answer.status, answer.field("error")), (401, "logged_out".to_owned()));
    assert_eq!(answer.field("reason"), case.reason);
    let message = format!("T{}: log in again.", &sentence[1..]);
    assert_eq!(answer.field("message"), message);
    let ended = page.until_logged_out().await;
    assert_eq!(
        (&ended["reason"], &ended["message"]),
        (&case.reason.into(), &message.clone().into())
    );
    // A page that was not connected then is told when it comes back.
    let ended = browser.events().await.until_logged_out().await;
    assert_eq!(ended["message"], message);
    browser.log_in().await;
    assert_eq!(browser.events().await.state().await.get("ended"), None, "it is logged in again");
}

fn refresh_token_of(file: &Path) -> String {
    let stored: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    stored["refresh_token"].as_str().unwrap().to_owned()
}

/// A server behind a tap, and a client app that uses it.
struct Scene {
    worlds: Vec<TestEnv>,
    server: Process,
    tap: Tap,
    settings: &'static [(&'static str, &'static str)],
}

impl Scene {
    fn new(case: &Case) -> Self {
        let world = TestEnv::new();
        let server = server(&world, case.settings).start();
        let tap = Tap::to(server.url());
        Self { worlds: vec![world], server, tap, settings: case.settings }
    }

    /// With tokens in a file, which the command line has logged in with.
    fn with_command(case: &Case) -> (Self, PathBuf) {
        let scene = Self::new(case);
        let file = scene.worlds[0].folder().join("tokens.json");
        let login = scene.client().run(&["login", "--store", file.to_str().unwrap()]);
        assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
        (scene, file)
    }

    fn client(&self) -> ProcessBuilder {
        let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
        ProcessBuilder::new(binary, self.worlds[0].folder(), "MATCHBOOK_CLIENT")
            .set("client.address", "127.0.0.1:0")
            .set("client.workers", "1")
            .set("server.url", &format!("http://{}", self.tap.address))
    }

    /// The exit code of `info`, and its error.
    fn info(&self) -> (Option<i32>, String) {
        let output = self.client().run(&["info", "--store", "tokens.json"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A browser that is logged in, with a page open.
    async fn logged_in(&self) -> (Browser, Page) {
        let app = self.client().start();
        let http = Http::new(app.url(), None);
        let page = http.get("/").await;
        let cookie = page.header("set-cookie").split(';').next().unwrap().to_owned();
        let mut browser = Browser { http, cookie, _app: Arc::new(app) };
        let mut page = browser.events().await;
        assert_eq!(page.state().await["loggedIn"], false);
        browser.log_in().await;
        (browser, page)
    }

    async fn meet(&mut self, fate: Fate, refresh_token: &str) {
        let http = Http::new(self.server.url(), None);
        let form = |token: &str| format!("refresh_token={token}");
        match fate {
            Fate::Copied(times) => {
                let mut token = refresh_token.to_owned();
                for _ in 0..times {
                    let answer = http.post("/refresh", &form(&token)).await;
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    token = answer.field("refreshToken");
                }
            }
            Fate::LoggedOut => {
                let status = http.post("/logout", &form(refresh_token)).await.status;
                assert!((200..300).contains(&status), "{status}");
            }
            Fate::Unused(millis) => actix_rt::time::sleep(Duration::from_millis(millis)).await,
            Fate::Forgotten => {
                assert!(self.server.stop().success());
                self.worlds.push(TestEnv::new());
                let world = self.worlds.last().unwrap();
                self.server = server(world, self.settings).start();
                self.tap.lead_to(self.server.url());
            }
        }
        actix_rt::time::sleep(EXPIRED).await;
    }
}

fn server(world: &TestEnv, settings: &[(&str, &str)]) -> ProcessBuilder {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
    let binary = binary.with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    let launch = world
        .server(&binary)
        .set("tls.mode", "off")
        .set("tokens.algorithm", "ES256")
        .set("tokens.access_lifetime", "1s")
        .set("secret", SECRET);
    settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
}

struct Browser {
    http: Http,
    cookie: String,
    _app: Arc<Process>,
}

impl Browser {
    async fn call(&self, path: &str) -> TestResponse {
        let request = self.http.request("POST", path).insert_header(("x-matchbook", "page"));
        TestResponse::of(request.insert_header(("cookie", self.cookie.clone())).send()).await
    }

    /// Logs in, which brings another cookie.
    async fn log_in(&mut self) {
        let answer = self.call("/api/login").await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        answer.header("set-cookie").split(';').next().unwrap().clone_into(&mut self.cookie);
    }

    async fn events(&self) -> Page {
        let request = self.http.request("GET", "/api/events");
        let response = request.insert_header(("cookie", self.cookie.clone())).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let chunks = response.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap());
        Page { chunks: Box::pin(chunks), read: String::new() }
    }
}

/// The events that an open page gets.
struct Page {
    chunks: std::pin::Pin<Box<dyn futures_util::Stream<Item = String>>>,
    read: String,
}

impl Page {
    /// The next state.
    async fn state(&mut self) -> Value {
        loop {
            while let Some(end) = self.read.find("\n\n") {
                let event: String = self.read.drain(..end + 2).collect();
                if let Some(state) = event.strip_prefix("event: state\ndata: ") {
                    return serde_json::from_str(state).unwrap();
                }
            }
            self.read.push_str(&self.chunks.next().await.unwrap());
        }
    }

    /// How the session ended, once it has.
    async fn until_logged_out(&mut self) -> Value {
        loop {
            let state = self.state().await;
            if state["loggedIn"] == false {
                return state["ended"].clone();
            }
        }
    }
}

/// A plain relay to a server, which keeps a copy of what the server sends.
struct Tap {
    address: SocketAddr,
    target: Arc<Mutex<String>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(String::new()));
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let tap = Self { address, target: target.clone(), heard: heard.clone() };
        tap.lead_to(url);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&*target.lock().unwrap()) else { continue };
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let heard = heard.clone();
                thread::spawn(move || copy(near, far, |_| {}));
                thread::spawn(move || {
                    copy(back.0, back.1, |bytes| heard.lock().unwrap().extend(bytes));
                });
            }
        });
        tap
    }

    fn lead_to(&self, url: &str) {
        let host = url.rsplit('/').next().unwrap();
        host.clone_into(&mut self.target.lock().unwrap());
    }

    fn last_refresh_token(&self) -> String {
        let heard = self.heard.lock().unwrap();
        let text = String::from_utf8_lossy(&heard);
        let (_, after) = text.rsplit_once("\"refreshToken\":\"").unwrap();
        after.split('"').next().unwrap().to_owned()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut hear: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        hear(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
