//! Limits the connections of each address, and closes connections without a request.
//!
//! The time that a request may take to arrive counts only while this process runs. After
//! the machine was suspended, requests that arrived meanwhile are read first, so that no
//! connection with a request is closed.

use std::any::Any;
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_tls::accept::openssl::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net;
use socket2::SockRef;

use crate::limits::{self, subnet_key};
use crate::metrics::{Metrics, TOO_MANY_CONNECTIONS};
use crate::proxies::TrustedProxies;
use crate::proxy_protocol::ProxiedStream;

/// The interval at which connections without a request are checked.
const TICK: Duration = Duration::from_millis(500);

/// The number of ticks after which a connection without a request is closed: five seconds.
/// A request counts from the end of its head.
const MAX_IDLE_TICKS: u32 = 10;

/// The connections of one server.
pub struct Connections {
    /// The maximum for one address. It does not apply to trusted proxies.
    max_per_address: Option<usize>,
    proxies: TrustedProxies,
    metrics: Arc<Metrics>,
    /// A `std` lock: it is never held across an `await`.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_address: HashMap<u128, usize>,
    /// Connections without a request, by their id.
    idle: HashMap<u64, Idle>,
    last_id: u64,
}

struct Idle {
    stream: TcpStream,
    ticks: u32,
}

/// An open connection. Dropping it releases its place in the limit of its address.
pub struct Connection {
    connections: Arc<Connections>,
    address: u128,
    id: u64,
    is_idle: AtomicBool,
}

impl Connections {
    /// Without `limits`, the connections of one address are not limited.
    #[must_use]
    pub fn new(
        limits: Option<&limits::Options>,
        proxies: TrustedProxies,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let max_per_address = limits.and_then(|limits| limits.connections.get().try_into().ok());
        Arc::new(Self { max_per_address, proxies, metrics, open: Mutex::default() })
    }

    /// Admits a new connection, or closes it if its address has too many. Behind a balancer that
    /// sends PROXY headers this is the address of the client.
    pub fn admit(self: &Arc<Self>, io: &dyn Any, data: &mut Extensions) {
        let Some((stream, peer)) = tcp_stream(io) else { return };
        // A second handle, because actix owns the first one. Without it the server could not
        // close a silent connection, so it closes this one if no more files can be opened.
        let Ok(handle) = stream.as_fd().try_clone_to_owned().map(TcpStream::from) else {
            tracing::warn!("connection closed: no more files can be opened");
            let _ = SockRef::from(stream).shutdown(Shutdown::Both);
            return;
        };
        let ip = peer.ip().to_canonical();
        let address = subnet_key(ip);
        let mut open = self.open();
        let count = open.by_address.entry(address).or_default();
        if self.max_per_address.is_some_and(|max| *count >= max) && !self.proxies.contains(ip) {
            drop(open);
            self.metrics.record_rate_limit(TOO_MANY_CONNECTIONS);
            tracing::debug!(%ip, "connection closed: too many from its address");
            let _ = handle.shutdown(Shutdown::Both);
            return;
        }
        *count += 1;
        open.last_id += 1;
        let id = open.last_id;
        open.idle.insert(id, Idle { stream: handle, ticks: 0 });
        drop(open);
        let connections = self.clone();
        data.insert(Connection { connections, address, id, is_idle: AtomicBool::new(true) });
    }

    /// Closes connections without a request. Never returns.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.tick();
        }
    }

    fn tick(&self) {
        let mut open = self.open();
        let closed = open.idle.extract_if(|_, idle| {
            idle.ticks += 1;
            idle.ticks > MAX_IDLE_TICKS
        });
        let closed: Vec<Idle> = closed.map(|(_, idle)| idle).collect();
        drop(open);
        if !closed.is_empty() {
            tracing::debug!(connections = closed.len(), "connections closed: no request arrived");
        }
        for idle in closed {
            let _ = idle.stream.shutdown(Shutdown::Both);
        }
    }

    /// Ignores poisoning: no holder of the lock can panic during a change.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Records that a request has arrived.
    pub fn has_request(&self) {
        if self.is_idle.load(Ordering::Relaxed) && self.is_idle.swap(false, Ordering::Relaxed) {
            self.connections.open().idle.remove(&self.id);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.idle.remove(&self.id);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// Returns the TCP connection, with or without TLS above it, and the address of its client.
fn tcp_stream(io: &dyn Any) -> Option<(&net::TcpStream, SocketAddr)> {
    let tls = io.downcast_ref::<TlsStream<net::TcpStream>>().map(|tls| tls.get_ref());
    if let Some(stream) = tls.or_else(|| io.downcast_ref()) {
        return Some((stream, stream.peer_addr().ok()?));
    }
    let tls = io.downcast_ref::<TlsStream<ProxiedStream>>().map(|tls| tls.get_ref());
    let proxied = tls.or_else(|| io.downcast_ref::<ProxiedStream>())?;
    Some((proxied.tcp(), proxied.client()))
}
