//! The audit log (table `events`), and the `explain` command that reads it.

use std::io::Write;
use std::process::Stdio;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use matchbook_server::store::Conn;
use matchbook_testkit::TestResponse;

use crate::support::{Server, Tokens};

#[derive(QueryableByName, Debug)]
struct Event {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    generation: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    ip: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    user_agent: Option<String>,
    #[diesel(sql_type = BigInt)]
    named: i64,
}

fn events(server: &Server) -> Vec<Event> {
    let mut conn = server.database();
    let address = match conn {
        Conn::Postgres(_) => "host(ip)",
        Conn::Sqlite(_) => "ip",
    };
    diesel::sql_query(format!(
        "SELECT kind, reason, generation, {address} AS ip, user_agent, (SELECT count(*) FROM \
         sessions WHERE sessions.id = session_id AND sessions.user_id = events.user_id) AS named \
         FROM events ORDER BY id"
    ))
    .load(&mut conn)
    .unwrap()
}

#[actix_rt::test]
async fn login_rejection_reuse_and_logout_are_audit_events_with_user_and_address() {
    let server = Server::with(|launch| launch.set("rotation.grace_period", "5s"));
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let third = Tokens::of(&server.refresh(&second.refresh).await);
    server.refresh(&first.refresh).await;
    actix_rt::time::sleep(std::time::Duration::from_millis(5100)).await;
    server.refresh(&second.refresh).await;
    server.refresh(&third.refresh).await;
    let out = server.log_in().await;
    server.http.post("/logout", &format!("refresh_token={}", out.refresh)).await;
    server.refresh("mb_rt_junk").await;

    let events = events(&server);
    let notified: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.reason.as_deref(), event.generation))
        .collect();
    assert_eq!(
        notified,
        [
            ("logged_in", None, None),
            ("refresh_rejected", Some("superseded"), Some(0)),
            ("reuse_detected", Some("reuse"), Some(1)),
            ("logged_in", None, None),
            ("logged_out", None, None),
        ]
    );
    for event in &events {
        assert_eq!(event.named, 1, "session and user: {event:?}");
        assert_eq!(event.ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(event.user_agent.as_deref(), Some("matchbook-test"));
    }
}

