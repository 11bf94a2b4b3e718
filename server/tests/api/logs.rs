//! The contents of the log, and secrets that must not be in it.

use crate::support::{Server, Tokens};

#[actix_rt::test]
async fn trace_log_of_a_complete_run_contains_no_secret() {
    let secret = "a-secret-of-more-than-thirty-two-characters";
    let old_secret = "an-old-secret-of-more-than-thirty-two-characters";
    let mut server = Server::with(|launch| {
        launch
            .set("log.level", "trace")
            .set("secret", secret)
            .set("old_secrets", old_secret)
            .set("rotation.same_key_only", "true")
    });
    let key = "an-attempt-key-of-some-length";
    let unused = server.guest().await;
    let id = server.guest().await;
    let first = Tokens::of(&server.http.get(&format!("/token?userId={id}")).await);
    let second = Tokens::of(&server.refresh_with(&first.refresh, key).await);
    Tokens::of(&server.refresh_with(&first.refresh, key).await);
    assert_eq!(server.user(&second.access).await, 200);
    assert_eq!(server.user("not.a.token").await, 401);
    assert_eq!(server.refresh(&first.refresh).await.status, 401);
    assert_eq!(server.refresh(&second.refresh).await.status, 401);
    assert_eq!(
        server.http.get(&format!("/token?userId={unused}&userId={unused}")).await.status,
        400
    );
    assert_eq!(server.http.get(&format!("/token/{unused}")).await.status, 404);
    assert!(server.process.stop().success());

    let log = server.process.log();
    let log_holds = |text: &str| assert!(log.contains(text), "{text} is not in {log}");
    log_holds("refresh reissued");
    assert!(log.contains("session opened") && log.contains("refresh token reused"), "{log}");
    for tokens in [&first, &second] {
        let signature = tokens.access.rsplit('.').next().unwrap();
        let claims = tokens.access.split('.').nth(1).unwrap();
        for hush in [signature, claims, &tokens.refresh[6..], &unused, secret, old_secret, key] {
            assert!(!log.contains(hush), "{hush} is in the log");
        }
    }
}

#[actix_rt::test]
async fn json_logs_have_one_object_per_line() {
    let mut server = Server::with(|l| l.set("log.format", "json"));
    server.log_in().await;
    assert!(server.process.stop().success());
    let log = server.process.log();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}
