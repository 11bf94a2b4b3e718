//! Changing the server's secret.

use std::os::unix::fs::PermissionsExt;

use matchbook_testkit::ProcessBuilder;

use crate::support::{Server, Tokens, binary, eventually, http};

const OLD: &str = "the-secret-before-of-thirty-two-characters";
const NEW: &str = "the-secret-after-it-of-thirty-two-characters";

#[actix_rt::test]
async fn listed_old_secret_is_accepted_and_replaced_at_the_next_rotation() {
    let mut server = Server::with(|launch| launch.set("secret", OLD));
    let (first, unused) = (server.log_in().await, server.log_in().await);
    let retried = Tokens::of(&server.refresh(&unused.refresh).await);
    assert!(server.process.stop().success());

    let both = |launch: matchbook_testkit::ProcessBuilder| {
        launch.set("secret", NEW).set("old_secrets", OLD)
    };
    let mut server = Server::within(server.world, both);
    server.process.await_log("signing key encrypted under the new secret");
    assert_eq!(server.user(&first.access).await, 200);
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    let again = Tokens::of(&server.refresh(&first.refresh).await);
    assert_eq!(again.refresh, second.refresh);
    // Rotated under the old secret, reissued under the new one.
    let again = Tokens::of(&server.refresh(&unused.refresh).await);
    assert_eq!((again.refresh, again.access), (retried.refresh.clone(), retried.access));
    assert!(server.process.stop().success());

    let server = Server::within(server.world, |launch| launch.set("secret", NEW));
    Tokens::of(&server.refresh(&second.refresh).await);
    let forgotten = server.refresh(&retried.refresh).await;
    assert_eq!(forgotten.status, 401, "the token is unknown now");
    assert!(forgotten.json().get("reason").is_none());
}

#[actix_rt::test]
async fn new_secret_can_be_listed_before_it_is_active() {
    let new_first = |launch: matchbook_testkit::ProcessBuilder| {
        launch.set("secret", NEW).set("old_secrets", OLD)
    };
    let old_first = |launch: matchbook_testkit::ProcessBuilder| {
        launch.set("secret", OLD).set("old_secrets", NEW)
    };
    // One of two servers has the new secret, the other one not yet.
    let here = Server::with(old_first);
    let process = new_first(here.world.server(crate::support::binary())).start();
    let there = crate::support::http(&here.world, &process);
    let first = here.log_in().await;
    let second = there.post("/refresh", &format!("refresh_token={}", first.refresh)).await;
    let second = Tokens::of(&second);
    let again = Tokens::of(&here.refresh(&first.refresh).await);
    assert_eq!((&again.refresh, &again.access), (&second.refresh, &second.access));
    Tokens::of(&here.refresh(&second.refresh).await);
}

/// The output of `secret rotate --compromised` with these settings.
fn rotate_compromised(launch: &ProcessBuilder) -> Result<String, String> {
    let output = launch.run(&["secret", "rotate", "--compromised"]);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Checks a server that still has the compromised secret.
async fn assert_over(server: &Server, tokens: &Tokens) {
    assert_eq!(server.user(&tokens.access).await, 401);
    assert_eq!(server.refresh(&tokens.refresh).await.status, 401);
    // It has no key to sign with: 503, not 500.
    let id = server.guest().await;
    let login = server.http.get(&format!("/token?userId={id}")).await;
    assert_eq!((login.status, login.field("error")), (503, "temporarily_unavailable".to_owned()));
    assert_eq!(login.header("retry-after"), "1");
    eventually(503, async || server.http.get("/health/ready").await.status).await;
    let problems = server.http.get("/health/ready").await.json()["problems"].to_string();
    assert!(problems.contains("There is no key to sign with"), "{problems}");
    let keys = server.http.get("/.well-known/jwks.json").await.json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 0);
}

