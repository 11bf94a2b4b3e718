//! Start and stop of the app: settings, trusted CAs, signals, graceful shutdown.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use matchbook_testkit::{Http, TestEnv};

use super::support::{Browser, Setup, authority, client, server_binary};

#[actix_rt::test]
async fn a_server_with_an_untrusted_certificate_is_rejected() {
    let setup = Setup::start(|server| server);
    let other_env = TestEnv::new();
    let other_server = other_env.server(&server_binary()).start();
    let app = client(&setup.env, other_server.url()).start();
    let response = Http::new(app.url(), None).get("/login").await;
    assert_eq!(response.status, 502);
    assert!(response.text.contains("certificate"), "{}", response.text);
    assert_eq!(other_server.logged("session opened"), 0);
}

#[actix_rt::test]
async fn the_app_does_not_start_without_a_ca_file() {
    let env = TestEnv::new();
    let output = client(&env, "https://localhost:5001").run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains("`server.ca_file`: the CA file data/tls/ca.pem cannot be read"),
        "{error}"
    );
    assert!(error.contains("start the server first"), "{error}");
}

#[actix_rt::test]
async fn an_unusable_ca_file_is_reported_with_the_reason() {
    let env = TestEnv::new();
    let truncated = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    for (text, reason) in [
        ("", "ca.pem holds no certificate in PEM"),
        ("nothing of the kind", "ca.pem holds no certificate in PEM"),
        (truncated, "ca.pem holds a certificate that cannot be parsed"),
    ] {
        std::fs::write(env.folder().join("ca.pem"), text).unwrap();
        let builder = client(&env, "https://localhost:5001").set("server.ca_file", "ca.pem");
        for arguments in [&[][..], &["login"], &["info"]] {
            let output = builder.run(arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && error.contains("`server.ca_file`"), "{error}");
            assert!(error.contains(reason) && !error.contains("error:"), "{error}");
        }
    }
}

#[actix_rt::test]
async fn plain_http_and_the_system_cas_need_no_ca_file() {
    let env = TestEnv::new();
    let server = env.server(&server_binary()).set("tls.mode", "off").start();
    let app = client(&env, server.url()).start();
    assert_eq!(Http::new(app.url(), None).get("/login").await.status, 200);
    for command in ["login", "info", "logout"] {
        let output = client(&env, server.url()).run(&[command]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let public = client(&env, "https://localhost:1").set("server.ca_file", "system");
    assert!(public.start().url().starts_with("http://"));
}

#[actix_rt::test]
async fn a_variable_similar_to_a_setting_is_reported() {
    let env = TestEnv::new();
    let builder = client(&env, "http://localhost:1")
        .variable("MATCHBOOK_CLIENT_SERVER_TIMEOUT", "1s")
        .variable("MATCHBOOK__TOKENS__ISSUER", "https://localhost");
    let hint = "did you mean MATCHBOOK_CLIENT__SERVER__TIMEOUT?";
    let checked = builder.run(&["check-config"]);
    let error = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success() && error.contains(hint), "{error}");
    assert!(!error.contains("ISSUER"), "{error}");
    let info = String::from_utf8(builder.run(&["info"]).stderr).unwrap();
    assert!(info.contains(hint), "{info}");
    builder.start().await_log(hint);
}

#[actix_rt::test]
async fn the_health_command_reports_whether_the_app_is_running() {
    let mut setup = Setup::start(|server| server);
    let address = authority(setup.client.url());
    let command = client(&setup.env, setup.server.url()).set("client.address", &address);
    assert!(command.run(&["health"]).status.success());
    assert_eq!(setup.client.stop().code(), Some(0));
    assert!(!command.run(&["health"]).status.success());
}

#[actix_rt::test]
async fn shutdown_does_not_wait_for_open_pages() {
    let mut setup = Setup::start(|server| server);
    let browser = Browser::open(&setup.client).await;
    let mut events = browser.events().await;
    events.state().await;
    let stopping = Instant::now();
    assert!(setup.client.stop().success());
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
    assert_eq!(events.next().await, None, "the stream ended gracefully");
}

#[actix_rt::test]
async fn shutdown_does_not_wait_long_for_a_missing_response() {
    let env = TestEnv::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let file = env.folder().join("matchbook-client.toml");
    std::fs::write(file, "[server]\nca_file = ''\ntimeout = '60s'").unwrap();
    let mut app = client(&env, &url).start();
    let connection = std::net::TcpStream::connect(app.url().trim_start_matches("http://")).unwrap();
    let request = "GET /login HTTP/1.1\r\nhost: localhost\r\n\r\n";
    std::io::Write::write_all(&mut &connection, request.as_bytes()).unwrap();
    let accepted = silent.accept().unwrap();
    let stopping = Instant::now();
    assert!(app.stop().success());
    assert!(stopping.elapsed() < Duration::from_secs(15), "{:?}", stopping.elapsed());
    drop(accepted);
}

#[actix_rt::test]
async fn sighup_does_not_end_the_app() {
    let env = TestEnv::new();
    let app = client(&env, "http://localhost:1").start();
    let hangup = Command::new("kill").args(["-HUP", &app.id().to_string()]).status();
    assert!(hangup.unwrap().success());
    app.await_log("SIGHUP ignored");
    assert_eq!(Http::new(app.url(), None).get("/health/live").await.status, 200);
}
