//! Exchanges requests and responses with a server. Decides which connection a request uses,
//! when it is sent again, and which error is returned without a response.
//!
//! awc keeps the connections and speaks HTTP. It gets `http` URLs only: [`dial`] speaks TLS,
//! and each kind of connection has a pool of its own.

mod attempt;
mod dial;
mod head;
mod moment;
mod proxy;
mod redirect;
mod stream;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use awc::error::{ConnectError, SendRequestError};
use awc::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT,
    X_FORWARDED_FOR,
};
use awc::http::{Method, StatusCode, Uri, Version};
use awc::{ClientRequest, Connector, SendClientRequest};
use bytes::Bytes;
use futures_util::future::{Either, select};
use openssl::ssl::SslConnector;
use tokio::sync::Notify;

use crate::error::Error;
use crate::event::Event;
use crate::user_agent::UserAgent;

use attempt::{Sent, failure, first_response, follow};
use dial::{Dialer, speaks_tls};
use moment::Moment;
pub(crate) use proxy::warn_of_unused;
pub(crate) use redirect::redirected;
use stream::SENDING;

/// The response to a request. Its body has not been read.
pub type Response = awc::ClientResponse;

/// The header by which the server recognizes a repeated request, and executes it once.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A kept connection that was idle for longer may be dead.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(1);
/// The longest wait for the first byte on a doubtful connection, before the request is also
/// sent on another one.
const MAX_FIRST_WAIT: Duration = Duration::from_secs(2);
/// The target of a request.
#[derive(Clone)]
pub(crate) struct Target {
    /// The URL, with the scheme `http` even for TLS.
    pub(crate) uri: Uri,
    /// Whether the connection uses TLS.
    pub(crate) tls: bool,
    /// The `Host` header, if awc would send another one.
    pub(crate) host: Option<HeaderValue>,
}

/// A request without its body.
#[derive(Clone)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Target,
    pub(crate) headers: &'a HeaderMap,
    /// The `Authorization` header: the access token, or the client secret.
    pub(crate) authorization: Option<HeaderValue>,
    /// Whether executing the request twice is harmless.
    pub(crate) repeatable: bool,
}

/// Returns whether a request with this method and these headers is idempotent (RFC 9110
/// §9.2.2).
pub(crate) fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
        || headers.contains_key(IDEMPOTENCY_KEY)
}

/// The connections of one thread. Clones share them.
#[derive(Clone)]
pub(crate) struct Http {
    connections: Rc<Connections>,
    user_agent: UserAgent,
    /// The value of `X-Forwarded-For`.
    forwarded_for: Option<HeaderValue>,
}

struct Connections {
    tls: SslConnector,
    timeout: Duration,
    pools: RefCell<Pools>,
}

/// Kept connections. Each kind has an awc client of its own.
struct Pools {
    kept: [[Option<awc::Client>; 2]; 2],
    last_used: Moment,
}

/// A kind of connection.
#[derive(Clone, Copy)]
struct Kind {
    tls: bool,
    /// Whether its requests are sent again if the connection is dead.
    repeatable: bool,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// Creates the transport. `timeout` is that of one exchange.
    pub(crate) fn new(tls: SslConnector, timeout: Duration) -> Self {
        let pools = Pools { kept: Default::default(), last_used: Moment::now() };
        let connections = Rc::new(Connections { tls, timeout, pools: RefCell::new(pools) });
        Self { connections, user_agent: UserAgent::default(), forwarded_for: None }
    }

    /// Sends this `User-Agent` with each request, on the same connections.
    pub(crate) fn with_user_agent(&self, user_agent: UserAgent) -> Self {
        Self { user_agent, ..self.clone() }
    }

    /// Sends this `X-Forwarded-For` with each request, on the same connections.
    pub(crate) fn with_forwarded_for(&self, addresses: HeaderValue) -> Self {
        Self { forwarded_for: Some(addresses), ..self.clone() }
    }

    /// Returns the awc client for one kind of connection.
    fn client(&self, kind: Kind) -> awc::Client {
        let now = Moment::now();
        let pools = &mut *self.connections.pools.borrow_mut();
        if pools.last_used.suspended_until(now) {
            tracing::debug!("machine was suspended, dropping kept connections");
            pools.kept = Default::default();
        }
        pools.last_used = now;
        let pool = &mut pools.kept[usize::from(kind.tls)][usize::from(kind.repeatable)];
        pool.get_or_insert_with(|| self.build_client(kind)).clone()
    }

    /// Creates an awc client. It follows no redirect: that could send the access token to another
    /// host.
    fn build_client(&self, kind: Kind) -> awc::Client {
        let dialer = Dialer { tls: kind.tls.then(|| self.connections.tls.clone()) };
        let mut connector = Connector::new().connector(dialer).timeout(self.connections.timeout);
        if !kind.repeatable {
            // A request that cannot be sent again must not use a doubtful connection.
            connector = connector.conn_keep_alive(DOUBTFUL_AFTER);
        }
        awc::Client::builder()
            .connector(connector)
            .timeout(self.connections.timeout)
            .disable_redirects()
            .finish()
    }

