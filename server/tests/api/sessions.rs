//! `GET /sessions`, `DELETE /sessions/{id}`, `DELETE /sessions`.

use matchbook_server::clock;
use matchbook_server::ids::{Place, UserId};
use matchbook_server::store::users;
use matchbook_testkit::TestResponse;
use serde_json::Value;

use crate::support::{Server, Tokens, eventually};

async fn delete(server: &Server, path: &str, token: &str) -> TestResponse {
    TestResponse::of(server.http.request("DELETE", path).bearer_auth(token).send()).await
}

async fn list(server: &Server, token: &str) -> Vec<Value> {
    let response = server.http.get_as("/sessions", token).await;
    assert_eq!(response.status, 200, "{}", response.text);
    response.json().as_array().unwrap().clone()
}

fn id(tokens: &Tokens) -> String {
    tokens.claims()["sid"].as_str().unwrap().to_owned()
}

/// One user on several devices. Guests have one session each, so their rows are
/// moved to the first user; later tokens belong to that user.
async fn devices(server: &Server, count: usize) -> Vec<Tokens> {
    let mut all = Vec::new();
    // Sessions of one user have one place.
    let mut users =
        std::iter::repeat_with(UserId::random).filter(|user| user.place() == Place::MIN);
    for _ in 0..count {
        let user = users.next().unwrap();
        users::insert(&mut server.database(), user, clock::now()).unwrap();
        all.push(Tokens::of(&server.http.get(&format!("/token?userId={user}")).await));
    }
    let user = "(SELECT user_id FROM sessions ORDER BY created_at LIMIT 1)";
    server.sql(&format!("UPDATE sessions SET user_id = {user}"));
    for tokens in &mut all {
        *tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    all
}

#[actix_rt::test]
async fn session_list_has_the_live_sessions_and_marks_the_current_one() {
    let server = Server::start();
    let mine = devices(&server, 3).await;
    let other_user = server.log_in().await;
    let over = server.http.post("/logout", &format!("refresh_token={}", mine[2].refresh)).await;
    assert_eq!(over.status, 204);

    let listed = list(&server, &mine[0].access).await;
    let ids: Vec<_> = listed.iter().map(|session| session["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [id(&mine[1]), id(&mine[0])], "the last used first");
    let current: Vec<_> = listed.iter().map(|session| session["current"] == true).collect();
    assert_eq!(current, [false, true]);
    let session = &listed[1];
    assert_eq!(session["ip"], "127.0.0.1");
    assert_eq!(session["userAgent"], "matchbook-test");
    let time = |name: &str| {
        let text = session[name].as_str().unwrap_or_else(|| panic!("no {name} in {session}"));
        humantime::parse_rfc3339(text).unwrap()
    };
    assert!(time("createdAt") < time("lastUsedAt"), "{session}");
    assert!(time("lastUsedAt") < time("expiresAt"), "{session}");

    let theirs = list(&server, &other_user.access).await;
    assert_eq!(theirs.len(), 1);
    assert_eq!(theirs[0]["lastUsedAt"], theirs[0]["createdAt"], "never refreshed");
    assert_eq!(server.http.get("/sessions").await.status, 401);
}

#[actix_rt::test]
async fn user_can_end_one_own_session_but_not_another_users() {
    let server = Server::start();
    let mine = devices(&server, 2).await;
    let other_user = server.log_in().await;
    let path = |of: &Tokens| format!("/sessions/{}", id(of));

    for path in [path(&other_user), "/sessions/junk".into(), format!("/sessions/{}", uuid())] {
        let refused = delete(&server, &path, &mine[0].access).await;
        assert_eq!((refused.status, refused.field("error").as_str()), (404, "unknown_session"));
    }
    assert_eq!(server.user(&other_user.access).await, 200);

    for _ in 0..2 {
        let ended = delete(&server, &path(&mine[1]), &mine[0].access).await;
        assert_eq!((ended.status, ended.text.as_str()), (204, ""), "also where it had ended");
    }
    assert_eq!(server.user(&mine[1].access).await, 401);
    assert_eq!(server.refresh(&mine[1].refresh).await.field("reason"), "logged_out");
    assert_eq!(server.user(&mine[0].access).await, 200);
    // And the session of the request.
    assert_eq!(delete(&server, &path(&mine[0]), &mine[0].access).await.status, 204);
    assert_eq!(server.user(&mine[0].access).await, 401);
}

fn uuid() -> &'static str {
    "01234567-89ab-4def-8123-456789abcdef"
}

#[actix_rt::test]
async fn user_can_end_all_sessions_or_all_others() {
    let server = Server::start();
    let mine = devices(&server, 4).await;
    let other_user = server.log_in().await;

    for query in ["keep=mine", "keep=", "keep", "kep=current", "keep=current&keep=current"] {
        let wrong = delete(&server, &format!("/sessions?{query}"), &mine[0].access).await;
        assert_eq!((wrong.status, wrong.field("error").as_str()), (400, "invalid_request"));
    }
    let ended = delete(&server, "/sessions?keep=current", &mine[0].access).await;
    assert_eq!((ended.status, ended.text.as_str()), (200, r#"{"ended":3}"#));
    assert_eq!(server.user(&mine[0].access).await, 200);
    for other in &mine[1..] {
        assert_eq!(server.user(&other.access).await, 401);
        assert_eq!(server.refresh(&other.refresh).await.field("reason"), "logged_out");
    }
    let events = "SELECT count(*) AS number FROM events WHERE kind = 'logged_out'";
    assert_eq!(server.number(events), 3);

    let ended = delete(&server, "/sessions", &mine[0].access).await;
    assert_eq!(ended.text, r#"{"ended":1}"#);
    assert_eq!(server.user(&mine[0].access).await, 401);
    assert_eq!(server.user(&other_user.access).await, 200, "other users keep theirs");
}

#[actix_rt::test]
async fn concurrent_logout_everywhere_ends_each_session_once() {
    let server = Server::start();
    let mine = devices(&server, 8).await;
    let requests: Vec<_> = mine
        .iter()
        .map(|tokens| {
            let request = server.http.request("DELETE", "/sessions").bearer_auth(&tokens.access);
            actix_rt::spawn(async move { TestResponse::of(request.send()).await })
        })
        .collect();
    let mut ended = 0;
    for request in requests {
        let response = request.await.unwrap();
        // Later requests are already logged out.
        assert!([200, 401].contains(&response.status), "{}", response.text);
        ended += response.json()["ended"].as_u64().unwrap_or(0);
    }
    assert_eq!(ended, 8);
    for tokens in &mine {
        assert_eq!(server.user(&tokens.access).await, 401);
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn concurrent_logout_everywhere_requests_serialize() {
    use diesel::connection::SimpleConnection;
    let server = Server::start();
    let mine = devices(&server, 4).await;
    let mut conn = server.database();
    conn.batch_execute("BEGIN; SELECT 1 FROM sessions FOR UPDATE").unwrap();
    let requests: Vec<_> = mine[..2]
        .iter()
        .map(|tokens| {
            let request = server.http.request("DELETE", "/sessions").bearer_auth(&tokens.access);
            actix_rt::spawn(async move { TestResponse::of(request.send()).await })
        })
        .collect();
    let waiting = "SELECT count(*) AS number FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(2, async || server.number(waiting)).await;
    conn.batch_execute("COMMIT").unwrap();
    let mut ended = 0;
    for request in requests {
        let response = request.await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text);
        ended += response.json()["ended"].as_u64().unwrap();
    }
    assert_eq!(ended, 4, "each once");
}
