//! The message about the end of a session, in the commands, the API and an open page.
//! Each reason is caused at a real server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use matchbook_client::{Client, Credentials, RootCerts, Server, TokenResponse};
use matchbook_testkit::{Http, Process, ProcessBuilder, TestEnv};
use serde_json::Value;

use super::support::{self, Browser, Events, authority, server_binary};

/// Longer than the lifetime of an access token in these tests.
const EXPIRED: Duration = Duration::from_millis(1100);

const SECRET: &str = "K7v2mQ9xT4cL8wZ1pR6sN3hJ5bF0dG7y";

/// The cause of the end of a session, before its client uses it again.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    /// A copy of its refresh token is refreshed this many times.
    Copied(usize),
    /// It is logged out with a copy of its refresh token.
    LoggedOut,
    /// It is unused for this many milliseconds.
    Unused(u64),
    /// The server restarts with an empty database.
    Forgotten,
}

struct Case {
    settings: &'static [(&'static str, &'static str)],
    cause: Cause,
    reason: &'static str,
    message: &'static str,
}

#[actix_rt::test]
async fn reuse_is_reported_as_the_reason() {
    assert_reported(&Case {
        settings: &[("rotation.mode", "strict")],
        cause: Cause::Copied(1),
        reason: "reuse",
        message: "the session has ended because an old refresh token of it was used: there may be \
                   a copy of the tokens, so check where they are stored",
    })
    .await;
}

#[actix_rt::test]
async fn a_logout_elsewhere_is_reported_as_the_reason() {
    assert_reported(&Case {
        settings: &[],
        cause: Cause::LoggedOut,
        reason: "logged_out",
        message: "the session has ended because it was logged out, here or from another device",
    })
    .await;
}

#[actix_rt::test]
async fn idle_expiry_is_reported_as_the_reason() {
    assert_reported(&Case {
        settings: &[("sessions.idle_lifetime", "2s")],
        cause: Cause::Unused(2100),
        reason: "expired_idle",
        message: "the session has ended because it was not used for longer than the server allows",
    })
    .await;
}

#[actix_rt::test]
async fn absolute_expiry_is_reported_as_the_reason() {
    assert_reported(&Case {
        settings: &[("sessions.idle_lifetime", "2s"), ("sessions.absolute_lifetime", "2s")],
        cause: Cause::Unused(2100),
        reason: "expired_absolute",
        message: "the session has ended because it reached the longest lifetime that the server \
                   allows",
    })
    .await;
}

#[actix_rt::test]
async fn an_unknown_session_is_reported_as_the_reason() {
    assert_reported(&Case {
        settings: &[],
        cause: Cause::Forgotten,
        reason: "unknown",
        message: "the server does not know this session: it was removed after its end, or the \
                   server's database was replaced",
    })
    .await;
}

#[actix_rt::test]
async fn superseded_tokens_are_reported_and_kept() {
    let case = Case { settings: &[], cause: Cause::Copied(2), reason: "superseded", message: "" };
    let message = "newer tokens of this session were issued to another process, or to a copy of \
                    the tokens; you stay logged in";
    let (mut test, file) = SessionEndTest::with_command(&case);
    test.apply(case.cause, &refresh_token_of(&file)).await;
    let (code, error) = test.info();
    assert_eq!(code, Some(4), "{error}");
    let advice = ": use one token file for all processes, and try again";
    assert_eq!(error, format!("matchbook-client: {message}{advice}\n"));
    assert!(fs::metadata(&file).unwrap().len() > 0, "the tokens are kept");

    let mut test = SessionEndTest::new(&case);
    let (_app, browser, _) = test.logged_in().await;
    let token = test.proxy.last_refresh_token();
    test.apply(case.cause, &token).await;
    let response = browser.call("POST", "/api/info").await;
    assert_eq!((response.status, response.field("error")), (503, "superseded".to_owned()));
    let expected = format!("Request failed: {message}. Try again; if that fails, log in again.");
    assert_eq!(response.field("message"), expected);
}

#[actix_rt::test]
async fn a_login_that_replaces_the_session_is_reported_on_the_open_page() {
    let test = SessionEndTest::new(&Case {
        settings: &[],
        cause: Cause::Unused(0),
        reason: "",
        message: "",
    });
    let (_app, browser, mut page) = test.logged_in().await;
    assert_eq!(page.state().await.get("ended"), None, "the first login replaces nothing");
    assert_eq!(browser.call("POST", "/api/login").await.status, 204);
    let state = page.state().await;
    assert_eq!((&state["loggedIn"], &state["ended"]["reason"]), (&true.into(), &"replaced".into()));
    let message = "Another login with the same cookie has replaced the session: this page shows \
                   the new one.";
    assert_eq!(state["ended"]["message"], message);
}

