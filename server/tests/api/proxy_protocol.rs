//! A balancer names the addresses of clients in PROXY headers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use matchbook_testkit::{Process, ProcessBuilder, TestEnv};
use openssl::ssl::{SslConnector, SslMethod};

use crate::support::binary;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHER_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The header of a balancer's own connection (the command LOCAL).
fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// The header of a connection from a client, with additional fields.
fn header(client: Ipv4Addr, fields: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + fields.len()).unwrap().to_be_bytes();
    let ports = [0x12, 0x67, 0x01, 0xBB];
    let addresses = [client.octets(), [10, 0, 0, 1], ports].concat();
    [SIGNATURE, &[0x21, 0x11], &length, &addresses, fields].concat()
}

fn start(world: &TestEnv, settings: &[(&str, &str)]) -> Process {
    let set = |launch: ProcessBuilder, (key, value): &(&str, &str)| launch.set(key, value);
    let launch = world.server(binary()).set("server.proxy_protocol", "true");
    let launch = launch.set("tls.mode", "off").set("server.trusted_proxies", "127.0.0.1");
    settings.iter().fold(launch, set).start()
}

fn connect(process: &Process) -> TcpStream {
    let stream = TcpStream::connect(process.url().rsplit('/').next().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Returns a request whose response ends its connection.
fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
}

/// Reads to the end of a connection. Returns an empty text if it was closed or reset.
fn read(mut stream: impl Read) -> String {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(received).unwrap(),
    }
}

/// Sends bytes on a new connection and reads to its end.
fn exchange(process: &Process, sent: &[u8]) -> String {
    let mut stream = connect(process);
    stream.write_all(sent).unwrap();
    read(stream)
}

/// Sends `GET path` with a header. Returns the status and the body of the response.
fn ask(process: &Process, header: &[u8], path: &str, headers: &str) -> (u16, String) {
    let response = exchange(process, &[header, get(path, headers).as_bytes()].concat());
    status_and_body(&response)
}

fn status_and_body(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("no response: {response:?}"));
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn client_in_the_header_is_limited_and_recorded() {
    let world = TestEnv::new();
    let limits = [("limits.enabled", "true"), ("limits.register", "1"), ("log.level", "debug")];
    let process = start(&world, &limits);
    let from =
        |client, path: &str, headers: &str| ask(&process, &header(client, &[]), path, headers);
    let (status, guest) = from(CLIENT, "/register", "");
    assert_eq!(status, 200, "{guest}");
    assert_eq!(from(CLIENT, "/register", "").0, 429);
    assert_eq!(from(CLIENT, "/register", "X-Forwarded-For: 192.0.2.99\r\n").0, 429, "no disguise");
    assert_eq!(from(OTHER_CLIENT, "/register", "").0, 200);

    let path = format!("/token?userId={}", guest.trim_matches('"'));
    let (status, tokens) = from(CLIENT, &path, "");
    assert_eq!(status, 200, "{tokens}");
    let tokens: serde_json::Value = serde_json::from_str(&tokens).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", tokens["token"].as_str().unwrap());
    let (_, sessions) = from(OTHER_CLIENT, "/sessions", &bearer);
    let sessions: serde_json::Value = serde_json::from_str(&sessions).unwrap();
    assert_eq!(sessions[0]["ip"], CLIENT.to_string(), "{sessions}");
    assert!(process.logged("192.0.2.7") > 0, "{}", process.log());
}

#[test]
fn header_precedes_the_tls_handshake() {
    let world = TestEnv::new();
    let process = start(&world, &[("tls.mode", "self-signed")]);
    let mut tls = SslConnector::builder(SslMethod::tls_client()).unwrap();
    tls.set_ca_file(world.folder().join("data/tls/ca.pem")).unwrap();
    let tls = tls.build();
    let ask = |path: &str, headers: &str| {
        let mut stream = connect(&process);
        stream.write_all(&header(CLIENT, &[])).unwrap();
        let mut stream = tls.connect("localhost", stream).unwrap();
        stream.write_all(get(path, headers).as_bytes()).unwrap();
        status_and_body(&read(stream))
    };
    let (_, guest) = ask("/register", "");
    let (_, tokens) = ask(&format!("/token?userId={}", guest.trim_matches('"')), "");
    let tokens: serde_json::Value = serde_json::from_str(&tokens).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", tokens["token"].as_str().unwrap());
    let (status, sessions) = ask("/sessions", &bearer);
    assert!(status == 200 && sessions.contains("\"192.0.2.7\""), "{sessions}");
}

