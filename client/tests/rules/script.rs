//! A token server that answers as it is told, and remembers what it was asked.
//! It runs on a thread of its own, so it goes on answering whatever the
//! threads of a test do.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use futures_util::StreamExt;
use futures_util::stream;
use matchbook_client::{RootCerts, Server, TokenResponse};
use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

/// In every token and key that must not be shown.
pub(crate) const SECRET: &str = "s3cr3t";

/// How long to wait for what should happen soon, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What to do about a request, once.
#[derive(Clone)]
pub(crate) enum Act {
    /// What it asks for.
    Do,
    /// What it asks for, and the connection is closed without an answer.
    Lose,
    /// What it asks for, and the connection is closed within the answer.
    Tear,
    /// What it asks for, and the answer stops halfway.
    Stall,
    /// Nothing; this is the answer.
    Say(Answer),
    /// This, when the test has called [`Script::release`].
    Hold(Box<Act>),
}

/// An answer as told.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Act {
    /// JSON, like the server's own.
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::say(status, "application/json", body)
    }

    pub(crate) fn say(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self::Say(Answer { status, headers, body: body.to_owned() })
    }

    pub(crate) fn redirect(status: u16, to: &str) -> Self {
        let headers = vec![("location", to.to_owned())];
        Self::Say(Answer { status, headers, body: String::new() })
    }

    pub(crate) fn invalid_grant() -> Self {
        Self::json(400, r#"{"error":"invalid_grant","message":"over","reason":"logged_out"}"#)
            .marked()
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Say(answer) = &mut self {
            answer.headers.push((name, value.to_owned()));
        }
        self
    }

    /// As the token server itself says it.
    pub(crate) fn marked(self) -> Self {
        self.with_header(SERVER_MARK, SERVER_MARK_VALUE)
    }

    pub(crate) fn held(self) -> Self {
        Self::Hold(Box::new(self))
    }
}

/// A request as it arrived.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Asked {
    /// The access token that it carries.
    pub(crate) fn bearer(&self) -> Option<String> {
        self.headers.get("authorization")?.strip_prefix("Bearer ").map(str::to_owned)
    }

    /// Its `Idempotency-Key`.
    pub(crate) fn key(&self) -> Option<String> {
        self.headers.get("idempotency-key").cloned()
    }

    /// A field of its form. The values of this server need no escapes.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body);
        let mut fields = body.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(field, _)| *field == name).map(|(_, value)| value.to_owned())
    }
}

struct State {
    /// How many access tokens there were, and up to which they have expired.
    issued: u64,
    expired: u64,
    lifetime: u64,
    rotates: bool,
    sessions: u64,
    ended: HashSet<u64>,
    /// The good refresh tokens, and those that have been traded.
    good: HashMap<String, Session>,
    traded: HashMap<String, Traded>,
    reuses: usize,
    acts: HashMap<String, VecDeque<Act>>,
    usual: HashMap<String, Act>,
    asked: Vec<Asked>,
}

#[derive(Clone, Copy)]
struct Session {
    id: u64,
    generation: u64,
}

struct Traded {
    session: u64,
    key: Option<String>,
    granted: Granted,
}

#[derive(Clone)]
struct Granted {
    access: String,
    refresh: Option<String>,
}

