//! `matchbook-server apply`, and the setting `accounts.file`.

use serde_json::Value;

use crate::support::{Server, binary};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

/// Writes a file, and runs the command with it.
fn apply(server: &Server, text: &str, options: &[&str]) -> Result<String, (String, String)> {
    let file = server.world.folder().join("users.toml");
    std::fs::write(&file, text).unwrap();
    let launch = server.world.server(binary()).variable("ANN_PASSWORD", PASSWORD);
    let output = launch.run(&[&["apply", file.to_str().unwrap()], options].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let stdout = text(output.stdout);
    if output.status.success() { Ok(stdout) } else { Err((stdout, text(output.stderr))) }
}

#[actix_rt::test]
async fn declared_users_are_added_changed_and_then_unchanged() {
    let server = Server::start();
    let declared = "[[users]]\nname = \"Ann@example.com\"\npassword_env = \"ANN_PASSWORD\"\n\
                    admin = true\n\
                    [[users]]\nname = \"bob\"\npassword_file = \"bob.txt\"\ndisplay_name = \"Bob\"\n";
    std::fs::write(server.world.folder().join("bob.txt"), format!("{OTHER}\n")).unwrap();
    let (difference, error) = apply(&server, declared, &["--check"]).unwrap_err();
    assert_eq!(difference, "ann@example.com: add\nbob: add\n");
    assert!(error.contains("differs"), "{error}");
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts"), 0);
    assert_eq!(apply(&server, declared, &[]).unwrap(), difference);
    assert_eq!(apply(&server, declared, &["--check"]).unwrap(), "no change\n");
    server.log_in_as("ann@example.com", PASSWORD).await;
    let bob = server.log_in_as("bob", OTHER).await;
    assert_eq!(server.users_json(&["show", "ann@example.com"])["isAdmin"], true);
    assert_eq!(server.users_json(&["show", "bob"])["displayName"], "Bob");

    // A user that changes the password keeps it, and fields without a value are kept.
    let body = serde_json::json!({ "current": OTHER, "new": "copper meadow sings twice" });
    assert_eq!(server.post_json_as("/password", &body, &bob.access).await.status, 204);
    let changed = declared.replace("admin = true", "admin = false\ndisplay_name = \"Ann\"")
        + "disabled = true\n";
    let report: Value =
        serde_json::from_str(&apply(&server, &changed, &["--json"]).unwrap()).unwrap();
    assert_eq!(report["applied"], true);
    assert_eq!(
        report["changes"],
        serde_json::json!([
            "ann@example.com: set the display name \"Ann\"",
            "ann@example.com: make no administrator",
            "bob: disable"
        ])
    );
    assert_eq!(report["ended"], 1);
    assert_eq!(server.user(&bob.access).await, 401);
    let enabled = changed.replace("disabled = true", "disabled = false");
    assert_eq!(apply(&server, &enabled, &[]).unwrap(), "bob: enable\n");
    server.log_in_as("bob", "copper meadow sings twice").await;
}

#[actix_rt::test]
async fn declared_groups_replace_those_of_the_user() {
    let server = Server::start();
    let user = |groups: &str| format!("[[users]]\nname = \"ann\"\n{groups}");
    let added = user("groups = [\"staff\", \"Admins\"]\n");
    assert_eq!(apply(&server, &added, &[]).unwrap(), "ann: add\n");
    let groups = || server.users_json(&["show", "ann"])["groups"].clone();
    assert_eq!(groups(), serde_json::json!(["Admins", "staff"]));
    assert_eq!(apply(&server, &added, &["--check"]).unwrap(), "no change\n");
    assert_eq!(apply(&server, &user(""), &[]).unwrap(), "no change\n");
    let changed = user("groups = [\"b\", \"a\", \"b\"]\n");
    assert_eq!(apply(&server, &changed, &[]).unwrap(), "ann: set the groups [\"a\", \"b\"]\n");
    assert_eq!(groups(), serde_json::json!(["a", "b"]));
    assert_eq!(apply(&server, &user("groups = []\n"), &[]).unwrap(), "ann: set the groups []\n");
    assert_eq!(groups(), serde_json::json!([]));
    let (_, error) = apply(&server, &user("groups = [\"two words\"]\n"), &[]).unwrap_err();
    assert!(error.contains("the name of a group has"), "{error}");
}

#[actix_rt::test]
async fn undeclared_users_are_kept_or_with_prune_disabled_and_never_deleted() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let declared = "[[users]]\nname = \"ann\"\n";
    assert_eq!(apply(&server, declared, &[]).unwrap(), "no change\n");
    let pruned = format!("prune = true\n{declared}");
    assert_eq!(apply(&server, &pruned, &[]).unwrap(), "bob: disable\n");
    assert_eq!(apply(&server, &pruned, &[]).unwrap(), "no change\n");
    assert_eq!(server.try_log_in_as("bob", PASSWORD).await.status, 403);
    server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts"), 2);
}

#[actix_rt::test]
async fn invalid_files_are_rejected_with_the_reason() {
    let server = Server::start();
    for (text, reason) in [
        ("users = 1", "invalid type"),
        ("[[users]]\nname = \"a b\"", "login name"),
        ("[[users]]\nname = \"ann\"\npassword = \"x\"", "unknown field"),
        ("[[users]]\nname = \"ann\"\n[[users]]\nname = \"ANN\"", "ann is declared twice"),
        ("[[users]]\nname = \"ann\"\npassword_hash = \"x\"", "not supported"),
        ("[[users]]\nname = \"ann\"\npassword_hash = \"x\"\npassword_env = \"X\"", "give one of"),
        ("[[users]]\nname = \"ann\"\npassword_env = \"MISSING\"", "MISSING is not set"),
        ("[[users]]\nname = \"ann\"\npassword_file = \"missing\"", "missing"),
    ] {
        let (_, error) = apply(&server, text, &[]).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts"), 0);
}

#[actix_rt::test]
async fn file_of_the_settings_is_applied_at_the_start() {
    let world = matchbook_testkit::TestEnv::new();
    let declared = "[[users]]\nname = \"ann\"\npassword_env = \"ANN_PASSWORD\"\n";
    std::fs::write(world.folder().join("users.toml"), declared).unwrap();
    let server = Server::within(world, |launch| {
        launch.set("accounts.file", "users.toml").variable("ANN_PASSWORD", PASSWORD)
    });
    server.log_in_as("ann", PASSWORD).await;
    assert!(!server.process.log().contains(PASSWORD));
    let missing = server.world.server(binary()).set("accounts.file", "missing.toml").run(&[]);
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(error.contains("missing.toml") && error.contains("accounts.file"), "{error}");
}
