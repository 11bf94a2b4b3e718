//! `matchbook-server sessions end`: after a restored backup, or for one user.

use matchbook_testkit::TestResponse;

use crate::support::{Server, Tokens, binary, http};

/// Runs the command beside the server.
fn end(server: &Server, arguments: &[&str]) -> Result<String, String> {
    let arguments = [&["sessions", "end"], arguments].concat();
    let output = server.world.server(binary()).run(&arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn has_ended(response: &TestResponse) {
    assert_eq!(response.status, 401, "{}", response.text);
    assert_eq!(response.field("reason"), "logged_out");
}

#[actix_rt::test]
async fn sessions_of_one_user_end_at_every_server_and_no_others() {
    let server = Server::start();
    let other = server.world.server(binary()).start();
    let other = http(&server.world, &other);
    let (theirs, mine) = (server.log_in().await, server.log_in().await);
    assert_eq!(other.get_as("/user", &theirs.access).await.status, 200);
    let id = theirs.claims()["sub"].as_str().unwrap().to_owned();
    assert_eq!(end(&server, &["--user", &id]).unwrap(), "1 session has ended\n");
    for http in [&server.http, &other] {
        assert_eq!(http.get_as("/user", &theirs.access).await.status, 401);
        assert_eq!(http.get_as("/user", &mine.access).await.status, 200);
    }
    has_ended(&server.refresh(&theirs.refresh).await);
    Tokens::of(&server.refresh(&mine.refresh).await);
    assert_eq!(end(&server, &["--user", &id]).unwrap(), "0 sessions have ended\n");
}

#[actix_rt::test]
async fn sessions_opened_before_a_time_or_all_can_be_ended() {
    let server = Server::start();
    let old = server.log_in().await;
    let between = server.log_in().await;
    // The time on the command line has a resolution of one second.
    let until_next_second = 1_100;
    actix_rt::time::sleep(std::time::Duration::from_millis(until_next_second)).await;
    let new = server.log_in().await;
    let opened = new.claims()["iat"].as_u64().unwrap();
    let time = humantime::format_rfc3339_seconds(
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(opened),
    );
    let time = time.to_string();
    assert_eq!(end(&server, &["--before", &time]).unwrap(), "2 sessions have ended\n");
    for ended in [&old, &between] {
        assert_eq!(server.user(&ended.access).await, 401);
        has_ended(&server.refresh(&ended.refresh).await);
    }
    let new = Tokens::of(&server.refresh(&new.refresh).await);
    assert_eq!(end(&server, &["--all"]).unwrap(), "1 session has ended\n");
    assert_eq!(server.user(&new.access).await, 401);
    has_ended(&server.refresh(&new.refresh).await);
    let logged = "SELECT count(*) AS number FROM events WHERE kind = 'logged_out'";
    assert_eq!(server.number(logged), 3);
}

#[actix_rt::test]
async fn more_sessions_than_one_batch_are_all_ended() {
    let server = Server::start();
    let one = server.log_in().await;
    let columns = "place, user_id, generation, secret_digest, access_jti, access_issued_at, \
                   access_expires_at, created_at, idle_expires_at, expires_at";
    let is_sqlite = server.world.database_url().starts_with("sqlite");
    // Random, but with the byte that holds the place.
    let id = if is_sqlite {
        "unhex(hex(randomblob(8)) || hex(substr(id, 9, 1)) || hex(randomblob(7)))"
    } else {
        "encode(set_byte(uuid_send(gen_random_uuid()), 8, get_byte(uuid_send(id), 8)), \
         'hex')::uuid"
    };
    // More than two batches, as copies of one row.
    server.sql(&format!(
        "WITH RECURSIVE numbers (n) AS \
         (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1100) \
         INSERT INTO sessions (id, {columns}) SELECT {id}, {columns} FROM sessions, numbers"
    ));
    assert_eq!(end(&server, &["--all"]).unwrap(), "1101 sessions have ended\n");
    // On a new connection, since the server may have closed the first one.
    let http = http(&server.world, &server.process);
    assert_eq!(http.get_as("/user", &one.access).await.status, 401);
    let live = "SELECT count(*) AS number FROM sessions WHERE ended_at IS NULL";
    assert_eq!(server.number(live), 0);
}

#[actix_rt::test]
async fn sessions_end_requires_exactly_one_selection() {
    let server = Server::start();
    let tokens = server.log_in().await;
    for arguments in [
        [].as_slice(),
        &["--all", "--user", "00000000-0000-7000-8000-000000000000"],
        &["--user", "unknown"],
        &["--before", "yesterday"],
    ] {
        assert!(end(&server, arguments).is_err(), "{arguments:?}");
    }
    assert_eq!(server.user(&tokens.access).await, 200);
}