struct Shared {
    state: Mutex<State>,
    arrived: watch::Sender<usize>,
    gate: Semaphore,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The connection of a request, to close it.
struct Wire(TcpStream);

/// The server. It stops when this is dropped.
pub(crate) struct Script {
    shared: Arc<Shared>,
    origin: String,
    handle: ServerHandle,
}

impl Drop for Script {
    fn drop(&mut self) {
        // The stop is under way from here on, whether or not it is awaited.
        drop(self.handle.stop(false));
    }
}

impl Script {
    pub(crate) fn start() -> Self {
        let state = State {
            issued: 0,
            expired: 0,
            lifetime: 60,
            rotates: true,
            sessions: 0,
            ended: HashSet::new(),
            good: HashMap::new(),
            traded: HashMap::new(),
            reuses: 0,
            acts: HashMap::new(),
            usual: HashMap::new(),
            asked: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            arrived: watch::Sender::new(0),
            gate: Semaphore::new(0),
        });
        let (sender, receiver) = std::sync::mpsc::channel();
        let serving = shared.clone();
        thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(Data::from(serving.clone()))
                        .app_data(PayloadConfig::new(64 << 20))
                        .default_service(web::to(serve))
                })
                .on_connect(|connection, data| {
                    let stream = connection.downcast_ref::<actix_rt::net::TcpStream>().unwrap();
                    let stream = stream.as_fd().try_clone_to_owned().unwrap();
                    data.insert(Wire(stream.into()));
                })
                .workers(2)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
                let address = server.addrs()[0];
                let running = server.run();
                sender.send((address, running.handle())).unwrap();
                running.await.unwrap();
            });
        });
        let (address, handle) = receiver.recv().unwrap();
        Self { shared, origin: format!("http://{address}"), handle }
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn server(&self) -> Server {
        self.server_within(Duration::from_secs(10))
    }

    pub(crate) fn server_within(&self, timeout: Duration) -> Server {
        Server::new(&self.origin, &RootCerts::System, timeout).unwrap()
    }

    /// The tokens of a new session.
    pub(crate) fn sign_in(&self) -> TokenResponse {
        let mut state = self.shared.lock();
        let granted = state.sign_in();
        TokenResponse {
            token: granted.access,
            refresh_token: granted.refresh.unwrap(),
            expires_in: state.lifetime,
        }
    }

    /// No access token that there is so far is good any more.
    pub(crate) fn expire(&self) {
        let mut state = self.shared.lock();
        state.expired = state.issued;
    }

    /// How long access tokens are said to live from now on, in seconds.
    pub(crate) fn set_lifetime(&self, seconds: u64) {
        self.shared.lock().lifetime = seconds;
    }

    /// From now on a refresh token stays good, and is not sent again.
    pub(crate) fn stop_rotating(&self) {
        self.shared.lock().rotates = false;
    }

    /// What to do about the next requests for a path.
    pub(crate) fn on(&self, path: &str, acts: impl IntoIterator<Item = Act>) {
        self.shared.lock().acts.entry(path.to_owned()).or_default().extend(acts);
    }

    /// What to do about all requests for a path, those of [`Self::on`] apart.
    pub(crate) fn always(&self, path: &str, act: Act) {
        self.shared.lock().usual.insert(path.to_owned(), act);
    }

    /// Does as usual about the next requests for a path.
    pub(crate) fn forget(&self, path: &str) {
        self.shared.lock().acts.remove(path);
    }

    /// Lets one request go on that is held, now or later.
    pub(crate) fn release(&self) {
        self.shared.gate.add_permits(1);
    }

    /// What was asked at a path so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let state = self.shared.lock();
        state.asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// What was asked so far.
    pub(crate) fn asked_in_all(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Waits until a path has been asked so many times.
    pub(crate) async fn until_asked(&self, path: &str, times: usize) {
        let mut arrived = self.shared.arrived.subscribe();
        let enough = arrived.wait_for(|_| self.asked(path).len() >= times);
        let enough = actix_rt::time::timeout(PATIENCE, enough).await;
        enough.unwrap_or_else(|_| panic!("{path} is not asked")).unwrap();
    }

    /// How many refreshes were asked for.
    pub(crate) fn refreshes(&self) -> usize {
        self.asked("/refresh").len()
    }

    /// How many refresh tokens were traded.
    pub(crate) fn trades(&self) -> usize {
        self.shared.lock().traded.len()
    }

    /// How often a traded refresh token was shown without its key.
    pub(crate) fn reuses(&self) -> usize {
        self.shared.lock().reuses
    }
}

impl State {
    fn sign_in(&mut self) -> Granted {
        self.sessions += 1;
        self.grant(Session { id: self.sessions, generation: 0 })
    }

    fn grant(&mut self, session: Session) -> Granted {
        self.issued += 1;
        let access = format!("access-{}-{}-{SECRET}", session.id, self.issued);
        let refresh = format!("mb_rt_{}-{}-{SECRET}", session.id, session.generation);
        self.good.insert(refresh.clone(), session);
        Granted { access, refresh: Some(refresh) }
    }

    /// Whose access token it is, if it is good.
    fn bearer(&self, asked: &Asked) -> Option<u64> {
        let bearer = asked.bearer()?;
        let (session, serial) =
            bearer.strip_prefix("access-")?.strip_suffix(SECRET)?.split_once('-')?;
        let session = session.parse().ok()?;
        let serial: u64 = serial.strip_suffix('-')?.parse().ok()?;
        (serial > self.expired && !self.ended.contains(&session)).then_some(session)
    }

