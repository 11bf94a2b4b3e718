//! Opens connections: resolves the host, races its addresses, and speaks TLS.
//!
//! The connector of awc is not used: it tries one address after another, passes IPv6 addresses
//! to OpenSSL in brackets, and does not set `TCP_NODELAY`.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_rt::time::timeout;
use actix_service::Service;
use actix_tls::connect::openssl::reexports::AsyncSslStream;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_core::future::LocalBoxFuture;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openssl::ssl::{SslConnector, SslRef};
use openssl::x509::X509VerifyResult;
use socket2::{SockRef, TcpKeepalive};

use super::stream::{Io, Stream};

/// The delay before the next address is tried as well (RFC 8305 §5, Connection Attempt
/// Delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The additional delay during a TLS handshake.
const HANDSHAKE_DELAY: Duration = Duration::from_secs(2);
/// The idle time after which the system probes the peer.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The delay between two probes, and the number of probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
/// The timeout of the probe for TLS.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// A retry does not help until something is changed.
    #[error("{0}")]
    Permanent(String),
    /// A retry may help.
    #[error("{0}")]
    Transient(String),
}

impl DialError {
    fn is_permanent(&self) -> bool {
        matches!(self, Self::Permanent(_))
    }
}

/// Opens connections for awc, with or without TLS.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) tls: Option<SslConnector>,
}

impl Service<ConnectInfo<Uri>> for Dialer {
    type Response = Connection<Uri, Stream>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let uri = info.request().clone();
            let io = dial(&uri, tls.as_ref()).await;
            let io = io.map_err(|error| ConnectError::Io(io::Error::other(error)))?;
            Ok(Connection::new(uri, Stream::new(io)))
        })
    }
}

async fn dial(uri: &Uri, tls: Option<&SslConnector>) -> Result<Io, DialError> {
    let host = bare_host(uri);
    let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let addresses = interleaved(resolve(host, port).await?);
    let handshakes = Cell::new(0_u32);
    let open = |address| {
        let handshakes = &handshakes;
        async move {
            let tcp = connect_to(address).await.map_err(|error| unreachable(host, port, &error))?;
            let Some(tls) = tls else { return Ok(Io::Plain(tcp)) };
            handshakes.set(handshakes.get() + 1);
            let connected = handshake(tls, host, port, tcp).await;
            handshakes.set(handshakes.get() - 1);
            Ok(Io::Tls(Box::new(connected?)))
        }
    };
    let no_address = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    let none = unreachable(host, port, &no_address);
    race(addresses, open, || handshakes.get() > 0, none).await
}

fn unreachable(host: &str, port: u16, error: &io::Error) -> DialError {
    DialError::Transient(format!("{host} port {port}: {error}"))
}

/// Returns the host without the brackets that an IPv6 address has in a URL.
fn bare_host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) if is_unknown_host(&error) => Err(DialError::Permanent(format!(
            "the host `{host}` is unknown: correct the server's URL, or the DNS of this machine"
        ))),
        Err(error) => Err(DialError::Transient(format!("cannot resolve `{host}`: {error}"))),
    }
}

/// Returns whether the resolver reports that a name does not exist. The standard library keeps
/// its message and not its code: those of glibc, musl, macOS and Windows are compared.
fn is_unknown_host(error: &io::Error) -> bool {
    const HOST_NOT_FOUND: i32 = 11001;
    let text = error.to_string();
    error.raw_os_error() == Some(HOST_NOT_FOUND)
        || ["Name or service not known", "Name does not resolve", "nor servname provided"]
            .iter()
            .any(|message| text.contains(message))
}

/// Orders addresses so that both families alternate (RFC 8305 §4), the system's first choice
/// first.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    preferred.reverse();
    others.reverse();
    let mut ordered = Vec::with_capacity(preferred.len() + others.len());
    while !preferred.is_empty() || !others.is_empty() {
        ordered.extend(preferred.pop());
        ordered.extend(others.pop());
    }
    ordered
}

/// Connects to the first address that accepts.
async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let none = DialError::Transient("the host has no address".to_owned());
    let open = async |address| {
        let connected = connect_to(address).await;
        connected.map_err(|error| DialError::Transient(error.to_string()))
    };
    race(addresses, open, || false, none).await
}

/// Opens a connection to the first address that succeeds. The next address is tried when one
/// has failed or has taken too long; the earlier attempts continue. If all fail, a permanent
/// error takes precedence over a transient one.
async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    open: impl Fn(SocketAddr) -> F,
    is_handshaking: impl Fn() -> bool,
    mut failure: DialError,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut attempts = FuturesUnordered::new();
    let mut addresses = addresses.into_iter();
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        attempts.extend(next.map(&open));
        let outcome = if is_last {
            attempts.next().await
        } else {
            match timeout(ATTEMPT_DELAY, attempts.next()).await {
                Err(_) if is_handshaking() => timeout(HANDSHAKE_DELAY, attempts.next()).await,
                outcome => outcome,
            }
            .unwrap_or(None)
        };
        match outcome {
            Some(Ok(opened)) => return Ok(opened),
            Some(Err(error)) if !failure.is_permanent() => failure = error,
            None if is_last => return Err(failure),
            Some(Err(_)) | None => {}
        }
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    // A request is written whole, so waiting for more bytes would only delay it.
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "windows"))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    // Without it, a dead connection is detected later.
    if let Err(error) = SockRef::from(&tcp).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "tcp keepalive unavailable");
    }
    Ok(tcp)
}

