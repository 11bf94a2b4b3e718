//! One exchange with a server: over which connection, how often a request is
//! sent, and what it means when no response comes.
//!
//! awc keeps the connections and speaks HTTP over them. It is given `http` URLs
//! only: [`dial`] speaks TLS, and each kind of connection has a pool of its own.

mod dial;
mod head;
mod proxy;
mod redirect;
mod stream;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use actix_rt::time::sleep;
use awc::error::{ConnectError, SendRequestError};
use awc::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use awc::http::{Method, StatusCode, Uri, Version};
use awc::{ClientRequest, Connector, SendClientRequest};
use bytes::Bytes;
use futures_util::future::{Either, select};
use openssl::ssl::SslConnector;
use tokio::sync::Notify;

use crate::error::Error;
use crate::event::Event;

use dial::{DialError, Dialer, speaks_tls};
pub(crate) use proxy::warn_of_unused;
pub(crate) use redirect::redirected;
use stream::{Progress, SENDING};

/// The response to a request, its body unread.
pub type Response = awc::ClientResponse;

/// The name of the client, which a list of sessions shows.
const NAME: &str = concat!("matchbook-client/", env!("CARGO_PKG_VERSION"));

/// Says that a request is the same attempt as before, so that it is carried out
/// once however often it is sent.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A kept connection that was idle for longer may have died unseen.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(1);
/// The longest wait for the first byte on a doubtful connection, before a request
/// is sent on another one as well.
const MAX_FIRST_WAIT: Duration = Duration::from_secs(2);
/// Clocks differ by this much when a machine was asleep: the monotonic one stops.
const ASLEEP: Duration = Duration::from_secs(5);

/// Where a request goes.
#[derive(Clone)]
pub(crate) struct Target {
    /// With the scheme `http`, whether or not TLS is spoken.
    pub(crate) uri: Uri,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    /// The `Host` header, where awc would write another one.
    pub(crate) host: Option<HeaderValue>,
}

/// What is sent.
#[derive(Clone)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Target,
    pub(crate) headers: &'a HeaderMap,
    /// For the access token, or a client's secret.
    pub(crate) authorization: Option<HeaderValue>,
    /// Whether it does no harm to carry it out twice.
    pub(crate) repeatable: bool,
}

/// Whether a request with this method and these headers may be carried out twice
/// (RFC 9110 §9.2.2).
pub(crate) fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
        || headers.contains_key(IDEMPOTENCY_KEY)
}

/// The connections of one thread. Clones share them.
#[derive(Clone)]
pub(crate) struct Http(Rc<Inner>);

struct Inner {
    tls: SslConnector,
    timeout: Duration,
    pools: RefCell<Pools>,
}

/// Kept connections, each kind in a client of its own.
struct Pools {
    kept: [[Option<awc::Client>; 2]; 2],
    last_used: Moment,
}

/// A kind of connection.
#[derive(Clone, Copy)]
struct Kind {
    tls: bool,
    /// Whether its requests are sent again where it turns out to be dead.
    repeatable: bool,
}

