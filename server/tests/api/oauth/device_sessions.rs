//! The sessions of devices: one for each device code, and the end of approvals.

use std::time::Duration;

use futures_util::future::join_all;

use super::device::GRANT_TYPE;
use super::{PASSWORD, assert_error, server_with, text, tokens};
use crate::accounts_lifecycle::Operation;
use crate::browser::Browser;
use crate::races::Pair;
use crate::support::{Server, binary};

#[actix_rt::test]
async fn concurrent_and_repeated_polls_get_the_tokens_of_one_session() {
    let (server, browser) = server_with(|launch| launch).await;
    let device = server.begin_device(&server.add_tv(), "").await;
    browser.approve(&device).await;
    let all = join_all((0..8).map(|_| server.poll(&device))).await;
    let first = tokens(&all[0]);
    for response in all.iter().chain([&server.poll(&device).await]) {
        assert_eq!(tokens(response)["refresh_token"], first["refresh_token"]);
    }
    assert_eq!(server.live_device_sessions(), 1);
}

#[actix_rt::test]
async fn late_repetition_of_a_poll_ends_the_session() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_retry", "1s")).await;
    let device = server.begin_device(&server.add_tv(), "").await;
    browser.approve(&device).await;
    let body = tokens(&server.poll(&device).await);
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let again = server.poll(&device).await;
    assert_error(&again, 400, "invalid_grant");
    assert_eq!(again.json()["reason"], "reuse");
    assert_eq!(server.user(&text(&body, "access_token")).await, 401);
    assert_eq!(server.live_device_sessions(), 0);
}

#[actix_rt::test]
async fn strict_setting_ends_the_session_at_the_first_repetition() {
    let (server, browser) = server_with(|launch| launch.set("oauth.code_retry", "none")).await;
    let device = server.begin_device(&server.add_tv(), "").await;
    browser.approve(&device).await;
    tokens(&server.poll(&device).await);
    assert_error(&server.poll(&device).await, 400, "invalid_grant");
    assert_eq!(server.live_device_sessions(), 0);
}

#[actix_rt::test]
async fn codes_stay_valid_when_the_secret_is_replaced() {
    let world = matchbook_testkit::TestEnv::new();
    let one = "the-first-of-two-secrets-of-this-test";
    let two = "the-second-of-two-secrets-of-this-test";
    let mut server = Server::within(world, |launch| launch.set("secret", one));
    let browser = server.browser_of_ann().await;
    let device = server.begin_device(&server.add_tv(), "").await;
    assert!(server.process.stop().success());
    drop(browser);
    let server =
        Server::within(server.world, |launch| launch.set("secret", two).set("old_secrets", one));
    assert_error(&server.poll(&device).await, 400, "authorization_pending");
    server.log_browser_in().await.approve(&device).await;
    tokens(&server.poll(&device).await);
}

#[actix_rt::test]
async fn end_of_the_users_sessions_and_of_the_client_revokes_an_approval() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    let id = server.log_in_as("ann", PASSWORD).await.claims()["sub"].as_str().unwrap().to_owned();
    let approved = async |browser: &Browser| {
        let device = server.begin_device(&client, "").await;
        browser.approve(&device).await;
        device
    };
    let device = approved(&browser).await;
    let account = browser.get("/account").await;
    browser.submit(&account, &[("action", "end-all")]).await;
    assert_error(&server.poll(&device).await, 400, "expired_token");

    let browser = server.log_browser_in().await;
    let device = approved(&browser).await;
    server.operate(Operation::Disable, &id).await;
    assert_error(&server.poll(&device).await, 400, "expired_token");
    server.operate(Operation::Enable, &id).await;
    assert_error(&server.poll(&device).await, 400, "expired_token");

    let browser = server.log_browser_in().await;
    approved(&browser).await;
    server.operate(Operation::Delete, &id).await;
    assert_eq!(server.device_rows(), 0);

    server.register("ann", PASSWORD).await;
    let device = approved(&server.log_browser_in().await).await;
    server.begin_device(&client, "").await;
    server.command_json(&["clients", "remove", &client.id, "--json"]);
    assert_eq!(server.device_rows(), 0);
    assert_error(&server.poll(&device).await, 400, "invalid_client");
    assert_eq!(server.live_device_sessions(), 0);
}

#[actix_rt::test]
async fn operator_revokes_approvals_and_no_requests_that_wait_for_their_user() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    let waiting = server.begin_device(&client, "").await;
    let end = |arguments: &[&str]| {
        let output = server.world.server(binary()).run(&[&["sessions", "end"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
    };
    let id = server.log_in_as("ann", PASSWORD).await.claims()["sub"].as_str().unwrap().to_owned();
    let other = "08cf607d-7f67-4bd2-8ca0-2d4a731e3b70";
    let device = server.begin_device(&client, "").await;
    browser.approve(&device).await;
    end(&["--user", other]);
    end(&["--user", &id]);
    assert_error(&server.poll(&device).await, 400, "expired_token");
    let kept = server.begin_device(&client, "").await;
    let browser = server.log_browser_in().await;
    browser.approve(&kept).await;
    end(&["--user", other]);
    tokens(&server.poll(&kept).await);
    let device = server.begin_device(&client, "").await;
    browser.approve(&device).await;
    end(&["--all"]);
    assert_error(&server.poll(&device).await, 400, "expired_token");
    assert_error(&server.poll(&waiting).await, 400, "authorization_pending");
    assert_eq!(server.live_device_sessions(), 0);
}

#[actix_rt::test]
async fn polls_at_two_servers_at_once_open_one_session() {
    let pair = Pair::with(&[]);
    let server = &pair.here;
    let browser = server.browser_of_ann().await;
    let client = server.add_tv();
    for done in 1..=5 {
        let device = server.begin_device(&client, "").await;
        browser.approve(&device).await;
        let form =
            format!("client_id={}&grant_type={GRANT_TYPE}&device_code={}", client.id, device.code);
        let polls = (0..8).map(|i| {
            let (http, form) = (pair.server(i), form.clone());
            async move { http.post("/oauth/token", &form).await }
        });
        let all = join_all(polls).await;
        let first = tokens(&all[0]);
        for response in &all {
            assert_eq!(tokens(response)["refresh_token"], first["refresh_token"]);
        }
        assert_eq!(server.live_device_sessions(), done);
    }
}

#[actix_rt::test]
async fn approval_of_another_partys_client_is_a_consent_that_the_user_can_revoke() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_tv();
    let device = server.begin_device(&client, "read").await;
    browser.approve(&device).await;
    let waiting = server.begin_device(&client, "write").await;
    browser.approve(&waiting).await;
    let body = tokens(&server.poll(&device).await);
    let account = browser.get("/account").await;
    assert!(account.text.contains("Tele&#60;Vision&#62;"), "{}", account.text);
    assert!(account.text.contains("“write”"), "{}", account.text);
    let fields = [("action", "revoke-consent"), ("id", client.id.as_str())];
    let revoked = browser.submit(&account, &fields).await;
    assert_eq!(revoked.status, 303, "{}", revoked.text);
    assert_eq!(server.user(&text(&body, "access_token")).await, 401);
    assert_error(&server.poll(&waiting).await, 400, "expired_token");

    let device = server.begin_device(&server.add_box(), "read").await;
    browser.approve(&device).await;
    assert_eq!(server.number("SELECT count(*) AS number FROM consents"), 0, "the operator's own");
}
