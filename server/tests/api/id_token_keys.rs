//! The keys of ID tokens: RS256 whatever the algorithm of access tokens.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use matchbook_testkit::ProcessBuilder;
use serde_json::Value;

use crate::browser::Browser;
use crate::key_rotation::{Verifier, decoding_keys, keys_with, kid, let_time_pass, listed};
use crate::oauth::{Client, exchange_of, server_with, set, text, tokens};
use crate::support::{Server, binary, eventually, http};

const JWKS: &str = "/.well-known/jwks.json";

fn algorithm(token: &str) -> jsonwebtoken::Algorithm {
    jsonwebtoken::decode_header(token).unwrap().alg
}

/// Logs in with the scope `openid`.
async fn log_in(server: &Server, browser: &Browser, client: &Client) -> Value {
    let mut request = client.request();
    set(&mut request, "scope", "openid");
    let code = browser.code(&request).await;
    tokens(&server.token(client, &exchange_of(&code)).await)
}

async fn refresh(server: &Server, client: &Client, body: &Value) -> Value {
    tokens(&server.refresh_by(client, &text(body, "refresh_token")).await)
}

/// Logs a browser of the registered `ann` in at a client again, after a restart.
async fn id_token(server: &Server, client: &Client) -> String {
    let browser = server.log_browser_in().await;
    text(&log_in(server, &browser, client).await, "id_token")
}

#[actix_rt::test]
async fn id_tokens_are_rs256_with_every_algorithm_of_access_tokens() {
    for (name, expected) in [
        ("EdDSA", jsonwebtoken::Algorithm::EdDSA),
        ("ES256", jsonwebtoken::Algorithm::ES256),
        ("RS256", jsonwebtoken::Algorithm::RS256),
    ] {
        let (server, browser) = server_with(|it| it.set("tokens.algorithm", name)).await;
        let client = server.add_spa();
        let first = log_in(&server, &browser, &client).await;
        let second = refresh(&server, &client, &first).await;
        let mut verifier = Verifier::default();
        for body in [&first, &second] {
            let (access, id) = (text(body, "access_token"), text(body, "id_token"));
            assert_eq!(algorithm(&access), expected);
            assert_eq!(algorithm(&id), jsonwebtoken::Algorithm::RS256);
            assert_eq!(kid(&access) == kid(&id), name == "RS256");
            verifier.verify(&id, &client.id, &server.http).await;
            assert_eq!(server.user(&access).await, 200);
            assert_eq!(server.user(&id).await, 401);
        }
        let published = decoding_keys(&server.http.get(JWKS).await).len();
        assert_eq!(published, if name == "RS256" { 1 } else { 2 });
    }
}

#[actix_rt::test]
async fn cached_key_set_covers_every_id_token_across_rotations() {
    let settings = |launch: ProcessBuilder| {
        launch
            .set("keys.publish_ahead", "4s")
            .set("keys.rotate_after", "5s")
            .set("tokens.algorithm", "EdDSA")
    };
    let (here, browser) = server_with(settings).await;
    let process = settings(here.world.server(binary())).start();
    let servers = [&here.http.clone(), &http(&here.world, &process)];
    let client = here.add_spa();
    let mut body = log_in(&here, &browser, &client).await;
    let (mut verifier, mut seen) = (Verifier::default(), BTreeSet::new());
    let started = Instant::now();
    for turn in 0.. {
        let id = text(&body, "id_token");
        seen.insert(kid(&id));
        verifier.verify(&id, &client.id, servers[turn % 2]).await;
        if seen.len() == 3 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "only {seen:?}");
        actix_rt::time::sleep(Duration::from_millis(100)).await;
        body = refresh(&here, &client, &body).await;
    }
    assert!(verifier.fetched < 20, "it is a cache: {} fetches", verifier.fetched);
}

#[actix_rt::test]
async fn command_rotates_the_keys_of_both_purposes() {
    let (server, browser) = server_with(|it| it.set("tokens.algorithm", "ES256")).await;
    let client = server.add_spa();
    let launch = server.world.server(binary()).set("tokens.algorithm", "ES256");
    let said = keys_with(&launch, &["rotate"]).unwrap();
    assert_eq!(said.matches("is published").count(), 2, "{said}");
    let refused = keys_with(&launch, &["rotate"]).unwrap_err();
    assert!(refused.contains("is already published"), "{refused}");
    for purpose in ["access", "id"] {
        let (_, phases): (Vec<_>, Vec<_>) = listed(&server, purpose).into_iter().unzip();
        assert_eq!(phases, ["active", "pending"], "{purpose}");
    }
    let_time_pass(&server, 11);
    let second = listed(&server, "id")[1].0.clone();
    let signs = async || {
        let id = text(&log_in(&server, &browser, &client).await, "id_token");
        Verifier::default().verify(&id, &client.id, &server.http).await;
        kid(&id)
    };
    eventually(second, signs).await;
}

