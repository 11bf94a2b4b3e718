//! Key rotation: verifiers never meet a key that they could not know.

use std::collections::{BTreeSet, HashMap};
use std::process::Stdio;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use matchbook_testkit::{Http, ProcessBuilder, TestResponse};

use crate::support::{Server, Tokens, binary, encode, eventually, http};

const ACCESS_KEYS: &str =
    "SELECT count(*) AS number FROM signing_keys_by_purpose WHERE purpose = 'access'";

/// Runs `matchbook-server keys …` beside the server.
pub(crate) fn keys(server: &Server, arguments: &[&str]) -> Result<String, String> {
    keys_with(&server.world.server(binary()), arguments)
}

/// Runs `matchbook-server keys …` with these settings.
pub(crate) fn keys_with(launch: &ProcessBuilder, arguments: &[&str]) -> Result<String, String> {
    let output = launch.run(&[&["keys"], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

pub(crate) fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

/// A resource server: it fetches the key set, caches it for the full
/// `max-age`, and verifies with nothing else.
#[derive(Default)]
pub(crate) struct Verifier {
    keys: HashMap<String, DecodingKey>,
    good_until: Option<Instant>,
    pub(crate) fetched: usize,
}

impl Verifier {
    pub(crate) async fn verify(&mut self, token: &str, audience: &str, server: &Http) {
        if self.good_until.is_none_or(|until| until <= Instant::now()) {
            // `max-age` counts from the time of the request.
            let asked = Instant::now();
            let response = server.get("/.well-known/jwks.json").await;
            self.good_until = Some(asked + max_age(&response));
            self.keys = decoding_keys(&response);
            self.fetched += 1;
        }
        let header = jsonwebtoken::decode_header(token).unwrap();
        let kid = header.kid.unwrap();
        let key = self.keys.get(&kid).unwrap_or_else(|| panic!("the kid {kid} is unknown"));
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[audience]);
        jsonwebtoken::decode::<serde_json::Value>(token, key, &validation).unwrap();
    }
}

fn max_age(response: &TestResponse) -> Duration {
    let seconds = response.header("cache-control").strip_prefix("public, max-age=").unwrap();
    Duration::from_secs(seconds.parse().unwrap())
}

pub(crate) fn decoding_keys(response: &TestResponse) -> HashMap<String, DecodingKey> {
    let set: JwkSet = serde_json::from_str(&response.text).unwrap();
    let key = |jwk: &jsonwebtoken::jwk::Jwk| {
        (jwk.common.key_id.clone().unwrap(), DecodingKey::from_jwk(jwk).unwrap())
    };
    set.keys.iter().map(key).collect()
}

#[actix_rt::test]
async fn cached_key_set_covers_every_token_across_three_rotations() {
    let settings = |launch: matchbook_testkit::ProcessBuilder| {
        launch
            .set("keys.publish_ahead", "4s")
            .set("keys.rotate_after", "5s")
            .set("tokens.algorithm", "ES256")
            .set("tokens.access_lifetime", "2s")
    };
    let here = Server::with(settings);
    let process = settings(here.world.server(binary())).start();
    let there = http(&here.world, &process);
    let servers = [&here.http, &there];

    let mut tokens = here.log_in().await;
    let (mut verifier, mut seen) = (Verifier::default(), BTreeSet::new());
    let started = Instant::now();
    for turn in 0.. {
        seen.insert(kid(&tokens.access));
        verifier.verify(&tokens.access, "https://localhost:5001", servers[turn % 2]).await;
        // Each server accepts tokens that the other one signed.
        assert_eq!(servers[(turn + 1) % 2].get_as("/user", &tokens.access).await.status, 200);
        if seen.len() == 4 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "only {seen:?}");
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        let form = format!("refresh_token={}", tokens.refresh);
        tokens = Tokens::of(&servers[turn % 2].post("/refresh", &form).await);
    }
    assert!(verifier.fetched < 20, "it is a cache: {} fetches", verifier.fetched);
}

#[actix_rt::test]
async fn key_set_is_sent_again_only_after_a_change() {
    let server = Server::start();
    let first = server.http.get("/.well-known/jwks.json").await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    assert_eq!(max_age(&first), Duration::from_secs(300), "half the lead");
    let ask = async |tag: &str| {
        let request = server.http.request("GET", "/.well-known/jwks.json");
        TestResponse::of(request.insert_header(("if-none-match", tag)).send()).await
    };
    let same = ask(&format!("\"other\", {etag}")).await;
    assert_eq!((same.status, same.text.as_str()), (304, ""));
    assert_eq!(same.header("etag"), etag);
    assert_eq!(same.header("cache-control"), first.header("cache-control"));
    assert_eq!(ask("\"other\"").await.status, 200);

    keys(&server, &["rotate"]).unwrap();
    eventually(200, async || ask(&etag).await.status).await;
    let second = server.http.get("/.well-known/jwks.json").await;
    assert_eq!(decoding_keys(&second).len(), 2, "published, and not signing yet");
    assert_eq!(kid(&server.log_in().await.access), *decoding_keys(&first).keys().next().unwrap());
}

#[actix_rt::test]
async fn revoked_key_invalidates_its_tokens_but_not_their_sessions() {
    let here = Server::with(|launch| launch.set("tokens.algorithm", "ES256"));
    let process = here.world.server(binary()).start();
    let there = http(&here.world, &process);
    let tokens = here.log_in().await;
    let revoked = kid(&tokens.access);
    let said = keys(&here, &["revoke", &revoked]).unwrap();
    assert!(said.contains("is revoked"), "{said}");
    for server in [&here.http, &there] {
        let refused = server.get_as("/user", &tokens.access).await;
        assert_eq!((refused.status, refused.field("error").as_str()), (401, "invalid_token"));
    }
    let fresh = Tokens::of(&here.refresh(&tokens.refresh).await);
    assert_ne!(kid(&fresh.access), revoked);
    assert_eq!(there.get_as("/user", &fresh.access).await.status, 200, "at once, everywhere");
    let published = here.http.get("/.well-known/jwks.json").await;
    assert!(!published.text.contains(&revoked));
    let listed = keys(&here, &["list"]).unwrap();
    let line = listed.lines().find(|line| line.contains(&revoked)).unwrap();
    assert!(line.contains("revoked"), "{listed}");
    for unknown in [&revoked, "-a-kid-may-begin-with-a-hyphen", "\u{1b}[31m"] {
        let refused = keys(&here, &["revoke", unknown]).unwrap_err();
        assert!(refused.contains("does not exist"), "{refused}");
        assert!(!refused.contains('\u{1b}'), "fit for a terminal: {refused}");
    }
}

/// The keys with this purpose as `keys list` shows them: kid and phase.
pub(crate) fn listed(server: &Server, purpose: &str) -> Vec<(String, String)> {
    let list = keys(server, &["list"]).unwrap();
    let word = |line: &str, n| line.split_whitespace().nth(n).unwrap().to_owned();
    let lines = list.lines().filter(|line| word(line, 3) == purpose);
    lines.map(|line| (word(line, 0), word(line, 2))).collect()
}

/// Moves all keys into the past.
pub(crate) fn let_time_pass(server: &Server, minutes: u64) {
    // PostgreSQL has an interval, SQLite microseconds.
    let earlier = if server.world.database_url().starts_with("postgres") {
        format!("active_from - INTERVAL '{minutes} minutes'")
    } else {
        format!("active_from - {}", minutes * 60_000_000)
    };
    server.sql(&format!("UPDATE signing_keys_by_purpose SET active_from = {earlier}"));
}

#[actix_rt::test]
async fn pending_key_replaces_a_revoked_key() {
    let server = Server::with(|launch| launch.set("tokens.algorithm", "EdDSA"));
    keys(&server, &["rotate"]).unwrap();
    let refused = keys(&server, &["rotate"]).unwrap_err();
    assert!(refused.contains("is already published"), "{refused}");
    let_time_pass(&server, 11);
    keys(&server, &["rotate"]).unwrap();
    let (kids, phases): (Vec<_>, Vec<_>) = listed(&server, "access").into_iter().unzip();
    assert_eq!(phases, ["retiring", "active", "pending"]);
    eventually(kids[1].clone(), async || kid(&server.log_in().await.access)).await;
    keys(&server, &["revoke", &kids[1]]).unwrap();
    assert_eq!(kid(&server.log_in().await.access), kids[2], "the next one, not the one before");
    let (_, phases): (Vec<_>, Vec<_>) = listed(&server, "access").into_iter().unzip();
    assert_eq!(phases, ["retiring", "revoked", "active"]);
}

#[actix_rt::test]
async fn new_algorithm_takes_over_like_a_rotation() {
    let mut first = Server::with(|launch| launch.set("tokens.algorithm", "EdDSA"));
    let tokens = first.log_in().await;
    assert!(first.process.stop().success());
    let Server { world, .. } = first;
    let second = Server::within(world, |launch| {
        launch
            .set("tokens.rsa_bits", "3072")
            .set("keys.publish_ahead", "4s")
            .set("keys.rotate_after", "1d")
    });
    assert_eq!(second.user(&tokens.access).await, 200);
    let algorithm = |token: &str| jsonwebtoken::decode_header(token).unwrap().alg;
    assert_eq!(algorithm(&second.log_in().await.access), jsonwebtoken::Algorithm::EdDSA);
    eventually(jsonwebtoken::Algorithm::RS256, async || algorithm(&second.log_in().await.access))
        .await;
    assert_eq!(second.user(&tokens.access).await, 200, "the old one retires");
    let signature = second.log_in().await.access.rsplit('.').next().unwrap().len();
    assert_eq!(signature, 512, "3072 bits in base64url");
    assert_eq!(second.number(ACCESS_KEYS), 2);
}

#[actix_rt::test]
async fn key_is_removed_after_its_last_token_has_expired() {
    let server = Server::with(|launch| {
        launch.set("tokens.algorithm", "EdDSA").set("tokens.access_lifetime", "1s")
    });
    let old = kid(&server.log_in().await.access);
    keys(&server, &["rotate"]).unwrap();
    // `publish_ahead`, a day and a minute.
    let_time_pass(&server, 10 + 24 * 60 + 2);
    eventually(1, async || server.number(ACCESS_KEYS)).await;
    assert!(!server.http.get("/.well-known/jwks.json").await.text.contains(&old));
    assert_ne!(kid(&server.log_in().await.access), old);
}

#[actix_rt::test]
async fn key_encrypted_under_an_unknown_secret_shows_in_readiness() {
    let (mine, other) =
        ("the-secret-of-this-server-32-characters", "another-secret-of-32-characters-");
    let server = Server::with(|launch| {
        launch.set("secret", mine).set("old_secrets", "").set("tokens.algorithm", "EdDSA")
    });
    let rotate = server
        .world
        .server(binary())
        .set("secret", other)
        .set("old_secrets", mine)
        .set("tokens.algorithm", "EdDSA");
    assert!(rotate.run(&["keys", "rotate"]).status.success());
    eventually("degraded".to_owned(), async || {
        server.http.get("/health/ready").await.field("status")
    })
    .await;
    let problems = server.http.get("/health/ready").await.json()["problems"].to_string();
    assert!(problems.contains("encrypted under another secret"), "{problems}");
    server.process.await_log("cannot decrypt the signing key");
    server.log_in().await;
    let wrong = server.world.server(binary()).set("secret", "a-third-secret-of-at-least-32-chars");
    let output = wrong.run(&["keys", "rotate"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot decrypt the signing key"), "{said}");
}

#[actix_rt::test]
async fn token_with_an_unknown_kid_triggers_a_key_refresh() {
    let here = Server::with(|launch| launch.set("tokens.algorithm", "EdDSA"));
    let process = here.world.server(binary()).set("tokens.algorithm", "EdDSA").start();
    let there = http(&here.world, &process);
    // Each server reads the keys once a second, so one of them can be behind.
    for _ in 0..6 {
        let old = kid(&here.log_in().await.access);
        let mut revoke = here.world.server(binary()).command();
        let mut revoke =
            revoke.args(["keys", "revoke", &old]).stdout(Stdio::null()).spawn().unwrap();
        loop {
            let fresh = here.log_in().await.access;
            if kid(&fresh) != old {
                assert_eq!(there.get_as("/user", &fresh).await.status, 200);
                break;
            }
            let ended = revoke.try_wait().unwrap();
            assert!(ended.is_none_or(|status| status.success()), "it is not revoked");
        }
        assert!(revoke.wait().unwrap().success());
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn unreadable_keys_shorten_the_cache_lifetime_of_the_key_set() {
    let world = matchbook_testkit::TestEnv::new();
    let (relay, url) = world.database_proxy();
    let server = Server::within(world, |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("keys.publish_ahead", "4s")
            .set("database.acquire_timeout", "1s")
    });
    let jwks = async || max_age(&server.http.get("/.well-known/jwks.json").await).as_secs();
    assert_eq!(jwks().await, 2);
    relay.disconnect();
    eventually(0, jwks).await;
    // An unknown key may be a new one.
    let header = encode(r#"{"typ":"at+jwt","alg":"RS256","kid":"new"}"#);
    let response = server.http.get_as("/user", &format!("{header}.e30.c2ln")).await;
    assert_eq!((response.status, response.header("retry-after")), (503, "1"), "{}", response.text);
    relay.restore();
    eventually(2, jwks).await;
    assert_eq!(server.user(&format!("{header}.e30.c2ln")).await, 401);
}
