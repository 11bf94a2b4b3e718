//! HTTPS is the default, and clients always verify.

use std::path::Path;
use std::process::Command;

use matchbook_testkit::{Http, TestEnv};
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::X509;

use crate::support::{Server, binary};

#[actix_rt::test]
async fn certificate_is_valid_only_under_the_development_ca() {
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

/// `deny.toml` relies on this: the linked version of h2 has a known vulnerability.
#[actix_rt::test]
async fn http_2_is_not_negotiated() {
    let server = Server::start();
    let address = server.process.url().strip_prefix("https://").unwrap();
    for (offered, selected) in [("h2,http/1.1", "ALPN protocol: http/1.1"), ("h2", "No ALPN")] {
        let shown = Command::new("openssl")
            .args(["s_client", "-connect", address, "-alpn", offered])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(selected), "{offered}: {shown}");
    }
}

#[actix_rt::test]
async fn development_ca_survives_a_restart() {
    let mut server = Server::start();
    let ca = server.world.folder().join("data/tls/ca.pem");
    let before = std::fs::read(&ca).unwrap();
    assert!(server.process.stop().success());
    let again = Server::within(server.world, |launch| launch);
    assert_eq!(std::fs::read(&ca).unwrap(), before);
    assert_eq!(again.http.get("/health/live").await.status, 200);
}

/// Creates `NAME.pem` and `NAME.key` in the folder: a certificate for `names`.
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
async fn certificate_from_files_is_served_and_checked_by_name() {
    for names in ["DNS:auth.example,IP:127.0.0.1", "IP:127.0.0.1"] {
        let world = TestEnv::new();
        let (certificate, key) = make_certificate(world.folder(), "server", names);
        let launch = world
            .server(binary())
            .set("tls.mode", "files")
            .set("tls.certificate", &certificate)
            .set("tls.key", &key);
        let process = launch.start();
        let http = Http::new(process.url(), Some(Path::new(&certificate)));
        assert_eq!(http.get("/health/live").await.status, 200);
        assert_eq!(process.logged("other users"), 0, "{}", process.log());
        let address = process.url().rsplit('/').next().unwrap();
        let health = launch.set("server.address", address).run(&["health"]);
        assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
        assert!(!world.folder().join("data/tls/ca.pem").exists(), "no CA where none is needed");
    }
}

#[actix_rt::test]
async fn renewed_certificate_is_served_and_an_invalid_one_is_not() {
    let world = TestEnv::new();
    let (certificate, key) = make_certificate(world.folder(), "server", "IP:127.0.0.1");
    let old = world.folder().join("old.pem");
    std::fs::copy(&certificate, &old).unwrap();
    let launch = world.server(binary()).set("tls.mode", "files");
    let launch = launch.set("tls.certificate", &certificate).set("tls.key", &key);
    let process = launch.start();
    let trusting = |file: &Path| {
        let http = Http::new(process.url(), Some(file));
        async move { http.request("GET", "/health/live").send().await.is_ok() }
    };
    assert!(trusting(&old).await);
    // The key still belongs to the previous certificate.
    std::fs::write(&key, "no key").unwrap();
    process.send_sighup();
    process.await_log("certificate not renewed, the current one stays in use");
    assert!(trusting(&old).await);
    let (renewed, _) = make_certificate(world.folder(), "server", "IP:127.0.0.1");
    process.send_sighup();
    process.await_log("certificate renewed");
    assert!(trusting(Path::new(&renewed)).await);
    assert!(!trusting(&old).await, "the one before is not shown any more");
}

#[actix_rt::test]
async fn sighup_does_not_end_the_server() {
    let server = Server::start();
    server.process.send_sighup();
    server.process.await_log("hangup");
    assert_eq!(server.http.get("/health/live").await.status, 200);
}

