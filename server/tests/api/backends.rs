//! Sessions that a backend opens for users of its own database.

use diesel::connection::SimpleConnection;
use matchbook_server::store::Conn;
use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use crate::support::{Server, Tokens, binary, eventually};

/// The credentials of a backend.
struct Backend {
    id: String,
    secret: String,
}

impl Server {
    fn add_backend(&self, name: &str) -> Backend {
        let added = self.command_json(&["backends", "add", name, "--json"]);
        let field = |name: &str| added[name].as_str().unwrap().to_owned();
        Backend { id: field("id"), secret: field("secret") }
    }

    async fn open_session(&self, backend: &Backend, body: &Value) -> TestResponse {
        let request = self.http.request("POST", "/sessions");
        let request = request.basic_auth(&backend.id, &backend.secret);
        TestResponse::of(request.send_json(body)).await
    }
}

#[actix_rt::test]
async fn sessions_of_one_subject_are_of_one_user_and_those_of_another_backend_are_not() {
    let server = Server::start();
    let (shop, blog) = (server.add_backend("shop"), server.add_backend("blog"));
    let body = json!({ "subject": "42" });
    let requests = (0..8).map(|_| server.open_session(&shop, &body));
    let responses = futures_util::future::join_all(requests).await;
    let opened: Vec<Tokens> = responses.iter().map(Tokens::of).collect();
    let user = opened[0].claims()["sub"].clone();
    assert!(opened.iter().all(|tokens| tokens.claims()["sub"] == user));
    let sessions = server.http.get_as("/sessions", &opened[3].access).await.json();
    assert_eq!(sessions.as_array().unwrap().len(), 8);
    let info = server.http.get_as("/user", &opened[0].access).await.json();
    assert!(info.get("name").is_none(), "{info}");

    for (backend, subject) in [(&blog, "42"), (&shop, "43")] {
        let other = server.open_session(backend, &json!({ "subject": subject })).await;
        assert_ne!(Tokens::of(&other).claims()["sub"], user);
    }
    let id = user.as_str().unwrap();
    let guest = server.http.get(&format!("/token?userId={id}")).await;
    assert_eq!(guest.status, 404, "the id of the user is no credential");
}

/// The rows of the user of one subject. They can be deleted and inserted again, as by the
/// first session of a concurrent request.
struct SubjectRows {
    conn: Conn,
}

impl SubjectRows {
    /// Remembers all users of the server, deletes them, and delays each request before the
    /// statement that follows an update of `accounts`.
    fn take(server: &Server) -> Self {
        let mut rows = Self { conn: server.database() };
        rows.run("CREATE TEMP TABLE kept_users AS SELECT * FROM users");
        rows.run("CREATE TEMP TABLE kept_identities AS SELECT * FROM identities");
        rows.run("CREATE TEMP TABLE kept_accounts AS SELECT * FROM accounts");
        rows.run(
            "CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_lock_shared(17);
                 PERFORM pg_advisory_unlock_shared(17);
                 RETURN NULL;
             END $$",
        );
        rows.run(
            "CREATE TRIGGER wait_for_test AFTER UPDATE ON accounts
             FOR EACH STATEMENT EXECUTE FUNCTION wait_for_test()",
        );
        rows.delete();
        rows
    }

    fn delete(&mut self) {
        self.run("DELETE FROM sessions");
        self.run("DELETE FROM accounts");
        self.run("DELETE FROM identities");
        self.run("DELETE FROM users");
    }

    fn insert(&mut self) {
        self.run("INSERT INTO users SELECT * FROM kept_users");
        self.run("INSERT INTO identities SELECT * FROM kept_identities");
        self.run("INSERT INTO accounts SELECT * FROM kept_accounts");
    }

    fn hold(&mut self) {
        self.run("SELECT pg_advisory_lock(17)");
    }

    fn release(&mut self) {
        self.run("SELECT pg_advisory_unlock(17)");
    }

