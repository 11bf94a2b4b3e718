//! The delivery of mails: retries, TLS, rejections.

use std::path::{Path, PathBuf};
use std::process::Command;

use matchbook_testkit::{SmtpServer, free_port};
use serde_json::json;

use super::{SENDER, assert_not_logged, server_with};
use crate::support::Server;

const PASSWORD: &str = "violet tractor seven hums";

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn temporary_rejection_is_retried_and_a_permanent_one_is_logged() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register("later@example.com", PASSWORD).await;
    server.register("unknown@example.com", PASSWORD).await;
    let failed = server.process.await_log("mail not sent kind=\"verification\"");
    assert!(failed.contains("no such mailbox here"), "{failed}");
    smtp.await_mail("later@example.com", 1);
    assert_eq!(server.process.logged("mail not sent, retrying"), 1);
    assert_not_logged(&server, &[]);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn link_that_the_smtp_server_repeats_is_not_logged() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register("echo@example.com", PASSWORD).await;
    let failed = server.process.await_log("mail not sent");
    assert!(failed.contains("[secret]"), "{failed}");
    assert_not_logged(&server, &[]);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn unreachable_smtp_server_is_logged_and_stops_nothing() {
    let url = format!("smtp://user:hush-hush@localhost:{}", free_port());
    let server =
        Server::with(|launch| launch.set("smtp.url", &url).set("mail.from", "auth@example.com"));
    let logged = server.process.await_log("smtp server unavailable");
    assert!(!logged.contains("hush-hush"), "{logged}");
    server.register("ann", PASSWORD).await;
    server.log_in_as("ann", PASSWORD).await;
    server.register("ann@example.com", PASSWORD).await;
    server.process.await_log("mail not sent, retrying");
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn mail_is_sent_over_starttls_and_smtps_with_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate_for_localhost(folder.path());
    for (scheme, parameter) in [("smtp", "?tls=required"), ("smtps", "")] {
        let smtp = SmtpServer::with(&json!({
            "certificate": certificate, "key": key, "smtps": scheme == "smtps",
            "user": "us@er", "password": "p/w hush",
        }));
        let port = smtp.port();
        let url = format!("{scheme}://us%40er:p%2Fw%20hush@localhost:{port}{parameter}");
        let start = |ca: &str| {
            Server::with(|launch| {
                let launch = launch.set("smtp.url", &url).set("mail.from", SENDER);
                launch.set("smtp.ca_file", ca)
            })
        };
        let server = start(certificate.to_str().unwrap());
        server.process.await_log("smtp server connected");
        server.register("ann@example.com", PASSWORD).await;
        let mail = smtp.await_mail("ann@example.com", 1);
        let expected = (&json!(true), &json!("us@er"));
        assert_eq!((&mail.0["tls"], &mail.0["user"]), expected, "{scheme}");
        assert_not_logged(&server, &["hush"]);

        let server = start("system");
        let logged = server.process.await_log("smtp server unavailable");
        assert!(logged.contains("certificate"), "{scheme}: {logged}");
        server.register("bob@example.com", PASSWORD).await;
        server.process.await_log("mail not sent");
        assert!(smtp.mails("bob@example.com").is_empty(), "{scheme}: nothing is sent");
    }
}

/// Creates a certificate and its key.
fn certificate_for_localhost(folder: &Path) -> (PathBuf, PathBuf) {
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| folder.join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=smtp"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn smtp_server_without_starttls_gets_nothing() {
    let smtp = SmtpServer::new();
    let url = format!("{}?tls=required", smtp.url());
    let server = Server::with(|launch| launch.set("smtp.url", &url).set("mail.from", SENDER));
    server.process.await_log("smtp server unavailable");
    server.register("ann@example.com", PASSWORD).await;
    server.process.await_log("mail not sent");
    assert!(smtp.mails("ann@example.com").is_empty());
}
