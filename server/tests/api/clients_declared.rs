//! OAuth clients that a file declares: `matchbook-server apply`, and the setting
//! `clients.file`.

use matchbook_server::clients::ClientCredentials;
use serde_json::{Value, json};

use crate::support::{Server, binary};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "abcdef0123456789abcdef0123456789";

const DECLARED: &str = r#"
[[clients]]
id = "app"
name = "App"
type = "confidential"
secret_env = "APP_SECRET"
redirect_uris = ["https://app.example.com/callback"]
scopes = ["read", "write"]
audiences = ["https://api.example.com/"]
first_party = true
grace_period = "60s"

[[clients]]
id = "cli"
name = "Command line"
type = "public"
redirect_uris = ["http://127.0.0.1/"]
"#;

/// Writes a file, and runs the command with it.
fn apply(server: &Server, text: &str, options: &[&str]) -> Result<String, (String, String)> {
    let file = server.world.folder().join("clients.toml");
    std::fs::write(&file, text).unwrap();
    let launch = server.world.server(binary());
    let launch = launch.variable("APP_SECRET", SECRET).variable("OTHER_SECRET", OTHER);
    let output = launch.run(&[&["apply", file.to_str().unwrap()], options].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let stdout = text(output.stdout);
    if output.status.success() { Ok(stdout) } else { Err((stdout, text(output.stderr))) }
}

async fn accepts(server: &Server, secret: &str) -> bool {
    let credentials = ClientCredentials::Post { id: "app".into(), secret: secret.into() };
    server.client_registry().authenticate(&credentials).await.is_ok()
}

#[actix_rt::test]
async fn declared_clients_are_added_changed_and_then_unchanged() {
    let server = Server::start();
    let (difference, error) = apply(&server, DECLARED, &["--check"]).unwrap_err();
    assert_eq!(difference, "app: add\ncli: add\n");
    assert!(error.contains("differs"), "{error}");
    assert_eq!(server.number("SELECT count(*) AS number FROM clients"), 0);
    assert_eq!(apply(&server, DECLARED, &[]).unwrap(), difference);
    assert_eq!(apply(&server, DECLARED, &["--check"]).unwrap(), "no change\n");
    assert!(accepts(&server, SECRET).await);
    let shown = server.command_json(&["clients", "show", "app", "--json"]);
    assert_eq!(shown["scopes"], json!(["read", "write"]));
    assert_eq!(shown["audiences"], json!(["https://api.example.com/"]));
    assert_eq!(shown["first_party"], true);
    assert_eq!(shown["grace_period"], "60s");

    let changed = DECLARED
        .replace("first_party = true\n", "")
        .replace(r#"["read", "write"]"#, r#"["read"]"#)
        .replace("APP_SECRET", "OTHER_SECRET");
    let report: Value =
        serde_json::from_str(&apply(&server, &changed, &["--json"]).unwrap()).unwrap();
    let expected =
        json!([r#"app: set scopes = ["read"], first_party = false"#, "app: replace the secret",]);
    assert_eq!(report, json!({ "applied": true, "changes": expected, "ended": 0 }));
    assert_eq!(apply(&server, &changed, &["--check"]).unwrap(), "no change\n");
    assert!(accepts(&server, OTHER).await);
    assert!(accepts(&server, SECRET).await, "the secret before");
}

#[actix_rt::test]
async fn undeclared_clients_are_kept_or_with_prune_removed() {
    let server = Server::start();
    apply(&server, DECLARED, &[]).unwrap();
    let cli = &DECLARED[DECLARED.rfind("[[clients]]").unwrap()..];
    assert_eq!(apply(&server, cli, &[]).unwrap(), "no change\n");
    let pruned = format!("prune = true\n{cli}");
    assert_eq!(apply(&server, &pruned, &[]).unwrap(), "app: remove\n");
    assert_eq!(apply(&server, &pruned, &[]).unwrap(), "no change\n");
    assert_eq!(server.number("SELECT count(*) AS number FROM clients"), 1);
}

#[actix_rt::test]
async fn invalid_files_are_rejected_with_the_reason() {
    let server = Server::start();
    let public = "[[clients]]\nid = \"web\"\nname = \"Web\"\ntype = \"public\"\n\
                  redirect_uris = [\"https://app.example.com/\"]\n";
    let confidential = public.replace("public", "confidential");
    let with = |client: &str, line: &str| format!("{client}{line}\n");
    std::fs::write(server.world.folder().join("short"), "secret\n").unwrap();
    for (text, reason) in [
        ("prune = true\n".to_owned(), "neither"),
        ("clients = 1\n".to_owned(), "invalid type"),
        (with(public, "secret = \"x\""), "unknown field"),
        (with(public, "[[users]]\nname = \"ann\""), "unknown field"),
        (format!("{public}{public}"), "declared twice"),
        (public.replace("public", "secret"), "unknown variant"),
        (public.replace("https", "http"), "without TLS"),
        (public.replace("\"web\"", "\"\""), "the id of a client"),
        (with(public, "machine = true"), "public client cannot be a machine"),
        (with(public, "grace_period = \"1h\""), "10m"),
        (with(public, "scopes = [\"a b\"]"), "a scope has a character"),
        (with(public, "secret_env = \"APP_SECRET\""), "a public client has no secret"),
        (confidential.clone(), "needs `secret_file` or `secret_env`"),
        (with(&confidential, "secret_env = \"MISSING\""), "MISSING is not set"),
        (with(&confidential, "secret_file = \"missing\""), "missing"),
        (with(&confidential, "secret_file = \"short\""), "at least 32"),
        (with(&confidential, "secret_file = \"x\"\nsecret_env = \"APP_SECRET\""), "give one of"),
    ] {
        let (_, error) = apply(&server, &text, &[]).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM clients"), 0);
    apply(&server, public, &[]).unwrap();
    let other_type = with(&confidential, "secret_env = \"APP_SECRET\"");
    let (_, error) = apply(&server, &other_type, &[]).unwrap_err();
    assert!(error.contains("client web: the type differs"), "{error}");
}

#[actix_rt::test]
async fn files_of_the_settings_are_applied_at_the_start_and_by_the_command() {
    let world = matchbook_testkit::TestEnv::new();
    std::fs::write(world.folder().join("clients.toml"), DECLARED).unwrap();
    std::fs::write(world.folder().join("users.toml"), "[[users]]\nname = \"ann\"\n").unwrap();
    let server = Server::within(world, |launch| {
        launch.set("clients.file", "clients.toml").variable("APP_SECRET", SECRET)
    });
    assert!(accepts(&server, SECRET).await);
    assert!(!server.process.log().contains(SECRET));
    let launch = || server.world.server(binary()).variable("APP_SECRET", SECRET);
    let both = launch().set("clients.file", "clients.toml").set("accounts.file", "users.toml");
    let output = both.run(&["apply", "--check"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "ann: add\n");
    let missing = launch().set("clients.file", "missing.toml").run(&[]);
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(error.contains("missing.toml") && error.contains("clients.file"), "{error}");
    let neither = launch().run(&["apply"]);
    let error = String::from_utf8(neither.stderr).unwrap();
    assert!(error.contains("`clients.file`"), "{error}");
}
