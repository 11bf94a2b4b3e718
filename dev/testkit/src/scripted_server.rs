//! A token server that follows a script of the test and records the requests.
//!
//! It is strict: it accepts a rotated refresh token only with the idempotency key of its
//! rotation. It runs on threads of its own, so that it responds while a test blocks.

mod tokens;

use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use futures_util::{StreamExt, stream};
use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE, TokenResponse};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use tokens::Tokens;

/// The longest wait for an expected event, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the server does with one request.
#[derive(Clone)]
pub enum Reaction {
    /// Serves the request.
    Serve,
    /// Serves the request, and closes the connection without a response.
    DropConnection,
    /// Serves the request, and closes the connection within the body of the response.
    TruncateBody,
    /// Serves the request, and stops within the body of the response.
    StallBody,
    /// Sends this response, and does nothing else.
    Respond(ScriptedResponse),
    /// Waits for [`ScriptedServer::release`] before this reaction.
    Hold(Box<Reaction>),
}

/// A response of the script.
#[derive(Clone)]
pub struct ScriptedResponse {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl ScriptedResponse {
    fn new(status: u16, content_type: &str, body: String) -> Self {
        Self { status, headers: vec![("content-type", content_type.to_owned())], body }
    }
}

impl Reaction {
    /// Responds with JSON, without the mark of a Matchbook server.
    pub fn json(status: u16, body: &str) -> Self {
        Self::respond(status, "application/json", body)
    }

    /// Responds with a body of this type, without the mark of a Matchbook server.
    pub fn respond(status: u16, content_type: &str, body: &str) -> Self {
        Self::Respond(ScriptedResponse::new(status, content_type, body.to_owned()))
    }

    /// Responds with a redirect to `location`.
    pub fn redirect(status: u16, location: &str) -> Self {
        let headers = vec![("location", location.to_owned())];
        Self::Respond(ScriptedResponse { status, headers, body: String::new() })
    }

    /// Responds with the error of a Matchbook server that ends a session.
    pub fn invalid_grant() -> Self {
        Self::json(400, r#"{"error":"invalid_grant","message":"over","reason":"logged_out"}"#)
            .marked()
    }

    /// Adds a header to a response of the script.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Respond(response) = &mut self {
            response.headers.push((name, value.to_owned()));
        }
        self
    }

    /// Marks a response of the script as that of a Matchbook server.
    #[must_use]
    pub fn marked(self) -> Self {
        self.with_header(SERVER_MARK, SERVER_MARK_VALUE)
    }

    /// Delays the reaction until [`ScriptedServer::release`].
    #[must_use]
    pub fn held(self) -> Self {
        Self::Hold(Box::new(self))
    }
}

/// A request as the server received it.
#[derive(Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// The path of the URL.
    pub path: String,
    /// The query of the URL, without `?`.
    pub query: String,
    /// The headers, with lower-case names.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Bytes,
    /// When the request had arrived.
    pub at: Instant,
}

impl Received {
    fn new(request: &HttpRequest, body: Bytes) -> Self {
        let headers = request.headers().iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        Self {
            method: request.method().as_str().to_owned(),
            path: request.path().to_owned(),
            query: request.query_string().to_owned(),
            headers: headers.collect(),
            body,
            at: Instant::now(),
        }
    }

    /// Returns the access token of the request.
    pub fn bearer(&self) -> Option<String> {
        self.headers.get("authorization")?.strip_prefix("Bearer ").map(str::to_owned)
    }

    /// Returns the `Idempotency-Key` of the request.
    pub fn key(&self) -> Option<String> {
        self.headers.get("idempotency-key").cloned()
    }

    /// Returns a field of the form. The values of this server need no escapes.
    pub fn field(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body);
        let mut fields = body.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(field, _)| *field == name).map(|(_, value)| value.to_owned())
    }
}

struct State {
    tokens: Tokens,
    /// The reactions to the next requests for a path.
    next: HashMap<String, VecDeque<Reaction>>,
    /// The reaction to all other requests for a path.
    default: HashMap<String, Reaction>,
    received: Vec<Received>,
}

struct Shared {
    state: Mutex<State>,
    /// The number of requests received.
    arrivals: watch::Sender<usize>,
    /// One permit for each call of [`ScriptedServer::release`].
    releases: Semaphore,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The connection of a request, to close it.
struct Connection(TcpStream);

/// The running server. Dropping it stops it.
pub struct ScriptedServer {
    shared: Arc<Shared>,
    origin: String,
    handle: ServerHandle,
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        // The call itself starts the stop, whether or not its future is awaited.
        drop(self.handle.stop(false));
    }
}

impl ScriptedServer {
    /// Is part of each token and key, to find them in logs.
    pub const SECRET: &'static str = "s3cr3t";

