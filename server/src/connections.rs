//! Connections: how many one address may have, and which are closed because no request
//! comes on them.
//!
//! The time in which a request has to come counts only while this process runs: a
//! machine that stood still finds the requests that arrived meanwhile, and closes
//! nobody's connection.

use std::any::Any;
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_tls::accept::openssl::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net;
use socket2::SockRef;

use crate::limits::{self, network};
use crate::metrics::Metrics;
use crate::proxies::TrustedProxies;

/// How often connections without a request are looked at.
const TICK: Duration = Duration::from_millis(500);

/// After how many ticks without a request a connection is closed: five seconds. A request
/// whose head has begun has come when the head is complete.
const MAX_SILENT_TICKS: u32 = 10;

/// The connections of one server.
pub struct Connections {
    /// The most from one address, except for trusted proxies.
    per_address: Option<usize>,
    proxies: TrustedProxies,
    metrics: Arc<Metrics>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_address: HashMap<u128, usize>,
    /// Those on which no request has come yet.
    silent: HashMap<u64, Silent>,
    last: u64,
}

struct Silent {
    stream: TcpStream,
    ticks: u32,
}

/// Stands for a connection for as long as it is open.
pub struct Connection {
    connections: Arc<Connections>,
    address: u128,
    number: u64,
    is_silent: AtomicBool,
}

impl Connections {
    /// Without `limits` an address may have as many as there are.
    #[must_use]
    pub fn new(
        limits: Option<&limits::Options>,
        proxies: TrustedProxies,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let per_address = limits.and_then(|limits| limits.connections.get().try_into().ok());
        Arc::new(Self { per_address, proxies, metrics, open: Mutex::default() })
    }

    /// Takes a new connection in, or closes it where its address has too many.
    pub fn admit(self: &Arc<Self>, io: &dyn Any, data: &mut Extensions) {
        let Some(stream) = tcp_stream(io) else { return };
        let Ok(peer) = stream.peer_addr() else { return };
        // A second handle, which closes the connection whatever actix is at. Where there
        // are no more files, nothing could ever close this one.
        let Ok(handle) = stream.as_fd().try_clone_to_owned().map(TcpStream::from) else {
            tracing::warn!("connection refused: no more files can be opened");
            let _ = SockRef::from(stream).shutdown(Shutdown::Both);
            return;
        };
        let ip = peer.ip().to_canonical();
        let address = network(ip);
        let mut open = self.open();
        let count = open.by_address.entry(address).or_default();
        if self.per_address.is_some_and(|most| *count >= most) && !self.proxies.include(ip) {
            drop(open);
            self.metrics.limited("connections");
            tracing::debug!(%ip, "connection refused: its address has too many");
            let _ = handle.shutdown(Shutdown::Both);
            return;
        }
        *count += 1;
        open.last += 1;
        let number = open.last;
        open.silent.insert(number, Silent { stream: handle, ticks: 0 });
        drop(open);
        let connections = self.clone();
        data.insert(Connection { connections, address, number, is_silent: AtomicBool::new(true) });
    }

    /// Closes connections on which no request comes, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.tick();
        }
    }

    fn tick(&self) {
        let mut open = self.open();
        let closed = open.silent.extract_if(|_, silent| {
            silent.ticks += 1;
            silent.ticks > MAX_SILENT_TICKS
        });
        let closed: Vec<Silent> = closed.map(|(_, silent)| silent).collect();
        drop(open);
        if !closed.is_empty() {
            tracing::debug!(connections = closed.len(), "closed: no request came");
        }
        for silent in closed {
            let _ = silent.stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing that holds this lock can panic halfway through a change.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Notes that a request has come.
    pub fn has_request(&self) {
        if self.is_silent.load(Ordering::Relaxed) && self.is_silent.swap(false, Ordering::Relaxed) {
            self.connections.open().silent.remove(&self.number);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.silent.remove(&self.number);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// The TCP connection below, with TLS or without.
fn tcp_stream(io: &dyn Any) -> Option<&net::TcpStream> {
    let tls = io.downcast_ref::<TlsStream<net::TcpStream>>().map(|tls| tls.get_ref());
    tls.or_else(|| io.downcast_ref())
}
