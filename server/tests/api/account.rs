//! What users do with their own accounts: read, rename, delete.

use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use crate::races::Pair;
use crate::second_factor::{code, enroll};
use crate::support::{Server, Tokens};

const PASSWORD: &str = "violet tractor seven hums";

impl Server {
    /// Sends a request with a JSON body and an access token.
    pub(crate) async fn json_as(
        &self,
        (method, path): (&str, &str),
        body: &Value,
        token: &str,
    ) -> TestResponse {
        TestResponse::of(self.http.request(method, path).bearer_auth(token).send_json(body)).await
    }

    /// The account of an access token.
    pub(crate) async fn account(&self, tokens: &Tokens) -> Value {
        let response = self.http.get_as("/account", &tokens.access).await;
        assert_eq!(response.status, 200, "{}", response.text);
        response.json()
    }
}

/// The status and the error code of a response.
pub(crate) fn outcome(response: &TestResponse) -> (u16, String) {
    (response.status, response.field("error"))
}

#[actix_rt::test]
async fn account_shows_its_names_and_how_it_logs_in() {
    let server = Server::start();
    let id = server.register("Ann@Example.com", PASSWORD).await;
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    let mut account = server.account(&tokens).await;
    assert!(account["createdAt"].as_str().unwrap().ends_with('Z'), "{account}");
    account.as_object_mut().unwrap().remove("createdAt");
    let names = json!([{ "name": "ann@example.com", "kind": "email", "verified": false }]);
    let expected = json!({
        "userId": id, "names": names, "displayName": null, "isAdmin": false,
        "hasPassword": true, "secondFactor": false, "recoveryCodesLeft": 0,
    });
    assert_eq!(account, expected);
}

#[actix_rt::test]
async fn display_name_is_set_shown_and_removed() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let patch =
        async |body: Value| server.json_as(("PATCH", "/account"), &body, &tokens.access).await;
    let renamed = patch(json!({ "displayName": "  Ame\u{301}lie " })).await;
    assert_eq!((renamed.status, &renamed.json()["displayName"]), (200, &json!("Am\u{e9}lie")));
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(user["name"], "Am\u{e9}lie", "without waiting for a cache");
    for rejected in [json!({}), json!({ "displayName": " " }), json!({ "displayName": "a\nb" })] {
        assert_eq!(outcome(&patch(rejected).await), (400, "invalid_request".into()));
    }
    assert_eq!(patch(json!({ "displayName": null })).await.json()["displayName"], Value::Null);
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(user["name"], "ann");
}

#[actix_rt::test]
async fn guest_has_no_account() {
    let server = Server::start();
    let guest = server.log_in().await;
    let proof = json!({ "password": PASSWORD, "code": "123456", "displayName": "Ann" });
    for request in [
        ("GET", "/account"),
        ("PATCH", "/account"),
        ("DELETE", "/account"),
        ("POST", "/account/totp"),
        ("POST", "/account/totp/confirm"),
        ("DELETE", "/account/totp"),
    ] {
        let response = server.json_as(request, &proof, &guest.access).await;
        assert_eq!(outcome(&response), (404, "no_account".into()), "{request:?}");
        let response = server.json_as(request, &proof, "junk").await;
        assert_eq!(outcome(&response), (401, "invalid_token".into()), "{request:?}");
    }
}

#[actix_rt::test]
async fn deletion_needs_the_password_and_ends_everything_at_every_server() {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    server.register("ann", PASSWORD).await;
    let here = server.log_in_as("ann", PASSWORD).await;
    let elsewhere = server.log_in_as("ann", PASSWORD).await;
    let delete =
        async |body: Value| server.json_as(("DELETE", "/account"), &body, &here.access).await;
    assert_eq!(outcome(&delete(json!({})).await), (400, "invalid_request".into()));
    let wrong = delete(json!({ "password": "marble lantern drifts north" })).await;
    assert_eq!(outcome(&wrong), (401, "invalid_credentials".into()));
    assert_eq!(server.user(&elsewhere.access).await, 200);

    assert_eq!(delete(json!({ "password": PASSWORD })).await.status, 204);
    for http in [&server.http, &pair.there] {
        for tokens in [&here, &elsewhere] {
            assert_eq!(http.get_as("/user", &tokens.access).await.status, 401);
            let form = format!("refresh_token={}", tokens.refresh);
            assert_eq!(http.post("/refresh", &form).await.status, 401);
        }
    }
    assert_eq!(server.try_log_in_as("ann", PASSWORD).await.status, 401);
    server.register("ann", PASSWORD).await;
}

#[actix_rt::test]
async fn deletion_needs_the_second_factor_as_well() {
    let server = Server::start();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    let (secret, _) = enroll(&server, &tokens, PASSWORD).await;
    let delete =
        async |body: Value| server.json_as(("DELETE", "/account"), &body, &tokens.access).await;
    let without = delete(json!({ "password": PASSWORD })).await;
    assert_eq!(outcome(&without), (401, "second_factor_required".into()));
    let wrong = delete(json!({ "password": PASSWORD, "code": "12345" })).await;
    assert_eq!(outcome(&wrong), (401, "invalid_credentials".into()));
    let right = delete(json!({ "password": PASSWORD, "code": code(&server, &secret) })).await;
    assert_eq!(right.status, 204, "{}", right.text);
    assert_eq!(server.number("SELECT count(*) AS number FROM recovery_codes"), 0);
}
