//! Forgotten passwords, with mail.

use matchbook_testkit::SmtpServer;
use serde_json::json;

use super::{assert_not_logged, server_with, token};
use crate::accounts_links::{assert_invalid, outcome};
use crate::support::Server;

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

impl Server {
    /// Registers an account with an email address that is not verified.
    async fn register_unverified(&self, name: &str) {
        let token = self.invite(Some(name), false);
        assert_eq!(self.accept(&token, None, PASSWORD).await.status, 201);
    }

    async fn forget(&self, name: &str) {
        let response = self.post_json("/password/forgot", &json!({ "name": name })).await;
        assert_eq!((response.status, response.text.as_str()), (202, ""), "{name}");
    }
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn mailed_link_sets_a_password_verifies_the_address_and_ends_all_sessions() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register_unverified("ann@example.com").await;
    let here = server.log_in_as("ann@example.com", PASSWORD).await;
    server.forget(" ANN@example.com").await;
    let token = token(&smtp.await_mail("ann@example.com", 1), "reset");
    let weak = server.reset(&token, "password1234").await;
    assert_eq!(outcome(&weak), (400, "unacceptable_password".into()));
    assert_eq!(server.user(&here.access).await, 200);

    assert_eq!(server.reset(&token, OTHER).await.status, 204);
    assert_eq!(server.user(&here.access).await, 401);
    let refused = server.refresh(&here.refresh).await;
    assert_eq!((refused.status, refused.field("reason").as_str()), (401, "password_changed"));
    assert_eq!(server.try_log_in_as("ann@example.com", PASSWORD).await.status, 401);
    let tokens = server.log_in_as("ann@example.com", OTHER).await;
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(user["emailVerified"], true);
    assert_invalid(&server.reset(&token, PASSWORD).await);
    assert_not_logged(&server, &[PASSWORD, OTHER, &token]);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn newer_link_and_change_of_the_password_void_older_links() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register_unverified("ann@example.com").await;
    server.forget("ann@example.com").await;
    let first = token(&smtp.await_mail("ann@example.com", 1), "reset");
    server.forget("ann@example.com").await;
    let second = token(&smtp.await_mail("ann@example.com", 2), "reset");
    assert_invalid(&server.reset(&first, OTHER).await);

    let here = server.log_in_as("ann@example.com", PASSWORD).await;
    let change = json!({ "current": PASSWORD, "new": OTHER });
    assert_eq!(server.post_json_as("/password", &change, &here.access).await.status, 204);
    assert_invalid(&server.reset(&second, PASSWORD).await);
    server.log_in_as("ann@example.com", OTHER).await;
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn unknown_and_disabled_accounts_get_no_mail_and_the_same_response() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register_unverified("ann@example.com").await;
    server.register_unverified("eve@example.com").await;
    let disable = "UPDATE accounts SET disabled_at = created_at WHERE user_id = \
                   (SELECT user_id FROM identities WHERE name = 'eve@example.com')";
    server.sql(disable);
    for name in ["bob@example.com", "eve@example.com", "no name", "\u{0}"] {
        server.forget(name).await;
    }
    server.forget("ann@example.com").await;
    smtp.await_mail("ann@example.com", 1);
    for name in ["bob@example.com", "eve@example.com"] {
        assert!(smtp.mails(name).is_empty(), "{name}");
    }
    let missing = server.post_json("/password/forgot", &json!({})).await;
    assert_eq!(outcome(&missing), (400, "invalid_request".into()));
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn name_gets_one_mail_a_minute_without_a_difference_in_the_response() {
    let smtp = SmtpServer::new();
    let server = Server::with(|launch| {
        launch
            .set("smtp.url", &smtp.url())
            .set("mail.from", super::SENDER)
            .set("limits.enabled", "true")
    });
    server.register_unverified("ann@example.com").await;
    for _ in 0..4 {
        server.forget("ann@example.com").await;
        server.forget("bob@example.com").await;
    }
    smtp.await_mail("ann@example.com", 1);
    server.register_unverified("eve@example.com").await;
    server.forget("eve@example.com").await;
    smtp.await_mail("eve@example.com", 1);
    assert_eq!(smtp.mails("ann@example.com").len(), 1);
    // A registration says so, for names of accounts and for others.
    for name in ["ann@example.com", "bob@example.com"] {
        let body = json!({ "name": name, "password": PASSWORD });
        let limited = server.post_json("/register", &body).await;
        assert_eq!(outcome(&limited), (429, "too_many_requests".into()), "{name}");
    }
}
