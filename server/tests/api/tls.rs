//! HTTPS by default; verification never off.

use std::path::Path;
use std::process::Command;

use matchbook_bench::{Http, World};

use crate::support::{Server, binary};

#[actix_rt::test]
async fn the_certificate_is_good_under_the_development_ca_and_under_no_other() {
    let server = Server::with(|l| l.set("tls.names", "auth.internal, 192.0.2.7"));
    let url = server.process.url().to_owned();
    assert!(url.starts_with("https://127.0.0.1:"));
    let ca = server.world.folder().join("data/tls/ca.pem");
    assert_eq!(Http::new(&url, Some(&ca)).get("/health/live").await.status, 200);
    let by_name = url.replace("127.0.0.1", "localhost");
    assert_eq!(Http::new(&by_name, Some(&ca)).get("/health/live").await.status, 200);

    let other = Server::start();
    let foreign = other.world.folder().join("data/tls/ca.pem");
    let refused = Http::new(&url, Some(&foreign)).request("GET", "/health/live").send().await;
    assert!(refused.is_err(), "another CA does not vouch for it");

    let port = url.rsplit(':').next().unwrap();
    let shown = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-verify_return_error"])
        .args(["-CAfile", ca.to_str().unwrap(), "-verify_hostname", "auth.internal"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
}

#[actix_rt::test]
async fn the_development_ca_outlives_a_restart() {
    let mut server = Server::start();
    let ca = server.world.folder().join("data/tls/ca.pem");
    let before = std::fs::read(&ca).unwrap();
    assert!(server.process.stop().success());
    let again = Server::within(server.world, |launch| launch);
    assert_eq!(std::fs::read(&ca).unwrap(), before);
    assert_eq!(again.http.get("/health/live").await.status, 200);
}

/// Makes `NAME.pem` and `NAME.key` in the folder: a certificate for `names`.
fn make_certificate(folder: &Path, name: &str, names: &str) -> (String, String) {
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).to_str().unwrap().to_owned();
    let (certificate, key) = (path("pem"), path("key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args([
            "-addext",
            &format!("subjectAltName={names}"),
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

#[actix_rt::test]
async fn a_certificate_from_files_is_served_and_asked_after_by_its_name() {
    for names in ["DNS:auth.example,IP:127.0.0.1", "IP:127.0.0.1"] {
        let world = World::new();
        let (certificate, key) = make_certificate(world.folder(), "server", names);
        let launch = world
            .server(binary())
            .set("tls.mode", "files")
            .set("tls.certificate", &certificate)
            .set("tls.key", &key);
        let process = launch.start();
        let http = Http::new(process.url(), Some(Path::new(&certificate)));
        assert_eq!(http.get("/health/live").await.status, 200);
        let address = process.url().rsplit('/').next().unwrap();
        let health = launch.set("server.address", address).run(&["health"]);
        assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
        assert!(!world.folder().join("data/tls/ca.pem").exists(), "no CA where none is needed");
    }
}

#[actix_rt::test]
async fn a_key_that_is_missing_or_another_certificate_s_stops_the_start() {
    let world = World::new();
    let (certificate, _) = make_certificate(world.folder(), "one", "DNS:one.example");
    let (_, other) = make_certificate(world.folder(), "two", "DNS:two.example");
    for key in ["nowhere.pem", &other] {
        let output = world
            .server(binary())
            .set("tls.mode", "files")
            .set("tls.certificate", &certificate)
            .set("tls.key", key)
            .run(&[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(&format!("`tls.key`: {key}")),
            "{error}"
        );
    }
}

#[actix_rt::test]
async fn behind_a_proxy_tls_can_be_off() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    assert!(server.process.url().starts_with("http://"));
    assert_eq!(server.http.get("/health/live").await.status, 200);
    let address = server.process.url().rsplit('/').next().unwrap();
    let launch =
        server.world.server(binary()).set("tls.mode", "off").set("server.address", address);
    assert!(launch.run(&["health"]).status.success());
}
