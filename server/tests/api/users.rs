//! `matchbook-server users …`.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::accounts_lifecycle::Operation;
use crate::support::{Server, binary};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

impl Server {
    /// Runs `matchbook-server users …` beside the server, with `input` on standard input.
    pub(crate) fn users_with(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.world.server(binary()).command();
        command.arg("users").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Runs `matchbook-server users …` beside the server.
    pub(crate) fn users(&self, arguments: &[&str]) -> Result<String, String> {
        self.users_with(arguments, "")
    }

    /// Runs `matchbook-server users … --json` and parses the output.
    pub(crate) fn users_json(&self, arguments: &[&str]) -> Value {
        let output = self.users(&[arguments, &["--json"]].concat()).unwrap();
        serde_json::from_str(&output).unwrap()
    }
}

#[actix_rt::test]
async fn added_user_logs_in_with_the_password_from_standard_input() {
    let server = Server::start();
    let add = ["add", "Ann@Example.com", "--password-stdin", "--display-name", "Ann", "--json"];
    let added = server.users_with(&add, &format!("{PASSWORD}\nmore\n")).unwrap();
    let added: Value = serde_json::from_str(&added).unwrap();
    assert_eq!(added["name"], "ann@example.com");
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    assert_eq!(tokens.claims()["sub"], added["id"]);
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!((&user["name"], &user["userId"]), (&"Ann".into(), &added["id"]));

    let taken = server.users(&["add", "ANN@example.com"]).unwrap_err();
    assert!(taken.contains("is taken"), "{taken}");
    for (arguments, input, problem) in [
        (vec!["add", "bob", "--password-stdin"], "password1234\n", "easy to guess"),
        (vec!["add", "bob", "--password-stdin"], "short\n", "at least 12"),
        (vec!["add", "bob", "--password-stdin"], "\n", "standard input"),
        (vec!["add", "a b"], "", "not a login name"),
        (vec!["add", "bob", "--display-name", "a\nb"], "", "display name"),
        (vec!["add", "bob", PASSWORD], "", "unexpected argument"),
        (vec!["show", "bob"], "", "no user \"bob\""),
        (vec!["sessions", "00000000-0000-4000-8000-000000000000"], "", "no user"),
    ] {
        let error = server.users_with(&arguments, input).unwrap_err();
        assert!(error.contains(problem), "{arguments:?}: {error}");
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts"), 1);
}

#[actix_rt::test]
async fn list_prints_every_login_name_in_its_order() {
    let server = Server::start();
    assert_eq!(server.users(&["list"]).unwrap(), "");
    assert_eq!(server.users_json(&["list"]), Value::Array(Vec::new()));
    for name in ["carol", "ann@example.com", "bob"] {
        server.users(&["add", name]).unwrap();
    }
    server.users(&["add", "dora", "--admin"]).unwrap();
    let listed = server.users_json(&["list"]);
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann@example.com", "bob", "carol", "dora"]);
    assert_eq!((&listed[0]["kind"], &listed[0]["isAdmin"]), (&"email".into(), &false.into()));
    assert_eq!(listed[3]["isAdmin"], true);
    assert!(listed[0]["lastLoginAt"].is_null());
    let text = server.users(&["list"]).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().last().unwrap().contains("administrator"), "{text}");
}

#[actix_rt::test]
async fn show_explains_what_keeps_a_user_from_logging_in() {
    let server = Server::start();
    let id = server.register("ann@example.com", PASSWORD).await;
    server.log_in_as("ann@example.com", PASSWORD).await;
    server.try_log_in_as("ann@example.com", OTHER).await;
    let shown = server.users_json(&["show", &id]);
    assert_eq!(shown, server.users_json(&["show", "Ann@Example.com"]));
    assert_eq!((&shown["id"], &shown["canLogIn"]), (&id.as_str().into(), &true.into()));
    assert_eq!(shown["names"][0]["name"], "ann@example.com");
    assert_eq!(shown["sessions"][0]["userAgent"], "matchbook-test");
    let last = shown["events"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["kind"], &last["reason"]),
        (&"login_rejected".into(), &"invalid_credentials".into())
    );

