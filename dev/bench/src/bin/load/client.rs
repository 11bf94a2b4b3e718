//! One connection: its requests, and the checks of their responses.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::process::exit;
use std::rc::Rc;
use std::time::{Duration, Instant};

use matchbook_bench::load::{LoadConnection, Reply, ServerAddress, field};

use crate::arguments::{Arguments, Work};

/// How long a refresh is repeated before the next token: half of the server's grace period.
const RENEW_AFTER: Duration = Duration::from_secs(15);

/// The password of all accounts.
const PASSWORD: &str = "violet tractor seven hums";

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// A verifier and an authorization request with its challenge (RFC 7636 Appendix B).
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const REDIRECT_URI: &str = "https%3A%2F%2Fbench.example%2Fcb";
const AUTHORIZATION: &str = "/oauth/authorize?response_type=code&client_id=bench\
    &redirect_uri=https%3A%2F%2Fbench.example%2Fcb&code_challenge_method=S256\
    &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// The pause after a rejection because too many logins wait.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The refresh tokens of all connections.
pub(crate) struct Tokens {
    lines: RefCell<Vec<String>>,
    /// The next line for `--cold`.
    next: Cell<usize>,
}

impl Tokens {
    pub(crate) fn read(arguments: &Arguments) -> Self {
        let text = arguments.tokens.as_ref().map(|file| fs::read_to_string(file).unwrap());
        let lines: Vec<_> = text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        let needed = match arguments.work {
            Work::Token | Work::Login | Work::Code | Work::Get(_) => 0,
            _ => arguments.connections,
        };
        if lines.len() < needed {
            fail(&format!("{needed} refresh tokens"), &lines.len());
        }
        Self { lines: lines.into(), next: Cell::new(0) }
    }

    /// Writes the current tokens. After `--cold` the least recently used come first.
    pub(crate) fn write(&self, arguments: &Arguments) {
        let Some(file) = &arguments.tokens else { return };
        let mut lines = self.lines.borrow_mut();
        let used = self.next.get() % lines.len().max(1);
        lines.rotate_left(used);
        fs::write(file, lines.join("\n") + "\n").unwrap();
    }
}

/// A connection and its requests.
pub(crate) struct Client {
    arguments: Rc<Arguments>,
    tokens: Rc<Tokens>,
    /// The line of the token.
    line: usize,
    target: ServerAddress,
    connection: LoadConnection,
    /// The last headers of every request.
    host: String,
    /// Reused buffer of the request.
    request: Vec<u8>,
    /// Latency of each request.
    pub(crate) times: Vec<Duration>,
    /// Number of logins that were rejected because too many wait.
    pub(crate) busy: usize,
    expected: Expected,
    /// The authorization request of a browser that is logged in.
    authorization: Vec<u8>,
}

/// The expected response.
enum Expected {
    Anything,
    /// The same user each time.
    User(String),
    /// The same grant each time.
    Grant {
        refresh_token: String,
        claims: String,
        since: Instant,
    },
}

impl Client {
    pub(crate) async fn new(arguments: &Rc<Arguments>, tokens: &Rc<Tokens>, line: usize) -> Self {
        let target = ServerAddress::new(&arguments.target, arguments.ca.as_deref());
        let connection = LoadConnection::open(&target).await;
        let connection = connection.unwrap_or_else(|error| fail("a connection", &error));
        let host = target.authority();
        let host = format!("Host: {host}\r\nUser-Agent: matchbook-load\r\n");
        Self {
            arguments: arguments.clone(),
            tokens: tokens.clone(),
            line,
            target,
            connection,
            host,
            request: Vec::with_capacity(2048),
            times: Vec::with_capacity(1 << 14),
            busy: 0,
            expected: Expected::Anything,
            authorization: Vec::new(),
        }
    }

