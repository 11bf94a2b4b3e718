//! `matchbook-server users import`.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::Server;

const PASSWORD: &str = "violet tractor seven hums";
/// Of [`PASSWORD`], by Django 5.2 and by Apache's htpasswd.
pub(crate) const DJANGO: &str =
    "pbkdf2_sha256$1000$tCzvCEzYxTEoTlibJg83S9$aQcVk6NuPbqKbKNkxcbcUaRUZjapdahapxoSUG2Bn+4=";
pub(crate) const HTPASSWD: &str = "$2y$04$uVFuNQBst6Ff8zvgQG.VB.Ahl9mJvnlE4HODtd7VyWFit.1P00ePO";

impl Server {
    /// Imports a file with these lines.
    pub(crate) fn import(&self, lines: &[Value], options: &[&str]) -> Result<String, String> {
        let mut text = String::new();
        for line in lines {
            writeln!(text, "{line}").unwrap();
        }
        self.import_text(&text, options)
    }

    fn import_text(&self, text: &str, options: &[&str]) -> Result<String, String> {
        let file = self.world.folder().join("users.jsonl");
        std::fs::write(&file, text).unwrap();
        self.users(&[&["import", file.to_str().unwrap()], options].concat())
    }

    fn accounts(&self) -> i64 {
        self.number("SELECT count(*) AS number FROM accounts")
    }
}

#[actix_rt::test]
async fn imported_users_log_in_and_their_hashes_become_argon2id() {
    let server = Server::start();
    let id = "0190aaaa-0000-4000-8000-000000000001";
    let lines = [
        json!({ "name": "Ann@Example.com", "password_hash": DJANGO, "id": id, "display_name": "Ann",
                "email_verified": true, "created_at": "2020-02-29T12:00:00Z" }),
        json!({ "name": "bob", "password_hash": HTPASSWD }),
        json!({ "name": "carol", "password_hash": HTPASSWD, "disabled": true, "is_admin": true }),
        json!({ "name": "dora" }),
    ];
    let report: Value = serde_json::from_str(&server.import(&lines, &["--json"]).unwrap()).unwrap();
    assert_eq!((&report["imported"], &report["users"]), (&true.into(), &4.into()));
    let argon2 = "SELECT count(*) AS number FROM accounts WHERE password_hash LIKE '$argon2id$%'";
    assert_eq!(server.number(argon2), 0);
    for name in ["ann@example.com", "bob"] {
        assert_eq!(server.try_log_in_as(name, "marble lantern drifts north").await.status, 401);
        server.log_in_as(name, PASSWORD).await;
        server.log_in_as(name, PASSWORD).await;
    }
    assert_eq!(server.number(argon2), 2);
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(
        (&user["userId"], &user["name"], &user["emailVerified"]),
        (&id.into(), &"Ann".into(), &true.into())
    );
    assert_eq!(server.try_log_in_as("carol", PASSWORD).await.status, 403);
    assert_eq!(server.try_log_in_as("dora", PASSWORD).await.status, 401);
    let shown = server.users_json(&["show", "ann@example.com"]);
    assert_eq!(shown["createdAt"], "2020-02-29T12:00:00Z");
    assert_eq!(shown["events"][0]["kind"], "account_imported");
    assert_eq!(server.users_json(&["show", "carol"])["isAdmin"], true);
}

