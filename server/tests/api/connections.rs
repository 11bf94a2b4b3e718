//! Connections without requests, and too many connections.

use std::fs::Permissions;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use matchbook_testkit::{Process, TestEnv};

use crate::support::{binary, eventually, http};

/// Timeout for operations that must end.
const TIMEOUT: Duration = Duration::from_secs(60);

fn address(process: &Process) -> String {
    process.url().rsplit('/').next().unwrap().to_owned()
}

fn silent(process: &Process) -> TcpStream {
    let stream = TcpStream::connect(address(process)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}

/// Writes a script that starts the server with the limits of `ulimit ARGUMENTS`. The limit
/// of the test's own process would apply to the other tests as well.
fn with_file_limit(world: &TestEnv, arguments: &str) -> PathBuf {
    let script = world.folder().join("server.sh");
    let text = format!("#!/bin/sh\nulimit {arguments}\nexec {} \"$@\"\n", binary().display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    script
}

#[actix_rt::test]
async fn silent_connections_beyond_the_default_file_limit_block_no_client() {
    let world = TestEnv::new();
    // The usual soft limit, which the server has to raise.
    let script = with_file_limit(&world, "-S -n 1024");
    let process = world.server(&script).start();
    let silent: Vec<_> = (0..1200).map(|_| silent(&process)).collect();
    let http = http(&world, &process);
    let live = actix_rt::time::timeout(TIMEOUT, http.get("/health/live")).await.unwrap();
    assert_eq!(live.status, 200);
    drop(silent);
}

#[actix_rt::test]
async fn silent_connections_are_closed_and_others_served_at_the_file_limit() {
    let world = TestEnv::new();
    // The soft and the hard limit, so that the server cannot raise them.
    let script = with_file_limit(&world, "-n 1024");
    let process = world.server(&script).set("tls.mode", "off").start();
    let mut silent: Vec<_> = (0..1200).map(|_| silent(&process)).collect();
    let http = http(&world, &process);
    let live = actix_rt::time::timeout(TIMEOUT, http.get("/health/live")).await.unwrap();
    assert_eq!(live.status, 200);
    // Further connections wait to be accepted.
    let closed = |silent: &mut Vec<TcpStream>| {
        silent.retain_mut(|one| !is_closed(one));
        silent.len() < 800
    };
    eventually(true, async || closed(&mut silent)).await;
}

#[actix_rt::test]
async fn connections_per_address_are_limited_and_silent_ones_closed() {
    let world = TestEnv::new();
    let launch = world.server(binary()).set("tls.mode", "off");
    let launch = launch.set("limits.enabled", "true").set("limits.connections", "20");
    let process = launch.set("log.level", "debug").start();
    let mut streams: Vec<_> = (0..30).map(|_| silent(&process)).collect();
    let closed = async |streams: &mut Vec<TcpStream>| {
        streams.retain_mut(|stream| !is_closed(stream));
        30 - streams.len()
    };
    eventually(10, async || closed(&mut streams).await).await;
    eventually(30, async || closed(&mut streams).await).await;
    // Not closed by actix, which waits twice as long for a request.
    process.await_log("connections closed: no request arrived");
    assert_eq!(http(&world, &process).get("/health/live").await.status, 200);
}

#[actix_rt::test]
async fn trusted_proxy_is_exempt_from_the_connection_limit() {
    let world = TestEnv::new();
    let launch = world.server(binary()).set("tls.mode", "off").set("limits.enabled", "true");
    let launch = launch.set("limits.connections", "2");
    let process = launch.set("server.trusted_proxies", "127.0.0.1").start();
    let mut streams: Vec<_> = (0..10).map(|_| silent(&process)).collect();
    assert_eq!(http(&world, &process).get("/health/live").await.status, 200);
    assert!(!streams.iter_mut().any(is_closed));
}

#[actix_rt::test]
async fn request_received_while_the_process_is_stopped_is_served() {
    let world = TestEnv::new();
    let process = world.server(binary()).set("tls.mode", "off").start();
    let mut client = silent(&process);
    // Both connections are accepted first.
    assert_eq!(http(&world, &process).get("/health/live").await.status, 200);
    process.pause();
    client.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    actix_rt::time::sleep(Duration::from_secs(7)).await;
    process.resume();
    let mut head = [0; 15];
    client.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
}
