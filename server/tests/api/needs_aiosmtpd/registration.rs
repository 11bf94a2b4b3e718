//! Registration with an email address that is verified, and invitations by mail.

use std::time::Instant;

use matchbook_testkit::SmtpServer;
use serde_json::json;

use super::{assert_not_logged, server_with, token};
use crate::accounts_links::{assert_invalid, outcome};
use crate::support::binary;

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn email_address_is_verified_before_there_is_an_account() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    let id = server.register("Ann@Example.com", PASSWORD).await;
    let unknown = server.try_log_in_as("bob@example.com", PASSWORD).await;
    let early = server.try_log_in_as("ann@example.com", PASSWORD).await;
    assert_eq!((early.status, early.text), (401, unknown.text));
    for table in ["accounts", "identities", "users"] {
        assert_eq!(server.number(&format!("SELECT count(*) AS number FROM {table}")), 0, "{table}");
    }

    let mail = smtp.await_mail("ann@example.com", 1);
    assert_eq!(mail.0["from"], "auth@matchbook.example");
    assert_eq!(mail.0["sender"], super::SENDER);
    assert_eq!(mail.0["automatic"], "auto-generated");
    assert!(mail.text().contains("127.0.0.1"), "{}", mail.text());
    let token = token(&mail, "verify");
    let confirmed = server.post_json("/register/confirm", &json!({ "token": token })).await;
    assert_eq!((confirmed.status, confirmed.field("userId")), (201, id), "{}", confirmed.text);
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(user["emailVerified"], true);
    assert_invalid(&server.post_json("/register/confirm", &json!({ "token": token })).await);
    assert_not_logged(&server, &[PASSWORD, &token]);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn taken_email_address_gets_the_same_response_and_its_owner_a_mail() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    let first = server.register("ann@example.com", PASSWORD).await;
    let link = token(&smtp.await_mail("ann@example.com", 1), "verify");
    server.post_json("/register/confirm", &json!({ "token": link })).await;

    let body = |name: &str| json!({ "name": name, "password": OTHER });
    let taken = server.post_json("/register", &body("ann@example.com")).await;
    let free = server.post_json("/register", &body("bob@example.com")).await;
    assert_eq!((taken.status, free.status), (201, 201));
    let names = |response: &matchbook_testkit::TestResponse| -> Vec<String> {
        let mut names: Vec<_> = response.headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(names(&taken), names(&free));
    assert_eq!(taken.text.len(), free.text.len());
    assert_ne!(taken.field("userId"), first);
    let mail = smtp.await_mail("ann@example.com", 2);
    assert!(!mail.text().contains("?token="), "{}", mail.text());
    assert!(mail.text().contains("already"), "{}", mail.text());
    server.log_in_as("ann@example.com", PASSWORD).await;
    assert_eq!(server.try_log_in_as("ann@example.com", OTHER).await.status, 401);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn taken_and_free_email_addresses_take_the_same_time() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register("ann@example.com", PASSWORD).await;
    let link = token(&smtp.await_mail("ann@example.com", 1), "verify");
    server.post_json("/register/confirm", &json!({ "token": link })).await;
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..15 {
        for (which, name) in [(0, "ann@example.com".into()), (1, format!("bob{n}@example.com"))] {
            let started = Instant::now();
            server.register(&name, OTHER).await;
            times[which].push(started.elapsed().as_secs_f64());
        }
    }
    let [taken, free] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let ratio = taken / free;
    assert!((0.6..1.7).contains(&ratio), "taken {taken} s, free {free} s");
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn user_name_registers_at_once_and_expired_link_registers_no_user() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register("ann", PASSWORD).await;
    server.log_in_as("ann", PASSWORD).await;

    server.register("bob@example.com", PASSWORD).await;
    let link = token(&smtp.await_mail("bob@example.com", 1), "verify");
    server.expire_links();
    assert_invalid(&server.post_json("/register/confirm", &json!({ "token": link })).await);
    assert_eq!(server.try_log_in_as("bob@example.com", PASSWORD).await.status, 401);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn guest_keeps_its_id_and_session_across_the_verification() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    let guest = server.log_in().await;
    let body = json!({ "name": "ann@example.com", "password": PASSWORD });
    let registered = server.post_json_as("/register", &body, &guest.access).await;
    assert_eq!(registered.status, 201, "{}", registered.text);
    assert_eq!(registered.json()["userId"], guest.claims()["sub"]);
    let before = server.http.get_as("/user", &guest.access).await.json();
    assert!(before.get("name").is_none(), "{before}");

    let link = token(&smtp.await_mail("ann@example.com", 1), "verify");
    server.post_json("/register/confirm", &json!({ "token": link })).await;
    let user = server.http.get_as("/user", &guest.access).await.json();
    assert_eq!((&user["name"], &user["emailVerified"]), (&json!("ann@example.com"), &json!(true)));
    assert_eq!(server.refresh(&guest.refresh).await.status, 200);
    let account = server.log_in_as("ann@example.com", PASSWORD).await;
    let again = server
        .post_json_as("/register", &json!({ "name": "b@c.de", "password": OTHER }), &account.access)
        .await;
    assert_eq!(outcome(&again), (409, "already_registered".into()));
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn first_verified_registration_of_a_name_gets_it() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    server.register("ann@example.com", PASSWORD).await;
    server.register("ann@example.com", OTHER).await;
    let first = token(&smtp.await_mail("ann@example.com", 1), "verify");
    let second = token(&smtp.await_mail("ann@example.com", 2), "verify");
    let confirm =
        async |token: &str| server.post_json("/register/confirm", &json!({ "token": token })).await;
    assert_eq!(confirm(&second).await.status, 201);
    assert_eq!(outcome(&confirm(&first).await), (409, "name_taken".into()));
    assert_eq!(server.number("SELECT count(*) AS number FROM users"), 1);
}

