//! RFC 6749 in place of Matchbook's own endpoints.

use matchbook_client::{Client, Credentials, Error, OAuth, TokenResponse};

use super::script::{Act, Script};
use super::{get, is_transient, on_file, soon, store};

fn oauth() -> OAuth {
    OAuth {
        token_path: "/oauth/token".into(),
        revocation_path: Some("/oauth/revoke".into()),
        client_id: "an-app".into(),
        client_secret: None,
        scope: None,
    }
}

async fn logged_in(script: &Script, oauth: OAuth) -> Client {
    let client = Client::new(&script.server().oauth(oauth).unwrap(), Credentials::default());
    client.log_in_with(script.sign_in()).await.unwrap();
    client
}

#[actix_rt::test]
async fn tokens_from_elsewhere_end_no_session_of_an_oauth_server() {
    let script = Script::start();
    let client = logged_in(&script, oauth()).await;
    // As an access token may look there; what it says is not for its client to read.
    for claims in ["eyJzaWQiOiJhIn0", "eyJzaWQiOiJiIn0"] {
        let token = format!("e30.{claims}.c2ln");
        client.log_in_with(TokenResponse { token, ..script.sign_in() }).await.unwrap();
    }
    assert!(script.asked("/oauth/revoke").is_empty());
}

#[actix_rt::test]
async fn a_refresh_is_a_form_of_rfc_6749_and_its_answer_in_snake_case() {
    let script = Script::start();
    let client = logged_in(&script, OAuth { scope: Some("read".into()), ..oauth() }).await;
    for _ in 0..2 {
        script.expire();
        assert_eq!(get(&client, "/user").await, Ok(200));
    }
    let asked = script.asked("/oauth/token");
    assert_eq!((asked.len(), script.refreshes(), script.trades(), script.reuses()), (2, 0, 2, 0));
    for asked in &asked {
        assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
        assert_eq!(asked.field("grant_type").as_deref(), Some("refresh_token"));
        assert_eq!(asked.field("client_id").as_deref(), Some("an-app"));
        assert_eq!(asked.field("scope").as_deref(), Some("read"));
        assert!(!asked.query.contains("token"), "a secret has no place in a URL");
    }
    assert_ne!(asked[0].field("refresh_token"), asked[1].field("refresh_token"));
}

#[actix_rt::test]
async fn a_client_with_a_secret_shows_it() {
    let script = Script::start();
    let client = logged_in(&script, OAuth { client_secret: Some("hush".into()), ..oauth() }).await;
    client.refresh().await.unwrap();
    let asked = &script.asked("/oauth/token")[0];
    // By either of the two ways of RFC 6749 §2.3.1, not by both.
    let basic = asked.headers.get("authorization").map(String::as_str);
    let form = asked.field("client_secret");
    match (basic, form.as_deref()) {
        (Some(basic), None) => assert_eq!(basic, "Basic YW4tYXBwOmh1c2g="),
        (None, form) => assert_eq!(form, Some("hush")),
        both => panic!("{both:?}"),
    }
}

#[actix_rt::test]
async fn an_answer_without_a_refresh_token_leaves_the_one_there_is() {
    let script = Script::start();
    script.stop_rotating();
    let client = logged_in(&script, oauth()).await;
    for _ in 0..3 {
        script.expire();
        assert_eq!(get(&client, "/user").await, Ok(200));
    }
    let asked = script.asked("/oauth/token");
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|one| one.field("refresh_token") == asked[0].field("refresh_token")));
    // Each of these is an attempt of its own all the same.
    assert!(asked[0].key().is_none() || asked[0].key() != asked[1].key());
}

#[actix_rt::test]
async fn an_answer_without_a_lifetime_claims_none() {
    let script = Script::start();
    let client = logged_in(&script, oauth()).await;
    let answer = r#"{"access_token":"opaque","token_type":"bearer"}"#;
    script.on("/oauth/token", [Act::json(200, answer)]);
    client.refresh().await.unwrap();
    let status = client.credentials().status().unwrap();
    assert_eq!((status.lifetime, status.remaining, status.refreshes), (None, None, 1));
}

#[actix_rt::test]
async fn invalid_grant_alone_is_a_logout() {
    for error in ["invalid_client", "invalid_request", "unauthorized_client", "invalid_scope"] {
        for status in [400, 401] {
            let script = Script::start();
            let client = logged_in(&script, oauth()).await;
            script.on("/oauth/token", [Act::json(status, &format!(r#"{{"error":"{error}"}}"#))]);
            let told = client.refresh().await.unwrap_err();
            assert!(!matches!(told, Error::LoggedOut(_)), "{status} {error}: {told:?}");
            assert!(client.credentials().is_logged_in(), "{status} {error}");
        }
    }
    let script = Script::start();
    let client = logged_in(&script, oauth()).await;
    // Without the description, which is optional (RFC 6749 §5.2).
    script.on("/oauth/token", [Act::json(400, r#"{"error":"invalid_grant"}"#)]);
    assert_eq!(client.refresh().await, Err(Error::LoggedOut(None)));
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn the_word_of_something_in_between_is_no_logout_here_either() {
    for (status, content_type, body) in [
        (400, "text/html", "<html>"),
        (401, "text/html", "<html>"),
        (401, "application/json", "{}"),
    ] {
        let script = Script::start();
        let client = logged_in(&script, oauth()).await;
        script.always("/oauth/token", Act::say(status, content_type, body));
        let outcome = client.refresh().await;
        assert!(is_transient(&outcome), "{status} {body}: {outcome:?}");
        assert!(client.credentials().is_logged_in());
    }
}

#[actix_rt::test]
async fn logging_out_revokes_the_refresh_token() {
    let script = Script::start();
    let client = logged_in(&script, oauth()).await;
    soon(client.log_out()).await.unwrap();
    let asked = script.asked("/oauth/revoke");
    assert_eq!(asked.len(), 1);
    assert!(asked[0].field("token").unwrap().starts_with("mb_rt_"));
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn logging_out_where_nothing_can_be_revoked_erases_the_tokens_here() {
    let script = Script::start();
    let client = logged_in(&script, OAuth { revocation_path: None, ..oauth() }).await;
    soon(client.log_out()).await.unwrap();
    assert!(script.asked_in_all().is_empty());
    assert!(!client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn where_nothing_rotates_the_newer_access_token_in_the_store_is_used_as_well() {
    let (script, (_folder, file)) = (Script::start(), store());
    script.stop_rotating();
    let server = script.server().oauth(oauth()).unwrap();
    let first = Client::new(&server, on_file(&file));
    first.log_in_with(script.sign_in()).await.unwrap();
    first.refresh().await.unwrap();
    Client::new(&server, on_file(&file)).refresh().await.unwrap();
    first.refresh().await.unwrap();
    let refreshes = script.asked("/oauth/token").len();
    assert_eq!(refreshes, 2, "the first finds what the second has got");
}
