//! The complete flow, from registration to the second access token.

use crate::support::{Server, Tokens, eventually};

#[actix_rt::test]
async fn guest_registers_logs_in_and_refreshes_after_expiry() {
    let server = Server::with(|launch| launch.set("tokens.access_lifetime", "3s"));
    let id = server.guest().await;
    let first = Tokens::of(&server.http.get(&format!("/token?userId={id}")).await);
    assert_eq!(first.expires_in, 3);
    assert!(first.refresh.starts_with("mb_rt_"));

    let user = server.http.get_as("/user", &first.access).await;
    assert_eq!(user.status, 200, "{}", user.text);
    assert_eq!(user.field("userId"), id);
    let (now, expires_at) = (user.field("now"), user.field("expiresAt"));
    assert!(now.ends_with('Z') && expires_at.ends_with('Z') && now < expires_at, "{}", user.text);

    eventually(401, async || server.user(&first.access).await).await;
    let refused = server.http.get_as("/user", &first.access).await;
    assert!(refused.header("www-authenticate").contains(r#"error="invalid_token""#));
    assert_eq!(refused.field("message"), "The access token has expired: refresh it.");

    let second = Tokens::of(&server.refresh(&first.refresh).await);
    assert_ne!(second.access, first.access);
    assert_ne!(second.refresh, first.refresh);
    let user = server.http.get_as("/user", &second.access).await;
    assert_eq!(user.status, 200, "{}", user.text);
    assert_eq!(user.field("userId"), id);
}

#[actix_rt::test]
async fn access_token_has_the_claims_of_rfc_9068() {
    let server = Server::start();
    let id = server.guest().await;
    let tokens = Tokens::of(&server.http.get(&format!("/token?userId={id}")).await);
    let header = tokens.access.split('.').next().unwrap();
    let header: serde_json::Value =
        serde_json::from_slice(&crate::support::decode(header)).unwrap();
    assert_eq!(header["typ"], "at+jwt");
    assert_eq!(header["alg"], "RS256");
    assert!(header["kid"].is_string());

    let claims = tokens.claims();
    assert_eq!(claims["iss"], "https://localhost:5001");
    assert_eq!(claims["aud"], "https://localhost:5001");
    assert_eq!(claims["sub"], id.as_str());
    assert_eq!(claims["client_id"], "matchbook");
    assert!(claims["jti"].is_string() && claims["sid"].is_string());
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    assert_eq!(exp - iat, 15 * 60);
    assert_eq!(tokens.expires_in, 15 * 60);
}
