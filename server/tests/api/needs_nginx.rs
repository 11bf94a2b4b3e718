//! nginx with the configurations of the documentation: forward authentication, and two servers
//! behind it.
//! `scripts/test` selects the tests by this module's name.

use matchbook_testkit::{TestEnv, is_root};

use crate::balancing::{self, with_ports};
use crate::protected_app::{Proxy, check};

/// Starts nginx with the content of the block `http`.
fn start(world: &TestEnv, servers: &str, port: u16) -> Proxy {
    let folder = world.folder().display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/nginx-{kind}; "))
        .concat();
    // Without this, nginx would switch to a user that cannot enter the directory.
    let user = if is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; master_process off; {user} worker_processes 1; error_log stderr warn; pid \
         {folder}/nginx.pid; events {{}} http {{ access_log off; {temporary}\n{servers} }}"
    );
    let file = world.folder().join("nginx.conf");
    std::fs::write(&file, &config).unwrap();
    let programs = ["/usr/local/sbin/nginx", "/usr/sbin/nginx", "nginx"];
    let file = file.to_str().unwrap().to_owned();
    Proxy::start(&programs, &["-c", &file, "-e", "stderr"], port)
}

/// Returns an example without TLS, on this port.
fn without_tls(example: &str, port: u16) -> String {
    let example = example.replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"));
    let lines = example.lines().filter(|line| !line.contains("ssl_certificate"));
    lines.collect::<Vec<_>>().join("\n")
}

#[actix_rt::test]
#[ignore = "needs nginx: make test"]
async fn servers_behind_nginx_are_restarted_without_a_failed_request() {
    let example = include_str!("../../../docs/examples/balancing/nginx.conf");
    let start = |world: &TestEnv, ports: &balancing::Ports| {
        let servers = without_tls(&with_ports(example, ports), ports.balancer);
        start(world, &servers, ports.balancer)
    };
    balancing::check(|launch| launch, start).await;
}

#[actix_rt::test]
#[ignore = "needs nginx: make test"]
async fn nginx_protects_an_application() {
    check(async |world, ports| {
        let example = include_str!("../../../docs/examples/forward-auth/nginx.conf");
        let servers = without_tls(example, ports.proxy)
            .replace("127.0.0.1:5001", &format!("127.0.0.1:{}", ports.matchbook))
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", ports.app))
            // The test speaks HTTP.
            .replace("$scheme://", "https://");
        start(world, &servers, ports.proxy)
    })
    .await;
}
