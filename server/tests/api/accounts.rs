//! Accounts: registration, login with a password, change of the password.

use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use crate::support::{Server, Tokens};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

impl Server {
    /// Sends `POST path` with a JSON body.
    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> TestResponse {
        TestResponse::of(self.http.request("POST", path).send_json(body)).await
    }

    /// Sends `POST path` with a JSON body and an access token.
    pub(crate) async fn post_json_as(&self, path: &str, body: &Value, token: &str) -> TestResponse {
        TestResponse::of(self.http.request("POST", path).bearer_auth(token).send_json(body)).await
    }

    /// Registers an account and returns its id.
    pub(crate) async fn register(&self, name: &str, password: &str) -> String {
        let body = json!({ "name": name, "password": password });
        let response = self.post_json("/register", &body).await;
        assert_eq!(response.status, 201, "{}", response.text);
        response.field("userId")
    }

    /// Sends a login.
    pub(crate) async fn try_log_in_as(&self, name: &str, password: &str) -> TestResponse {
        self.post_json("/login", &json!({ "name": name, "password": password })).await
    }

    /// Logs an account in.
    pub(crate) async fn log_in_as(&self, name: &str, password: &str) -> Tokens {
        Tokens::of(&self.try_log_in_as(name, password).await)
    }
}

/// The status and the error code of a response.
fn outcome(response: &TestResponse) -> (u16, String) {
    (response.status, response.field("error"))
}

#[actix_rt::test]
async fn account_logs_in_on_several_devices_and_sees_them() {
    let server = Server::start();
    let id = server.register("Ann@Example.com", PASSWORD).await;
    let first = server.log_in_as("ann@example.com", PASSWORD).await;
    let second = server.log_in_as(" ANN@EXAMPLE.COM ", PASSWORD).await;
    let user = server.http.get_as("/user", &first.access).await.json();
    assert_eq!(user["userId"], *id);
    assert_eq!(user["name"], "ann@example.com");
    assert_eq!(user["emailVerified"], false);
    let sessions = server.http.get_as("/sessions", &second.access).await.json();
    assert_eq!(sessions.as_array().unwrap().len(), 2);

    let all = server.http.request("DELETE", "/sessions").bearer_auth(&first.access).send();
    assert_eq!(TestResponse::of(all).await.json()["ended"], 2);
    for tokens in [first, second] {
        assert_eq!(server.user(&tokens.access).await, 401);
        assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    }
    server.log_in_as("ann@example.com", PASSWORD).await;
}

#[actix_rt::test]
async fn guest_becomes_an_account_and_keeps_its_id_and_session() {
    let server = Server::start();
    let guest = server.log_in().await;
    let before = server.http.get_as("/user", &guest.access).await.json();
    assert!(before.get("name").is_none(), "{before}");
    let body = json!({ "name": "ann", "password": PASSWORD });
    let registered = server.post_json_as("/register", &body, &guest.access).await;
    assert_eq!(registered.status, 201, "{}", registered.text);
    assert_eq!(registered.json()["userId"], before["userId"]);
    let after = server.http.get_as("/user", &guest.access).await.json();
    assert_eq!((&after["name"], &after["userId"]), (&json!("ann"), &before["userId"]));
    assert_eq!(server.refresh(&guest.refresh).await.status, 200);
    let account = server.log_in_as("ann", PASSWORD).await;
    assert_eq!(account.claims()["sub"], before["userId"]);
    let other = json!({ "name": "ann2", "password": PASSWORD });
    let again = server.post_json_as("/register", &other, &account.access).await;
    assert_eq!(outcome(&again), (409, "already_registered".into()));
    // The name of the rejected request is free.
    server.register("ann2", PASSWORD).await;
}

#[actix_rt::test]
async fn id_of_an_account_is_no_credential() {
    let server = Server::start();
    let id = server.register("ann", PASSWORD).await;
    let path = format!("/token?userId={id}");
    assert_eq!(outcome(&server.http.get(&path).await), (404, "unknown_user".into()));
    server.log_in_as("ann", PASSWORD).await;
    assert_eq!(outcome(&server.http.get(&path).await), (404, "unknown_user".into()));
}

