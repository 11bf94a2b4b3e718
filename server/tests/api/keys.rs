//! The signing key: published, encrypted at rest, the same for all servers.

use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign::Verifier;

use matchbook_testkit::TestResponse;

use crate::support::{Server, binary, decode, encode};

#[actix_rt::test]
async fn published_key_verifies_tokens_and_its_kid_is_the_thumbprint() {
    let server = Server::start();
    let token = server.log_in().await.access;
    let response = server.http.get("/.well-known/jwks.json").await;
    assert_eq!(response.header("content-type"), "application/jwk-set+json");
    assert!(response.header("cache-control").contains("max-age="));
    let key = &response.json()["keys"][0];
    assert_eq!(
        (&key["alg"], &key["use"], &key["kty"]),
        (&"RS256".into(), &"sig".into(), &"RSA".into())
    );
    let members: Vec<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(
        members.iter().all(|m| ["alg", "use", "kty", "kid", "n", "e"].contains(m)),
        "{members:?}"
    );

    let (n, e) = (key["n"].as_str().unwrap(), key["e"].as_str().unwrap());
    assert_eq!(decode(n).len() * 8, 2048);
    let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    assert_eq!(key["kid"], encode(sha256(canonical.as_bytes())));

    let number = |text: &str| BigNum::from_slice(&decode(text)).unwrap();
    let key = PKey::from_rsa(Rsa::from_public_components(number(n), number(e)).unwrap()).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
    assert!(verifier.verify_oneshot(&decode(signature), message.as_bytes()).unwrap());
}

#[actix_rt::test]
async fn es256_and_eddsa_keys_are_published() {
    for (algorithm, kty, crv, length) in
        [("ES256", "EC", "P-256", 64), ("EdDSA", "OKP", "Ed25519", 64)]
    {
        let server = Server::with(|launch| launch.set("tokens.algorithm", algorithm));
        let token = server.log_in().await.access;
        assert_eq!(decode(token.rsplit('.').next().unwrap()).len(), length);
        assert_eq!(server.user(&token).await, 200);
        let key = &server.http.get("/.well-known/jwks.json").await.json()["keys"][0];
        assert_eq!(
            (&key["alg"], &key["use"], &key["kty"], &key["crv"]),
            (&algorithm.into(), &"sig".into(), &kty.into(), &crv.into())
        );
        let x = key["x"].as_str().unwrap();
        let y = key["y"].as_str().map(|y| format!(r#","y":"{y}""#)).unwrap_or_default();
        let canonical = format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}"{y}}}"#);
        assert_eq!(key["kid"], encode(sha256(canonical.as_bytes())), "RFC 7638, RFC 8037");
        assert!(key.get("d").is_none(), "the private half");
    }
}

#[actix_rt::test]
async fn tokens_and_sessions_survive_a_restart() {
    let mut first = Server::start();
    let tokens = first.log_in().await;
    assert!(first.process.stop().success());
    let Server { world, .. } = first;
    let second = Server::within(world, |launch| launch);
    assert_eq!(second.user(&tokens.access).await, 200);
    assert_eq!(second.refresh(&tokens.refresh).await.status, 200);
}

#[actix_rt::test]
async fn secret_that_does_not_match_the_database_stops_startup() {
    let mut server = Server::with(|l| l.set("secret", "the-first-secret-of-thirty-two-chars"));
    assert!(server.process.stop().success());
    let other = server.world.server(binary()).set("secret", "another-secret-of-thirty-two-chars!");
    let output = other.run(&[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("cannot decrypt the signing key"), "{said}");
    assert!(!said.contains("another-secret"), "{said}");
}

#[actix_rt::test]
async fn private_key_is_encrypted_at_rest() {
    let server = Server::start();
    server.log_in().await;
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let n = decode(jwks["keys"][0]["n"].as_str().unwrap());
    if server.world.database_url().starts_with("postgres") {
        return sealed_in_postgres(&server, &n);
    }
    let kid = jwks["keys"][0]["kid"].as_str().unwrap();
    let files = ["matchbook.db", "matchbook.db-wal"];
    let read = |file: &str| std::fs::read(server.world.folder().join(file)).unwrap();
    let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
    assert!(files.iter().any(|file| holds(&read(file), kid.as_bytes())), "the row is there");
    for file in files {
        let bytes = read(file);
        // A private key contains its modulus; an encrypted one must not reveal it.
        assert!(!bytes.windows(32).any(|window| window == &n[..32]), "{file} shows the key");
    }
}

fn sealed_in_postgres(server: &Server, n: &[u8]) {
    use diesel::prelude::*;
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Binary)]
        sealed_private_key: Vec<u8>,
    }
    let mut conn = PgConnection::establish(&server.world.database_url()).unwrap();
    let rows: Vec<Row> =
        diesel::sql_query("SELECT sealed_private_key FROM signing_keys_by_purpose")
            .load(&mut conn)
            .unwrap();
    assert_eq!(rows.len(), 1);
    let sealed = &rows[0].sealed_private_key;
    assert!(sealed.len() > 1000 && !sealed.windows(32).any(|window| window == &n[..32]));
}

#[actix_rt::test]
async fn cors_allows_any_origin_to_read_only_the_key_set() {
    let server = Server::start();
    let options = async |path: &str| {
        let request = server.http.request("OPTIONS", path);
        let request = request.insert_header(("origin", "https://app.example"));
        TestResponse::of(request.insert_header(("access-control-request-method", "GET")).send())
            .await
    };
    let path = "/.well-known/jwks.json";
    let preflight = options(path).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, "*"));
    assert_eq!(preflight.header("access-control-allow-methods"), "GET, HEAD");
    let read = server.http.get(path).await;
    assert_eq!((read.status, read.header("access-control-allow-origin")), (200, "*"));
    assert!(!read.headers.contains_key("access-control-allow-credentials"));
    for closed in ["/user", "/refresh", "/token", "/register", "/logout", "/sessions"] {
        let response = options(closed).await;
        assert_eq!(response.status, 405, "{closed}");
        assert!(!response.headers.contains_key("access-control-allow-origin"), "{closed}");
    }
}
