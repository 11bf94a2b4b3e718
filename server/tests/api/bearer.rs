//! The protected resource and how access tokens are sent (RFC 6750).

use matchbook_testkit::TestResponse;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sign::Signer;

use crate::support::{Server, decode, encode};

async fn with_authorization(server: &Server, value: &str) -> TestResponse {
    let request = server.http.request("GET", "/user").insert_header(("authorization", value));
    TestResponse::of(request.send()).await
}

#[actix_rt::test]
async fn challenge_without_credentials_has_no_error_code() {
    let server = Server::start();
    let response = server.http.get("/user").await;
    assert_eq!(response.status, 401);
    assert_eq!(response.header("www-authenticate"), r#"Bearer realm="matchbook""#);
    for value in ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "", "Digest x"] {
        let response = with_authorization(&server, value).await;
        assert_eq!(response.status, 401, "{value:?}");
        assert_eq!(response.header("www-authenticate"), r#"Bearer realm="matchbook""#, "{value:?}");
    }
}

#[actix_rt::test]
async fn bearer_scheme_is_case_insensitive() {
    let server = Server::start();
    let token = server.log_in().await.access;
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert_eq!(with_authorization(&server, &format!("{scheme} {token}")).await.status, 200);
    }
}

#[actix_rt::test]
async fn access_token_in_the_url_or_sent_twice_is_rejected() {
    let server = Server::start();
    let token = server.log_in().await.access;
    let in_url = server.http.get(&format!("/user?access_token={token}")).await;
    let disguised = server.http.get_as(&format!("/user?access%5Ftoken={token}"), &token).await;
    let both = server.http.get_as(&format!("/user?access_token={token}"), &token).await;
    let request = server
        .http
        .request("GET", "/user")
        .append_header(("authorization", format!("Bearer {token}")))
        .append_header(("authorization", format!("Bearer {token}")));
    let twice = TestResponse::of(request.send()).await;
    for response in [in_url, disguised, both, twice] {
        assert_eq!(response.status, 400, "{}", response.text);
        assert!(response.header("www-authenticate").contains(r#"error="invalid_request""#));
    }
}

#[actix_rt::test]
async fn foreign_or_malformed_access_tokens_are_invalid() {
    let server = Server::start();
    let token = server.log_in().await.access;
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let kid = &serde_json::from_slice::<serde_json::Value>(&decode(header)).unwrap()["kid"];
    let under = |header: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let message = format!("{}.{claims}", encode(header));
        let signature = sign(message.as_bytes());
        format!("{message}.{}", encode(signature))
    };

    let other = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let by_another_key = under(&format!(r#"{{"typ":"at+jwt","alg":"RS256","kid":{kid}}}"#), &|m| {
        Signer::new(MessageDigest::sha256(), &other).unwrap().sign_oneshot_to_vec(m).unwrap()
    });
    // Algorithm confusion: the public key as an HMAC secret (RFC 8725 §2.1).
    let jwks = server.http.get("/.well-known/jwks.json").await.json();
    let n = decode(jwks["keys"][0]["n"].as_str().unwrap());
    let secret = PKey::hmac(&n).unwrap();
    let by_the_public_key =
        under(&format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":{kid}}}"#), &|m| {
            Signer::new(MessageDigest::sha256(), &secret).unwrap().sign_oneshot_to_vec(m).unwrap()
        });
    let unsigned = |alg: &str| {
        let header = format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":{kid}}}"#);
        format!("{}.{claims}.", encode(header))
    };
    let with_own_key = under(
        r#"{"typ":"at+jwt","alg":"RS256","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}}"#,
        &|_| decode(signature),
    );
    let mut one_changed = token.clone();
    let middle = header.len() + claims.len() / 2;
    let other = if token.as_bytes()[middle] == b'A' { "B" } else { "A" };
    one_changed.replace_range(middle..=middle, other);

    for bad in [
        by_another_key,
        by_the_public_key,
        unsigned("none"),
        unsigned("None"),
        unsigned("RS256"),
        unsigned("RS512"),
        with_own_key,
        one_changed,
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{header}.{claims}"),
        header.to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "é".to_owned(),
        "x".repeat(20_000),
        server.log_in().await.refresh,
    ] {
        let response = with_authorization(&server, &format!("Bearer {bad}")).await;
        assert_eq!(response.status, 401, "{bad}: {}", response.text);
        assert!(
            response.header("www-authenticate").contains(r#"error="invalid_token""#),
            "{bad}: {}",
            response.header("www-authenticate")
        );
        assert_eq!(response.field("error"), "invalid_token");
    }
    assert_eq!(server.user(&token).await, 200);
}