#[actix_rt::test]
async fn installing_tokens_of_another_session_revokes_the_previous_session() {
    let env = TestEnv::new();
    let server = server(&env, &[]).start();
    let http = Http::new(server.url(), None);
    let tokens = async || {
        let user = http.get("/register").await.json().as_str().unwrap().to_owned();
        http.get(&format!("/token?userId={user}")).await.text
    };
    let refreshed = async |tokens: &str| {
        let tokens: TokenResponse = serde_json::from_str(tokens).unwrap();
        http.post("/refresh", &format!("refresh_token={}", tokens.refresh_token)).await
    };
    let first = tokens().await;
    let second = tokens().await;
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

/// Checks the message of the command line, the API and an open page.
async fn assert_reported(case: &Case) {
    let (mut test, file) = SessionEndTest::with_command(case);
    test.apply(case.cause, &refresh_token_of(&file)).await;
    let (code, error) = test.info();
    assert_eq!(code, Some(3), "{error}");
    let message = case.message;
    let advice = ": run `matchbook-client login` to log in again";
    assert_eq!(error, format!("matchbook-client: {message}{advice}\n"));

    let mut test = SessionEndTest::new(case);
    let (_app, browser, mut page) = test.logged_in().await;
    let token = test.proxy.last_refresh_token();
    test.apply(case.cause, &token).await;
    let response = browser.call("POST", "/api/info").await;
    assert_eq!((response.status, response.field("error")), (401, "logged_out".to_owned()));
    assert_eq!(response.field("reason"), case.reason);
    let expected = format!("T{}: log in again.", &message[1..]);
    assert_eq!(response.field("message"), expected);
    let end = page.session_end().await;
    assert_eq!(end["reason"], case.reason);
    assert_eq!(end["message"], expected);
    // A page that reconnects receives the message too.
    let end = browser.events().await.session_end().await;
    assert_eq!(end["message"], expected);
    browser.log_in().await;
    assert_eq!(browser.events().await.state().await.get("ended"), None, "a login resets it");
}

fn refresh_token_of(file: &Path) -> String {
    let stored: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    stored["refresh_token"].as_str().unwrap().to_owned()
}

/// A server behind a recording proxy, and a client app that uses it.
struct SessionEndTest {
    envs: Vec<TestEnv>,
    server: Process,
    proxy: RecordingProxy,
    settings: &'static [(&'static str, &'static str)],
}

impl SessionEndTest {
    fn new(case: &Case) -> Self {
        let env = TestEnv::new();
        let server = server(&env, case.settings).start();
        let proxy = RecordingProxy::to(server.url());
        Self { envs: vec![env], server, proxy, settings: case.settings }
    }

    /// Also logs in by command line. Returns the token file.
    fn with_command(case: &Case) -> (Self, PathBuf) {
        let test = Self::new(case);
        let file = test.envs[0].folder().join("tokens.json");
        let login = test.client().run(&["login", "--store", file.to_str().unwrap()]);
        assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
        (test, file)
    }

    fn client(&self) -> ProcessBuilder {
        support::client(&self.envs[0], &format!("http://{}", self.proxy.address))
    }

    /// Returns the exit code and standard error of `info`.
    fn info(&self) -> (Option<i32>, String) {
        let output = self.client().run(&["info", "--store", "tokens.json"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts the app and logs in a browser with an open page.
    async fn logged_in(&self) -> (Process, Browser, Events) {
        let app = self.client().start();
        let browser = Browser::open(&app).await;
        let mut page = browser.events().await;
        assert_eq!(page.state().await["loggedIn"], false);
        browser.log_in().await;
        (app, browser, page)
    }

    async fn apply(&mut self, cause: Cause, refresh_token: &str) {
        let http = Http::new(self.server.url(), None);
        let form = |token: &str| format!("refresh_token={token}");
        match cause {
            Cause::Copied(times) => {
                let mut token = refresh_token.to_owned();
                for _ in 0..times {
                    let response = http.post("/refresh", &form(&token)).await;
                    assert_eq!(response.status, 200, "{}", response.text);
                    token = response.field("refreshToken");
                }
            }
            Cause::LoggedOut => {
                let status = http.post("/logout", &form(refresh_token)).await.status;
                assert!((200..300).contains(&status), "{status}");
            }
            Cause::Unused(millis) => actix_rt::time::sleep(Duration::from_millis(millis)).await,
            Cause::Forgotten => {
                assert!(self.server.stop().success());
                self.envs.push(TestEnv::new());
                let env = self.envs.last().unwrap();
                self.server = server(env, self.settings).start();
                self.proxy.redirect_to(self.server.url());
            }
        }
        actix_rt::time::sleep(EXPIRED).await;
    }
}

fn server(env: &TestEnv, settings: &[(&str, &str)]) -> ProcessBuilder {
    let builder = env
        .server(&server_binary())
        .set("tls.mode", "off")
        .set("tokens.algorithm", "ES256")
        .set("tokens.access_lifetime", "1s")
        .set("secret", SECRET);
    settings.iter().fold(builder, |builder, (key, value)| builder.set(key, value))
}

/// A TCP proxy that records the server's responses.
struct RecordingProxy {
    address: SocketAddr,
    target: Arc<Mutex<String>>,
    recorded: Arc<Mutex<Vec<u8>>>,
}

impl RecordingProxy {
    fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(String::new()));
        let recorded = Arc::<Mutex<Vec<u8>>>::default();
        let proxy = Self { address, target: target.clone(), recorded: recorded.clone() };
        proxy.redirect_to(url);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&*target.lock().unwrap()) else { continue };
                let response_from = server.try_clone().unwrap();
                let response_to = client.try_clone().unwrap();
                let recorded = recorded.clone();
                thread::spawn(move || copy(client, server, |_| {}));
                thread::spawn(move || {
                    copy(response_from, response_to, |bytes| {
                        recorded.lock().unwrap().extend(bytes);
                    });
                });
            }
        });
        proxy
    }

    fn redirect_to(&self, url: &str) {
        *self.target.lock().unwrap() = authority(url);
    }

    fn last_refresh_token(&self) -> String {
        let recorded = self.recorded.lock().unwrap();
        let text = String::from_utf8_lossy(&recorded);
        let (_, after) = text.rsplit_once("\"refreshToken\":\"").unwrap();
        after.split('"').next().unwrap().to_owned()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut record: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        record(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