/// A point in time on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    #[expect(clippy::disallowed_methods, reason = "only compared with the monotonic clock")]
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// Whether the machine was asleep between this moment and a later one.
    fn slept_until(self, later: Self) -> bool {
        let wall = later.wall.duration_since(self.wall).unwrap_or_default();
        wall > later.monotonic.saturating_duration_since(self.monotonic) + ASLEEP
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// Takes what verifies certificates, and how long one exchange may take.
    pub(crate) fn new(tls: SslConnector, timeout: Duration) -> Self {
        let pools = Pools { kept: Default::default(), last_used: Moment::now() };
        Self(Rc::new(Inner { tls, timeout, pools: RefCell::new(pools) }))
    }

    /// The awc client for one kind of connection.
    fn client(&self, kind: Kind) -> awc::Client {
        let now = Moment::now();
        let pools = &mut *self.0.pools.borrow_mut();
        if pools.last_used.slept_until(now) {
            tracing::debug!("machine was asleep, dropping kept connections");
            pools.kept = Default::default();
        }
        pools.last_used = now;
        let pool = &mut pools.kept[usize::from(kind.tls)][usize::from(kind.repeatable)];
        pool.get_or_insert_with(|| self.build_client(kind)).clone()
    }

    /// No redirect is followed: one would carry the bearer to another host.
    fn build_client(&self, kind: Kind) -> awc::Client {
        let dialer = Dialer { tls: kind.tls.then(|| self.0.tls.clone()) };
        let mut connector = Connector::new().connector(dialer).timeout(self.0.timeout);
        if !kind.repeatable {
            // A request that cannot be sent again gets no doubtful connection.
            connector = connector.conn_keep_alive(DOUBTFUL_AFTER);
        }
        awc::Client::builder()
            .connector(connector)
            .timeout(self.0.timeout)
            .disable_redirects()
            .add_default_header((USER_AGENT, NAME))
            .finish()
    }

    /// Sends a request. Where a kept connection turns out to be dead, it is sent
    /// again on a new one, unless that could carry it out twice. Where a doubtful one
    /// is silent, the request is sent on a new one as well, and the first response counts.
    pub(crate) async fn send(
        &self,
        outgoing: &Outgoing<'_>,
        body: Bytes,
        tell: impl FnMut(&dyn Fn() -> Event),
    ) -> Result<Response, Error> {
        let deadline = Instant::now() + self.0.timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (tell, doubt) = (RefCell::new(tell), Notify::new());
        let with_body = |request: ClientRequest| request.send_body(body.clone());
        let on_doubt = outgoing.repeatable.then_some(&doubt);
        let first = pin!(self.attempt(outgoing, with_body, self.0.timeout, on_doubt, &tell));
        let sent = match select(first, pin!(doubt.notified())).await {
            Either::Left((sent, _)) if !left().is_zero() && sent.may_be_repeated(outgoing) => {
                tracing::debug!("kept connection was dead, sending the request on a new one");
                self.abandon_kept(&tell);
                self.attempt(outgoing, with_body, left(), None, &tell).await
            }
            Either::Left((sent, _)) => sent,
            Either::Right(((), first)) => {
                tracing::debug!("kept connection is silent, sending the request on a new one too");
                self.abandon_kept(&tell);
                let second = pin!(self.attempt(outgoing, with_body, left(), None, &tell));
                first_response(first, second).await
            }
        };
        self.conclude(sent, outgoing.target, deadline).await
    }

    /// Sends a request once, with a body that can be had once.
    pub(crate) async fn send_once(
        &self,
        outgoing: &Outgoing<'_>,
        with_body: impl FnOnce(ClientRequest) -> SendClientRequest,
        tell: impl FnMut(&dyn Fn() -> Event),
    ) -> Result<Response, Error> {
        let deadline = Instant::now() + self.0.timeout;
        let outgoing = Outgoing { repeatable: false, ..outgoing.clone() };
        let tell = RefCell::new(tell);
        let sent = self.attempt(&outgoing, with_body, self.0.timeout, None, &tell).await;
        self.conclude(sent, outgoing.target, deadline).await
    }

    /// Drops all kept connections: those beside a dead one have died with it, as a rule.
    fn abandon_kept(&self, tell: &RefCell<impl FnMut(&dyn Fn() -> Event)>) {
        (tell.borrow_mut())(&|| Event::Retried);
        self.0.pools.borrow_mut().kept = Default::default();
    }

    /// Sends a request on a kept connection or a new one, logs it, and makes an
    /// event of it.
    async fn attempt(
        &self,
        outgoing: &Outgoing<'_>,
        with_body: impl FnOnce(ClientRequest) -> SendClientRequest,
        timeout: Duration,
        doubt: Option<&Notify>,
        tell: &RefCell<impl FnMut(&dyn Fn() -> Event)>,
    ) -> Sent {
        let Outgoing { method, target, headers, repeatable, .. } = *outgoing;
        let client = self.client(Kind { tls: target.tls, repeatable });
        let mut request = client.request(method.clone(), target.uri.clone()).timeout(timeout);
        for (name, value) in headers {
            request = request.append_header((name.clone(), value.clone()));
        }
        if let Some(host) = &target.host {
            request = request.insert_header((HOST, host.clone()));
        }
        if let Some(authorization) = &outgoing.authorization {
            request = request.insert_header((AUTHORIZATION, authorization.clone()));
        }
        let began = Instant::now();
        let first_wait = (timeout / 4).min(MAX_FIRST_WAIT);
        let sending = follow(with_body(request), first_wait, doubt);
        let sent = SENDING.scope(Cell::default(), sending).await;
        // Without the query, which may hold a guest id.
        let (path, took) = (target.uri.path(), began.elapsed());
        let status = sent.outcome.as_ref().ok().map(|response| response.status().as_u16());
        match &sent.outcome {
            Ok(response) => tracing::debug!("{method} {path} {}", response.status().as_u16()),
            Err(error) => tracing::debug!("{method} {path} failed: {error}"),
        }
        (tell.borrow_mut())(&|| {
            let (method, path) = (method.to_string(), path.to_owned());
            Event::Exchange { method, path, status, began, took }
        });
        sent
    }

    /// The response, or what it means that there is none. Takes no longer than until
    /// `deadline`.
    async fn conclude(
        &self,
        sent: Sent,
        target: &Target,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let Sent { outcome, progress } = sent;
        let may_be_tls = match &outcome {
            // What servers answer who speak TLS is in HTML, and their last word.
            Ok(response) => {
                response.status() == StatusCode::BAD_REQUEST
                    && !is_json(response)
                    && is_last(response)
            }
            Err(
                SendRequestError::Connect(ConnectError::Disconnected)
                | SendRequestError::Send(_)
                | SendRequestError::Response(_),
            ) => true,
            Err(_) => false,
        };
        // A connection that was kept has served a request without TLS.
        let may_be_tls = may_be_tls && progress.idle.is_none() && !target.tls;
        let left = deadline.saturating_duration_since(Instant::now());
        if may_be_tls && speaks_tls(&target.uri, &self.0.tls, left).await {
            let host = target.uri.authority().map_or("", |authority| authority.as_str());
            return Err(Error::Misconfigured(format!(
                "{host} speaks TLS: write `https://` in the server's URL"
            )));
        }
        match outcome {
            Ok(response) => {
                redirect::note(&response, target);
                Ok(response)
            }
            Err(error) => {
                let unused_proxy = proxy::unused(target.tls, &target.uri);
                Err(failure(&error, progress, unused_proxy))
            }
        }
    }
}

