//! `POST /logout`.

use matchbook_testkit::TestResponse;

use crate::support::{Server, Tokens, binary, eventually};

#[actix_rt::test]
async fn logout_accepts_an_access_token_or_a_refresh_token() {
    let server = Server::start();
    let (bearer, form, other) =
        (server.log_in().await, server.log_in().await, server.log_in().await);
    let request = server.http.request("POST", "/logout").bearer_auth(&bearer.access);
    let response = TestResponse::of(request.send()).await;
    assert_eq!((response.status, response.text.as_str()), (204, ""));
    let response = server.http.post("/logout", &format!("refresh_token={}", form.refresh)).await;
    assert_eq!(response.status, 204);
    server.process.await_log("session ended");
    for tokens in [&bearer, &form] {
        assert_eq!(server.user(&tokens.access).await, 401);
        let refused = server.refresh(&tokens.refresh).await;
        assert_eq!((refused.status, refused.field("reason").as_str()), (401, "logged_out"));
    }
    assert_eq!(server.user(&other.access).await, 200);
    Tokens::of(&server.refresh(&other.refresh).await);
}

#[actix_rt::test]
async fn logout_is_idempotent_and_accepts_a_superseded_token() {
    let server = Server::start();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    Tokens::of(&server.refresh(&second.refresh).await);
    for token in [&first, &second, &first] {
        let form = format!("refresh_token={}", token.refresh);
        assert_eq!(server.http.post("/logout", &form).await.status, 204);
    }
    let log = "SELECT count(*) AS number FROM events WHERE kind = 'logged_out'";
    assert_eq!(server.number(log), 1);
}

#[actix_rt::test]
async fn revocation_is_kept_until_the_last_access_token_expires() {
    let server = Server::start();
    let tokens = server.log_in().await;
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(server.number("SELECT count(*) AS number FROM session_revocations"), 1);
    // As if its access tokens had expired long ago.
    let postgres = server.world.database_url().starts_with("postgres");
    let past = if postgres { "now() - INTERVAL '1 hour'" } else { "0" };
    server.sql(&format!("UPDATE session_revocations SET access_expires_at = {past}"));
    eventually(0, async || server.number("SELECT count(*) AS number FROM session_revocations"))
        .await;
}

#[actix_rt::test]
async fn logout_accepts_both_tokens_of_one_session() {
    let server = Server::with(|launch| launch.set("tokens.access_lifetime", "1s"));
    let log_out = async |bearer: &str, form: &str| {
        let request = server.http.request("POST", "/logout").bearer_auth(bearer);
        let request = request.content_type("application/x-www-form-urlencoded");
        TestResponse::of(request.send_body(form.to_owned())).await
    };
    let tokens = server.log_in().await;
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(log_out(&tokens.access, &form).await.status, 204, "both of one session");
    assert_eq!(server.refresh(&tokens.refresh).await.field("reason"), "logged_out");

    let late = server.log_in().await;
    eventually(401, async || server.user(&late.access).await).await;
    let form = format!("refresh_token={}", late.refresh);
    assert_eq!(log_out(&late.access, &form).await.status, 204, "one has expired");
    assert_eq!(server.refresh(&late.refresh).await.field("reason"), "logged_out");

    let (one, other) = (server.log_in().await, server.log_in().await);
    let two = log_out(&one.access, &format!("refresh_token={}", other.refresh)).await;
    assert_eq!((two.status, two.field("error").as_str()), (400, "invalid_request"));
    let junk = log_out(&one.access, "refresh_token=junk").await;
    assert_eq!((junk.status, junk.field("error").as_str()), (401, "invalid_grant"));
    assert_eq!(server.refresh(&one.refresh).await.status, 200);
    assert_eq!(server.refresh(&other.refresh).await.status, 200);
}

#[actix_rt::test]
async fn logout_without_a_valid_token_explains_what_to_send() {
    let server = Server::start();
    let tokens = server.log_in().await;
    let nothing = server.http.post("/logout", "").await;
    assert_eq!((nothing.status, nothing.field("error").as_str()), (400, "invalid_request"));
    let junk = server.http.post("/logout", "refresh_token=mb_rt_junk").await;
    assert_eq!((junk.status, junk.field("error").as_str()), (401, "invalid_grant"));
    let request = server.http.request("POST", "/logout").bearer_auth("junk");
    assert_eq!(TestResponse::of(request.send()).await.status, 401);
    let neither = server.http.request("POST", "/logout").send();
    let neither = TestResponse::of(neither).await;
    assert_eq!(neither.status, 400);
    assert!(neither.field("message").contains("as bearer, or the form field"), "{}", neither.text);
    assert_eq!(server.user(&tokens.access).await, 200);
}

#[actix_rt::test]
async fn logout_of_an_expired_session_keeps_the_reason() {
    let server = Server::with(|launch| {
        launch.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "1s")
    });
    let tokens = server.log_in().await;
    actix_rt::time::sleep(std::time::Duration::from_millis(1100)).await;
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(server.refresh(&tokens.refresh).await.field("reason"), "expired_idle");
}

#[actix_rt::test]
async fn logout_that_a_server_has_not_confirmed_is_503_until_it_has() {
    let server = Server::start();
    let tokens = server.log_in().await;
    server.add_silent_server();
    let form = format!("refresh_token={}", tokens.refresh);
    let logout = async || server.http.post("/logout", &form).await;
    for _ in 0..2 {
        let response = logout().await;
        assert_eq!(response.status, 503, "{}", response.text);
        assert_eq!(response.field("error"), "temporarily_unavailable");
        assert!(response.field("message").contains("not confirmed"), "{}", response.text);
        assert!(response.headers.contains_key("retry-after"));
        assert_eq!(server.user(&tokens.access).await, 401, "it has ended");
        assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    }
    server.stop_silent_server();
    assert_eq!(logout().await.status, 204);
}

#[actix_rt::test]
async fn command_waits_until_a_silent_server_cannot_accept_the_tokens() {
    let server = Server::with(|launch| launch.set("redis.trusted_without_database", "4s"));
    server.log_in().await;
    server.add_silent_server();
    let operator = server.world.server(binary()).set("redis.trusted_without_database", "4s");
    let end = || operator.run(&["sessions", "end", "--all"]);
    // Also if an earlier command has ended them.
    for _ in 0..2 {
        let output = end();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains("does not respond"), "{said}");
    }
}