    /// Prepares the measured requests.
    pub(crate) async fn prepare(&mut self) {
        match &self.arguments.work {
            Work::User => {
                let (_, access) = self.refresh("/refresh").await;
                let path = self.path("/user").to_owned();
                let authorization = format!("Authorization: Bearer {access}\r\n");
                self.get(&path, &authorization);
                let reply = self.exchange().await;
                let user = field(reply.body, "userId").map(str::to_owned);
                let user = user.unwrap_or_else(|| unexpected_response("a user", reply));
                self.expected = Expected::User(user);
            }
            Work::Repeat => self.renew().await,
            Work::Get(path) => {
                let path = path.clone();
                self.get(&path, "");
            }
            Work::Login => self.register().await,
            Work::Introspect => {
                let access = self.refresh_oauth("/oauth/token").await;
                let form = format!("token={access}&{}", self.client_form());
                self.post("/oauth/introspect", FORM, &form);
            }
            Work::Code => {
                self.register().await;
                self.log_browser_in().await;
            }
            Work::Refresh | Work::Keyed | Work::Token | Work::Oauth => {}
        }
    }

    /// Sends a request and records its latency.
    pub(crate) async fn send(&mut self) {
        if self.arguments.cold {
            let line = self.tokens.next.get();
            self.tokens.next.set(line + 1);
            self.line = line % self.tokens.lines.borrow().len();
        }
        if let Expected::Grant { since, .. } = &self.expected
            && since.elapsed() > RENEW_AFTER
        {
            self.renew().await;
        }
        let began = Instant::now();
        if self.arguments.reconnect {
            let connection = LoadConnection::open(&self.target).await;
            self.connection = connection.unwrap_or_else(|error| fail("a connection", &error));
        }
        match self.arguments.work {
            Work::Refresh | Work::Keyed => drop(self.refresh("/refresh").await),
            Work::Oauth => drop(self.refresh_oauth("/token").await),
            Work::Introspect => {
                let reply = exchange(&mut self.connection, &self.request).await;
                if reply.status != 200 || field(reply.body, "active") != Some("true") {
                    unexpected_response("200 and an active token", reply);
                }
            }
            Work::Code => self.exchange_code().await,
            Work::Repeat => self.repeat().await,
            Work::Token => self.token().await,
            Work::Login => {
                if !self.log_in().await {
                    self.busy += 1;
                    return tokio::time::sleep(BUSY_PAUSE).await;
                }
            }
            Work::Get(_) => {
                let reply = self.exchange().await;
                if reply.status != 200 {
                    unexpected_response("status 200", reply);
                }
            }
            Work::User => {
                let reply = exchange(&mut self.connection, &self.request).await;
                let Expected::User(user) = &self.expected else { return };
                let same = field(reply.body, "userId") == Some(user);
                if reply.status != 200 || !same || field(reply.body, "expiresAt").is_none() {
                    unexpected_response(&format!("200 and user {user}"), reply);
                }
            }
        }
        self.times.push(began.elapsed());
        if self.arguments.pause > 0 {
            tokio::time::sleep(Duration::from_millis(self.arguments.pause)).await;
        }
    }

    /// Refreshes the token of this line. Returns both new tokens.
    async fn refresh(&mut self, usual: &str) -> (String, String) {
        let key = (self.arguments.work == Work::Keyed)
            .then(|| format!("{FORM}Idempotency-Key: {:032x}\r\n", fastrand::u128(..)));
        let path = match self.arguments.work {
            Work::User => usual.to_owned(),
            _ => self.path(usual).to_owned(),
        };
        let form = format!("refresh_token={}", self.tokens.lines.borrow()[self.line]);
        self.post(&path, key.as_deref().unwrap_or(FORM), &form);
        let reply = exchange(&mut self.connection, &self.request).await;
        let grant = Grant::read(reply);
        let next = grant.refresh_token.to_owned();
        let access = grant.access.to_owned();
        self.tokens.lines.borrow_mut()[self.line].clone_from(&next);
        (next, access)
    }

