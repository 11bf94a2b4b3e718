//! Tests with programs in Python: passlib, Django, Werkzeug, django-oauth-toolkit and
//! Schemathesis.
//! `scripts/test` installs them, and selects tests by this module's name.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Server, Tokens};

/// What Schemathesis checks of each response.
const CHECKS: [&str; 6] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
];

/// Runs a script of this folder, and returns its output.
fn python(script: &str, arguments: &[&str]) -> String {
    let interpreter = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python/bin/python");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/needs_python");
    let output = Command::new(&interpreter).arg(scripts.join(script)).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", interpreter.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[actix_rt::test]
#[ignore = "needs programs in Python: make test"]
async fn hashes_that_python_programs_write_log_in_and_become_argon2id() {
    // Not in the normal form that this server hashes.
    let password = "violet tractor cafe\u{301} hums";
    let server = Server::start();
    let text = python("hash_password.py", &[password]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 17);
    server.import(&lines, &[]).unwrap();
    for line in &lines {
        let name = line["name"].as_str().unwrap();
        let wrong = server.try_log_in_as(name, "violet tractor cafe hums").await;
        assert_eq!(wrong.status, 401, "{name}");
        let right = server.try_log_in_as(name, password).await;
        assert_eq!(right.status, 200, "{name}: {}", right.text);
        let normalized = server.try_log_in_as(name, "violet tractor caf\u{e9} hums").await;
        assert_eq!(normalized.status, 200, "{name}: {}", normalized.text);
    }
    let argon2 = "SELECT count(*) AS number FROM accounts \
                  WHERE password_hash LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'";
    assert_eq!(server.number(argon2), 17);
}

#[actix_rt::test]
#[ignore = "needs programs in Python: make test"]
async fn clients_of_a_django_server_continue_here_without_a_login() {
    let password = "violet tractor seven hums";
    let users = 1_000;
    let server = Server::with(|launch| launch.set("limits.enabled", "false"));
    let folder = server.world.folder().join("django");
    std::fs::create_dir(&folder).unwrap();
    let export: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/export_django.py");
    let arguments =
        [folder.to_str().unwrap(), password, &users.to_string(), export.to_str().unwrap()];
    python("oauth_server.py", &arguments);
    let file = folder.join("users.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let tokens = std::fs::read_to_string(folder.join("tokens.json")).unwrap();
    let tokens: Value = serde_json::from_str(&tokens).unwrap();
    let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
    assert!(!text.contains(&token("user7")), "the file has no token in the clear");

    let report = server.users(&["import", file.to_str().unwrap()]).unwrap();
    assert_eq!(report, "1000 users and 1000 refresh tokens imported\n");
    for n in 0..users {
        let name = format!("user{n}");
        let exchanged = Tokens::of(&server.refresh(&token(&name)).await);
        let user = server.http.get_as("/user", &exchanged.access).await.json();
        assert_eq!(user["name"], format!("User {n}"));
        if n % 100 == 0 {
            // The client goes on with the tokens of this server, and the user can log in.
            let next = Tokens::of(&server.refresh(&exchanged.refresh).await);
            assert_eq!(next.claims()["sid"], exchanged.claims()["sid"]);
            let logged_in = server.log_in_as(&name, password).await;
            assert_eq!(logged_in.claims()["sub"], exchanged.claims()["sub"]);
        }
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM sessions"), 1_010);
    assert_eq!(server.refresh(&token("rotated")).await.status, 401);
}

/// Sends requests that Schemathesis generates from the description of the API, and asserts
/// that no response is a failure of the server, and each is described. Takes half a minute.
#[actix_rt::test]
#[ignore = "needs programs in Python: make test"]
async fn schemathesis_gets_no_server_error_and_no_response_that_is_not_described() {
    let server = Server::with(|launch| {
        let launch = launch.set("tls.mode", "off").set("limits.enabled", "false");
        launch.set("accounts.registration", "open").set("accounts.guests", "true")
    });
    let password = "violet tractor seven hums";
    server.register("ann", password).await;
    let backend = server.command_json(&["backends", "add", "shop", "--json"]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/needs_python");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python/bin/schemathesis");
    let url = server.process.url();
    let output = Command::new(&program)
        .args(["run", &format!("{url}/openapi.json"), "--url", url])
        .args(["--checks", &CHECKS.join(","), "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "20", "--seed", "1", "--workers", "1"])
        .args(["--continue-on-failure", "--no-shrink", "--request-timeout", "30"])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        .current_dir(server.world.folder())
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("MATCHBOOK_URL", url)
        .env("MATCHBOOK_NAME", "ann")
        .env("MATCHBOOK_PASSWORD", password)
        .env("MATCHBOOK_BACKEND", backend["id"].as_str().unwrap())
        .env("MATCHBOOK_BACKEND_SECRET", backend["secret"].as_str().unwrap())
        .output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("No issues found"), "{report}");
}
