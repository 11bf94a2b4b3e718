//! Bad input of every kind gets a `4xx` with a JSON body that says what to do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use matchbook_testkit::TestResponse;

use crate::support::Server;

/// Checks an error response: status, headers, code and message.
fn refused(response: &TestResponse, status: u16, error: &str) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.field("error"), error, "{}", response.text);
    assert!(response.field("message").ends_with('.'), "{}", response.text);
}

#[actix_rt::test]
async fn refresh_requires_exactly_one_form_field() {
    let server = Server::start();
    let token = server.log_in().await.refresh;
    for form in ["", "refresh_token=", "other=1", "refresh_token", "&&&"] {
        refused(&server.http.post("/refresh", form).await, 400, "invalid_request");
    }
    let twice = format!("refresh_token={token}&refresh_token={token}");
    refused(&server.http.post("/refresh", &twice).await, 400, "invalid_request");
    refused(&server.http.post("/refresh", "refresh_token=%FF%FE").await, 401, "invalid_grant");
    let form = format!("refresh_token={token}");
    for content_type in ["application/json", "text/plain", "multipart/form-data", ""] {
        let request = server
            .http
            .request("POST", "/refresh")
            .content_type(content_type)
            .send_body(form.clone());
        refused(&TestResponse::of(request).await, 400, "invalid_request");
    }
    // A request that was rejected for its form has not touched the session.
    assert_eq!(server.http.post("/refresh", &format!("{form}&unknown=1")).await.status, 200);
}

#[actix_rt::test]
async fn body_of_one_megabyte_is_rejected() {
    let server = Server::start();
    let form = format!("refresh_token={}", "x".repeat(1 << 20));
    refused(&server.http.post("/refresh", &form).await, 413, "too_large");
    assert_eq!(server.http.get("/health/live").await.status, 200);
}

/// Sends a form as these bytes and reads until the response contains `text`.
fn response_to(server: &Server, framing_and_body: &str, text: &str) -> String {
    let address = server.process.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head =
        "POST /refresh HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded";
    write!(stream, "{head}\r\n{framing_and_body}").unwrap();
    let mut response = String::new();
    let mut buffer = [0; 4096];
    while !response.contains(text) {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => response.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
            end => panic!("{end:?} before {text}: {response}"),
        }
    }
    response.to_lowercase()
}

#[actix_rt::test]
async fn body_that_does_not_arrive_times_out() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    for body in ["Content-Length: 100\r\n\r\nr", "Transfer-Encoding: chunked\r\n\r\n1\r\nr\r\n"] {
        let response = response_to(&server, body, r#""error":"too_slow""#);
        assert!(response.starts_with("http/1.1 408 "), "{response}");
        assert!(response.contains("connection: close"), "{response}");
    }
}

#[actix_rt::test]
async fn connection_of_an_endless_body_is_closed() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    let address = server.process.url().strip_prefix("http://").unwrap().to_owned();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        for line in ["GET /user", "POST /refresh", "POST /logout", "GET /nothing"] {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let form = "Content-Type: application/x-www-form-urlencoded";
            write!(stream, "{line} HTTP/1.1\r\nHost: a\r\n{form}\r\n{framing}\r\n\r\n5\r\nab")
                .unwrap();
            let mut response = Vec::new();
            let end = stream.read_to_end(&mut response);
            assert!(!response.is_empty(), "{line}, {framing}: {end:?}");
            let closed = end.is_ok()
                || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            assert!(closed, "{line}, {framing}: it stays open");
        }
    }
}

#[actix_rt::test]
async fn chunked_body_is_accepted_and_keeps_the_connection() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    let body = "Transfer-Encoding: chunked\r\n\r\n15\r\nrefresh_token=junk123\r\n0\r\n\r\n";
    let next = "GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = response_to(&server, &format!("{body}{next}"), "live");
    assert!(response.starts_with("http/1.1 401 "), "{response}");
}

#[actix_rt::test]
async fn oversized_or_incomplete_request_head_is_rejected() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    let long = format!("X: {}\r\n", "x".repeat(200_000));
    let response = response_to(&server, &long, "\r\n\r\n");
    assert!(response.starts_with("http/1.1 431 "), "{response}");
    let address = server.process.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /user HTTP/1.1\r\nX: never ends").unwrap();
    let sent = Instant::now();
    assert!(stream.read_to_end(&mut Vec::new()).is_ok(), "it is closed");
    assert!(sent.elapsed() < Duration::from_secs(30), "{:?}", sent.elapsed());
}

