//! A TCP proxy that can be cut. It makes a database or Redis unavailable for one server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards connections to an address until it is cut.
pub struct TcpProxy {
    address: SocketAddr,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    target: String,
    cut: bool,
    dropped_request: Option<String>,
    streams: Vec<TcpStream>,
}

impl TcpProxy {
    /// Starts a proxy to `target`, like `127.0.0.1:5432`, on a free port.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Open { target: target.to_owned(), ..Open::default() };
        let open = Arc::new(Mutex::new(open));
        let shared = open.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut open = shared.lock().unwrap();
                if open.cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&open.target) else { continue };
                open.streams.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let response_from = server.try_clone().unwrap();
                let response_to = client.try_clone().unwrap();
                // Whether the responses on this connection are dropped.
                let dropping = Arc::new(AtomicBool::new(false));
                let drop_responses = dropping.clone();
                let rules = shared.clone();
                let inspect = move |request: &[u8]| {
                    if let Some(text) = &rules.lock().unwrap().dropped_request {
                        let matches = String::from_utf8_lossy(request).contains(text);
                        drop_responses.fetch_or(matches, Ordering::SeqCst);
                    }
                    true
                };
                thread::spawn(move || copy(client, server, inspect));
                thread::spawn(move || {
                    copy(response_from, response_to, |_| !dropping.load(Ordering::SeqCst));
                });
            }
        });
        Self { address, open }
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and rejects new ones, until [`Self::mend`].
    pub fn cut(&self) {
        let mut open = self.open.lock().unwrap();
        open.cut = true;
        for stream in open.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Forwards new connections to another target. Open connections stay.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.open.lock().unwrap().target);
    }

    /// Drops the response to a request that contains this text, and all later ones on its
    /// connection, until [`Self::mend`]. The connection must not use TLS.
    pub fn lose_responses_to(&self, text: &str) {
        self.open.lock().unwrap().dropped_request = Some(text.to_owned());
    }

    /// Forwards connections and responses again.
    pub fn mend(&self) {
        let mut open = self.open.lock().unwrap();
        open.cut = false;
        open.dropped_request = None;
    }
}

/// Copies the data for which `passes` returns true.
fn copy(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !passes(&buffer[..read]) {
            continue;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