/// What became of a request that was sent.
struct Sent {
    outcome: Result<Response, SendRequestError>,
    progress: Progress,
}

impl Sent {
    /// Whether a request got no byte of a response because a kept connection was
    /// dead, and may be sent again.
    fn may_be_repeated(&self, outgoing: &Outgoing<'_>) -> bool {
        let repeatable = outgoing.repeatable;
        let Progress { idle: Some(_), written, received } = self.progress else { return false };
        match &self.outcome {
            // A server may say this of a connection that was idle (RFC 9110 §15.5.9).
            Ok(response) => repeatable && response.status() == StatusCode::REQUEST_TIMEOUT,
            Err(_) => !received && (repeatable || !written),
        }
    }

    /// Whether there is a response that counts.
    fn is_response(&self) -> bool {
        let response = self.outcome.as_ref();
        response.is_ok_and(|response| response.status() != StatusCode::REQUEST_TIMEOUT)
    }
}

/// Awaits the response. Notifies `doubt` where a doubtful connection brings no byte of
/// it within `first_wait`.
async fn follow(
    mut sending: SendClientRequest,
    first_wait: Duration,
    mut doubt: Option<&Notify>,
) -> Sent {
    let mut waiting = None;
    let outcome = poll_fn(|cx| {
        let polled = Pin::new(&mut sending).poll(cx);
        // Which connection it is shows only after a while: all may be in use.
        if polled.is_pending() && doubt.is_some() && SENDING.with(Cell::get).is_doubtful() {
            let waiting = waiting.get_or_insert_with(|| Box::pin(sleep(first_wait)));
            if waiting.as_mut().poll(cx).is_ready() {
                doubt.take().map(Notify::notify_one);
            }
        }
        polled
    })
    .await;
    Sent { outcome, progress: SENDING.with(Cell::get) }
}

/// Awaits two attempts until one has a response. Without one, the outcome of the second
/// counts: that of the first says only that its connection was dead.
async fn first_response(
    first: impl Future<Output = Sent> + Unpin,
    second: impl Future<Output = Sent> + Unpin,
) -> Sent {
    match select(first, second).await {
        Either::Left((sent, second)) if !sent.is_response() => second.await,
        Either::Right((sent, first)) if !sent.is_response() => {
            let other = first.await;
            if other.is_response() { other } else { sent }
        }
        Either::Left((sent, _)) | Either::Right((sent, _)) => sent,
    }
}

/// What it means that there is no response. Before there is a connection, a variable
/// that names an unused proxy may be the reason.
fn failure(error: &SendRequestError, progress: Progress, unused_proxy: Option<&str>) -> Error {
    let hint =
        unused_proxy.map_or_else(String::new, |name| format!("; {name} is set, but not used"));
    Error::transient(match error {
        SendRequestError::Connect(ConnectError::Io(io)) => {
            match io.get_ref().and_then(|inner| inner.downcast_ref::<DialError>()) {
                Some(DialError::Permanent(problem)) => {
                    return Error::Misconfigured(format!("{problem}{hint}"));
                }
                _ => format!("cannot connect to the server: {io}{hint}"),
            }
        }
        SendRequestError::Connect(ConnectError::Timeout) => {
            format!("cannot connect to the server: timeout{hint}")
        }
        // The time ran out before a connection was there.
        SendRequestError::Timeout if !progress.written => {
            format!("cannot connect to the server: timeout{hint}")
        }
        SendRequestError::Timeout => "no response from the server in time".to_owned(),
        _ if progress.idle.is_some() && !progress.received => {
            "the server closed a kept connection, and may have carried the request out".to_owned()
        }
        SendRequestError::Connect(error) => {
            format!("no response from the server: {error}{hint}")
        }
        error => format!("no response from the server: {error}"),
    })
}

