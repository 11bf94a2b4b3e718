//! Errors of the commands: statuses, URLs, proxies, token files, ended sessions.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use matchbook_testkit::{ProcessBuilder, TestEnv};

use super::support::{client, server_binary};

fn server(env: &TestEnv) -> ProcessBuilder {
    env.server(&server_binary()).set("tls.mode", "off")
}

/// Returns the exit code and standard error of a command.
fn failure(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn assert_status_405(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert_eq!(error, "matchbook-client: the server returned status 405\n");
}

#[actix_rt::test]
async fn an_error_status_decides_the_exit_code_even_if_the_body_cannot_be_printed() {
    let env = TestEnv::new();
    let server = env.server(&server_binary()).start();
    let command = client(&env, server.url());
    assert!(command.run(&["login"]).status.success());
    let rejected = ["get", "/logout"];
    assert!(!command.run(&rejected).stdout.is_empty(), "the response has a body");

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_status_405(&command.command().args(rejected).stdout(full).output().unwrap());

    let mut closed = command.command();
    let mut child =
        closed.args(rejected).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_status_405(&child.wait_with_output().unwrap());
}

/// Returns the exit code and standard error of `info` with this server and these
/// variables.
fn info_error(url: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let env = TestEnv::new();
    let mut command = client(&env, url).set("server.ca_file", "system");
    for (name, value) in variables {
        command = command.variable(name, value);
    }
    let output = command.run(&["info"]);
    failure(&output)
}

#[test]
fn an_invalid_server_url_is_reported_without_its_password() {
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
        let (code, error) = info_error(url, &[]);
        assert_eq!(code, Some(1), "{url}: {error}");
        assert!(error.contains("`server.url`") && error.contains(problem), "{url}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn an_ignored_proxy_variable_is_reported() {
    let reported = |url, variables: &[_]| info_error(url, variables).1.contains("without a proxy");
    let proxy = ("HTTPS_PROXY", "http://proxy.example:3128");
    assert!(reported("https://0.0.0.0:1", &[proxy]));
    assert!(reported("http://0.0.0.0:1", &[("ALL_PROXY", "socks5://proxy.example")]));
    assert!(!reported("http://0.0.0.0:1", &[proxy]));
    assert!(!reported("https://0.0.0.0:1", &[proxy, ("NO_PROXY", "example.com,0.0.0.0")]));
    assert!(!reported("https://localhost:1", &[proxy]));
    let (_, error) = info_error("https://0.0.0.0:1", &[proxy]);
    assert!(error.contains("HTTPS_PROXY") && !error.contains("proxy.example"), "{error}");
}

#[actix_rt::test]
async fn tokens_are_in_the_state_directory_or_in_the_legacy_file() {
    let env = TestEnv::new();
    let server = server(&env).start();
    let state = env.folder().join("state");
    let home = env.folder().join("home");
    let builder = client(&env, server.url()).variable("HOME", home.to_str().unwrap());
    let in_state = builder.variable("XDG_STATE_HOME", state.to_str().unwrap());
    let path = state.join("matchbook/tokens.json");
    let (code, error) = failure(&in_state.run(&["info"]));
    assert_eq!(code, Some(3));
    assert!(error.contains(&format!("no tokens in {}", path.display())), "{error}");
    assert!(in_state.run(&["login"]).status.success());
    assert!(path.exists() && !env.folder().join("data/client").exists());

    let relative = in_state.variable("XDG_STATE_HOME", "state");
    let (_, error) = failure(&relative.run(&["info"]));
    assert!(error.contains("home/.local/state/matchbook/tokens.json"), "{error}");

    let old = env.folder().join("data/client");
    fs::create_dir_all(&old).unwrap();
    fs::rename(&path, old.join("tokens.json")).unwrap();
    assert!(relative.run(&["info"]).status.success(), "the legacy file is used");
    let (_, error) = failure(&relative.set("store.path", "elsewhere").run(&["info"]));
    assert!(error.contains("no tokens in elsewhere"), "{error}");
}

#[actix_rt::test]
async fn an_unusable_token_or_lock_file_is_reported_with_advice() {
    let env = TestEnv::new();
    let folder = env.folder();
    let server = server(&env).start();
    let builder = client(&env, server.url());
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("victim"), "").unwrap();
    symlink(folder.join("victim"), folder.join("link")).unwrap();
    symlink(folder.join("victim"), folder.join("locked.lock")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("pipe.lock")).status().unwrap().success());
    for (file, problem) in [
        ("folder", "is a folder: name a file in it"),
        ("link", "is a symbolic link: delete the link, or name the file that it points to"),
        ("locked", "locked.lock is a symbolic link: delete the link"),
        ("pipe", "pipe.lock is not a regular file: delete it"),
    ] {
        let (code, error) = failure(&builder.run(&["login", "--store", file]));
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(problem) && error.contains("`--store FILE`"), "{error}");
    }
}

#[actix_rt::test]
async fn a_command_reports_why_the_session_ended_and_suggests_no_retry_for_permanent_errors() {
    let env = TestEnv::new();
    let server = server(&env)
        .set("tokens.access_lifetime", "1s")
        .set("sessions.idle_lifetime", "2s")
        .start();
    let builder = client(&env, server.url());
    let file = env.folder().join("data/client/tokens.json");
    let run = |arguments: &[&str]| failure(&builder.run(arguments));
    assert!(builder.run(&["login"]).status.success());
    actix_rt::time::sleep(Duration::from_secs(3)).await;
    let (code, error) = run(&["info"]);
    assert_eq!(code, Some(3));
    assert!(error.contains("because it was not used for longer than"), "{error}");

    assert!(builder.run(&["login"]).status.success());
    let copy = fs::read(&file).unwrap();
    assert!(builder.run(&["logout"]).status.success());
    fs::write(&file, copy).unwrap();
    Command::new("chmod").args(["600", file.to_str().unwrap()]).status().unwrap();
    let (code, error) = run(&["get", "/user"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("because it was logged out"), "{error}");
    assert!(error.contains("run `matchbook-client login`"), "{error}");

    let wrong = client(&env, &server.url().replace("http://", "https://"));
    let (code, error) = failure(&wrong.set("server.ca_file", "system").run(&["login"]));
    assert_eq!(code, Some(1), "{error}");
    assert!(!error.contains("try again later"), "{error}");
}