    /// Sends a request. If a kept connection is dead, the request is sent again on a new one,
    /// unless it could be executed twice. If a doubtful connection is silent, the request is
    /// also sent on a new one, and the first response is used.
    pub(crate) async fn send(
        &self,
        outgoing: &Outgoing<'_>,
        body: Bytes,
        emit: impl FnMut(&dyn Fn() -> Event),
    ) -> Result<Response, Error> {
        let deadline = Instant::now() + self.connections.timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let emit = RefCell::new(emit);
        let doubt = Notify::new();
        let with_body = |request: ClientRequest| request.send_body(body.clone());
        let on_doubt = outgoing.repeatable.then_some(&doubt);
        let first =
            pin!(self.attempt(outgoing, with_body, self.connections.timeout, on_doubt, &emit));
        let sent = match select(first, pin!(doubt.notified())).await {
            Either::Left((sent, _)) if !left().is_zero() && sent.may_be_repeated(outgoing) => {
                tracing::debug!("kept connection was dead, sending the request on a new one");
                self.abandon_kept(&emit);
                self.attempt(outgoing, with_body, left(), None, &emit).await
            }
            Either::Left((sent, _)) => sent,
            Either::Right(((), first)) => {
                tracing::debug!("kept connection is silent, sending the request on a new one too");
                self.abandon_kept(&emit);
                let second = pin!(self.attempt(outgoing, with_body, left(), None, &emit));
                first_response(first, second).await
            }
        };
        self.conclude(sent, outgoing.target, deadline).await
    }

    /// Sends a request whose body cannot be sent twice.
    pub(crate) async fn send_once(
        &self,
        outgoing: &Outgoing<'_>,
        with_body: impl FnOnce(ClientRequest) -> SendClientRequest,
        emit: impl FnMut(&dyn Fn() -> Event),
    ) -> Result<Response, Error> {
        let deadline = Instant::now() + self.connections.timeout;
        let outgoing = Outgoing { repeatable: false, ..outgoing.clone() };
        let emit = RefCell::new(emit);
        let sent = self.attempt(&outgoing, with_body, self.connections.timeout, None, &emit).await;
        self.conclude(sent, outgoing.target, deadline).await
    }

    /// Drops all kept connections: if one is dead, the others usually are too.
    fn abandon_kept(&self, emit: &RefCell<impl FnMut(&dyn Fn() -> Event)>) {
        (emit.borrow_mut())(&|| Event::Retried);
        self.connections.pools.borrow_mut().kept = Default::default();
    }

    /// Sends a request on a kept or a new connection, logs it, and emits an event.
    async fn attempt(
        &self,
        outgoing: &Outgoing<'_>,
        with_body: impl FnOnce(ClientRequest) -> SendClientRequest,
        timeout: Duration,
        doubt: Option<&Notify>,
        emit: &RefCell<impl FnMut(&dyn Fn() -> Event)>,
    ) -> Sent {
        let Outgoing { method, target, headers, repeatable, .. } = *outgoing;
        let client = self.client(Kind { tls: target.tls, repeatable });
        let mut request = client.request(method.clone(), target.uri.clone()).timeout(timeout);
        for (name, value) in headers {
            request = request.append_header((name.clone(), value.clone()));
        }
        if !headers.contains_key(USER_AGENT) {
            request = request.insert_header((USER_AGENT, self.user_agent.header().clone()));
        }
        if let Some(addresses) = &self.forwarded_for {
            request = request.insert_header((X_FORWARDED_FOR, addresses.clone()));
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
        // The query is left out, because it may have a guest id.
        let path = target.uri.path();
        let took = began.elapsed();
        let status = sent.outcome.as_ref().ok().map(|response| response.status().as_u16());
        match &sent.outcome {
            Ok(response) => tracing::debug!("{method} {path} {}", response.status().as_u16()),
            Err(error) => tracing::debug!("{method} {path} failed: {error}"),
        }
        (emit.borrow_mut())(&|| {
            let method = method.to_string();
            let path = path.to_owned();
            Event::Exchange { method, path, status, began, took }
        });
        sent
    }

    /// Returns the response, or the error of its absence, before `deadline`.
    async fn conclude(
        &self,
        sent: Sent,
        target: &Target,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let Sent { outcome, progress } = sent;
        let may_be_tls = match &outcome {
            // A TLS server responds to plain HTTP with an HTML page, and closes the connection.
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
        // A kept connection has served a request without TLS before.
        let may_be_tls = may_be_tls && progress.idle.is_none() && !target.tls;
        let left = deadline.saturating_duration_since(Instant::now());
        if may_be_tls && speaks_tls(&target.uri, &self.connections.tls, left).await {
            let host = target.uri.authority().map_or("", |authority| authority.as_str());
            return Err(Error::Misconfigured(format!(
                "cannot use plain HTTP: {host} speaks TLS; write `https://` in the server's URL"
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

/// Returns whether the server closes the connection after this response.
fn is_last(response: &Response) -> bool {
    let options = response.headers().get_all(CONNECTION);
    let mut options = options.filter_map(|value| value.to_str().ok());
    response.version() < Version::HTTP_11
        || options.any(|value| value.to_ascii_lowercase().contains("close"))
}

/// Returns whether the body of a response is declared as JSON.
pub(crate) fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
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
    async fn connections_from_before_a_suspension_are_not_used() {
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
            http.connections.pools.borrow_mut().last_used.wall -= Duration::from_secs(asleep);
            assert_eq!(get(&http, address).await, Ok(StatusCode::NO_CONTENT));
            assert_eq!(opened.load(Ordering::SeqCst), connections, "asleep for {asleep} s");
        }
    }

    #[actix_rt::test]
    async fn a_connect_timeout_is_reported_as_such() {
        let (address, _kept) = dial::tests::unresponsive();
        let http = http(Duration::from_millis(300));
        let expected = Error::transient("cannot connect to the server: timeout");
        assert_eq!(get(&http, address).await, Err(expected));
    }

    #[test]
    fn a_request_that_is_not_idempotent_is_repeatable_only_with_a_key() {
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
