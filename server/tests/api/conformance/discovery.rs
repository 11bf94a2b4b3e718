//! The plan `oidcc-config-certification-test-plan`.

use serde_json::{Value, json};

use super::Provider;

#[actix_rt::test]
async fn oidcc_discovery_endpoint_verification() {
    let provider = Provider::start().await;
    let configuration = provider.configuration().await;
    let issuer = configuration["issuer"].as_str().unwrap();
    assert!(issuer.starts_with("https://") && !issuer.contains(['?', '#']), "{issuer}");
    for name in ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"] {
        let url = configuration[name].as_str().unwrap();
        assert!(url.starts_with("https://") && !url.contains('#'), "{name} {url}");
    }
    for (name, value) in [
        ("response_types_supported", "code"),
        ("subject_types_supported", "public"),
        ("id_token_signing_alg_values_supported", "RS256"),
        ("scopes_supported", "openid"),
        ("claims_supported", "sub"),
        ("grant_types_supported", "authorization_code"),
        ("token_endpoint_auth_methods_supported", "client_secret_basic"),
        ("token_endpoint_auth_methods_supported", "client_secret_post"),
        ("code_challenge_methods_supported", "S256"),
    ] {
        let values = configuration[name].as_array().unwrap();
        assert!(values.contains(&json!(value)), "{name}");
        assert!(values.iter().all(Value::is_string), "{name}");
    }
    // Its default would be `true`.
    assert_eq!(configuration["request_uri_parameter_supported"], false);
    let keys = provider.server.http.get("/.well-known/jwks.json").await.json();
    for key in keys["keys"].as_array().unwrap() {
        assert_eq!(key["use"], "sig");
        assert!(key["kid"].is_string() && key.get("d").is_none(), "{key}");
    }
}
