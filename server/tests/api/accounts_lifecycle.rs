//! Accounts that an operator disables, enables and deletes, and whose password is set.

use std::time::Duration;

use actix_rt::task::JoinHandle;
use matchbook_server::accounts;
use matchbook_server::clock;
use matchbook_server::ids::{EventId, UserId};
use matchbook_server::sessions::{ClientInfo, Context, Policy};
use matchbook_server::store::Conn;
use matchbook_testkit::{Http, TestResponse};
use serde_json::json;

use crate::races::Pair;
use crate::support::{Server, Tokens, eventually};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

/// What an operator does to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Disable,
    Enable,
    Delete,
    /// Sets the password to that of the account `other`.
    SetPassword,
}

impl Operation {
    /// The reason that refresh tokens are rejected with afterwards.
    fn reason(self) -> &'static str {
        match self {
            Self::Delete => "unknown",
            Self::SetPassword => "password_changed",
            Self::Disable | Self::Enable => "user_disabled",
        }
    }

    /// Applies the rule as the command line does. Returns whether it changed something.
    pub(crate) fn run(self, conn: &mut Conn, user: &str) -> bool {
        let user = UserId(user.parse().unwrap());
        let now = clock::now();
        let event = EventId::new(now).unwrap();
        let client = ClientInfo::command_line();
        let cx = Context { policy: &POLICY, client: &client, event, now };
        match self {
            Self::Disable => accounts::disable(conn, user, &cx).unwrap().is_some(),
            Self::Enable => accounts::enable(conn, user, &cx).unwrap(),
            Self::Delete => accounts::delete(conn, user, &cx).unwrap().is_some(),
            Self::SetPassword => {
                let hash = text(
                    conn,
                    "SELECT password_hash AS text FROM accounts \
                     JOIN identities USING (user_id) WHERE name = 'other'",
                );
                accounts::set_password(conn, user, &hash, &cx).unwrap().is_some()
            }
        }
    }
}

impl Server {
    /// Carries out an operation as the command line does. Returns whether it changed
    /// something.
    pub(crate) async fn operate(&self, operation: Operation, user: &str) -> bool {
        let mut conn = self.database();
        let user = user.to_owned();
        actix_rt::task::spawn_blocking(move || operation.run(&mut conn, &user)).await.unwrap()
    }

    /// Sends a login, and returns its status and error code.
    async fn log_in_outcome(&self, name: &str, password: &str) -> (u16, String) {
        let response = self.try_log_in_as(name, password).await;
        (response.status, response.field("error"))
    }
}

/// The policy of the default settings, as far as it matters here.
const POLICY: Policy = Policy {
    access_lifetime: Duration::from_secs(15 * 60),
    idle_lifetime: Duration::from_secs(30 * 24 * 60 * 60),
    absolute_lifetime: Duration::from_secs(90 * 24 * 60 * 60),
    retention: Duration::from_secs(7 * 24 * 60 * 60),
    reissue: None,
    accept_ahead_of_database: false,
};

/// Returns the column `text` of a query.
fn text(conn: &mut Conn, query: &str) -> String {
    use diesel::prelude::*;
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        text: String,
    }
    diesel::sql_query(query).get_result::<Row>(conn).unwrap().text
}

/// Asserts that no server accepts the tokens. `reason` is that of the refresh token.
async fn assert_over(servers: &[&Http], tokens: &Tokens, reason: &str) {
    for http in servers {
        eventually(401, async || http.get_as("/user", &tokens.access).await.status).await;
        let refused = http.post("/refresh", &format!("refresh_token={}", tokens.refresh)).await;
        assert_eq!((refused.status, refused.field("reason").as_str()), (401, reason));
    }
}

#[actix_rt::test]
async fn disabled_account_has_no_session_and_cannot_log_in_until_it_is_enabled() {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    let id = server.register("ann", PASSWORD).await;
    let tokens = [server.log_in_as("ann", PASSWORD).await, server.log_in_as("ann", PASSWORD).await];
    assert!(server.operate(Operation::Disable, &id).await);
    assert!(!server.operate(Operation::Disable, &id).await, "it is disabled already");
    for tokens in &tokens {
        assert_over(&[&server.http, &pair.there], tokens, "user_disabled").await;
    }
    assert_eq!(server.log_in_outcome("ann", PASSWORD).await, (403, "user_disabled".into()));
    let wrong = server.log_in_outcome("ann", OTHER).await;
    assert_eq!(wrong, (401, "invalid_credentials".into()), "only the right password tells");

    assert!(server.operate(Operation::Enable, &id).await);
    assert!(!server.operate(Operation::Enable, &id).await, "it is enabled already");
    server.log_in_as("ann", PASSWORD).await;
    assert_over(&[&server.http, &pair.there], &tokens[0], "user_disabled").await;
    for (kind, number) in [("account_disabled", 1), ("account_enabled", 1), ("logged_out", 2)] {
        let query = format!("SELECT count(*) AS number FROM events WHERE kind = '{kind}'");
        assert_eq!(server.number(&query), number, "{kind}");
    }
}

