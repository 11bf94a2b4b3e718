//! A TCP relay that can be cut: a database or Redis that is away, and comes
//! back, for one server alone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Relays connections to an address until it is cut.
pub struct TcpProxy {
    address: SocketAddr,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    target: String,
    cut: bool,
    losing: Option<String>,
    streams: Vec<TcpStream>,
}

impl TcpProxy {
    /// A relay on a free port to `target`, like `127.0.0.1:5432`.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Open { target: target.to_owned(), ..Open::default() };
        let open = Arc::new(Mutex::new(open));
        let shared = open.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut open = shared.lock().unwrap();
                if open.cut {
                    continue;
                }
                let Ok(far) = TcpStream::connect(&open.target) else { continue };
                open.streams.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                // Whether the answers on this connection are lost.
                let lost = Arc::new(AtomicBool::new(false));
                let (is_lost, rules) = (lost.clone(), shared.clone());
                let note = move |request: &[u8]| {
                    if let Some(text) = &rules.lock().unwrap().losing {
                        let asked = String::from_utf8_lossy(request).contains(text);
                        is_lost.fetch_or(asked, Ordering::SeqCst);
                    }
                    true
                };
                thread::spawn(move || copy(near, far, note));
                thread::spawn(move || copy(far_back, near_back, |_| !lost.load(Ordering::SeqCst)));
            }
        });
        Self { address, open }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes what is open and refuses what comes, until it is mended.
    pub fn cut(&self) {
        let mut open = self.open.lock().unwrap();
        open.cut = true;
        for stream in open.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Leads new connections to another target; those that are open stay.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.open.lock().unwrap().target);
    }

    /// Loses the answer to what is asked with this text in it, and all after
    /// it on that connection, until it is mended. The connection must be plain.
    pub fn lose_responses_to(&self, text: &str) {
        self.open.lock().unwrap().losing = Some(text.to_owned());
    }

    /// Relays again.
    pub fn mend(&self) {
        let mut open = self.open.lock().unwrap();
        open.cut = false;
        open.losing = None;
    }
}

/// Copies what `passes` lets through.
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
