//! Loads a server from one thread and checks every answer. The first that is
//! wrong ends it.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use matchbook_bench::load::{Reply, Target, Wire, field};
use tokio::task::LocalSet;
use tokio::time::timeout;

/// Sends requests over some connections, one at a time on each, and tells how
/// fast they were answered.
#[derive(Parser)]
struct Arguments {
    /// Where the server is: `http://127.0.0.1:5001`.
    #[arg(long)]
    target: String,
    /// What is asked: refresh, keyed, repeat, user, token, oauth or `get:/path`.
    #[arg(long)]
    work: Work,
    /// Another path than the usual one.
    #[arg(long)]
    path: Option<String>,
    /// How many connections there are.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How long it measures, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How long it does the same before that, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// A file of refresh tokens, one a line, which is written anew at the end.
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// The CA to trust (PEM).
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Each request takes the next token of the file, and with it another session.
    #[arg(long)]
    cold: bool,
    /// Each request opens a connection of its own.
    #[arg(long)]
    reconnect: bool,
    /// With oauth: the client, as `ID:SECRET`.
    #[arg(long)]
    oauth_client: Option<String>,
    /// After the warm-up, wait for a line on standard input.
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Work {
    Refresh,
    Keyed,
    Repeat,
    User,
    Token,
    Oauth,
    Get(String),
}

impl std::str::FromStr for Work {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "refresh" => Self::Refresh,
            "keyed" => Self::Keyed,
            "repeat" => Self::Repeat,
            "user" => Self::User,
            "token" => Self::Token,
            "oauth" => Self::Oauth,
            _ => Self::Get(text.strip_prefix("get:").ok_or("no such work")?.to_owned()),
        })
    }
}

/// How long the server may take to answer what was asked before the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a retry is shown before it is moved on to the next token: half of
/// the server's window.
const RENEW: Duration = Duration::from_secs(15);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(Arguments::parse()));
}