    fn run(&mut self, statements: &str) {
        self.conn.batch_execute(statements).unwrap();
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL and Redis: make test"]
async fn first_sessions_are_admitted_while_a_concurrent_one_creates_their_user() {
    let server = Server::start();
    let shop = server.add_backend("shop");
    let body = json!({ "subject": "42" });
    let user = Tokens::of(&server.open_session(&shop, &body).await).claims()["sub"].clone();
    let mut rows = SubjectRows::take(&server);
    let waiting = "SELECT count(*) AS number FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let all_wait = async || eventually(4, async || server.number(waiting)).await;

    for commits_before_the_insert in [true, false] {
        rows.delete();
        rows.hold();
        let requests = futures_util::future::join_all((0..4).map(|_| {
            let request = server.http.request("POST", "/sessions");
            let request = request.basic_auth(&shop.id, &shop.secret);
            TestResponse::of(request.send_json(&body))
        }));
        let requests = actix_rt::spawn(requests);
        // None of them has found the user.
        all_wait().await;
        if commits_before_the_insert {
            rows.insert();
            rows.release();
        } else {
            rows.run("BEGIN");
            rows.insert();
            rows.release();
            all_wait().await;
            rows.run("COMMIT");
        }
        for response in requests.await.unwrap() {
            assert_eq!(Tokens::of(&response).claims()["sub"], user);
        }
    }
}

#[actix_rt::test]
async fn every_access_token_of_the_session_has_the_claims() {
    let server = Server::start();
    let backend = server.add_backend("shop");
    let claims = json!({ "roles": ["admin", "\"quoted\\\""], "plan": { "seats": 3 } });
    let body = json!({ "subject": "ann", "claims": claims });
    let mut tokens = Tokens::of(&server.open_session(&backend, &body).await);
    for _ in 0..3 {
        for (name, value) in claims.as_object().unwrap() {
            assert_eq!(tokens.claims()[name], *value);
        }
        assert_eq!(server.user(&tokens.access).await, 200);
        let again = Tokens::of(&server.refresh(&tokens.refresh).await);
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
        assert_eq!(tokens.claims(), again.claims(), "the response is issued again");
    }
    let plain = server.open_session(&backend, &json!({ "subject": "ann" })).await;
    assert!(Tokens::of(&plain).claims().get("roles").is_none());
    let largest = json!({ "subject": "ann", "claims": { "a": "x".repeat(2040) } });
    let largest = Tokens::of(&server.open_session(&backend, &largest).await);
    assert_eq!(server.user(&largest.access).await, 200);
}

#[actix_rt::test]
async fn invalid_requests_of_a_backend_open_no_session() {
    let server = Server::start();
    let backend = server.add_backend("shop");
    for body in [
        json!({}),
        json!({ "subject": "" }),
        json!({ "subject": "a\n" }),
        json!({ "subject": "x".repeat(256) }),
        json!({ "subject": 42 }),
        json!({ "subject": "a", "claims": [] }),
        json!({ "subject": "a", "claims": "x" }),
        json!({ "subject": "a", "claims": { "sub": "b" } }),
        json!({ "subject": "a", "claims": { "exp": 1 } }),
        json!({ "subject": "a", "claims": { "a": "x".repeat(2041) } }),
        json!({ "subject": "a", "claim": { "a": 1 } }),
    ] {
        let response = server.open_session(&backend, &body).await;
        assert_eq!(response.status, 400, "{body}: {}", response.text);
        assert_eq!(response.field("error"), "invalid_request");
    }
    let body = json!({ "subject": "a" });
    for (id, secret) in
        [(&*backend.id, "wrong"), ("be_unknown", &*backend.secret), (&*backend.id, ""), ("", "")]
    {
        let other = Backend { id: id.to_owned(), secret: secret.to_owned() };
        let response = server.open_session(&other, &body).await;
        assert_eq!((response.status, response.field("error").as_str()), (401, "invalid_client"));
        assert!(response.header("www-authenticate").starts_with("Basic "));
    }
    // The last is `a`, a zero byte and `b:x`.
    let malformed =
        ["Bearer x", "Basic", "Basic !", "Basic eA==", "Basic /////w==", "Basic YQBiOng="];
    for authorization in malformed {
        let request = server.http.request("POST", "/sessions");
        let request = request.insert_header(("Authorization", authorization)).send_json(&body);
        assert_eq!(TestResponse::of(request).await.status, 401, "{authorization}");
    }
    assert_eq!(server.number("SELECT count(*) AS number FROM sessions"), 0);
}

#[actix_rt::test]
async fn two_secrets_of_a_backend_are_valid_while_they_are_rotated() {
    let server = Server::start();
    let first = server.add_backend("shop");
    let rotate = || {
        let rotated = server.command_json(&["backends", "rotate-secret", &first.id, "--json"]);
        let secret = rotated["secret"].as_str().unwrap().to_owned();
        Backend { id: first.id.clone(), secret }
    };
    let second = rotate();
    let body = json!({ "subject": "a" });
    for backend in [&first, &second] {
        assert_eq!(server.open_session(backend, &body).await.status, 200);
    }
    let third = rotate();
    for (backend, status) in [(&first, 401), (&second, 200), (&third, 200)] {
        assert_eq!(server.open_session(backend, &body).await.status, status);
    }
    let taken = server.world.server(binary()).run(&["backends", "add", "shop"]);
    assert!(!taken.status.success());
    assert!(String::from_utf8(taken.stderr).unwrap().contains("already a backend named"));
    let listed = server.command_json(&["backends", "list", "--json"]);
    assert_eq!((&listed[0]["id"], &listed[0]["name"]), (&json!(first.id), &json!("shop")));
    assert!(!listed.to_string().contains("ecret"));
    assert!(server.world.server(binary()).run(&["backends", "remove", &first.id]).status.success());
    assert_eq!(server.open_session(&third, &body).await.status, 401);
}

#[actix_rt::test]
async fn disabled_user_of_a_backend_gets_no_session() {
    let server = Server::start();
    let backend = server.add_backend("shop");
    let body = json!({ "subject": "a" });
    let opened = Tokens::of(&server.open_session(&backend, &body).await);
    let user = opened.claims()["sub"].as_str().unwrap().to_owned();
    for (command, status) in [("disable", 403), ("enable", 200)] {
        let output = server.world.server(binary()).run(&["users", command, &user]);
        assert!(output.status.success(), "{output:?}");
        let response = server.open_session(&backend, &body).await;
        assert_eq!(response.status, status, "{command}: {}", response.text);
        assert_eq!(server.user(&opened.access).await, 401, "the first session has ended");
    }
}