#[actix_rt::test]
async fn deleted_account_leaves_nothing_but_audit_events_without_its_name() {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    let id = server.register("ann@example.com", PASSWORD).await;
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    server.sql(
        "INSERT INTO one_time_links (digest, purpose, user_id, name, created_at, expires_at) \
         SELECT secret_digest, 'reset', user_id, 'ann@example.com', created_at, expires_at \
         FROM sessions WHERE generation = 0",
    );
    assert!(server.operate(Operation::Delete, &id).await);
    assert!(!server.operate(Operation::Delete, &id).await, "it is deleted already");
    assert_over(&[&server.http, &pair.there], &tokens, "unknown").await;
    let outcome = server.log_in_outcome("ann@example.com", PASSWORD).await;
    assert_eq!(outcome, (401, "invalid_credentials".into()));
    for table in ["users", "accounts", "identities", "sessions", "one_time_links"] {
        let query = format!("SELECT count(*) AS number FROM {table}");
        assert_eq!(server.number(&query), 0, "{table}");
    }
    let events = "SELECT count(*) AS number FROM events WHERE kind <> 'refresh_rejected'";
    assert_eq!(server.number(events), 4, "registered, logged in, deleted, logged out");
    let named = "SELECT count(*) AS number FROM events \
                 WHERE kind || coalesce(reason, '') || coalesce(user_agent, '') LIKE '%ann%'";
    assert_eq!(server.number(named), 0);
    let again = server.register("ann@example.com", OTHER).await;
    assert_ne!(again, id, "the name is free, and the id is not used again");
}

#[actix_rt::test]
async fn password_of_an_operator_replaces_the_old_one_and_ends_all_sessions() {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    let id = server.register("ann", PASSWORD).await;
    server.register("other", OTHER).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let unrelated = server.log_in_as("other", OTHER).await;
    assert!(server.operate(Operation::SetPassword, &id).await);
    assert_over(&[&server.http, &pair.there], &tokens, "password_changed").await;
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    server.log_in_as("ann", OTHER).await;
    assert_eq!(server.user(&unrelated.access).await, 200);
}

/// Requests of one account at both servers: logins, refreshes, and a registration with the
/// access token of the guest that the account was.
fn requests_at_once(
    pair: &Pair,
    name: &str,
    tokens: &Tokens,
    round: usize,
) -> Vec<JoinHandle<TestResponse>> {
    let mut requests = Vec::new();
    for i in 0..4 {
        let (http, body) = (pair.server(i), json!({ "name": name, "password": PASSWORD }));
        requests.push(actix_rt::spawn(async move {
            TestResponse::of(http.request("POST", "/login").send_json(&body)).await
        }));
        let (http, form) = (pair.server(i), format!("refresh_token={}", tokens.refresh));
        requests.push(actix_rt::spawn(async move { http.post("/refresh", &form).await }));
    }
    let body = json!({ "name": format!("further{round}"), "password": PASSWORD });
    let (http, access) = (pair.server(round), tokens.access.clone());
    requests.push(actix_rt::spawn(async move {
        let request = http.request("POST", "/register").bearer_auth(access);
        TestResponse::of(request.send_json(&body)).await
    }));
    requests
}

/// Races an operation with requests of the account, and asserts that no session survives.
async fn race(operation: Operation) {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    server.register("other", OTHER).await;
    for round in 0..10 {
        let guest = server.log_in().await;
        let name = format!("ann{round}");
        let body = json!({ "name": name, "password": PASSWORD });
        let registered = server.post_json_as("/register", &body, &guest.access).await;
        let id = registered.field("userId");
        let requests = requests_at_once(&pair, &name, &guest, round);
        // Verifying the first passwords takes about this long.
        actix_rt::time::sleep(Duration::from_millis(20 * u64::try_from(round).unwrap())).await;
        assert!(server.operate(operation, &id).await);
        let mut held = vec![guest];
        for response in requests {
            let response = response.await.unwrap();
            match response.status {
                200 => held.push(Tokens::of(&response)),
                401 | 403 | 409 => {}
                status => panic!("{operation:?}: {status} {}", response.text),
            }
        }
        for tokens in held {
            assert_over(&[&server.http, &pair.there], &tokens, operation.reason()).await;
        }
        let live = format!(
            "SELECT count(*) AS number FROM sessions WHERE ended_at IS NULL AND user_id = '{id}'"
        );
        assert_eq!(server.number(&live), 0);
        let identities = format!("SELECT count(*) AS number FROM identities WHERE name = '{name}'");
        assert_eq!(server.number(&identities), i64::from(operation != Operation::Delete));
    }
    let further = "SELECT count(*) AS number FROM identities WHERE name LIKE 'further%'";
    assert_eq!(server.number(further), 0, "an account registers no second time");
}

#[actix_rt::test]
async fn no_session_survives_a_disable_that_races_with_logins_and_refreshes() {
    race(Operation::Disable).await;
}

#[actix_rt::test]
async fn no_session_survives_a_deletion_that_races_with_logins_and_refreshes() {
    race(Operation::Delete).await;
}

#[actix_rt::test]
async fn no_session_survives_a_new_password_that_races_with_logins_and_refreshes() {
    race(Operation::SetPassword).await;
}