    /// Starts a server on a port of its own, which serves every request.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tokens: Tokens::new(),
                next: HashMap::new(),
                default: HashMap::new(),
                received: Vec::new(),
            }),
            arrivals: watch::Sender::new(0),
            releases: Semaphore::new(0),
        });
        let (sender, receiver) = mpsc::channel();
        let serving = shared.clone();
        thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(Data::from(serving.clone()))
                        .app_data(PayloadConfig::new(64 << 20))
                        .default_service(web::to(serve))
                })
                .on_connect(|connection, data| {
                    let stream = connection.downcast_ref::<actix_web::rt::net::TcpStream>();
                    let stream = stream.unwrap().as_fd().try_clone_to_owned().unwrap();
                    data.insert(Connection(stream.into()));
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

    /// Returns the origin, such as `http://127.0.0.1:41234`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Opens a session and returns its tokens.
    pub fn log_in(&self) -> TokenResponse {
        self.shared.lock().tokens.log_in()
    }

    /// Adds an account. `POST /login` logs in to it, and sets a device token with
    /// [`Self::SECRET`].
    pub fn add_account(&self, name: &str, password: &str) {
        self.shared.lock().tokens.add_account(name, password);
    }

    /// Expires all access tokens issued so far.
    pub fn expire(&self) {
        self.shared.lock().tokens.expire();
    }

    /// Sets the lifetime that later responses name, in seconds. Tokens expire by
    /// [`Self::expire`] only.
    pub fn set_lifetime(&self, seconds: u64) {
        self.shared.lock().tokens.set_lifetime(seconds);
    }

    /// Keeps refresh tokens valid from now on, and does not return them from a refresh.
    pub fn stop_rotating(&self) {
        self.shared.lock().tokens.stop_rotating();
    }

    /// Adds reactions to the next requests for a path.
    pub fn on(&self, path: &str, reactions: impl IntoIterator<Item = Reaction>) {
        self.shared.lock().next.entry(path.to_owned()).or_default().extend(reactions);
    }

    /// Sets the reaction to all requests for a path that [`Self::on`] leaves.
    pub fn always(&self, path: &str, reaction: Reaction) {
        self.shared.lock().default.insert(path.to_owned(), reaction);
    }

    /// Drops the reactions that [`Self::on`] added and that are still to come.
    pub fn forget(&self, path: &str) {
        self.shared.lock().next.remove(path);
    }

    /// Releases one held request, now or when it arrives.
    pub fn release(&self) {
        self.shared.releases.add_permits(1);
    }

    /// Returns the requests for a path so far.
    pub fn received(&self, path: &str) -> Vec<Received> {
        let state = self.shared.lock();
        state.received.iter().filter(|received| received.path == path).cloned().collect()
    }

    /// Returns all requests so far.
    pub fn all_received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// Waits until so many requests for a path have arrived.
    pub async fn until_received(&self, path: &str, count: usize) {
        let mut arrivals = self.shared.arrivals.subscribe();
        let enough = arrivals.wait_for(|_| self.received(path).len() >= count);
        let enough = timeout(WAIT_TIMEOUT, enough).await;
        enough.unwrap_or_else(|_| panic!("{path} is not requested {count} times")).unwrap();
    }

    /// Returns the number of refresh requests.
    pub fn refreshes(&self) -> usize {
        self.received("/refresh").len()
    }

    /// Returns the number of refresh tokens that were rotated.
    pub fn rotations(&self) -> usize {
        self.shared.lock().tokens.rotations()
    }

    /// Returns how often a rotated refresh token was presented without its key.
    pub fn reuses(&self) -> usize {
        self.shared.lock().tokens.reuses()
    }
}

impl State {
    /// Records a request and returns the reaction to it.
    fn receive(&mut self, received: Received) -> Reaction {
        let path = &received.path;
        let next = self.next.get_mut(path).and_then(VecDeque::pop_front);
        let reaction = next.or_else(|| self.default.get(path).cloned());
        self.received.push(received);
        reaction.unwrap_or(Reaction::Serve)
    }
}

async fn serve(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let received = Received::new(&request, body);
    let mut reaction = shared.lock().receive(received.clone());
    shared.arrivals.send_modify(|arrivals| *arrivals += 1);
    while let Reaction::Hold(next) = reaction {
        shared.releases.acquire().await.unwrap().forget();
        reaction = *next;
    }
    let response = match &reaction {
        Reaction::Respond(response) => response.clone(),
        _ => shared.lock().tokens.serve(&received),
    };
    if let Reaction::DropConnection = reaction {
        let Connection(stream) = request.conn_data().unwrap();
        // The client may have closed it before.
        let _ = stream.shutdown(Shutdown::Both);
    }
    let mut builder = HttpResponse::build(StatusCode::from_u16(response.status).unwrap());
    if !matches!(reaction, Reaction::Respond(_)) {
        builder.insert_header((SERVER_MARK, SERVER_MARK_VALUE));
    }
    for header in response.headers {
        builder.insert_header(header);
    }
    let half = Bytes::from(response.body[..response.body.len() / 2].to_owned());
    match reaction {
        Reaction::TruncateBody => {
            let error = async {
                // Lets the first half reach the client before the connection closes.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("truncated"))
            };
            builder.streaming(stream::iter([Ok(half)]).chain(stream::once(error)))
        }
        Reaction::StallBody => {
            let half = stream::iter([Ok::<_, std::io::Error>(half)]);
            builder.streaming(half.chain(stream::pending()))
        }
        _ => builder.body(response.body),
    }
}