/// Returns the host as in a certificate: without the final dot of an absolute name.
fn certified_name(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

async fn handshake(
    tls: &SslConnector,
    host: &str,
    port: u16,
    tcp: TcpStream,
) -> Result<AsyncSslStream<TcpStream>, DialError> {
    let unusable = |error| DialError::Transient(format!("TLS with {host}: {error}"));
    let name = certified_name(host);
    let ssl = tls.configure().and_then(|tls| tls.into_ssl(name)).map_err(unusable)?;
    let mut stream = AsyncSslStream::new(ssl, tcp).map_err(unusable)?;
    match Pin::new(&mut stream).connect().await {
        Ok(()) => Ok(stream),
        Err(error) => Err(handshake_failure(stream.ssl(), &error, host, port)),
    }
}

/// Returns the error of a failed handshake, with its cause and remedy.
fn handshake_failure(
    ssl: &SslRef,
    error: &openssl::ssl::Error,
    host: &str,
    port: u16,
) -> DialError {
    let verified = ssl.verify_result();
    if verified != X509VerifyResult::OK {
        return DialError::Permanent(certificate_problem(verified, host));
    }
    let reasons = error.ssl_error().map(|stack| {
        let reasons = stack.errors().iter().filter_map(openssl::error::Error::reason);
        reasons.collect::<Vec<_>>().join(", ")
    });
    let reasons = reasons.unwrap_or_default();
    // A response of another protocol looks like a wrong version of TLS.
    if ["wrong version number", "http request", "packet length too long"]
        .iter()
        .any(|reason| reasons.contains(reason))
    {
        return DialError::Permanent(format!(
            "{host} port {port} does not speak TLS: correct the port, or write `http://` in the \
             server's URL, on a network that you trust"
        ));
    }
    if ["unsupported protocol", "protocol version", "no protocols available"]
        .iter()
        .any(|reason| reasons.contains(reason))
    {
        return DialError::Permanent(format!(
            "{host} port {port} speaks no version of TLS that this client speaks ({reasons}): \
             update the server"
        ));
    }
    let cause = if reasons.is_empty() { error.to_string() } else { reasons };
    DialError::Transient(format!("TLS with {host} port {port}: {cause}"))
}

/// Describes the error of a certificate, and its remedy.
fn certificate_problem(problem: X509VerifyResult, host: &str) -> String {
    /// `X509_V_ERR_…` of OpenSSL, which the bindings do not define.
    const NOT_YET_VALID: i32 = 9;
    const EXPIRED: i32 = 10;
    const OTHER_HOST: i32 = 62;
    const OTHER_ADDRESS: i32 = 64;
    let remedy = match problem.as_raw() {
        NOT_YET_VALID => "correct the clock of this machine, or renew the certificate",
        EXPIRED => "renew the certificate, or correct the clock of this machine",
        OTHER_HOST | OTHER_ADDRESS => "use a name in the server's URL that the certificate has",
        _ => "trust the CA that signed it (the app's `server.ca_file`), if it is your server's",
    };
    format!("the certificate of {host} is not accepted ({}): {remedy}", problem.error_string())
}

/// Returns whether the server at a plain URL speaks TLS.
pub(super) async fn speaks_tls(uri: &Uri, tls: &SslConnector, left: Duration) -> bool {
    let host = bare_host(uri);
    let port = uri.port_u16().unwrap_or(80);
    let probe = async {
        let addresses = interleaved(resolve(host, port).await.ok()?);
        let tcp = connect(addresses).await.ok()?;
        let ssl = tls.configure().and_then(|tls| tls.into_ssl(host)).ok()?;
        let mut stream = AsyncSslStream::new(ssl, tcp).ok()?;
        let connected = Pin::new(&mut stream).connect().await;
        // The server sent a certificate, accepted or not.
        let has_certificate = stream.ssl().peer_certificate().is_some();
        let unverified = stream.ssl().verify_result() != X509VerifyResult::OK;
        Some(connected.is_ok() || has_certificate || unverified)
    };
    timeout(PROBE_TIMEOUT.min(left), probe).await.ok().flatten().unwrap_or(false)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::time::Instant;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// Returns an address that accepts no connection, because its queue is full while the second
    /// value is kept.
    pub(in crate::transport) fn unresponsive() -> (SocketAddr, impl Sized) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = StdStream::connect_timeout(&address, ATTEMPT_DELAY) {
            queued.push(stream);
            assert!(queued.len() < 100, "the queue is never full");
        }
        (address, (socket, queued))
    }

    fn listening() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    fn closed() -> SocketAddr {
        listening().0
    }

    #[actix_rt::test]
    async fn an_unresponsive_address_does_not_delay_the_next_one() {
        let (silent, _kept) = unresponsive();
        let (good, _listener) = listening();
        for addresses in [vec![silent, good], vec![silent, closed(), silent, good]] {
            let began = Instant::now();
            let connected = connect(addresses).await.unwrap();
            assert_eq!(connected.peer_addr().unwrap(), good);
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        }
    }

    #[actix_rt::test]
    async fn a_closed_port_is_skipped_at_once() {
        let (good, _listener) = listening();
        let began = Instant::now();
        let connected = connect(vec![closed(), closed(), good]).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap(), good);
        assert!(began.elapsed() < ATTEMPT_DELAY, "{:?}", began.elapsed());
        let error = connect(vec![closed(), closed()]).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(connect(vec![]).await.is_err());
    }

    /// Races addresses whose handshakes have these outcomes after so many milliseconds.
    async fn race_with_tls(handshakes: &[(&str, u64)]) -> Result<usize, DialError> {
        let addresses = (0..handshakes.len())
            .map(|at| SocketAddr::from(([127, 0, 0, 1], u16::try_from(at).unwrap())));
        let running = Cell::new(0_u32);
        let open = async |address: SocketAddr| {
            let at = usize::from(address.port());
            let (outcome, millis) = handshakes[at];
            running.set(running.get() + 1);
            actix_rt::time::sleep(Duration::from_millis(millis)).await;
            running.set(running.get() - 1);
            match outcome {
                "works" => Ok(at),
                "is not accepted" => Err(DialError::Permanent(outcome.to_owned())),
                _ => Err(DialError::Transient(outcome.to_owned())),
            }
        };
        let none = DialError::Transient("no address".to_owned());
        race(addresses.collect(), open, || running.get() > 0, none).await
    }

    #[actix_rt::test]
    async fn an_address_whose_handshake_fails_or_hangs_does_not_delay_the_next_one() {
        let began = Instant::now();
        for first in ["closes", "is not accepted"] {
            assert_eq!(race_with_tls(&[(first, 0), ("works", 0)]).await.unwrap(), 1);
        }
        assert!(began.elapsed() < ATTEMPT_DELAY, "{:?}", began.elapsed());
        assert_eq!(race_with_tls(&[("hangs", 60_000), ("works", 0)]).await.unwrap(), 1);
        // During a slow handshake no second connection is opened.
        assert_eq!(race_with_tls(&[("works", 600), ("works", 0)]).await.unwrap(), 0);
    }

    #[actix_rt::test]
    async fn a_permanent_failure_is_reported_before_transient_ones() {
        for handshakes in [
            [("is not accepted", 0), ("refused", 0)],
            [("refused", 0), ("is not accepted", 0)],
            [("refused", 0), ("is not accepted", 300)],
        ] {
            let error = race_with_tls(&handshakes).await.unwrap_err();
            assert!(error.is_permanent(), "{error}");
        }
        let error = race_with_tls(&[("closes", 0), ("refused", 0)]).await.unwrap_err();
        assert_eq!((error.is_permanent(), error.to_string().as_str()), (false, "refused"));
    }

    #[actix_rt::test]
    async fn a_connection_has_nodelay_and_keepalive() {
        let (address, _listener) = listening();
        let connected = connect(vec![address]).await.unwrap();
        assert!(connected.nodelay().unwrap());
        let socket = SockRef::from(&connected);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }

    #[test]
    fn the_host_is_resolved_without_brackets_and_verified_without_final_dot() {
        for (url, host, name) in [
            ("http://[::1]:5001/", "::1", "::1"),
            ("http://auth.example.com.", "auth.example.com.", "auth.example.com"),
            ("http://127.0.0.1:1", "127.0.0.1", "127.0.0.1"),
        ] {
            let uri = Uri::from_static(url);
            assert_eq!((bare_host(&uri), certified_name(host)), (host, name));
        }
    }

    #[test]
    fn addresses_of_both_families_alternate() {
        for (addresses, ordered) in [
            (
                "[::1]:1 [::1]:2 [::1]:3 1.1.1.1:1 1.1.1.1:2",
                "[::1]:1 1.1.1.1:1 [::1]:2 1.1.1.1:2 [::1]:3",
            ),
            ("1.1.1.1:1 1.1.1.1:2 [::1]:1", "1.1.1.1:1 [::1]:1 1.1.1.1:2"),
            ("[::1]:1 [::1]:2", "[::1]:1 [::1]:2"),
            ("", ""),
        ] {
            let addresses = addresses.split_whitespace().map(|text| text.parse().unwrap());
            let in_turn: Vec<_> =
                interleaved(addresses.collect()).iter().map(ToString::to_string).collect();
            assert_eq!(in_turn.join(" "), ordered);
        }
    }
}