#[actix_rt::test]
async fn chunked_body_is_rejected_once_it_exceeds_the_limit() {
    let server = Server::with(|launch| launch.set("tls.mode", "off"));
    let chunk = "x".repeat(20_000);
    let body = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n", chunk.len());
    let response = response_to(&server, &body, r#""error":"too_large""#);
    assert!(response.starts_with("http/1.1 413 "), "{response}");
    assert!(response.contains("connection: close"), "{response}");
}

#[actix_rt::test]
async fn token_request_requires_exactly_one_valid_id() {
    let server = Server::start();
    let id = server.guest().await;
    for query in [
        String::new(),
        "?userId=".into(),
        "?userid=x".into(),
        "?userId=42".into(),
        "?userId=%00".into(),
        "?userId=%FF".into(),
        format!("?userId={id}x"),
        format!("?userId={id}&userId={id}"),
        format!("?userId={}", "9".repeat(4000)),
    ] {
        refused(&server.http.get(&format!("/token{query}")).await, 400, "invalid_request");
    }
    assert_eq!(server.http.get(&format!("/token?userId={id}&more=1")).await.status, 200);
}

#[actix_rt::test]
async fn modified_refresh_token_is_rejected_and_changes_nothing() {
    let server = Server::start();
    let token = server.log_in().await.refresh;
    for position in [0, 5, 6, 20, 40, 60, token.len() - 1] {
        let other = if token.as_bytes()[position] == b'A' { "B" } else { "A" };
        let mut changed = token.clone();
        changed.replace_range(position..=position, other);
        let response = server.refresh(&changed).await;
        refused(&response, 401, "invalid_grant");
        assert_eq!(response.header("www-authenticate"), r#"Bearer realm="matchbook""#);
        assert!(response.json().get("reason").is_none(), "junk gets no reason: {}", response.text);
    }
    assert_eq!(server.refresh(&token).await.status, 200);
}

#[actix_rt::test]
async fn unknown_path_and_wrong_method_get_json_errors() {
    let server = Server::start();
    refused(&server.http.get("/nothing/here").await, 404, "not_found");
    refused(&server.http.get("/").await, 404, "not_found");
    for (method, path, allowed) in [
        ("GET", "/refresh", "POST"),
        ("PUT", "/refresh", "POST"),
        ("POST", "/user", "GET"),
        ("DELETE", "/register", "GET, POST"),
        ("HEAD", "/token", "GET"),
        ("POST", "/.well-known/jwks.json", "GET, HEAD, OPTIONS"),
    ] {
        let response = TestResponse::of(server.http.request(method, path).send()).await;
        match method {
            "HEAD" => assert_eq!(response.status, 405),
            _ => refused(&response, 405, "method_not_allowed"),
        }
        assert_eq!(response.header("allow"), allowed, "{method} {path}");
    }
}

#[actix_rt::test]
async fn long_user_agent_with_any_bytes_is_accepted() {
    let server = Server::start();
    let id = server.guest().await;
    let mut agent = vec![0xff; 10];
    agent.extend("ü".repeat(3000).into_bytes());
    let agent = awc::http::header::HeaderValue::from_bytes(&agent).unwrap();
    let request = server
        .http
        .request("GET", &format!("/token?userId={id}"))
        .insert_header((awc::http::header::USER_AGENT, agent))
        .send();
    assert_eq!(TestResponse::of(request).await.status, 200);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn token_of_another_server_is_rejected_without_a_query() {
    let world = matchbook_testkit::TestEnv::new();
    let (relay, url) = world.database_proxy();
    let server = Server::within(world, |launch| {
        launch.variable("DATABASE_URL", &url).set("database.acquire_timeout", "300ms")
    });
    let genuine = server.log_in().await.refresh;
    let mut forged = genuine.clone();
    forged.replace_range(60..61, if &genuine[60..61] == "A" { "B" } else { "A" });
    relay.disconnect();
    assert_eq!(server.refresh(&forged).await.status, 401);
    assert_eq!(server.refresh("mb_rt_junk").await.status, 401);
    assert_eq!(server.refresh(&genuine).await.status, 503, "the database would be asked");
    relay.restore();
}
