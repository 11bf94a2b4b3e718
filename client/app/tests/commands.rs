//! The commands for a script, against a real server.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Output, Stdio};

use matchbook_testkit::{ProcessBuilder, TestEnv};

fn command(world: &TestEnv, server: &str) -> ProcessBuilder {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchbook-client"));
    ProcessBuilder::new(binary, world.folder(), "MATCHBOOK_CLIENT").set("server.url", server)
}

fn assert_says_405(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert_eq!(error, "matchbook-client: the server answers 405\n");
}

#[actix_rt::test]
async fn a_script_learns_of_a_refusal_also_where_its_body_cannot_be_printed() {
    let world = TestEnv::new();
    let server =
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")).with_file_name("matchbook-server");
    assert!(server.exists(), "build the server first: cargo build -p matchbook-server");
    let server = world.server(&server).start();
    let command = command(&world, server.url());
    assert!(command.run(&["login"]).status.success());
    let refused = ["get", "/logout"];
    assert!(!command.run(&refused).stdout.is_empty(), "there is a body to print");

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_says_405(&command.command().args(refused).stdout(full).output().unwrap());

    let mut closed = command.command();
    let mut child =
        closed.args(refused).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_says_405(&child.wait_with_output().unwrap());
}

/// The standard error of `info` with this server and these variables.
fn complaint(url: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let world = TestEnv::new();
    let mut command = command(&world, url).set("server.ca_file", "system");
    for (name, value) in variables {
        command = command.variable(name, value);
    }
    let output = command.run(&["info"]);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_url_that_is_none_is_named_with_its_setting_and_without_a_password() {
    for (url, problem) in [
        ("https://localhost:99999", "port from 1 to 65535"),
        ("https://localhost:500l", "port from 1 to 65535"),
        ("https://localhost:", "port from 1 to 65535"),
        ("localhost:5001", "`https://`"),
        ("https://[::1", "valid host"),
        ("https://[fe80::1%25eth0]", "zone"),
        ("https://user:hush@localhost", "user name"),
        ("https://user:hush@localhost:99999 ", "spaces"),
    ] {
        let (code, error) = complaint(url, &[]);
        assert_eq!(code, Some(1), "{url}: {error}");
        assert!(error.contains("`server.url`") && error.contains(problem), "{url}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn a_proxy_that_is_not_used_is_named_unless_none_is_needed() {
    let named = |url, variables: &[_]| complaint(url, variables).1.contains("without a proxy");
    let proxy = ("HTTPS_PROXY", "http://proxy.example:3128");
    assert!(named("https://0.0.0.0:1", &[proxy]));
    assert!(named("http://0.0.0.0:1", &[("ALL_PROXY", "socks5://proxy.example")]));
    assert!(!named("http://0.0.0.0:1", &[proxy]));
    assert!(!named("https://0.0.0.0:1", &[proxy, ("NO_PROXY", "example.com,0.0.0.0")]));
    assert!(!named("https://localhost:1", &[proxy]));
    let (_, error) = complaint("https://0.0.0.0:1", &[proxy]);
    assert!(error.contains("HTTPS_PROXY") && !error.contains("proxy.example"), "{error}");
}