/// Whether a response says that its connection ends with it.
fn is_last(response: &Response) -> bool {
    let options = response.headers().get_all(CONNECTION);
    let mut options = options.filter_map(|value| value.to_str().ok());
    response.version() < Version::HTTP_11
        || options.any(|value| value.to_ascii_lowercase().contains("close"))
}

/// Whether the body of a response is said to be JSON.
pub(crate) fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use awc::http::header::HeaderName;
    use openssl::ssl::SslMethod;

    use super::*;

    fn http(timeout: Duration) -> Http {
        Http::new(SslConnector::builder(SslMethod::tls_client()).unwrap().build(), timeout)
    }

    /// Sends a `GET` request to a plain server, and reads the response whole.
    async fn get(http: &Http, address: impl fmt::Display) -> Result<StatusCode, Error> {
        let uri = Uri::try_from(format!("http://{address}/")).unwrap();
        let outgoing = Outgoing {
            method: &Method::GET,
            target: &Target { uri, tls: false, host: None },
            headers: &HeaderMap::new(),
            authorization: None,
            repeatable: true,
        };
        let mut response = http.send(&outgoing, Bytes::new(), |_| ()).await?;
        response.body().await.unwrap();
        Ok(response.status())
    }

    #[actix_rt::test]
    async fn connections_from_before_a_sleep_are_not_used() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let opened = Arc::<AtomicUsize>::default();
        let counter = opened.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let mut tcp = tcp.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    while let Ok(1..) = tcp.read(&mut [0; 4096]) {
                        tcp.write_all(b"HTTP/1.1 204 -\r\n\r\n").unwrap();
                    }
                });
            }
        });
        let http = http(Duration::from_secs(8));
        for (asleep, connections) in [(0, 1), (0, 1), (3600, 2), (0, 2)] {
            http.0.pools.borrow_mut().last_used.wall -= Duration::from_secs(asleep);
            assert_eq!(get(&http, address).await, Ok(StatusCode::NO_CONTENT));
            assert_eq!(opened.load(Ordering::SeqCst), connections, "asleep for {asleep} s");
        }
    }

    #[actix_rt::test]
    async fn a_connection_that_is_not_there_in_time_is_reported_as_such() {
        let (address, _kept) = dial::tests::swallowing();
        let http = http(Duration::from_millis(300));
        let expected = Error::transient("cannot connect to the server: timeout");
        assert_eq!(get(&http, address).await, Err(expected));
    }

    #[test]
    fn a_failure_to_connect_names_a_proxy_that_is_not_used() {
        let no_connection = Progress::default();
        let sent = Progress { written: true, ..no_connection };
        let said = |error: &SendRequestError, progress| {
            let named = failure(error, progress, Some("HTTPS_PROXY")).to_string();
            let bare = failure(error, progress, None).to_string();
            (named.strip_prefix(&bare).unwrap().to_owned(), bare)
        };
        let hint = "; HTTPS_PROXY is set, but not used";
        let dial = |error| SendRequestError::Connect(ConnectError::Io(io::Error::other(error)));
        for (error, problem) in [
            (SendRequestError::Timeout, "cannot connect to the server: timeout"),
            (
                SendRequestError::Connect(ConnectError::Timeout),
                "cannot connect to the server: timeout",
            ),
            (dial(DialError::Passing("refused".into())), "cannot connect to the server: refused"),
            (dial(DialError::Permanent("unknown host".into())), "unknown host"),
        ] {
            assert_eq!(said(&error, no_connection), (hint.to_owned(), problem.to_owned()));
        }
        let late = said(&SendRequestError::Timeout, sent);
        assert_eq!(late, (String::new(), "no response from the server in time".to_owned()));
    }

    #[test]
    fn sleep_is_when_the_wall_clock_runs_ahead() {
        let before = Moment::now();
        let later = |monotonic, wall| Moment {
            monotonic: before.monotonic + Duration::from_secs(monotonic),
            wall: before.wall + Duration::from_secs(wall),
        };
        assert!(!before.slept_until(later(0, 0)));
        assert!(!before.slept_until(later(60, 64)));
        assert!(before.slept_until(later(1, 3600)));
        // The wall clock was set back.
        assert!(!later(0, 60).slept_until(later(1, 0)));
    }

    #[test]
    fn what_changes_something_is_repeatable_only_with_a_key() {
        let mut headers = HeaderMap::new();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(is_repeatable(&method, &headers), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!is_repeatable(&method, &headers), "{method}");
        }
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), HeaderValue::from_static("k"));
        assert!(is_repeatable(&Method::POST, &headers));
    }
}
