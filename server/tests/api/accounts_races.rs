//! Requests that meet in the middle of a transaction. The row of the account decides their
//! order.

use actix_rt::task::JoinHandle;
use diesel::connection::SimpleConnection;
use matchbook_server::store::Conn;
use matchbook_testkit::TestResponse;
use serde_json::json;

use crate::accounts_lifecycle::Operation;
use crate::accounts_links::assert_invalid;
use crate::support::{Server, Tokens, eventually};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

const WAITING: &str = "SELECT count(*) AS number FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// A transaction that has locked the row of an account, as a login does.
struct Held(Conn);

impl Held {
    fn account(server: &Server, user: &str) -> Self {
        let mut conn = server.database();
        let lock = "UPDATE accounts SET is_admin = is_admin WHERE user_id";
        conn.batch_execute(&format!("BEGIN; {lock} = '{user}'")).unwrap();
        Self(conn)
    }

    /// Executes a statement, and commits.
    fn commit_with(mut self, statement: &str) {
        self.0.batch_execute(&format!("{statement}; COMMIT")).unwrap();
    }
}

/// A change of an account that waits for a login.
struct Waiting {
    server: Server,
    held: Held,
    /// The tokens of the login.
    opened: Tokens,
    /// The tokens of the request.
    request: Tokens,
    user: String,
}

impl Waiting {
    async fn start() -> Self {
        let server = Server::start();
        server.register("other", OTHER).await;
        let user = server.register("ann", PASSWORD).await;
        let opened = server.log_in_as("ann", PASSWORD).await;
        // Not open until the login commits.
        server.sql("UPDATE sessions SET ended_at = created_at, end_reason = 'logged_out'");
        let request = server.log_in_as("ann", PASSWORD).await;
        let held = Held::account(&server, &user);
        Self { server, held, opened, request, user }
    }

    /// Opens the session while the change waits, and asserts that the change ends it.
    async fn assert_ended(self, done: impl Future<Output = bool>) {
        let Self { server, held, opened, request: _, user } = self;
        eventually(1, async || server.number(WAITING)).await;
        let id = opened.claims()["sid"].as_str().unwrap().to_owned();
        let open = "UPDATE sessions SET ended_at = NULL, end_reason = NULL WHERE id";
        held.commit_with(&format!("{open} = '{id}'"));
        assert!(done.await);
        eventually(401, async || server.user(&opened.access).await).await;
        assert_eq!(server.refresh(&opened.refresh).await.status, 401);
        let revoked = "SELECT count(*) AS number FROM session_revocations WHERE session_id";
        assert_eq!(server.number(&format!("{revoked} = '{id}'")), 1, "{user}");
    }
}

/// An operation of the command line, in a thread of its own.
async fn ends_the_session_of_a_concurrent_login(operation: Operation) {
    let waiting = Waiting::start().await;
    let mut conn = waiting.server.database();
    let user = waiting.user.clone();
    let done = actix_rt::task::spawn_blocking(move || operation.run(&mut conn, &user));
    waiting.assert_ended(async { done.await.unwrap() }).await;
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn disabling_ends_the_session_of_a_login_that_commits_first() {
    ends_the_session_of_a_concurrent_login(Operation::Disable).await;
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn deletion_ends_the_session_of_a_login_that_commits_first() {
    ends_the_session_of_a_concurrent_login(Operation::Delete).await;
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn password_of_an_operator_ends_the_session_of_a_login_that_commits_first() {
    ends_the_session_of_a_concurrent_login(Operation::SetPassword).await;
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn change_of_the_password_ends_the_session_of_a_login_that_commits_first() {
    let waiting = Waiting::start().await;
    let body = json!({ "current": PASSWORD, "new": OTHER });
    let request = waiting.server.http.request("POST", "/password");
    let request = request.bearer_auth(&waiting.request.access).send_json(&body);
    let done: JoinHandle<TestResponse> = actix_rt::spawn(TestResponse::of(request));
    waiting.assert_ended(async { done.await.unwrap().status == 204 }).await;
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn reset_holds_no_link_while_it_waits_for_the_account() {
    let server = Server::start();
    let user = server.register("ann", PASSWORD).await;
    let token = server.reset_link(&user);
    let held = Held::account(&server, &user);
    let (http, body) = (server.http.clone(), json!({ "token": token, "new": OTHER }));
    let reset = actix_rt::spawn(async move {
        TestResponse::of(http.request("POST", "/password/reset").send_json(&body)).await
    });
    eventually(1, async || server.number(WAITING)).await;
    // As a change of the password does. A reset that held the link would be in a deadlock.
    held.commit_with("DELETE FROM one_time_links");
    assert_invalid(&reset.await.unwrap());
}