#[actix_rt::test]
async fn unknown_name_and_wrong_password_get_the_same_response() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let unknown = server.try_log_in_as("bob", PASSWORD).await;
    for (name, password) in [("ann", OTHER), ("", "x"), ("\n", "x"), ("ann", &"x".repeat(3000))] {
        let wrong = server.try_log_in_as(name, password).await;
        if name.is_empty() {
            assert_eq!(outcome(&wrong), (400, "invalid_request".into()));
        } else {
            assert_eq!((wrong.status, wrong.text), (401, unknown.text.clone()), "{name}");
        }
    }
}

#[actix_rt::test]
async fn concurrent_registrations_of_one_name_make_one_account() {
    let server = Server::start();
    let body = json!({ "name": "ann", "password": PASSWORD });
    let requests = (0..8).map(|_| server.post_json("/register", &body));
    let responses = futures_util::future::join_all(requests).await;
    let created = responses.iter().filter(|response| response.status == 201).count();
    let taken = responses.iter().filter(|response| response.status == 409).count();
    assert_eq!((created, taken), (1, 7));
    assert_eq!(server.number("SELECT count(*) AS number FROM accounts"), 1);
    assert_eq!(server.number("SELECT count(*) AS number FROM users"), 1);
}

#[actix_rt::test]
async fn change_of_the_password_needs_the_current_one_and_ends_other_sessions() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let here = server.log_in_as("ann", PASSWORD).await;
    let elsewhere = server.log_in_as("ann", PASSWORD).await;
    let change = |current: &str, new: &str| {
        let body = json!({ "current": current, "new": new });
        let (server, token) = (&server, here.access.clone());
        async move { server.post_json_as("/password", &body, &token).await }
    };
    let wrong = change(OTHER, OTHER).await;
    assert_eq!(outcome(&wrong), (401, "invalid_credentials".into()));
    let weak = change(PASSWORD, "password1234").await;
    assert_eq!(outcome(&weak), (400, "unacceptable_password".into()));
    assert_eq!(server.user(&elsewhere.access).await, 200);

    assert_eq!(change(PASSWORD, OTHER).await.status, 204);
    assert_eq!(server.user(&here.access).await, 200);
    assert_eq!(server.user(&elsewhere.access).await, 401);
    let refused = server.refresh(&elsewhere.refresh).await;
    assert_eq!((refused.status, refused.field("reason").as_str()), (401, "password_changed"));
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    server.log_in_as("ann", OTHER).await;
    let guest = server.log_in().await;
    let none = server
        .post_json_as("/password", &json!({ "current": "x", "new": OTHER }), &guest.access)
        .await;
    assert_eq!(outcome(&none), (409, "no_password".into()));
}

#[actix_rt::test]
async fn registration_is_open_only_where_the_settings_say_so() {
    for (registration, status) in [("invite", 403), ("closed", 403), ("open", 201)] {
        let server = Server::with(|launch| launch.set("accounts.registration", registration));
        let body = json!({ "name": "ann", "password": PASSWORD });
        let response = server.post_json("/register", &body).await;
        assert_eq!(response.status, status, "{registration}: {}", response.text);
        if status == 403 {
            assert_eq!(response.field("error"), "registration_closed");
        }
    }
    let server = Server::with(|launch| launch.set("accounts.guests", "false"));
    assert_eq!(outcome(&server.http.get("/register").await), (403, "registration_closed".into()));
}

#[actix_rt::test]
async fn passwords_are_stored_as_argon2id_and_logged_nowhere() {
    let server = Server::with(|launch| launch.set("log.level", "debug"));
    server.register("ann", PASSWORD).await;
    server.log_in_as("ann", PASSWORD).await;
    server.try_log_in_as("ann", OTHER).await;
    let current = "SELECT count(*) AS number FROM accounts \
                   WHERE password_hash LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'";
    assert_eq!(server.number(current), 1);
    let log = server.process.log();
    for secret in [PASSWORD, OTHER, "argon2id"] {
        assert!(!log.contains(secret), "{secret}");
    }
}
