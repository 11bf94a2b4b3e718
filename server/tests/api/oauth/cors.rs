//! Cross-origin requests of apps in browsers.

use matchbook_testkit::TestResponse;

use super::{Client, REDIRECT_URI, exchange_of, server_with, text};
use crate::support::{Server, eventually};

const ORIGIN: &str = "https://app.example";

impl Server {
    /// Sends a request of a page of this origin.
    async fn send_from(&self, method: &str, path: &str, origin: &str) -> TestResponse {
        let request = self.http.request(method, path).insert_header(("origin", origin));
        match method {
            "POST" => TestResponse::of(request.send_form(&[("client_id", "x")])).await,
            _ => TestResponse::of(request.send()).await,
        }
    }

    /// Registers a public client with these redirect URIs.
    fn add_public(&self, uris: &[&str]) -> Client {
        let uris = uris.iter().flat_map(|uri| ["--redirect-uri", uri]);
        self.register_client("app", &["--public"].into_iter().chain(uris).collect::<Vec<_>>())
    }
}

fn allowed(response: &TestResponse) -> &str {
    assert_eq!(response.header("access-control-allow-credentials"), "", "never with cookies");
    response.header("access-control-allow-origin")
}

#[actix_rt::test]
async fn origin_of_a_public_client_may_call_token_and_revoke() {
    let (server, browser) = server_with(|launch| launch).await;
    let client = server.add_spa();
    for path in ["/oauth/token", "/oauth/revoke"] {
        let preflight = server.send_from("OPTIONS", path, ORIGIN).await;
        assert_eq!((preflight.status, allowed(&preflight)), (204, ORIGIN));
        assert_eq!(preflight.header("access-control-allow-methods"), "GET, POST");
        let headers = preflight.header("access-control-allow-headers");
        assert!(headers.contains("content-type") && headers.contains("authorization"), "{headers}");
        let error = server.send_from("POST", path, ORIGIN).await;
        assert_eq!((error.status, allowed(&error)), (400, ORIGIN), "errors can be read, too");
        assert!(error.header("vary").contains("Origin"), "{}", error.header("vary"));
        assert!(error.header("access-control-expose-headers").contains("Retry-After"));
    }
    let code = browser.code(&client.request()).await;
    let mut form = exchange_of(&code);
    form.push(("client_id", client.id.as_str().into()));
    let request = server.http.request("POST", "/oauth/token").insert_header(("origin", ORIGIN));
    let response = TestResponse::of(request.send_form(&form)).await;
    assert_eq!((response.status, allowed(&response)), (200, ORIGIN));
    let refresh = text(&response.json(), "refresh_token");
    assert_eq!(
        server.refresh_by(&client, &refresh).await.header("access-control-allow-origin"),
        ""
    );
}

#[actix_rt::test]
async fn other_origins_may_not_read_responses() {
    let server = Server::start();
    let uris = [REDIRECT_URI, "com.example.app:/cb", "http://127.0.0.1/cb"];
    server.add_public(&uris);
    let confidential = ["--confidential", "--redirect-uri", "https://web.example/cb"];
    server.register_client("web", &confidential);
    for origin in [
        "null",
        "https://web.example",
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil.example",
        "https://app.example:8443",
        "https://APP.example",
        "https://app.example/",
        "com.example.app:",
        "com.example.app://",
        "http://127.0.0.1.evil.example",
        "https://127.0.0.1",
        "*",
        "",
    ] {
        for method in ["OPTIONS", "POST"] {
            let response = server.send_from(method, "/oauth/token", origin).await;
            assert_eq!(allowed(&response), "", "{method} {origin}");
        }
    }
    for port in ["", ":5173", ":80"] {
        let origin = format!("http://127.0.0.1{port}");
        let response = server.send_from("OPTIONS", "/oauth/token", &origin).await;
        assert_eq!(allowed(&response), origin);
    }
}

#[actix_rt::test]
async fn removed_client_loses_its_origin() {
    let server = Server::start();
    let client = server.add_public(&[REDIRECT_URI]);
    let permitted =
        async || allowed(&server.send_from("OPTIONS", "/oauth/token", ORIGIN).await) == ORIGIN;
    assert!(permitted().await);
    server.command_json(&["clients", "remove", &client.id, "--json"]);
    eventually(false, permitted).await;
}

#[actix_rt::test]
async fn keys_and_metadata_may_be_read_from_any_origin() {
    let server = Server::start();
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/jwks.json"] {
        for (method, status) in [("OPTIONS", 204), ("GET", 200)] {
            let response = server.send_from(method, path, "https://any.example").await;
            assert_eq!((response.status, allowed(&response)), (status, "*"), "{method} {path}");
        }
    }
}

#[actix_rt::test]
async fn endpoints_for_pages_and_servers_permit_no_origin() {
    let server = Server::start();
    server.add_spa();
    for (method, path) in [
        ("GET", "/oauth/authorize"),
        ("POST", "/oauth/authorize"),
        ("OPTIONS", "/oauth/authorize"),
        ("POST", "/oauth/introspect"),
        ("OPTIONS", "/oauth/introspect"),
        ("GET", "/login"),
        ("POST", "/login"),
        ("GET", "/user"),
        ("POST", "/refresh"),
    ] {
        let response = server.send_from(method, path, ORIGIN).await;
        assert_eq!(allowed(&response), "", "{method} {path}");
        assert_ne!(response.status, 204, "{method} {path}");
    }
}
