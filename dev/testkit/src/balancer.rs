//! A load balancer in front of servers.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::free_port;
use crate::process::Running;
use crate::programs::program;

/// The program `haproxy`, which sends each request to one of several servers that is ready, and repeats it
/// at another one if the server was stopped meanwhile. Dropping this stops it.
pub struct Balancer {
    port: u16,
    _running: Running,
    _folder: TempDir,
}

impl Balancer {
    /// Starts it in front of servers at these addresses (`host:port`).
    pub fn of(servers: &[String]) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, settings(port, servers)).unwrap();
        let program = program("haproxy");
        let program = program.expect("haproxy is not installed (Debian: apt-get install haproxy)");
        let mut command = Command::new(program);
        command.arg("-f").arg(&file);
        let running = Running::start(command);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { port, _running: running, _folder: folder }
    }

    /// Returns its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn settings(port: u16, servers: &[String]) -> String {
    let mut text = format!(
        "defaults\n\
         \x20 mode http\n\
         \x20 timeout connect 1s\n\
         \x20 timeout client 30s\n\
         \x20 timeout server 30s\n\
         \x20 timeout check 1s\n\
         frontend clients\n\
         \x20 bind 127.0.0.1:{port}\n\
         \x20 default_backend matchbook\n\
         backend matchbook\n\
         \x20 balance roundrobin\n\
         \x20 option httpchk GET /health/ready\n\
         \x20 option redispatch 1\n\
         \x20 retries 3\n\
         \x20 retry-on conn-failure empty-response\n\
         \x20 default-server check inter 200ms fall 2 rise 1\n"
    );
    for (i, server) in servers.iter().enumerate() {
        let _ = writeln!(text, "  server server{} {server}", i + 1);
    }
    text
}