/// The output of `explain` for a line on standard input, and whether it exits with 0.
fn explain(server: &Server, line: impl AsRef<[u8]>, settings: &[(&str, &str)]) -> (bool, String) {
    let launch = server.world.server(crate::support::binary());
    let launch = settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value));
    let mut child = launch
        .command()
        .arg("explain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(line.as_ref()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[actix_rt::test]
async fn explain_describes_a_token_and_the_outcome_of_a_refresh() {
    let server = Server::start();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let third = Tokens::of(&server.refresh_with(&second.refresh, "a-key-of-some-length").await);
    let claims = third.claims();
    let strict = [("rotation.mode", "strict")];
    let exclusive = [("rotation.same_key_only", "true")];
    for (token, settings, parts) in [
        (&third, &[][..], &["generation   2, the newest", "it is valid"][..]),
        (&second, &[], &["generation   1; the newest is 2", "the same response again until"]),
        (
            &second,
            &[],
            &[
                "; with the `Idempotency-Key` that rotated it, it would get the same response again until",
            ],
        ),
        (&second, &exclusive, &["would be rejected (reuse)", "; with the `Idempotency-Key`"]),
        (&second, &strict, &["would be rejected (reuse)", "the session would end"]),
        (&first, &[], &["generation   0", "rotated      before", "would be rejected (superseded)"]),
    ] {
        let (success, said) = explain(&server, &token.refresh, settings);
        assert!(success, "{said}");
        for part in parts {
            assert!(said.contains(part), "no {part:?} in:\n{said}");
        }
        for name in ["sid", "sub"] {
            assert!(said.contains(claims[name].as_str().unwrap()), "{said}");
        }
        assert!(said.contains("from 127.0.0.1, \"matchbook-test\""), "{said}");
        assert!(said.contains("logged_in"), "{said}");
        assert!(!said.contains(&token.refresh[6..]), "{said}");
    }
    assert_eq!(server.number("SELECT generation AS number FROM sessions"), 2, "it only looks");

    server.http.post("/logout", &format!("refresh_token={}", third.refresh)).await;
    let (_, said) = explain(&server, &second.refresh, &[]);
    assert!(said.contains("would be rejected (logged_out)") && said.contains("ended  "), "{said}");
    assert!(!said.contains("the same response"), "{said}");
    server.sql("DELETE FROM sessions");
    let (_, said) = explain(&server, &third.refresh, &[]);
    assert!(said.contains("would be rejected (unknown)"), "{said}");
}

#[actix_rt::test]
async fn explain_says_that_the_user_is_disabled_or_deleted() {
    let server = Server::start();
    let password = "violet tractor seven hums";
    server.register("ann", password).await;
    let tokens = server.log_in_as("ann", password).await;
    let id = tokens.claims()["sub"].as_str().unwrap().to_owned();
    let (_, said) = explain(&server, &tokens.refresh, &[]);
    assert!(said.contains(&format!("user         {id}\n")), "{said}");
    server.users(&["disable", "ann"]).unwrap();
    let (_, said) = explain(&server, &tokens.refresh, &[]);
    assert!(said.contains(&format!("{id}, disabled since")), "{said}");
    assert!(said.contains("would be rejected (user_disabled)"), "{said}");
    server.users(&["delete", "ann"]).unwrap();
    let (_, said) = explain(&server, &tokens.refresh, &[]);
    assert!(said.contains(&format!("{id}, deleted ")), "{said}");
}

#[actix_rt::test]
async fn explain_creates_nothing_and_reports_what_is_missing() {
    let server = Server::start();
    let token = server.log_in().await.refresh;
    for nothing in ["", "\n \n"] {
        let (success, said) = explain(&server, nothing, &[]);
        assert!(!success && said.contains("on standard input"), "{said}");
    }
    for junk in [&b"mb_rt_junk\n"[..], b"\xff\xfe\0", &[b'A'; 5000]] {
        let (success, said) = explain(&server, junk, &[]);
        assert!(!success && said.contains("not a refresh token of this server"), "{said}");
    }
    let (success, said) = explain(&server, format!("\n \"{token}\" \r\nand more"), &[]);
    assert!(success && said.contains("it is valid"), "{said}");
    let (success, said) = explain(&server, &token, &[("data_dir", "elsewhere")]);
    assert!(!success && said.contains("run this where the server runs"), "{said}");
    assert!(!server.world.folder().join("elsewhere").exists());
    let missing = format!("sqlite://{}/missing.db", server.world.folder().display());
    let (success, said) = explain(&server, &token, &[("database.url", &missing)]);
    // DATABASE_URL is set as well; the prefixed variable wins.
    assert!(!success && said.contains("the file does not exist"), "{said}");
    assert!(!server.world.folder().join("missing.db").exists());
}

/// A dead token presented repeatedly from one address is one event.
#[actix_rt::test]
async fn repeated_events_within_a_minute_share_one_row() {
    let server = Server::strict();
    let tokens = server.log_in().await;
    Tokens::of(&server.refresh(&tokens.refresh).await);
    for _ in 0..20 {
        assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    }
    let rows = server.number("SELECT count(*) AS number FROM events WHERE reason = 'reuse'");
    // The minute may end in between, which makes two rows.
    assert!((1..=2).contains(&rows), "{rows} entries");
    let sum = "SELECT CAST(sum(count) AS bigint) AS number FROM events WHERE reason = 'reuse'";
    assert_eq!(server.number(sum), 20);
    let detected = "SELECT count(*) AS number FROM events WHERE kind = 'reuse_detected'";
    assert_eq!(server.number(detected), 1);
    let (_, said) = explain(&server, &tokens.refresh, &[]);
    assert!(said.contains(" times, from 127.0.0.1"), "{said}");
}

#[actix_rt::test]
async fn user_agent_is_truncated_to_256_bytes() {
    let server = Server::start();
    for agent in ["a".repeat(1000), "é".repeat(300), "a".repeat(255) + "é"] {
        let id = server.guest().await;
        let path = format!("/token?userId={id}");
        let request = server.http.request("GET", &path).insert_header(("user-agent", agent));
        Tokens::of(&TestResponse::of(request.send()).await);
    }
    let length = match server.database() {
        Conn::Postgres(_) => "octet_length(user_agent)",
        Conn::Sqlite(_) => "length(CAST(user_agent AS BLOB))",
    };
    let query = |of: &str| format!("SELECT CAST({of}({length}) AS bigint) AS number FROM sessions");
    assert_eq!((server.number(&query("min")), server.number(&query("max"))), (255, 256));
}
