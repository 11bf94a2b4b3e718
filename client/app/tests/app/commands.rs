//! The commands for scripts.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use matchbook_testkit::{ProcessBuilder, Reaction, ScriptedServer, TestEnv};
use serde_json::{Value, json};

use super::support::{Browser, Setup, client, server_binary};

/// Returns the exit code, standard output and standard error of a command.
pub(crate) fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The outcome of a successful command that prints a line.
fn printed(text: &str) -> (i32, String, String) {
    (0, format!("{text}\n"), String::new())
}

#[actix_rt::test]
async fn commands_stay_logged_in_between_calls() {
    let env = TestEnv::new();
    let server = env.server(&server_binary()).set("tokens.access_lifetime", "2s").start();
    let command = client(&env, server.url());
    let run = |arguments: &[&str]| outcome(&command.run(arguments));

    let (code, out, error) = run(&["info"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert_eq!(
        error,
        "matchbook-client: not logged in (no tokens in data/client/tokens.json): run `matchbook-client login` first\n"
    );
    assert_eq!(run(&["login"]), printed("Logged in"));
    assert_only_the_owner_can_read(&env.folder().join("data/client/tokens.json"));
    let (code, info, error) = run(&["info"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let user = info.strip_prefix("User Id: ").unwrap().trim_end();

    actix_rt::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(run(&["info"]), (0, info.clone(), String::new()), "with a refresh");
    for url in ["/user".to_owned(), format!("{}/user", server.url())] {
        let (code, body, error) = run(&["get", &url]);
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["userId"], user);
    }
    assert_only_the_owner_can_read(&env.folder().join("data/client/tokens.json"));

    assert_eq!(run(&["logout"]), printed("Logged out"));
    assert!(!env.folder().join("data/client/tokens.json").exists());
    assert_eq!(run(&["info"]).0, 3);
    assert_eq!(run(&["logout"]), printed("Logged out"), "a second logout succeeds");
    server.await_log("session ended");
}

/// Runs `login --name NAME` with this standard input.
fn log_in_as(command: &ProcessBuilder, name: &str, input: &str) -> (i32, String, String) {
    let mut login = command.command();
    login.args(["login", "--name", name]);
    login.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = login.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    outcome(&child.wait_with_output().unwrap())
}

#[actix_rt::test]
async fn login_with_a_name_reads_the_password_from_standard_input() {
    let setup = Setup::start(|server| server);
    let command = client(&setup.env, setup.server.url());
    let password = "violet tractor seven hums";
    let browser = Browser::open(&setup.client).await;
    let form = json!({ "name": "anna", "password": password });
    assert_eq!(browser.submit("/api/account/register", &form).await.status, 200);

    let (code, out, error) = log_in_as(&command, "anna", "wrong\n");
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(error, "matchbook-client: the name or the password is wrong\n");
    let (code, _, error) = log_in_as(&command, "anna", "");
    assert_eq!(code, 1);
    assert!(error.contains("cannot read the password from standard input"), "{error}");
    assert_eq!(log_in_as(&command, "anna", &format!("{password}\n")), printed("Logged in"));
    let info = format!("User Id: {}", browser.user().await);
    assert_eq!(outcome(&command.run(&["info"])), printed(&info));
}

#[actix_rt::test]
async fn login_with_a_second_factor_reads_the_code_from_the_second_line() {
    let script = ScriptedServer::start();
    script.add_account("anna", "password of anna");
    let env = TestEnv::new();
    let command = client(&env, script.origin()).set("server.ca_file", "system");
    let required = r#"{"error":"second_factor_required","message":"Send a code."}"#;
    for input in ["password of anna\n123456\n", "password of anna\n"] {
        script.on("/login", [Reaction::json(401, required).marked()]);
        let has_code = input.contains("123456");
        let (code, _, error) = log_in_as(&command, "anna", input);
        assert_eq!(code, i32::from(!has_code), "{error}");
        assert!(has_code || error.contains("cannot read the code"), "{error}");
    }
    let codes: Vec<Value> = script
        .received("/login")
        .iter()
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()["code"].clone())
        .collect();
    assert_eq!(codes, [Value::Null, json!("123456"), Value::Null]);
}

fn assert_only_the_owner_can_read(file: &Path) {
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[actix_rt::test]
async fn the_exit_code_names_the_cause_of_a_failure() {
    let mut setup = Setup::start(|server| server);
    let command = client(&setup.env, setup.server.url()).set("store.path", "kept.json");
    let run = |arguments: &[&str]| outcome(&command.run(arguments));
    assert_eq!(run(&["login"]).0, 0);

    let (code, body, error) = run(&["get", "/nowhere"]);
    assert_eq!((code, error.as_str()), (5, "matchbook-client: the server returned status 404\n"));
    assert!(body.is_empty() || body.starts_with('{'), "{body}");
    for invalid in [&["get"][..], &["get", "user"], &["get", "https://evil.example/"], &["gett"]] {
        let (code, out, error) = run(invalid);
        assert_eq!((code, out.as_str()), (2, ""), "{invalid:?}: {error}");
        assert!(!error.is_empty());
    }

    // The session is ended with a copy of the tokens.
    let folder = setup.env.folder();
    std::fs::copy(folder.join("kept.json"), folder.join("copy.json")).unwrap();
    assert_eq!(run(&["logout", "--store", "copy.json"]), printed("Logged out"));
    let (code, _, error) = run(&["info"]);
    assert_eq!(code, 3);
    assert!(error.contains("the session has ended"), "{error}");

    assert_eq!(run(&["login"]).0, 0);
    std::fs::write(folder.join("broken.json"), "{").unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(folder.join("broken.json"), private).unwrap();
    let (code, _, error) = run(&["info", "--store", "broken.json"]);
    assert!(code == 1 && error.contains("broken.json"), "{code} {error}");
    assert!(setup.server.stop().success());
    let (code, out, error) = run(&["get", "/user"]);
    assert_eq!((code, out.as_str()), (4, ""), "{error}");
    assert!(error.contains("try again later"), "{error}");
}

#[actix_rt::test]
async fn closed_standard_output_is_not_a_failure() {
    let setup = Setup::start(|server| server);
    let command = client(&setup.env, setup.server.url());
    assert!(command.run(&["login"]).status.success());
    for arguments in [&["get", "/user"][..], &["info"], &["check-config"]] {
        let mut command = command.command();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(outcome(&child.wait_with_output().unwrap()), (0, String::new(), String::new()));
    }
}

#[actix_rt::test]
async fn the_help_lists_the_exit_codes_and_a_configured_log_level_applies() {
    let setup = Setup::start(|server| server);
    let command = client(&setup.env, setup.server.url());
    let (code, help, _) = outcome(&command.run(&["--help"]));
    assert!(code == 0 && help.contains("4  temporary failure: try again later"), "{help}");
    let (_, out, error) = outcome(&command.set("log.level", "debug").run(&["login"]));
    assert_eq!(out, "Logged in\n");
    assert!(error.contains("GET /token 200"), "{error}");
}
