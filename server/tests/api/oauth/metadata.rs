//! The metadata of the authorization server (RFC 8414).

use std::collections::BTreeSet;

use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use super::refreshing::claims;
use super::{redirect_of, server_with};
use crate::support::Server;

const PATH: &str = "/.well-known/oauth-authorization-server";
const OPENID_PATH: &str = "/.well-known/openid-configuration";

#[actix_rt::test]
async fn metadata_names_the_issuer_of_tokens_and_what_is_supported() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    let response = server.http.get(PATH).await;
    assert_eq!(response.status, 200, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/json");
    let metadata = response.json();
    let issuer = &metadata["issuer"];
    assert_eq!(*issuer, "https://localhost:5001");
    let body = server.log_in_with(&browser, &client).await;
    assert_eq!(claims(&body)["iss"], *issuer);
    let redirect = redirect_of(&browser.authorize(&client.request()).await);
    assert_eq!(json!(redirect["iss"]), *issuer);
    let with_secret = json!(["client_secret_basic", "client_secret_post"]);
    let with_none = json!(["none", "client_secret_basic", "client_secret_post"]);
    for (name, expected) in [
        ("response_types_supported", json!(["code"])),
        ("response_modes_supported", json!(["query", "form_post"])),
        ("code_challenge_methods_supported", json!(["S256"])),
        (
            "grant_types_supported",
            json!([
                "authorization_code",
                "refresh_token",
                "client_credentials",
                "urn:ietf:params:oauth:grant-type:device_code"
            ]),
        ),
        ("token_endpoint_auth_methods_supported", with_none.clone()),
        ("revocation_endpoint_auth_methods_supported", with_none),
        ("introspection_endpoint_auth_methods_supported", with_secret),
        ("authorization_response_iss_parameter_supported", json!(true)),
        ("request_parameter_supported", json!(false)),
        ("subject_types_supported", json!(["public"])),
        ("id_token_signing_alg_values_supported", json!(["RS256"])),
        ("claims_parameter_supported", json!(false)),
        ("request_uri_parameter_supported", json!(false)),
    ] {
        assert_eq!(metadata[name], expected, "{name}");
    }
    let scopes = ["openid", "profile", "email", "groups", "offline_access"];
    assert_eq!(metadata["scopes_supported"], json!(scopes));
    // The same document under the name of OpenID Connect.
    assert_eq!(server.http.get(OPENID_PATH).await.json(), metadata);
}

#[actix_rt::test]
async fn every_listed_endpoint_works() {
    let server = Server::start();
    let metadata = server.http.get(PATH).await.json();
    let issuer = metadata["issuer"].as_str().unwrap();
    let mut called = BTreeSet::new();
    for (name, value) in metadata.as_object().unwrap() {
        let Some(path) = value.as_str().and_then(|url| url.strip_prefix(issuer)) else { continue };
        if path.is_empty() {
            continue;
        }
        called.insert(name.as_str());
        let (status, error) = match name.as_str() {
            "jwks_uri" | "service_documentation" | "end_session_endpoint" => {
                assert_eq!(server.http.get(path).await.status, 200, "{name}");
                continue;
            }
            "userinfo_endpoint" => {
                assert_eq!(server.http.get(path).await.status, 401, "{name}");
                continue;
            }
            "authorization_endpoint" => (server.http.get(path).await.status, Value::Null),
            _ => {
                let response = server.http.post(path, "").await;
                (response.status, response.json()["error"].clone())
            }
        };
        assert_eq!(status, 400, "{name}");
        assert!(error.is_null() || error == "invalid_client", "{name} {error}");
    }
    let expected = [
        "authorization_endpoint",
        "device_authorization_endpoint",
        "end_session_endpoint",
        "introspection_endpoint",
        "jwks_uri",
        "revocation_endpoint",
        "service_documentation",
        "token_endpoint",
        "userinfo_endpoint",
    ];
    assert_eq!(called, BTreeSet::from(expected));
}

#[actix_rt::test]
async fn metadata_of_an_issuer_with_a_path_is_found_by_its_path() {
    for (issuer, path) in
        [("https://auth.example/auth", "/auth"), ("https://auth.example/a/b", "/a/b")]
    {
        let (server, browser) = server_with(|launch| launch.set("tokens.issuer", issuer)).await;
        let client = server.add_spa();
        let of_path = [format!("{PATH}{path}"), format!("{PATH}{path}/"), PATH.to_owned()];
        let of_openid = [format!("{path}{OPENID_PATH}"), OPENID_PATH.to_owned()];
        for path in of_path.into_iter().chain(of_openid) {
            let metadata = server.http.get(&path).await.json();
            assert_eq!(metadata["issuer"], issuer, "{path}");
            assert_eq!(metadata["token_endpoint"], format!("{issuer}/oauth/token"));
            assert_eq!(metadata["jwks_uri"], format!("{issuer}/.well-known/jwks.json"));
        }
        for other in ["/other", "/aut", "/auth2", "/auth/x", "/AUTH", "/a", "/%61"] {
            let response = server.http.get(&format!("{PATH}{other}")).await;
            assert_eq!(response.status, 404, "{other}");
            let response = server.http.get(&format!("{other}{OPENID_PATH}")).await;
            assert_eq!(response.status, 404, "{other}");
        }
        let redirect = redirect_of(&browser.authorize(&client.request()).await);
        assert_eq!(redirect["iss"], issuer);
        // A proxy serves the server under the path, so the pages are relative.
        let asked = crate::browser::Browser::at(&server).authorize(&client.request()).await;
        assert!(asked.header("location").starts_with("../login?"), "{}", asked.header("location"));
    }
}

#[actix_rt::test]
async fn endpoints_are_at_the_public_url() {
    let server = Server::with(|launch| {
        launch
            .set("tokens.issuer", "https://issuer.example")
            .set("server.public_url", "https://public.example/auth")
    });
    let metadata = server.http.get(PATH).await.json();
    assert_eq!(metadata["issuer"], "https://issuer.example");
    assert_eq!(metadata["token_endpoint"], "https://public.example/auth/oauth/token");
}

#[actix_rt::test]
async fn metadata_may_be_cached_and_is_revalidated_by_its_etag() {
    let server = Server::start();
    let response = server.http.get(PATH).await;
    let etag = response.header("etag");
    assert!(etag.len() > 2 && response.header("cache-control").contains("max-age=300"));
    let request = server.http.request("GET", PATH).insert_header(("if-none-match", etag));
    let current = TestResponse::of(request.send()).await;
    assert_eq!((current.status, current.text.as_str()), (304, ""));
    let head = TestResponse::of(server.http.request("HEAD", PATH).send()).await;
    assert_eq!((head.status, head.header("etag")), (200, etag));
}
