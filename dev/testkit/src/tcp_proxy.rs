//! A TCP proxy that can be disconnected, which makes a database or Redis unavailable for one
//! server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards connections to an address until it is disconnected.
pub struct TcpProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    target: String,
    disconnected: bool,
    dropped_request: Option<String>,
    streams: Vec<TcpStream>,
}

impl TcpProxy {
    /// Starts a proxy to `target`, like `127.0.0.1:5432`, on a free port.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { target: target.to_owned(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().unwrap();
                if state.disconnected {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&state.target) else { continue };
                state.streams.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
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
        Self { address, state }
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and rejects new ones, until [`Self::restore`].
    pub fn disconnect(&self) {
        let mut state = self.state.lock().unwrap();
        state.disconnected = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Forwards new connections to another target. Open connections stay.
    pub fn forward_to(&self, target: &str) {
        target.clone_into(&mut self.state.lock().unwrap().target);
    }

    /// Drops the response to a request that contains this text, and all later ones on its
    /// connection, until [`Self::restore`]. The connection must not use TLS.
    pub fn drop_responses_to(&self, text: &str) {
        self.state.lock().unwrap().dropped_request = Some(text.to_owned());
    }

    /// Forwards connections and responses again.
    pub fn restore(&self) {
        let mut state = self.state.lock().unwrap();
        state.disconnected = false;
        state.dropped_request = None;
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