#[actix_rt::test]
async fn unusable_certificate_or_key_stops_startup_with_a_sentence() {
    let world = TestEnv::new();
    let (certificate, key) = make_certificate(world.folder(), "one", "DNS:one.example");
    let (other, other_key) = make_certificate(world.folder(), "two", "DNS:two.example");
    let write = |name: &str, text: &str| {
        std::fs::write(world.folder().join(name), text).unwrap();
        name.to_owned()
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let empty = write("empty.pem", "");
    let torn = write("torn.pem", &read(&certificate).replacen("MII", "!!!", 1));
    let torn_key = write("torn.key", &read(&key).replacen("MII", "!!!", 1));
    let swapped = write("swapped.pem", &(read(&other) + &read(&certificate)));
    let locked = world.folder().join("locked.key");
    let made = Command::new("openssl")
        .args(["pkey", "-in", &key, "-aes128", "-passout", "pass:hush", "-out"])
        .arg(&locked)
        .status();
    assert!(made.unwrap().success());
    let locked = locked.to_str().unwrap();
    for (certificate, key, setting, said) in [
        ("nowhere.pem", &*key, "tls.certificate", "nowhere.pem cannot be read: No such file"),
        (&certificate, "nowhere.pem", "tls.key", "nowhere.pem cannot be read: No such file"),
        (".", &key, "tls.certificate", ". cannot be read: Is a directory"),
        (&empty, &key, "tls.certificate", "empty.pem holds no certificate in PEM"),
        (&key, &key, "tls.certificate", "holds no certificate in PEM"),
        (&torn, &key, "tls.certificate", "torn.pem holds a certificate that cannot be parsed"),
        (&certificate, &empty, "tls.key", "empty.pem holds no private key in PEM"),
        (&certificate, &certificate, "tls.key", "holds no private key in PEM"),
        (&certificate, &torn_key, "tls.key", "torn.key holds a private key that cannot be parsed"),
        (&certificate, locked, "tls.key", "holds an encrypted private key"),
        (&certificate, &other_key, "tls.key", "is not the key of the certificate in "),
        (&swapped, &key, "tls.certificate", "is number 2 in it; put that one first"),
    ] {
        let output = world
            .server(binary())
            .set("tls.mode", "files")
            .set("tls.certificate", certificate)
            .set("tls.key", key)
            .run(&[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{certificate} {key}");
        let line = error.lines().last().unwrap();
        assert!(line.starts_with(&format!("matchbook-server: `{setting}`: ")), "{error}");
        assert!(line.contains(said), "{said:?} is not in {error}");
        assert!(!error.contains("error:") && !error.contains("hush"), "{error}");
    }
}

#[actix_rt::test]
async fn expired_or_future_certificate_is_reported_at_startup() {
    let now = matchbook_server::clock::now().as_secs();
    for (from, until, said) in [
        (now - 7200, now - 3600, "certificate expired, clients reject it"),
        (now + 3600, now + 7200, "certificate not valid yet, clients reject it"),
    ] {
        let world = TestEnv::new();
        let (certificate, key) = certificate_of(from, until);
        std::fs::write(world.folder().join("server.pem"), certificate).unwrap();
        std::fs::write(world.folder().join("server.key"), key).unwrap();
        let launch = world.server(binary()).set("tls.mode", "files");
        let launch = launch.set("tls.certificate", "server.pem").set("tls.key", "server.key");
        let process = launch.start();
        process.await_log(said);
        process.await_log("private key readable by other users");
    }
}

/// A certificate for localhost that is valid from `from` until `until`, in
/// seconds since 1970, and its key.
fn certificate_of(from: i64, until: i64) -> (Vec<u8>, Vec<u8>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(until).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
}

#[actix_rt::test]
async fn tls_can_be_off_behind_a_proxy() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    assert!(server.process.url().starts_with("http://"));
    assert_eq!(server.http.get("/health/live").await.status, 200);
    let address = server.process.url().rsplit('/').next().unwrap();
    let launch =
        server.world.server(binary()).set("tls.mode", "off").set("server.address", address);
    assert!(launch.run(&["health"]).status.success());
}