#[actix_rt::test]
async fn every_bad_line_is_named_and_nothing_is_imported() {
    let server = Server::start();
    server.register("taken", PASSWORD).await;
    let digest = "ab".repeat(32);
    let text = format!(
        "{{\"name\": \"good\", \"refresh_token_sha256\": \"{digest}\"}}\n\
         \n\
         {{\"name\": \"Taken\"}}\n\
         not json\n\
         {{\"name\": \"GOOD\"}}\n\
         {{\"name\": \"hash\", \"password_hash\": \"plain text\"}}\n\
         {{\"name\": \"cost\", \"password_hash\": \"$2b$20$zv/gv3uMoN7X3CuvZ1ga9uncq0Diq4NB6qH68CJ00gnAd.KygdtWa\"}}\n\
         {{\"name\": \"field\", \"mail\": \"x\"}}\n\
         {{\"name\": \"token\", \"refresh_token_sha256\": [\"{digest}\"]}}\n\
         {{\"name\": \"{}\"}}\n",
        "x".repeat(70_000)
    );
    for options in [&[][..], &["--check"], &["--skip-existing"]] {
        let error = server.import_text(&text, options).unwrap_err();
        let skips = options.contains(&"--skip-existing");
        for (line, reason) in [
            (3, "login name taken exists"),
            (4, "expected"),
            (5, "line 1 has the same login name"),
            (6, "not supported"),
            (7, "too expensive"),
            (8, "unknown field `mail`"),
            (9, "line 1 has the same refresh token"),
            (10, "longer than"),
        ] {
            let named = error.lines().find(|text| text.starts_with(&format!("line {line}: ")));
            if line == 3 && skips {
                assert_eq!(named, None);
            } else {
                assert!(
                    named.is_some_and(|text| text.contains(reason)),
                    "{line} {reason}: {error}"
                );
            }
        }
        assert!(!error.contains("line 1:") && !error.contains("line 2:"), "{error}");
        assert_eq!(server.accounts(), 1);
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM imported_refresh_tokens"), 0);
}

#[actix_rt::test]
async fn check_changes_nothing_and_existing_names_can_be_skipped() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let bob = json!({ "name": "bob", "password_hash": HTPASSWD });
    let checked = server.import(std::slice::from_ref(&bob), &["--check"]).unwrap();
    assert_eq!(checked, "1 users and 0 refresh tokens can be imported\n");
    assert_eq!(server.accounts(), 1);
    let lines = [json!({ "name": "ann", "password_hash": HTPASSWD, "disabled": true }), bob];
    let imported = server.import(&lines, &["--skip-existing"]).unwrap();
    assert!(imported.contains("1 users") && imported.contains("1 lines skipped"), "{imported}");
    assert_eq!(server.accounts(), 2);
    server.log_in_as("ann", PASSWORD).await;
    server.log_in_as("bob", PASSWORD).await;
    // A second run of the same file is an error without the option, and does nothing with it.
    assert!(server.import(&lines, &[]).is_err());
    assert!(server.import(&lines, &["--skip-existing"]).unwrap().contains("0 users"));
    let missing = server.users(&["import", "missing.jsonl"]).unwrap_err();
    assert!(missing.contains("cannot read missing.jsonl"), "{missing}");
}

#[actix_rt::test]
async fn more_users_than_one_batch_are_imported() {
    let server = Server::start();
    let digest = |n: usize| format!("{n:064x}");
    let lines: Vec<Value> = (0..1_234)
        .map(|n| json!({ "name": format!("user{n}"), "refresh_token_sha256": digest(n) }))
        .collect();
    server.import(&lines, &[]).unwrap();
    assert_eq!(server.accounts(), 1_234);
    assert_eq!(server.users_json(&["list"]).as_array().unwrap().len(), 1_234);
    let events = "SELECT count(*) AS number FROM events WHERE kind = 'account_imported'";
    assert_eq!(server.number(events), 1_234);
    assert_eq!(server.number("SELECT count(*) AS number FROM imported_refresh_tokens"), 1_234);
    assert_eq!(server.users_json(&["show", "user7"])["importedRefreshTokens"], 1);
}

#[actix_rt::test]
async fn import_that_fails_in_its_second_batch_adds_no_user() {
    let server = Server::start();
    // The check of the file does not find this.
    server.sql(if server.world.database_url().starts_with("postgres") {
        "ALTER TABLE identities ADD CHECK (name <> 'user700')"
    } else {
        "CREATE TRIGGER refuse BEFORE INSERT ON identities WHEN new.name = 'user700' \
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    });
    let lines: Vec<Value> = (0..800).map(|n| json!({ "name": format!("user{n}") })).collect();
    assert!(server.import(&lines, &[]).is_err());
    assert_eq!(server.accounts(), 0);
    for table in ["identities", "users", "events"] {
        let query = format!("SELECT count(*) AS number FROM {table}");
        assert_eq!(server.number(&query), 0, "{table}");
    }
    server.import(&lines[..700], &[]).unwrap();
    assert_eq!(server.accounts(), 700);
}