#[test]
fn connection_of_the_balancer_itself_and_additional_fields_are_accepted() {
    let world = TestEnv::new();
    let process = start(&world, &[("limits.enabled", "true"), ("limits.ready", "1")]);
    for _ in 0..3 {
        assert_eq!(ask(&process, &local(), "/health/serving", "").0, 200);
    }
    let fields = [0x04, 0, 2, 9, 9, 0xE0, 0, 3, 1, 2, 3];
    assert_eq!(ask(&process, &header(CLIENT, &fields), "/health/live", "").0, 200);
}

#[test]
fn health_command_sends_a_header_of_its_own() {
    for mode in ["off", "self-signed"] {
        let world = TestEnv::new();
        let settings = [("tls.mode", mode), ("server.trusted_proxies", "192.0.2.1")];
        let process = start(&world, &settings);
        let address = process.url().rsplit('/').next().unwrap().to_owned();
        let set = |launch: ProcessBuilder, (key, value): &(&str, &str)| launch.set(key, value);
        let command = settings.iter().fold(world.server(binary()), set);
        let command = command.set("server.address", &address);
        let output = command.clone().set("server.proxy_protocol", "true").run(&["health"]);
        assert!(output.status.success(), "{output:?}");
        assert!(!command.run(&["health"]).status.success(), "without a header");
    }
}

#[test]
fn header_may_arrive_in_parts() {
    let world = TestEnv::new();
    let process = start(&world, &[]);
    let mut stream = connect(&process);
    stream.set_nodelay(true).unwrap();
    let sent = [header(CLIENT, &[]), get("/health/live", "").into_bytes()].concat();
    for part in sent.chunks(7) {
        stream.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status_and_body(&read(stream)).0, 200);
}

#[test]
fn connection_without_a_valid_header_is_closed() {
    let world = TestEnv::new();
    let process = start(&world, &[("log.level", "debug")]);
    let request = get("/health/live", "");
    let version_1 = format!("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n{request}");
    let mut too_long = header(CLIENT, &[]);
    too_long[14..16].copy_from_slice(&[0xFF, 0xFF]);
    for sent in [request.as_bytes(), version_1.as_bytes(), &too_long] {
        assert_eq!(exchange(&process, sent), "", "{sent:?}");
    }
    // No header at all: closed after some seconds.
    assert_eq!(read(connect(&process)), "");
    for reason in
        ["no PROXY header of version 2", "is longer than 2048 bytes", "header arrived within"]
    {
        process.await_log(reason);
    }
    assert_eq!(ask(&process, &local(), "/health/live", "").0, 200);
}

#[test]
fn header_from_an_untrusted_peer_is_rejected() {
    let world = TestEnv::new();
    let process = start(&world, &[("server.trusted_proxies", "192.0.2.1"), ("log.level", "debug")]);
    let sent = [header(CLIENT, &[]), get("/health/live", "").into_bytes()].concat();
    assert_eq!(exchange(&process, &sent), "");
    process.await_log("its peer is not in `server.trusted_proxies`");
}

#[test]
fn connections_are_limited_by_the_address_of_the_client() {
    let world = TestEnv::new();
    let limits = [("limits.enabled", "true"), ("limits.connections", "2"), ("log.level", "debug")];
    let process = start(&world, &limits);
    let open = |client| {
        let mut stream = connect(&process);
        let request = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(&[&header(client, &[]), request.as_bytes()].concat()).unwrap();
        let mut first = [0; 12];
        let read = stream.read_exact(&mut first).map(|()| first.ends_with(b"200"));
        (stream, read.unwrap_or(false))
    };
    let first = open(CLIENT);
    let second = open(CLIENT);
    assert!(first.1 && second.1);
    assert!(!open(CLIENT).1, "a third connection");
    assert!(open(OTHER_CLIENT).1, "of another client");
    process.await_log("too many from its address");
    drop(first);
    let again = || open(CLIENT).1;
    let free = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        again()
    });
    assert!(free, "a closed connection does not count");
}
