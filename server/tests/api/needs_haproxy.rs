//! Two servers behind `HAProxy`, with the configurations of the documentation.
//! `scripts/test` selects the tests by this module's name.

use matchbook_testkit::TestEnv;

use crate::balancing::{self, Ports, with_ports};
use crate::protected_app::Proxy;

/// Starts `HAProxy` with an example, without TLS.
fn start(world: &TestEnv, example: &str, ports: &Ports) -> Proxy {
    let bind = format!("bind 127.0.0.1:{}", ports.balancer);
    // The limit of open files may be low where the test runs.
    let example = example.replace("maxconn 20000", "maxconn 200");
    let config: String =
        with_ports(&example, ports)
            .lines()
            // The health check of an example trusts a CA.
            .filter(|line| !line.contains("check-ssl"))
            .map(|line| {
                if line.contains("bind :443") { format!("  {bind}\n") } else { format!("{line}\n") }
            })
            .collect();
    let file = world.folder().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let programs = ["/usr/local/sbin/haproxy", "/usr/sbin/haproxy", "haproxy"];
    Proxy::start(&programs, &["-db", "-f", file.to_str().unwrap()], ports.balancer)
}

#[actix_rt::test]
#[ignore = "needs HAProxy: make test"]
async fn servers_behind_haproxy_are_restarted_without_a_failed_request() {
    let example = include_str!("../../../docs/examples/balancing/haproxy.cfg");
    balancing::check(|launch| launch, |world, ports| start(world, example, ports)).await;
}

#[actix_rt::test]
#[ignore = "needs HAProxy: make test"]
async fn servers_behind_haproxy_with_proxy_headers_are_restarted_without_a_failed_request() {
    let example = include_str!("../../../docs/examples/balancing/haproxy-tcp.cfg");
    let settings =
        |launch: matchbook_testkit::ProcessBuilder| launch.set("server.proxy_protocol", "true");
    balancing::check(settings, |world, ports| start(world, example, ports)).await;
}