    server.sql("UPDATE accounts SET disabled_at = created_at, password_hash = NULL");
    let text = server.users(&["show", "ann@example.com"]).unwrap();
    for expected in [
        "can log in   no",
        "disabled since",
        "no password",
        "not verified",
        "invalid_credentials",
        "last used",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let guest = server.log_in().await.claims()["sub"].as_str().unwrap().to_owned();
    let shown = server.users_json(&["show", &guest]);
    assert_eq!((&shown["isGuest"], &shown["canLogIn"]), (&true.into(), &false.into()));
}

#[actix_rt::test]
async fn sessions_of_a_user_are_listed_and_ended() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    assert_eq!(server.users(&["sessions", "ann"]).unwrap(), "no live session\n");
    let ann = server.log_in_as("ann", PASSWORD).await;
    let bob = server.log_in_as("bob", PASSWORD).await;
    let listed = server.users_json(&["sessions", "ann"]);
    assert_eq!(listed[0]["id"], ann.claims()["sid"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(server.users(&["sessions", "ann"]).unwrap().lines().count(), 1);
    assert_eq!(server.users_json(&["sessions", "ann", "--end"])["ended"], 1);
    assert_eq!(server.user(&ann.access).await, 401);
    assert_eq!(server.refresh(&ann.refresh).await.status, 401);
    assert_eq!(server.user(&bob.access).await, 200);
    assert_eq!(server.users(&["sessions", "ann", "--end"]).unwrap(), "0 sessions have ended\n");
}

#[actix_rt::test]
async fn disabled_user_is_rejected_at_once_and_can_be_enabled() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let text = server.users(&["disable", "ann"]).unwrap();
    assert_eq!(text, "ann is disabled; 1 session has ended\n");
    assert_eq!(server.user(&tokens.access).await, 401);
    let refused = server.refresh(&tokens.refresh).await;
    assert_eq!((refused.status, refused.field("reason").as_str()), (401, "user_disabled"));
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 403);
    assert_eq!(server.users_json(&["disable", "ann"])["changed"], false);
    assert_eq!(server.users(&["enable", "ann"]).unwrap(), "ann is enabled\n");
    assert_eq!(server.users(&["enable", "ann"]).unwrap(), "ann was enabled already\n");
    server.log_in_as("ann", PASSWORD).await;
}

#[actix_rt::test]
async fn repeated_disable_waits_for_every_server_after_a_command_that_was_interrupted() {
    let server = Server::start();
    let id = server.register("ann", PASSWORD).await;
    for _ in 0..3 {
        let tokens = server.log_in_as("ann", PASSWORD).await;
        assert_eq!(server.user(&tokens.access).await, 200);
        // A command that is killed after its commit, before the servers have read it.
        assert!(server.operate(Operation::Disable, &id).await);
        assert_eq!(server.users(&["disable", "ann"]).unwrap(), "ann was disabled already\n");
        assert_eq!(server.user(&tokens.access).await, 401);
        let refused = server.refresh(&tokens.refresh).await;
        assert_eq!(refused.field("reason"), "user_disabled");
        assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 403);
        assert!(server.operate(Operation::Enable, &id).await);
    }
    let disabled = "SELECT count(*) AS number FROM events WHERE kind = 'account_disabled'";
    assert_eq!(server.number(disabled), 3, "a repeated command records nothing");
}

#[actix_rt::test]
async fn deleted_user_is_rejected_at_once_and_its_name_is_free() {
    let server = Server::start();
    let id = server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.users_json(&["delete", "ann"])["ended"], 1);
    assert_eq!(server.user(&tokens.access).await, 401);
    assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    assert!(server.users(&["show", "ann"]).is_err() && server.users(&["show", &id]).is_err());
    assert_ne!(server.register("ann", PASSWORD).await, id);
    let guest = server.guest().await;
    assert!(server.users(&["delete", &guest]).unwrap_err().contains("guest"));
}

#[actix_rt::test]
async fn operator_sets_a_password_and_all_sessions_end() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let reset = ["reset-password", "ann", "--password-stdin"];
    assert!(server.users_with(&reset, "password1234").unwrap_err().contains("easy to guess"));
    assert_eq!(server.user(&tokens.access).await, 200);
    let text = server.users_with(&reset, OTHER).unwrap();
    assert_eq!(text, "ann has the new password; 1 session has ended\n");
    assert_eq!(server.user(&tokens.access).await, 401);
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    server.log_in_as("ann", OTHER).await;
}

#[actix_rt::test]
async fn link_of_an_invitation_registers_one_user() {
    let server = Server::with(|launch| launch.set("accounts.registration", "closed"));
    let invited = server.users_json(&["invite", "Ann@example.com", "--admin"]);
    let link = invited["link"].as_str().unwrap();
    let (_, token) = link.split_once("/invitation?token=").unwrap();
    let body = serde_json::json!({ "token": token, "password": PASSWORD });
    let accepted = server.post_json("/invitations/accept", &body).await;
    assert_eq!((accepted.status, accepted.json()["userId"].clone()), (201, invited["id"].clone()));
    server.log_in_as("ann@example.com", PASSWORD).await;
    assert_eq!(server.users_json(&["show", "ann@example.com"])["isAdmin"], true);
    assert_ne!(server.post_json("/invitations/accept", &body).await.status, 201);
    assert!(server.users(&["invite", "ann@example.com"]).unwrap_err().contains("is taken"));
    let unnamed = server.users(&["invite"]).unwrap();
    assert!(
        unnamed.contains("/invitation?token=mb_ln_") && unnamed.contains("seven days"),
        "{unnamed}"
    );
    let reset = server.users(&["reset-password", "ann@example.com"]).unwrap();
    assert!(reset.contains("/reset?token=mb_ln_"), "{reset}");
}