    /// Refreshes the token of this line as an OAuth client. Returns the access token.
    async fn refresh_oauth(&mut self, usual: &str) -> String {
        let path = match self.arguments.work {
            Work::Introspect => usual.to_owned(),
            _ => self.path(usual).to_owned(),
        };
        let token = self.tokens.lines.borrow()[self.line].clone();
        let client = self.client_form();
        self.post(&path, FORM, &format!("grant_type=refresh_token&refresh_token={token}&{client}"));
        let reply = exchange(&mut self.connection, &self.request).await;
        let (next, access) = oauth_tokens(reply);
        let access = access.to_owned();
        next.clone_into(&mut self.tokens.lines.borrow_mut()[self.line]);
        access
    }

    /// Returns the fields that authenticate the OAuth client.
    fn client_form(&self) -> String {
        let client = self.arguments.oauth_client.as_deref().unwrap_or_default();
        let (id, secret) = client.split_once(':').unwrap_or((client, ""));
        format!("client_id={id}&client_secret={secret}")
    }

    /// Logs in at the page of the server. Keeps the cookies.
    async fn log_browser_in(&mut self) {
        self.get("/login", "");
        let reply = exchange(&mut self.connection, &self.request).await;
        let page = String::from_utf8_lossy(reply.body).into_owned();
        let csrf =
            page.split_once("name=\"csrf\" value=\"").and_then(|(_, rest)| rest.split_once('"'));
        let (Some((csrf, _)), Some(cookie)) = (csrf, reply.header("set-cookie")) else {
            unexpected_response("a form with a cookie", reply)
        };
        let cookie = name_and_value(cookie).to_owned();
        let form = format!("csrf={csrf}&continue=&name=load-{}&password={PASSWORD}", self.line);
        let form = form.replace(' ', "+");
        loop {
            self.post("/login", &format!("Cookie: {cookie}\r\n{FORM}"), &form);
            let reply = exchange(&mut self.connection, &self.request).await;
            match (reply.status, reply.header("set-cookie")) {
                (303, Some(login)) => {
                    let cookie = name_and_value(login).to_owned();
                    self.get(AUTHORIZATION, &format!("Cookie: {cookie}\r\n"));
                    break;
                }
                (503, _) => tokio::time::sleep(BUSY_PAUSE).await,
                _ => unexpected_response("303 and a cookie", reply),
            }
        }
        self.authorization.clone_from(&self.request);
    }

    /// Gets an authorization code, and exchanges it for tokens.
    async fn exchange_code(&mut self) {
        let reply = exchange(&mut self.connection, &self.authorization).await;
        let code = reply.header("location").and_then(|location| location.split_once("code="));
        let code = code.and_then(|(_, rest)| rest.split('&').next());
        let Some(code) = code.map(str::to_owned) else {
            unexpected_response("a redirect with a code", reply)
        };
        let client = self.client_form();
        let form = format!(
            "grant_type=authorization_code&code={code}&redirect_uri={REDIRECT_URI}\
             &code_verifier={VERIFIER}&{client}"
        );
        self.post("/oauth/token", FORM, &form);
        oauth_tokens(exchange(&mut self.connection, &self.request).await);
    }

    /// Refreshes, and prepares repeating that refresh.
    async fn renew(&mut self) {
        let presented = self.tokens.lines.borrow()[self.line].clone();
        let (refresh_token, access) = self.refresh("/refresh").await;
        let claims = claims(&access).to_owned();
        let since = Instant::now();
        let path = self.path("/refresh").to_owned();
        self.post(&path, FORM, &format!("refresh_token={presented}"));
        self.expected = Expected::Grant { refresh_token, claims, since };
    }

    async fn repeat(&mut self) {
        let reply = exchange(&mut self.connection, &self.request).await;
        let grant = Grant::read(reply);
        let Expected::Grant { refresh_token, claims: expected, .. } = &self.expected else {
            return;
        };
        if grant.refresh_token != refresh_token || claims(grant.access) != expected {
            unexpected_response("the first response again", reply);
        }
    }

