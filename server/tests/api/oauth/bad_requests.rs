//! Malformed requests to every OAuth endpoint: none is an error of the server, and none puts a
//! secret into the log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use matchbook_testkit::TestResponse;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Client, PASSWORD, VERIFIER, exchange_of, server_with, set, text, tokens};
use crate::support::Server;

/// The endpoints, and the parameters that each knows.
const ENDPOINTS: [(&str, &str, &[&str]); 8] = [
    (
        "POST",
        "/oauth/token",
        &[
            "grant_type",
            "code",
            "redirect_uri",
            "code_verifier",
            "refresh_token",
            "device_code",
            "scope",
            "resource",
            "client_id",
            "client_secret",
        ],
    ),
    ("POST", "/oauth/device", &["scope", "resource", "client_id", "client_secret"]),
    ("GET", "/device", &["user_code"]),
    ("POST", "/device", &["csrf", "user_code", "decision"]),
    ("POST", "/oauth/revoke", &["token", "token_type_hint", "client_id", "client_secret"]),
    ("POST", "/oauth/introspect", &["token", "token_type_hint", "client_id", "client_secret"]),
    ("GET", "/oauth/authorize", AUTHORIZE),
    ("POST", "/oauth/authorize", AUTHORIZE),
];

const AUTHORIZE: &[&str] = &[
    "response_type",
    "client_id",
    "redirect_uri",
    "state",
    "scope",
    "code_challenge",
    "code_challenge_method",
    "response_mode",
    "nonce",
    "prompt",
    "max_age",
    "resource",
    "login_hint",
    "mb_asked",
];

/// Values, already percent-encoded where they need it.
fn values() -> Vec<String> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut values: Vec<String> = [
        "%00",
        "a%00b",
        "%FF%FE",
        "%C3%28",
        "%ED%A0%80",
        "%",
        "%zz",
        "%u0041",
        "+",
        "%0D%0A",
        "%20",
    ]
    .map(str::to_owned)
    .into();
    values.extend(
        [
            "\u{feff}é\u{202e}😀",
            "'; DROP TABLE sessions; --",
            "\"\\<script>",
            "{\"a\":[1]}",
            "-1",
            "99999999999999999999",
            "mb_rt_",
            "mb_ac_AAAA",
            "../../etc/passwd",
            "http://[::1",
        ]
        .map(encode),
    );
    values.push("x".repeat(3000));
    values.push("%F0%9F%98%80".repeat(300));
    values
}

/// The parameters of a request that would be valid.
fn valid(path: &str, client: &Client, token: &str) -> Vec<(String, String)> {
    let parameters = match path {
        "/oauth/authorize" => client.request(),
        "/oauth/token" => {
            let mut exchange = exchange_of(token);
            set(&mut exchange, "grant_type", "refresh_token");
            exchange.push(("refresh_token", token.into()));
            exchange
        }
        _ => vec![("token", token.into())],
    };
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut encoded: Vec<(String, String)> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), encode(value))).collect();
    encoded.retain(|(name, _)| name != "client_id");
    encoded.push(("client_id".to_owned(), client.id.clone()));
    if let Some(secret) = &client.secret {
        encoded.push(("client_secret".to_owned(), secret.clone()));
    }
    encoded
}

