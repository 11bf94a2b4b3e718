//! Snapshots of complete responses: the errors of every endpoint, the key set, and the
//! output of `check-config`. `INSTA_UPDATE=always` writes them again.

use std::fmt::Write;
use std::process::Command;

use matchbook_testkit::TestResponse;
use serde_json::{Value, json};

use super::support::{Server, binary};

/// Headers of an error that clients act on.
const HEADERS: [&str; 4] = ["allow", "content-type", "retry-after", "www-authenticate"];

/// Formats a response as it is, with the request that it belongs to.
fn format(request: &str, response: &TestResponse) -> String {
    let mut text = format!("{request}\n{}\n", response.status);
    for name in HEADERS {
        if response.headers.contains_key(name) {
            writeln!(text, "{name}: {}", response.header(name)).unwrap();
        }
    }
    text + &response.text + "\n"
}

#[actix_rt::test]
async fn error_responses_of_every_endpoint() {
    let server =
        Server::with(|launch| launch.set("limits.enabled", "true").set("limits.register", "7"));
    let tokens = server.log_in().await;
    let used = server.guest().await;
    let login = format!("/token?userId={used}");
    assert_eq!(server.http.get(&login).await.status, 200);
    let unknown = "00000000-0000-4000-8000-000000000000";

    let mut responses = Vec::new();
    let mut add = |request: &str, response: TestResponse| {
        assert!(response.status >= 400, "{request}: {}", response.text);
        responses.push(format(request, &response));
    };
    for (method, path) in [
        ("GET", "/nothing"),
        ("PUT", "/register"),
        ("POST", "/token"),
        ("GET", "/refresh"),
        ("POST", "/user"),
        ("GET", "/logout"),
        ("PUT", "/sessions"),
        ("GET", "/sessions/1"),
        ("POST", "/health/ready"),
        ("POST", "/.well-known/jwks.json"),
        ("GET", "/token"),
        ("GET", "/token?userId=x"),
        ("GET", "/token?userId=1&userId=2"),
        ("GET", "/user"),
        ("GET", "/user?access_token=x"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions"),
        ("DELETE", "/sessions/1"),
        ("POST", "/refresh"),
        ("POST", "/logout"),
        ("PUT", "/login"),
        ("GET", "/password"),
        ("GET", "/password/forgot"),
        ("GET", "/password/reset"),
        ("GET", "/register/confirm"),
        ("GET", "/invitations/accept"),
        ("PUT", "/account"),
        ("GET", "/account"),
        ("GET", "/account/totp"),
        ("GET", "/account/totp/confirm"),
        ("PUT", "/invitation"),
        ("PUT", "/verify"),
        ("PUT", "/reset"),
        ("POST", "/pages.css"),
        ("POST", "/login"),
        ("POST", "/sessions"),
    ] {
        let request = server.http.request(method, path).send();
        add(&format!("{method} {path}"), TestResponse::of(request).await);
    }
    for path in ["/refresh", "/logout"] {
        for form in ["", "refresh_token=", "refresh_token=x", "refresh_token=a&refresh_token=b"] {
            let response = server.http.post(path, form).await;
            add(&format!("POST {path} with the form `{form}`"), response);
        }
    }
    let link = "mb_ln_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (path, body) in [
        ("/register", json!({})),
        ("/register", json!({ "name": "a b", "password": "x" })),
        ("/register", json!({ "name": "ann", "password": "short" })),
        ("/register", json!({ "name": "ann", "password": "password1234" })),
        ("/register", json!([])),
        ("/login", json!({ "name": "ann" })),
        ("/login", json!({ "name": "ann", "password": "wrong" })),
        ("/password", json!({})),
        ("/password/forgot", json!({})),
        ("/password/reset", json!({ "token": link, "new": "violet tractor seven hums" })),
        ("/register/confirm", json!({ "token": link })),
        ("/invitations/accept", json!({ "token": link, "password": "violet tractor seven hums" })),
        ("/account/totp", json!({})),
        ("/account/totp/confirm", json!({})),
    ] {
        add(&format!("POST {path} with {body}"), server.post_json(path, &body).await);
        if matches!(path, "/password" | "/account/totp" | "/account/totp/confirm") {
            let response = server.post_json_as(path, &body, &tokens.access).await;
            add(&format!("POST {path} of a guest with {body}"), response);
        }
    }

    let unknown_user = format!("/token?userId={unknown}");
    add("GET /token of an unknown guest", server.http.get(&unknown_user).await);
    add("GET /token of a guest with a live session", server.http.get(&login).await);
    add("GET /user with another token", server.http.get_as("/user", "x").await);
    let delete = |path: String| {
        let request = server.http.request("DELETE", &path).bearer_auth(&tokens.access);
        TestResponse::of(request.send())
    };
    add("DELETE /sessions/{id} of no session", delete(format!("/sessions/{unknown}")).await);
    add("DELETE /sessions?keep=x", delete("/sessions?keep=x".to_owned()).await);
    let key = server.refresh_with(&tokens.refresh, "short").await;
    add("POST /refresh with a short Idempotency-Key", key);

    let logout = server.http.post("/logout", &format!("refresh_token={}", tokens.refresh)).await;
    assert_eq!(logout.status, 204);
    add("GET /user after a logout", server.http.get_as("/user", &tokens.access).await);
    add("POST /refresh after a logout", server.refresh(&tokens.refresh).await);
    server.guest().await;
    let mut limited = server.http.get("/register").await;
    limited.headers.insert("retry-after".parse().unwrap(), "SECONDS".parse().unwrap());
    add("GET /register beyond the limit", limited);

    insta::assert_snapshot!(responses.join("\n"));
}

#[actix_rt::test]
async fn key_set() {
    let server = Server::with(|launch| launch.set("tokens.algorithm", "ES256"));
    let response = server.http.get("/.well-known/jwks.json").await;
    let mut keys = response.json();
    for (index, name) in [(0, "kid"), (0, "x"), (0, "y"), (1, "kid"), (1, "n")] {
        let Some(Value::String(text)) = keys["keys"][index].get_mut(name) else {
            panic!("{name} is missing");
        };
        *text = format!("{} characters", text.len());
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&keys).unwrap());
}

#[test]
fn check_config_with_default_settings() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(binary()).arg("check-config").current_dir(&folder).env_clear().output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}
