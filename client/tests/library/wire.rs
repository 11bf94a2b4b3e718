//! A server on plain sockets, with or without TLS, whose connections follow a script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use matchbook_client::{Client, Credentials, RootCerts, Server, TokenResponse};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

/// What the server does with one request.
pub(crate) enum Do {
    /// Writes these pieces, one after another.
    Write(Vec<Vec<u8>>),
    /// Writes this, and closes the connection.
    Close(&'static str),
    /// Writes nothing, and leaves the connection open.
    Silence,
}

impl Do {
    /// Sends a response with a body.
    pub(crate) fn respond(body: &str) -> Self {
        Self::respond_with(200, "", body)
    }

    /// Sends a response with additional header lines.
    pub(crate) fn respond_with(status: u16, lines: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n{lines}\r\n");
        Self::Write(vec![(head + body).into()])
    }
}

/// Decides by the numbers of the connection and of the request on it, both from 0, and by the
/// text of the request.
type Script = dyn Fn(usize, usize, &str) -> Do + Send + Sync;

/// The server and its requests.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Wire {
    /// Starts a plain server on 127.0.0.1.
    pub(crate) fn start(script: impl Fn(usize, usize, &str) -> Do + Send + Sync + 'static) -> Self {
        Self::serve("127.0.0.1:0", None, script)
    }

    /// Starts a server on `address`, with TLS if there is an acceptor.
    pub(crate) fn serve(
        address: &str,
        tls: Option<SslAcceptor>,
        script: impl Fn(usize, usize, &str) -> Do + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let recorded = requests.clone();
        let script = Arc::new(script);
        let opened = connections.clone();
        thread::spawn(move || {
            for (connection, tcp) in listener.incoming().map_while(Result::ok).enumerate() {
                opened.fetch_add(1, Ordering::SeqCst);
                let recorded = recorded.clone();
                let script = script.clone();
                let tls = tls.clone();
                thread::spawn(move || match tls {
                    None => converse(tcp, connection, &recorded, &*script),
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(tcp) {
                            converse(stream, connection, &recorded, &*script);
                        }
                    }
                });
            }
        });
        Self { address, requests, connections }
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns the requests so far, with their bodies.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns a logged-in client of the plain server.
    pub(crate) async fn client(&self, timeout: Duration) -> Client {
        client(&format!("http://{}", self.address), &RootCerts::System, timeout).await
    }
}

/// Returns a logged-in client of the server at `url`.
pub(crate) async fn client(url: &str, roots: &RootCerts, timeout: Duration) -> Client {
    let server = Server::new(url, roots, timeout).unwrap();
    let client = Client::new(&server, Credentials::default());
    let tokens =
        TokenResponse { token: "access".into(), refresh_token: "refresh".into(), expires_in: 60 };
    client.log_in_with(tokens).await.unwrap();
    client
}

fn converse(
    mut stream: impl Read + Write,
    connection: usize,
    recorded: &Mutex<Vec<String>>,
    script: &Script,
) {
    let mut request = 0;
    while let Some(text) = read_request(&mut stream) {
        recorded.lock().unwrap().push(text.clone());
        match script(connection, request, &text) {
            Do::Write(pieces) => {
                for piece in pieces {
                    if stream.write_all(&piece).and_then(|()| stream.flush()).is_err() {
                        return;
                    }
                }
            }
            Do::Close(last) => {
                let _ = stream.write_all(last.as_bytes()).and_then(|()| stream.flush());
                return;
            }
            Do::Silence => {
                // Wait until the client closes the connection.
                while let Ok(1..) = stream.read(&mut [0; 1024]) {}
                return;
            }
        }
        request += 1;
    }
}

/// Reads a request and its body, whose length is in its head.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        text.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&text).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    text.extend(body);
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Creates a self-signed certificate for these names and addresses. Returns its PEM file and an
/// acceptor with it. `days` are the start and the end of its validity, counted from now.
pub(crate) fn certificate(
    folder: &Path,
    names: &[&str],
    days: (i64, i64),
) -> (PathBuf, SslAcceptor) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let certificate = build_certificate(&key, names, days);
    let path = folder.join("ca.pem");
    std::fs::write(&path, certificate.to_pem().unwrap()).unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&key).unwrap();
    acceptor.set_certificate(&certificate).unwrap();
    (path, acceptor.build())
}

fn build_certificate(key: &PKey<Private>, names: &[&str], days: (i64, i64)) -> X509 {
    let at = |days: i64| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        Asn1Time::from_unix(i64::try_from(now).unwrap() + days * 24 * 3600).unwrap()
    };
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "test").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&at(days.0)).unwrap();
    builder.set_not_after(&at(days.1)).unwrap();
    builder.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
    let mut subject = SubjectAlternativeName::new();
    for name in names {
        match name.parse::<std::net::IpAddr>() {
            Ok(_) => subject.ip(name),
            Err(_) => subject.dns(name),
        };
    }
    let subject = subject.build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(subject).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}