fn form(parameters: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Checks that the endpoint rejected or ignored the malformed part of a request.
fn assert_handled(response: &TestResponse, request: &str) {
    let status = response.status;
    assert!(status < 500, "{status} to {request}: {}", response.text);
    // Nothing malformed reaches the database, so nothing is temporarily unavailable.
    let location = response.header("location");
    assert!(!location.contains("temporarily_unavailable"), "{location} to {request}");
    assert!(!response.text.is_empty() || status == 200, "an empty body to {request}");
}

#[actix_rt::test]
async fn malformed_requests_cause_no_error_of_the_server() {
    let (mut server, browser) = server_with(|launch| launch.set("log.level", "trace")).await;
    let clients = [server.add_box(), server.add_spa()];
    let mut secrets = vec![PASSWORD.to_owned(), VERIFIER.to_owned()];
    let mut sent = 0;
    for client in &clients {
        let body = server.log_in_with(&browser, client).await;
        let refresh = text(&body, "refresh_token");
        secrets.extend(client.secret.clone());
        secrets.extend(["refresh_token", "access_token"].map(|name| text(&body, name)));
        for (method, path, names) in ENDPOINTS {
            let base = valid(path, client, &refresh);
            for name in names {
                for value in values() {
                    let mut parameters = base.clone();
                    parameters.retain(|(own, _)| own != name);
                    parameters.push(((*name).to_owned(), value));
                    let form = form(&parameters);
                    let response = match method {
                        "GET" => browser.get(&format!("{path}?{form}")).await,
                        _ => server.http.post(path, &form).await,
                    };
                    assert_handled(&response, &format!("{method} {path} {form}"));
                    sent += 1;
                }
            }
        }
    }
    assert!(sent > 500, "{sent}");
    assert_healthy_and_silent(&mut server, &secrets);
}

#[actix_rt::test]
async fn malformed_bodies_and_headers_cause_no_error_of_the_server() {
    let (mut server, browser) =
        server_with(|launch| launch.set("log.level", "trace").set("tls.mode", "off")).await;
    let client = server.add_web_app();
    let body = server.log_in_with(&browser, &client).await;
    let refresh = text(&body, "refresh_token");
    let secret = client.secret.clone().unwrap();
    let mut bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"=".to_vec(),
        b"&&&&".to_vec(),
        b"a".repeat(8 * 1024),
        b"a=1&".repeat(2000),
        b"\0".repeat(100),
        b"\xff\xfe=\xff&client_id=\xc3".to_vec(),
        b"{\"grant_type\":\"refresh_token\"}".to_vec(),
        b"<xml/>".to_vec(),
        format!("refresh_token={refresh}").into_bytes(),
    ];
    let pairs = valid("/oauth/token", &client, &refresh);
    bodies.push(form(&[pairs.clone(), pairs.clone()].concat()).into_bytes());
    bodies.push(form(&pairs).to_uppercase().into_bytes());
    let types = [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded; charset=x",
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "",
    ];
    let authorizations: [&[u8]; 8] = [
        b"Basic",
        b"Basic \xff\xfe",
        b"Basic ====",
        b"Basic AA==",
        b"Basic Og==",
        b"Basic JTAwOiUwMA==",
        b"Bearer x",
        b"Digest username=\"x\"",
    ];
    for (method, path, _) in ENDPOINTS {
        for (i, body) in bodies.iter().enumerate() {
            for (j, content_type) in types.iter().enumerate() {
                let authorization = authorizations[(i + j) % authorizations.len()];
                let response = raw(&server, (method, path), content_type, authorization, body);
                let status = response.split(' ').nth(1).unwrap_or_default();
                assert!(
                    status.starts_with(['2', '3', '4']),
                    "{response} to {method} {path} {content_type} {body:?}"
                );
            }
        }
    }
    tokens(&server.refresh_by(&client, &refresh).await);
    assert_healthy_and_silent(&mut server, &[secret, refresh, VERIFIER.to_owned()]);
}

/// Sends these bytes, and returns the beginning of the response.
fn raw(
    server: &Server,
    (method, path): (&str, &str),
    content_type: &str,
    authorization: &[u8],
    body: &[u8],
) -> String {
    let address = server.process.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\nAuthorization: "
    )
    .into_bytes();
    request.extend_from_slice(authorization);
    request.extend_from_slice(b"\r\n\r\n");
    request.extend_from_slice(body);
    // The server may respond and close before it has read all.
    let _ = stream.write_all(&request);
    let mut response = vec![0; 256];
    let read = stream.read(&mut response).unwrap_or_default();
    String::from_utf8_lossy(&response[..read]).into_owned()
}

/// Stops the server, and checks its log.
fn assert_healthy_and_silent(server: &mut Server, secrets: &[String]) {
    assert!(server.process.stop().success());
    let log = server.process.log();
    assert!(!log.contains("panicked"), "a panic");
    assert!(!log.contains("request failed"), "an error of the server");
    for secret in secrets {
        // The parts of an access token are secret each.
        for part in secret.rsplit('.').take(2) {
            let secret = part.trim_start_matches("mb_rt_").trim_start_matches("mb_cs_");
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}