#[actix_rt::test]
async fn compromised_generated_secret_is_replaced_and_its_sessions_and_keys_end() {
    let mut server = Server::start();
    let tokens = [server.log_in().await, server.log_in().await];
    let rotated = Tokens::of(&server.refresh(&tokens[0].refresh).await);
    let old_keys = server.http.get("/.well-known/jwks.json").await.text;
    let path = server.world.folder().join("data/secret");
    let secret = || std::fs::read_to_string(&path).unwrap();
    let before = secret();
    // As if an operator had left a backup there.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();

    let said = rotate_compromised(&server.world.server(binary())).unwrap();
    assert!(said.contains("data/secret holds a new secret"), "{said}");
    assert!(said.contains("1 signing keys are revoked"), "{said}");
    assert!(said.contains("2 sessions have ended"), "{said}");
    let after = secret();
    assert!(before != after && after.len() >= 32 && !said.contains(&after));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let number = |query: &str| server.number(query);
    assert_eq!(
        number("SELECT count(*) AS number FROM session_revocations"),
        2,
        "servers publish them"
    );
    let log = "SELECT count(*) AS number FROM events WHERE kind = 'logged_out'";
    assert_eq!(number(log), 2);
    assert_eq!(number("SELECT count(*) AS number FROM sessions WHERE ended_at IS NULL"), 0);
    for tokens in [&tokens[1], &rotated] {
        assert_over(&server, tokens).await;
    }

    assert!(server.process.stop().success());
    let server = Server::within(server.world, |launch| launch);
    let refused = server.refresh(&rotated.refresh).await;
    assert_eq!(refused.status, 401);
    assert!(refused.json().get("reason").is_none(), "its tag is unknown now");
    assert_eq!(server.user(&rotated.access).await, 401);
    let keys = server.http.get("/.well-known/jwks.json").await;
    assert_eq!(keys.json()["keys"].as_array().unwrap().len(), 1);
    assert_ne!(keys.text, old_keys);
    let tokens = server.log_in().await;
    Tokens::of(&server.refresh(&tokens.refresh).await);
}

#[actix_rt::test]
async fn compromised_configured_secret_must_be_replaced_on_every_server_first() {
    let mut here = Server::with(|launch| launch.set("secret", OLD));
    let process = here.world.server(binary()).set("secret", OLD).start();
    let there = http(&here.world, &process);
    let tokens = here.log_in().await;
    assert_eq!(there.get_as("/user", &tokens.access).await.status, 200);
    let launch = || here.world.server(binary());
    for still_used in [
        launch().set("secret", OLD),
        launch().set("secret", NEW).set("old_secrets", OLD),
        launch().set("secret", OLD).set("old_secrets", NEW),
        launch().set("old_secrets", OLD),
    ] {
        let error = rotate_compromised(&still_used).unwrap_err();
        assert!(error.contains("remove the compromised one"), "{error}");
    }
    assert_eq!(here.user(&tokens.access).await, 200, "nothing was done");

    let said = rotate_compromised(&launch().set("secret", NEW)).unwrap();
    assert!(said.contains("the configured secret is in use"), "{said}");
    assert!(said.contains("1 sessions have ended"), "{said}");
    assert!(!said.contains(NEW) && !said.contains(OLD));
    assert_over(&here, &tokens).await;
    assert_eq!(there.get_as("/user", &tokens.access).await.status, 401);

    assert!(here.process.stop().success());
    let new = Server::within(here.world, |launch| launch.set("secret", NEW));
    assert_eq!(new.refresh(&tokens.refresh).await.status, 401);
    let tokens = new.log_in().await;
    assert_eq!(new.user(&tokens.access).await, 200);
    // The old server, which still runs, accepts no token of the new one.
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(there.post("/refresh", &form).await.status, 401);
}

#[actix_rt::test]
async fn secret_rotate_requires_the_compromised_flag() {
    let server = Server::start();
    let output = server.world.server(binary()).run(&["secret", "rotate"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.contains("--compromised"), "{error}");
    // If no server has run there is nothing to replace.
    let world = matchbook_testkit::TestEnv::new();
    let error = rotate_compromised(&world.server(binary())).unwrap_err();
    assert!(error.starts_with("matchbook-server: ") && !error.contains("panicked"), "{error}");
    assert!(!world.folder().join("data").exists());
}