    /// Trades a refresh token: strictly, but for the same attempt again.
    fn trade(&mut self, shown: &str, key: Option<String>) -> Option<Granted> {
        if let Some(traded) = self.traded.get(shown) {
            if key.is_some() && traded.key == key && !self.ended.contains(&traded.session) {
                return Some(traded.granted.clone());
            }
            self.reuses += 1;
            self.ended.insert(traded.session);
            return None;
        }
        let session = *self.good.get(shown)?;
        if self.ended.contains(&session.id) {
            return None;
        }
        if !self.rotates {
            let granted = self.grant(session);
            return Some(Granted { access: granted.access, refresh: None });
        }
        self.good.remove(shown);
        let granted = self.grant(Session { generation: session.generation + 1, ..session });
        let traded = Traded { session: session.id, key, granted: granted.clone() };
        self.traded.insert(shown.to_owned(), traded);
        Some(granted)
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let json = |status, body: Value| Answer {
            status,
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.to_string(),
        };
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/register") => json(200, json!("a guest")),
            ("GET", "/token") => {
                let granted = self.sign_in();
                json(200, self.article(&granted))
            }
            ("POST", "/refresh") => {
                let shown = asked.field("refresh_token").unwrap_or_default();
                match self.trade(&shown, asked.key()) {
                    Some(granted) => json(200, self.article(&granted)),
                    None => json(401, json!({"error": "invalid_grant", "message": "over"})),
                }
            }
            ("POST", "/oauth/token") => {
                if asked.field("grant_type").as_deref() != Some("refresh_token") {
                    return json(400, json!({"error": "unsupported_grant_type"}));
                }
                let shown = asked.field("refresh_token").unwrap_or_default();
                match self.trade(&shown, asked.key()) {
                    Some(granted) => json(200, self.rfc(granted)),
                    None => json(400, json!({"error": "invalid_grant"})),
                }
            }
            ("POST", "/logout" | "/oauth/revoke") => {
                let shown = asked.field("refresh_token").or_else(|| asked.field("token"));
                let session = shown.and_then(|token| self.good.get(&token).copied());
                self.ended.extend(session.map(|session| session.id));
                Answer { status: 204, headers: vec![], body: String::new() }
            }
            _ => match self.bearer(asked) {
                None => json(401, json!({"error": "invalid_token", "message": "expired"})),
                Some(session)
                    if (asked.method.as_str(), asked.path.as_str()) == ("DELETE", "/sessions") =>
                {
                    self.ended.insert(session);
                    json(200, json!({"ended": 1}))
                }
                // What was sent comes back.
                Some(_) => Answer {
                    status: 200,
                    headers: vec![("content-type", "text/plain".to_owned())],
                    body: String::from_utf8_lossy(&asked.body).into_owned(),
                },
            },
        }
    }

    fn article(&self, granted: &Granted) -> Value {
        json!({
            "token": granted.access,
            "refreshToken": granted.refresh,
            "expiresIn": self.lifetime,
        })
    }

    fn rfc(&self, granted: Granted) -> Value {
        let mut answer = json!({
            "access_token": granted.access,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        });
        if let Some(refresh) = granted.refresh {
            answer["refresh_token"] = refresh.into();
        }
        answer
    }
}

async fn serve(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let headers = request.headers().iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let asked = Asked {
        method: request.method().as_str().to_owned(),
        path: request.path().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers.collect(),
        body,
        at: Instant::now(),
    };
    let mut act = {
        let mut state = shared.lock();
        state.asked.push(asked.clone());
        let next = state.acts.get_mut(&asked.path).and_then(VecDeque::pop_front);
        next.or_else(|| state.usual.get(&asked.path).cloned()).unwrap_or(Act::Do)
    };
    shared.arrived.send_modify(|arrived| *arrived += 1);
    while let Act::Hold(then) = act {
        shared.gate.acquire().await.unwrap().forget();
        act = *then;
    }
    let answer = match &act {
        Act::Say(answer) => answer.clone(),
        _ => shared.lock().answer(&asked),
    };
    if let Act::Lose = act {
        let Wire(stream) = request.conn_data().unwrap();
        // Whoever asked may have hung up.
        let _ = stream.shutdown(Shutdown::Both);
    }
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.status).unwrap());
    if !matches!(act, Act::Say(_)) {
        response.insert_header((SERVER_MARK, SERVER_MARK_VALUE));
    }
    for (name, value) in answer.headers {
        response.insert_header((name, value));
    }
    let half = Bytes::from(answer.body[..answer.body.len() / 2].to_owned());
    match act {
        Act::Tear => {
            let torn = async {
                // The half that was sent before is on its way by then.
                actix_rt::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("torn"))
            };
            response.streaming(stream::iter([Ok(half)]).chain(stream::once(torn)))
        }
        Act::Stall => {
            let half = stream::iter([Ok::<_, std::io::Error>(half)]);
            response.streaming(half.chain(stream::pending()))
        }
        _ => response.body(answer.body),
    }
}