#[actix_rt::test]
#[ignore = "needs aiosmtpd: make test"]
async fn mailed_invitation_verifies_the_email_address() {
    let smtp = SmtpServer::new();
    let server = server_with(&smtp);
    let run = |arguments: &[&str]| {
        let launch = server.world.server(binary());
        let launch = launch.set("smtp.url", &smtp.url()).set("mail.from", super::SENDER);
        launch.set("server.public_url", super::PUBLIC_URL).run(arguments)
    };
    let invited = run(&["users", "invite", "ann@example.com", "--mail"]);
    let printed = String::from_utf8(invited.stdout).unwrap();
    assert_eq!(printed, "The link was sent to ann@example.com.\n");
    let link = token(&smtp.await_mail("ann@example.com", 1), "invitation");
    assert_eq!(server.accept(&link, None, PASSWORD).await.status, 201);
    let tokens = server.log_in_as("ann@example.com", PASSWORD).await;
    let user = server.http.get_as("/user", &tokens.access).await.json();
    assert_eq!(user["emailVerified"], true);

    let reset = run(&["users", "reset-password", "ann@example.com", "--mail", "--json"]);
    let printed: serde_json::Value = serde_json::from_slice(&reset.stdout).unwrap();
    assert_eq!(printed["mailedTo"], "ann@example.com");
    assert!(printed.get("link").is_none(), "{printed}");
    let link = token(&smtp.await_mail("ann@example.com", 2), "reset");
    assert_eq!(server.reset(&link, OTHER).await.status, 204);

    for (name, problem) in [("bob", "is not an email address"), ("unknown@example.com", "550")] {
        let failed = run(&["users", "invite", name, "--mail"]);
        let error = String::from_utf8(failed.stderr).unwrap();
        assert!(!failed.status.success() && error.contains(problem), "{error}");
        assert!(!error.contains("mb_ln_"), "{error}");
    }
}