#[actix_rt::test]
async fn revoked_key_of_id_tokens_is_replaced_and_access_tokens_stay_valid() {
    let (server, browser) = server_with(|it| it.set("tokens.algorithm", "EdDSA")).await;
    let client = server.add_spa();
    let body = log_in(&server, &browser, &client).await;
    let revoked = kid(&text(&body, "id_token"));
    let launch = server.world.server(binary()).set("tokens.algorithm", "EdDSA");
    let said = keys_with(&launch, &["revoke", &revoked]).unwrap();
    assert!(said.contains("its ID tokens and logout tokens are rejected"), "{said}");
    assert!(!server.http.get(JWKS).await.text.contains(&revoked));
    assert_eq!(server.user(&text(&body, "access_token")).await, 200);
    let fresh = refresh(&server, &client, &body).await;
    assert_ne!(kid(&text(&fresh, "id_token")), revoked);
    assert_eq!(kid(&text(&fresh, "access_token")), kid(&text(&body, "access_token")));
    Verifier::default().verify(&text(&fresh, "id_token"), &client.id, &server.http).await;
    let phases = |purpose| listed(&server, purpose).into_iter().unzip::<_, _, Vec<_>, Vec<_>>().1;
    assert_eq!(phases("id"), ["revoked", "active"]);
    assert_eq!(phases("access"), ["active"]);

    // And the reverse: a key of access tokens does not take the key of ID tokens along.
    keys_with(&launch, &["revoke", &kid(&text(&body, "access_token"))]).unwrap();
    assert_eq!(server.user(&text(&body, "access_token")).await, 401);
    let last = refresh(&server, &client, &fresh).await;
    assert_eq!(kid(&text(&last, "id_token")), kid(&text(&fresh, "id_token")));
    assert_eq!(server.user(&text(&last, "access_token")).await, 200);
}

#[actix_rt::test]
async fn keys_of_id_tokens_come_and_go_with_the_algorithm_of_access_tokens() {
    let (mut first, browser) = server_with(|launch| launch).await;
    let client = first.add_spa();
    let id = text(&log_in(&first, &browser, &client).await, "id_token");
    assert_eq!(listed(&first, "id"), []);
    assert!(first.process.stop().success());

    // The RS256 key signs until the key of the new algorithm has been published for long enough.
    let mut second = Server::within(first.world, |it| it.set("tokens.algorithm", "EdDSA"));
    assert_eq!(kid(&id_token(&second, &client).await), kid(&id));
    let key_of_id_tokens = listed(&second, "id")[0].0.clone();
    let_time_pass(&second, 11);
    let signs = async || kid(&id_token(&second, &client).await);
    eventually(key_of_id_tokens.clone(), signs).await;
    assert!(second.process.stop().success());

    let third = Server::within(second.world, |launch| launch);
    let_time_pass(&third, 11);
    let newest = listed(&third, "access")[2].0.clone();
    eventually(newest, async || kid(&id_token(&third, &client).await)).await;
    assert!(third.http.get(JWKS).await.text.contains(&key_of_id_tokens));
    let_time_pass(&third, 24 * 60 + 2);
    let all = "SELECT count(*) AS number FROM signing_keys_by_purpose";
    eventually(1, async || third.number(all)).await;
    assert!(!third.http.get(JWKS).await.text.contains(&key_of_id_tokens));
}

#[actix_rt::test]
async fn keys_of_id_tokens_follow_a_new_secret() {
    const OLD: &str = "the-secret-before-of-thirty-two-characters";
    const NEW: &str = "the-secret-after-it-of-thirty-two-characters";
    let edwards = |launch: ProcessBuilder| launch.set("tokens.algorithm", "EdDSA");
    let (mut server, browser) = server_with(|it| edwards(it).set("secret", OLD)).await;
    let client = server.add_spa();
    let id = text(&log_in(&server, &browser, &client).await, "id_token");
    assert!(server.process.stop().success());
    let both = |it| edwards(it).set("secret", NEW).set("old_secrets", OLD);
    let mut server = Server::within(server.world, both);
    assert!(server.process.stop().success());
    assert_eq!(server.process.logged("signing key encrypted under the new secret"), 2);
    let mut server = Server::within(server.world, |it| edwards(it).set("secret", NEW));
    assert_eq!(kid(&id_token(&server, &client).await), kid(&id));
    assert!(server.process.stop().success());

    let compromised = edwards(server.world.server(binary())).set("secret", OLD);
    let output = compromised.run(&["secret", "rotate", "--compromised"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("2 signing keys are revoked"), "{said}");
    let server = Server::within(server.world, |it| edwards(it).set("secret", OLD));
    let fresh = id_token(&server, &client).await;
    assert_ne!(kid(&fresh), kid(&id));
    Verifier::default().verify(&fresh, &client.id, &server.http).await;
}

/// Servers of earlier versions read all rows of `signing_keys` in the order of `sequence`, and
/// sign access tokens with the last one.
#[actix_rt::test]
async fn servers_of_earlier_versions_see_only_keys_of_access_tokens() {
    let server = Server::with(|launch| launch.set("tokens.algorithm", "EdDSA"));
    let all = "SELECT count(*) AS number FROM signing_keys_by_purpose";
    assert_eq!(server.number(all), 2);
    let visible = "SELECT count(*) AS number FROM signing_keys";
    assert_eq!(server.number(visible), 1);
    assert_eq!(server.number(&format!("{visible} WHERE algorithm = 'EdDSA'")), 1);
    if server.world.database_url().starts_with("postgres") {
        server.sql(
            "INSERT INTO signing_keys (kid, sequence, algorithm, sealed_private_key, created_at, \
             active_from) SELECT 'next', 2, algorithm, sealed_private_key, created_at, \
             '9999-12-31T23:59:59Z' FROM signing_keys",
        );
        server.sql("UPDATE signing_keys SET revoked_at = now() WHERE kid = 'next'");
        assert_eq!(server.number(&format!("{all} WHERE purpose = 'access'")), 2);
        server.sql("DELETE FROM signing_keys WHERE kid = 'next'");
        assert_eq!(server.number(all), 2);
    }
}