async fn run(arguments: Arguments) {
    let arguments = Rc::new(arguments);
    let tokens = Rc::new(Tokens::read(&arguments));
    let warm_up = Duration::from_secs_f64(arguments.warmup);
    let measured = Duration::from_secs_f64(arguments.seconds);

    let mut clients = Vec::new();
    for index in 0..arguments.connections {
        clients.push(Client::new(&arguments, &tokens, index).await);
    }
    let clients = all(clients, |mut client| async {
        client.prepare().await;
        client
    });
    let clients = clients.await;
    let (clients, warmed, _) = rounds(clients, warm_up).await;
    println!("warm");
    if arguments.wait {
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
    let (_, mut times, took) = rounds(clients, measured).await;
    tokens.write(&arguments);

    times.sort_unstable();
    let percentile =
        |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let result = serde_json::json!({
        "requests": times.len(),
        "all_requests": times.len() + warmed.len(),
        "seconds": took.as_secs_f64(),
        "p50_us": micros(percentile(50)),
        "p99_us": micros(percentile(99)),
        "max_us": micros(times.last().copied().unwrap_or_default()),
        "cpu_us": cpu_us(),
    });
    println!("{result}");
}

/// Has all clients work for some time. Each finishes what it has begun, so that
/// whoever counts at both ends counts whole requests.
async fn rounds(clients: Vec<Client>, time: Duration) -> (Vec<Client>, Vec<Duration>, Duration) {
    let began = Instant::now();
    let end = began + time;
    let done = all(clients, move |mut client| async move {
        while Instant::now() < end {
            client.ask().await;
        }
        client
    });
    let Ok(mut clients) = timeout(time + PATIENCE, done).await else {
        wrong("an answer to every request", &format!("none within {PATIENCE:?}"))
    };
    let took = began.elapsed();
    let times = clients.iter_mut().flat_map(|client| std::mem::take(&mut client.times)).collect();
    (clients, times, took)
}

/// Has all clients do something at once.
async fn all<F>(clients: Vec<Client>, does: impl Fn(Client) -> F) -> Vec<Client>
where
    F: Future<Output = Client> + 'static,
{
    let tasks: Vec<_> =
        clients.into_iter().map(|client| tokio::task::spawn_local(does(client))).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

/// The refresh tokens of all connections.
struct Tokens {
    lines: RefCell<Vec<String>>,
    /// Of `--cold`: the line that comes next.
    next: Cell<usize>,
}

impl Tokens {
    fn read(arguments: &Arguments) -> Self {
        let text = arguments.tokens.as_ref().map(|file| fs::read_to_string(file).unwrap());
        let lines: Vec<_> = text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        let needed = match arguments.work {
            Work::Token | Work::Get(_) => 0,
            _ => arguments.connections,
        };
        if lines.len() < needed {
            wrong(&format!("{needed} refresh tokens"), &lines.len());
        }
        Self { lines: lines.into(), next: Cell::new(0) }
    }

    /// Writes those down that are good now, after `--cold` the ones that were
    /// not used for longest first.
    fn write(&self, arguments: &Arguments) {
        let Some(file) = &arguments.tokens else { return };
        let mut lines = self.lines.borrow_mut();
        let used = self.next.get() % lines.len().max(1);
        lines.rotate_left(used);
        fs::write(file, lines.join("\n") + "\n").unwrap();
    }
}

/// One connection and what is asked on it.
struct Client {
    arguments: Rc<Arguments>,
    tokens: Rc<Tokens>,
    /// The line of its token.
    line: usize,
    target: Target,
    wire: Wire,
    /// What the head of every request ends with.
    host: String,
    /// The request, again and again: there are no allocations for it.
    request: Vec<u8>,
    /// How long each request took.
    times: Vec<Duration>,
    expected: Expected,
}

/// What an answer must be like.
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
    async fn new(arguments: &Rc<Arguments>, tokens: &Rc<Tokens>, line: usize) -> Self {
        let target = Target::new(&arguments.target, arguments.ca.as_deref());
        let wire = Wire::open(&target).await;
        let wire = wire.unwrap_or_else(|error| wrong("a connection", &error));
        let host = target.authority();
        let host = format!("Host: {host}\r\nUser-Agent: matchbook-load\r\n");
        Self {
            arguments: arguments.clone(),
            tokens: tokens.clone(),
            line,
            target,
            wire,
            host,
            request: Vec::with_capacity(2048),
            times: Vec::with_capacity(1 << 14),
            expected: Expected::Anything,
        }
    }

    /// Does what comes before the clock starts.
    async fn prepare(&mut self) {
        match &self.arguments.work {
            Work::User => {
                let (_, access) = self.refresh("/refresh").await;
                let path = self.path("/user").to_owned();
                let authorization = format!("Authorization: Bearer {access}\r\n");
                self.get(&path, &authorization);
                let reply = self.exchange().await;
                let user = field(reply.body, "userId").map(str::to_owned);
                let user = user.unwrap_or_else(|| unexpected("a user", reply));
                self.expected = Expected::User(user);
            }
            Work::Repeat => self.renew().await,
            Work::Get(path) => {
                let path = path.clone();
                self.get(&path, "");
            }
            Work::Refresh | Work::Keyed | Work::Token | Work::Oauth => {}
        }
    }

    /// One request, and how long it took.
    async fn ask(&mut self) {
        if self.arguments.cold {
            let line = self.tokens.next.get();
            self.tokens.next.set(line + 1);
            self.line = line % self.tokens.lines.borrow().len();
        }
        if let Expected::Grant { since, .. } = &self.expected
            && since.elapsed() > RENEW
        {
            self.renew().await;
        }
        let began = Instant::now();
        if self.arguments.reconnect {
            let wire = Wire::open(&self.target).await;
            self.wire = wire.unwrap_or_else(|error| wrong("a connection", &error));
        }
        match self.arguments.work {
            Work::Refresh | Work::Keyed => drop(self.refresh("/refresh").await),
            Work::Oauth => self.refresh_oauth().await,
            Work::Repeat => self.repeat().await,
            Work::Token => self.token().await,
            Work::Get(_) => {
                let reply = self.exchange().await;
                if reply.status != 200 {
                    unexpected("status 200", reply);
                }
            }
            Work::User => {
                let reply = exchange(&mut self.wire, &self.request).await;
                let Expected::User(user) = &self.expected else { return };
                let same = field(reply.body, "userId") == Some(user);
                if reply.status != 200 || !same || field(reply.body, "expiresAt").is_none() {
                    unexpected(&format!("200 and user {user}"), reply);
                }
            }
        }
        self.times.push(began.elapsed());
    }

    /// Trades the token of its line for the next: both new tokens.
    async fn refresh(&mut self, usual: &str) -> (String, String) {
        let key = (self.arguments.work == Work::Keyed)
            .then(|| format!("Idempotency-Key: {:032x}\r\n", fastrand::u128(..)));
        let path = match self.arguments.work {
            Work::User => usual.to_owned(),
            _ => self.path(usual).to_owned(),
        };
        let form = format!("refresh_token={}", self.tokens.lines.borrow()[self.line]);
        self.post(&path, key.as_deref().unwrap_or_default(), &form);
        let reply = exchange(&mut self.wire, &self.request).await;
        let grant = Grant::read(reply);
        let (next, access) = (grant.refresh_token.to_owned(), grant.access.to_owned());
        self.tokens.lines.borrow_mut()[self.line].clone_from(&next);
        (next, access)
    }

    async fn refresh_oauth(&mut self) {
        let path = self.path("/token").to_owned();
        let token = self.tokens.lines.borrow()[self.line].clone();
        let client = self.arguments.oauth_client.as_deref().unwrap_or_default();
        let (id, secret) = client.split_once(':').unwrap_or((client, ""));
        let form = format!(
            "grant_type=refresh_token&refresh_token={token}&client_id={id}&client_secret={secret}"
        );
        self.post(&path, "", &form);
        let reply = exchange(&mut self.wire, &self.request).await;
        let next = field(reply.body, "refresh_token");
        let (Some(next), Some(_), 200) = (next, field(reply.body, "access_token"), reply.status)
        else {
            unexpected("200 and two tokens", reply)
        };
        next.clone_into(&mut self.tokens.lines.borrow_mut()[self.line]);
    }

    /// Moves on to the next token, whose answer is then asked for again.
    async fn renew(&mut self) {
        let shown = self.tokens.lines.borrow()[self.line].clone();
        let (refresh_token, access) = self.refresh("/refresh").await;
        let claims = claims(&access).to_owned();
        let since = Instant::now();
        let path = self.path("/refresh").to_owned();
        self.post(&path, "", &format!("refresh_token={shown}"));
        self.expected = Expected::Grant { refresh_token, claims, since };
    }

    async fn repeat(&mut self) {
        let reply = exchange(&mut self.wire, &self.request).await;
        let grant = Grant::read(reply);
        let Expected::Grant { refresh_token, claims: expected, .. } = &self.expected else {
            return;
        };
        if grant.refresh_token != refresh_token || claims(grant.access) != expected {
            unexpected("the answer that came at first", reply);
        }
    }

    /// A guest, and its one session.
    async fn token(&mut self) {
        self.get("/register", "");
        let reply = exchange(&mut self.wire, &self.request).await;
        let id = std::str::from_utf8(reply.body).unwrap_or_default().trim_matches('"').to_owned();
        if reply.status != 200 || id.len() != 36 {
            unexpected("200 and an id", reply);
        }
        self.get(&format!("/token?userId={id}"), "");
        Grant::read(exchange(&mut self.wire, &self.request).await);
    }

    fn path<'a>(&'a self, usual: &'a str) -> &'a str {
        self.arguments.path.as_deref().unwrap_or(usual)
    }

    async fn exchange(&mut self) -> Reply<'_> {
        exchange(&mut self.wire, &self.request).await
    }

    fn get(&mut self, path: &str, more: &str) {
        self.request.clear();
        write!(self.request, "GET {path} HTTP/1.1\r\n{}{more}\r\n", self.host).unwrap();
    }

    fn post(&mut self, path: &str, more: &str, form: &str) {
        self.request.clear();
        write!(
            self.request,
            "POST {path} HTTP/1.1\r\n{}{more}Content-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            self.host,
            form.len()
        )
        .unwrap();
    }
}

async fn exchange<'a>(wire: &'a mut Wire, request: &[u8]) -> Reply<'a> {
    wire.ask(request).await.unwrap_or_else(|error| wrong("an answer", &error))
}

/// What `POST /refresh` and `GET /token` answer.
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
            _ => unexpected("200 and token, refreshToken, expiresIn", reply),
        }
    }
}

/// An access token without its signature, which ES256 makes anew each time.
fn claims(access: &str) -> &str {
    access.rsplit_once('.').map_or("", |(claims, _)| claims)
}

fn unexpected(expected: &str, reply: Reply<'_>) -> ! {
    wrong(expected, &format!("{} {}", reply.status, String::from_utf8_lossy(reply.body)))
}

/// Ends everything.
fn wrong(expected: &str, came: &impl Display) -> ! {
    eprintln!("load: expected {expected}; came {came}");
    exit(1)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The processor's time that this thread has used, where the system (Linux)
/// tells.
fn cpu_us() -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc/self/schedstat")).ok()?;
    Some(text.split(' ').next()?.parse::<u64>().ok()? / 1000)
}
