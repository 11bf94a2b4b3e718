//! OAuth 2.0 (RFC 6749) in place of Matchbook's own endpoints.

use matchbook_client::{Client, Credentials, Error, OAuth, TokenResponse};
use matchbook_testkit::{Reaction, ScriptedServer};

use super::{get, is_transient, on_file, server_at, store, within_timeout};

fn oauth() -> OAuth {
    OAuth {
        token_path: "/oauth/token".into(),
        revocation_path: Some("/oauth/revoke".into()),
        client_id: "an-app".into(),
        client_secret: None,
        scope: None,
    }
}

async fn logged_in(script: &ScriptedServer, oauth: OAuth) -> Client {
    let client = Client::new(&server_at(script).oauth(oauth).unwrap(), Credentials::default());
    client.log_in_with(script.log_in()).await.unwrap();
    client
}

#[actix_rt::test]
async fn installed_tokens_end_no_session_of_an_oauth_server() {
    let script = ScriptedServer::start();
    let client = logged_in(&script, oauth()).await;
    // A client must not read the access tokens of an OAuth server.
    for claims in ["eyJzaWQiOiJhIn0", "eyJzaWQiOiJiIn0"] {
        let token = format!("e30.{claims}.c2ln");
        client.log_in_with(TokenResponse { token, ..script.log_in() }).await.unwrap();
    }
    assert!(script.received("/oauth/revoke").is_empty());
}

#[actix_rt::test]
async fn a_refresh_request_and_its_response_follow_rfc_6749() {
    let script = ScriptedServer::start();
    let client = logged_in(&script, OAuth { scope: Some("read".into()), ..oauth() }).await;
    for _ in 0..2 {
        script.expire();
        assert_eq!(get(&client, "/user").await, Ok(200));
    }
    let received = script.received("/oauth/token");
    assert_eq!(
        (received.len(), script.refreshes(), script.rotations(), script.reuses()),
        (2, 0, 2, 0)
    );
    for received in &received {
        assert_eq!(received.headers["content-type"], "application/x-www-form-urlencoded");
        assert_eq!(received.field("grant_type").as_deref(), Some("refresh_token"));
        assert_eq!(received.field("client_id").as_deref(), Some("an-app"));
        assert_eq!(received.field("scope").as_deref(), Some("read"));
        assert!(!received.query.contains("token"), "no secret in a URL");
    }
    assert_ne!(received[0].field("refresh_token"), received[1].field("refresh_token"));
}

#[actix_rt::test]
async fn a_client_secret_is_sent_by_basic_authentication_only() {
    let script = ScriptedServer::start();
    let client = logged_in(&script, OAuth { client_secret: Some("hush".into()), ..oauth() }).await;
    client.refresh().await.unwrap();
    let received = &script.received("/oauth/token")[0];
    // By one of the two methods of RFC 6749 §2.3.1, not by both.
    let basic = received.headers.get("authorization").map(String::as_str);
    let form = received.field("client_secret");
    match (basic, form.as_deref()) {
        (Some(basic), None) => assert_eq!(basic, "Basic YW4tYXBwOmh1c2g="),
        (None, form) => assert_eq!(form, Some("hush")),
        both => panic!("{both:?}"),
    }
}

#[actix_rt::test]
async fn a_response_without_a_refresh_token_keeps_the_current_one() {
    let script = ScriptedServer::start();
    script.stop_rotating();
    let client = logged_in(&script, oauth()).await;
    for _ in 0..3 {
        script.expire();
        assert_eq!(get(&client, "/user").await, Ok(200));
    }
    let received = script.received("/oauth/token");
    assert_eq!(received.len(), 3);
    assert!(
        received.iter().all(|one| one.field("refresh_token") == received[0].field("refresh_token"))
    );
    // Each refresh nevertheless has a key of its own.
    assert!(received[0].key().is_none() || received[0].key() != received[1].key());
}

#[actix_rt::test]
async fn a_response_without_a_lifetime_leaves_it_unknown() {
    let script = ScriptedServer::start();
    let client = logged_in(&script, oauth()).await;
    let body = r#"{"access_token":"opaque","token_type":"bearer"}"#;
    script.on("/oauth/token", [Reaction::json(200, body)]);
    client.refresh().await.unwrap();
    let status = client.credentials().status().unwrap();
    assert_eq!((status.lifetime, status.remaining, status.refreshes), (None, None, 1));
}

#[actix_rt::test]
async fn only_invalid_grant_ends_an_oauth_session() {
    for error in ["invalid_client", "invalid_request", "unauthorized_client", "invalid_scope"] {
        for status in [400, 401] {
            let script = ScriptedServer::start();
            let client = logged_in(&script, oauth()).await;
            script
                .on("/oauth/token", [Reaction::json(status, &format!(r#"{{"error":"{error}"}}"#))]);
            let refresh_error = client.refresh().await.unwrap_err();
            assert!(
                !matches!(refresh_error, Error::LoggedOut(_)),
                "{status} {error}: {refresh_error:?}"
            );
            assert!(client.credentials().is_logged_in(), "{status} {error}");
        }
    }
    let script = ScriptedServer::start();
    let client = logged_in(&script, oauth()).await;
    // The description is optional (RFC 6749 §5.2).
    script.on("/oauth/token", [Reaction::json(400, r#"{"error":"invalid_grant"}"#)]);
    assert_eq!(client.refresh().await, Err(Error::LoggedOut(None)));
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn a_response_of_a_gateway_ends_no_oauth_session() {
    for (status, content_type, body) in [
        (400, "text/html", "<html>"),
        (401, "text/html", "<html>"),
        (401, "application/json", "{}"),
    ] {
        let script = ScriptedServer::start();
        let client = logged_in(&script, oauth()).await;
        script.always("/oauth/token", Reaction::respond(status, content_type, body));
        let outcome = client.refresh().await;
        assert!(is_transient(&outcome), "{status} {body}: {outcome:?}");
        assert!(client.credentials().is_logged_in());
    }
}

#[actix_rt::test]
async fn a_logout_revokes_the_refresh_token() {
    let script = ScriptedServer::start();
    let client = logged_in(&script, oauth()).await;
    within_timeout(client.log_out()).await.unwrap();
    let received = script.received("/oauth/revoke");
    assert_eq!(received.len(), 1);
    assert!(received[0].field("token").unwrap().starts_with("mb_rt_"));
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn a_logout_without_a_revocation_endpoint_erases_the_tokens() {
    let script = ScriptedServer::start();
    let client = logged_in(&script, OAuth { revocation_path: None, ..oauth() }).await;
    within_timeout(client.log_out()).await.unwrap();
    assert!(script.all_received().is_empty());
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn a_newer_access_token_in_the_store_is_used_without_rotation_too() {
    let script = ScriptedServer::start();
    let (_folder, file) = store();
    script.stop_rotating();
    let server = server_at(&script).oauth(oauth()).unwrap();
    let first = Client::new(&server, on_file(&file));
    first.log_in_with(script.log_in()).await.unwrap();
    first.refresh().await.unwrap();
    Client::new(&server, on_file(&file)).refresh().await.unwrap();
    first.refresh().await.unwrap();
    let refreshes = script.received("/oauth/token").len();
    assert_eq!(refreshes, 2, "the first client uses the token of the second");
}