    /// Creates a guest and logs it in.
    async fn token(&mut self) {
        self.get("/register", "");
        let reply = exchange(&mut self.connection, &self.request).await;
        let id = std::str::from_utf8(reply.body).unwrap_or_default().trim_matches('"').to_owned();
        if reply.status != 200 || id.len() != 36 {
            unexpected_response("200 and an id", reply);
        }
        self.get(&format!("/token?userId={id}"), "");
        Grant::read(exchange(&mut self.connection, &self.request).await);
    }

    /// Registers the account of this connection, unless it exists.
    async fn register(&mut self) {
        let body = self.credentials();
        loop {
            self.post("/register", JSON, &body);
            let reply = exchange(&mut self.connection, &self.request).await;
            match reply.status {
                201 | 409 => return,
                503 => tokio::time::sleep(BUSY_PAUSE).await,
                _ => unexpected_response("201 or 409", reply),
            }
        }
    }

    /// Logs in with a password. Returns whether it was admitted.
    async fn log_in(&mut self) -> bool {
        let body = self.credentials();
        self.post("/login", JSON, &body);
        let reply = exchange(&mut self.connection, &self.request).await;
        let admitted = reply.status != 503;
        if admitted {
            Grant::read(reply);
        }
        admitted
    }

    fn credentials(&self) -> String {
        format!(r#"{{"name":"load-{}","password":"{PASSWORD}"}}"#, self.line)
    }

    fn path<'a>(&'a self, usual: &'a str) -> &'a str {
        self.arguments.path.as_deref().unwrap_or(usual)
    }

    async fn exchange(&mut self) -> Reply<'_> {
        exchange(&mut self.connection, &self.request).await
    }

    fn get(&mut self, path: &str, more: &str) {
        self.request.clear();
        write!(self.request, "GET {path} HTTP/1.1\r\n{}{more}\r\n", self.host).unwrap();
    }

    /// Prepares a request. `headers` include the type of the body.
    fn post(&mut self, path: &str, headers: &str, body: &str) {
        self.request.clear();
        write!(
            self.request,
            "POST {path} HTTP/1.1\r\n{}{headers}Content-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        )
        .unwrap();
    }
}

async fn exchange<'a>(connection: &'a mut LoadConnection, request: &[u8]) -> Reply<'a> {
    connection.send(request).await.unwrap_or_else(|error| fail("a response", &error))
}

/// Returns the refresh token and the access token of a response to an OAuth client.
fn oauth_tokens(reply: Reply<'_>) -> (&str, &str) {
    let text = |name| field(reply.body, name).filter(|text| !text.is_empty());
    match (text("refresh_token"), text("access_token"), reply.status) {
        (Some(refresh), Some(access), 200) => (refresh, access),
        _ => unexpected_response("200 and two tokens", reply),
    }
}

/// Returns a cookie without its attributes.
fn name_and_value(cookie: &str) -> &str {
    cookie.split(';').next().unwrap_or_default()
}

/// The response of `POST /refresh` and `GET /token`.
struct Grant<'a> {
    access: &'a str,
    refresh_token: &'a str,
}

impl<'a> Grant<'a> {
    fn read(reply: Reply<'a>) -> Self {
        let text = |name| field(reply.body, name).filter(|text| !text.is_empty());
        let expires = text("expiresIn").and_then(|text| text.parse::<u64>().ok());
        match (text("token"), text("refreshToken"), expires, reply.status) {
            (Some(access), Some(refresh_token), Some(1..), 200) => Self { access, refresh_token },
            _ => unexpected_response("200 and token, refreshToken, expiresIn", reply),
        }
    }
}

/// Removes the signature of an access token. ES256 signatures differ each time.
fn claims(access: &str) -> &str {
    access.rsplit_once('.').map_or("", |(claims, _)| claims)
}

fn unexpected_response(expected: &str, reply: Reply<'_>) -> ! {
    fail(expected, &format!("{} {}", reply.status, String::from_utf8_lossy(reply.body)))
}

/// Ends the process.
pub(crate) fn fail(expected: &str, received: &impl Display) -> ! {
    eprintln!("load: expected {expected}, received {received}");
    exit(1)
}
