//! The end of a response: truncated, endless, chunked and fragmented bodies.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use awc::http::Method;
use matchbook_client::{Client, Credentials, Error, RootCerts, Server, TokenResponse};

use super::wire::{Do, Wire, certificate, client};
use super::{is_transient, within_timeout};

const TIMEOUT: Duration = Duration::from_secs(8);

/// Returns the status and the body of the response, or the error.
async fn ask(client: &Client, method: Method) -> Result<(u16, String), String> {
    let sent = within_timeout(client.request(method, "/thing").send()).await;
    let mut response = sent.map_err(|error| error.to_string())?;
    let body =
        within_timeout(async { response.body().await }).await.map_err(|error| error.to_string())?;
    Ok((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

async fn get(client: &Client) -> Result<(u16, String), String> {
    ask(client, Method::GET).await
}

#[expect(clippy::unnecessary_wraps, reason = "outcomes are compared with it")]
fn good() -> Result<(u16, String), String> {
    Ok((200, "good".to_owned()))
}

#[actix_rt::test]
async fn a_truncated_body_is_an_error() {
    for head in [
        "HTTP/1.1 200 -\r\ncontent-length: 10\r\n\r\ngood",
        "HTTP/1.1 200 -\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.0 200 -\r\ncontent-length: 10\r\n\r\ngood",
        "HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n",
        "HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n",
        "HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\na\r\ngood",
    ] {
        let wire = Wire::start(move |_, _, _| Do::Close(head));
        let outcome = get(&wire.client(TIMEOUT).await).await;
        assert!(outcome.is_err(), "{head}: {outcome:?}");
    }
}

#[actix_rt::test]
async fn a_refresh_with_a_truncated_response_keeps_the_session() {
    for head in [
        "HTTP/1.1 200 -\r\ncontent-type: application/json\r\ncontent-length: 60\r\n\r\n{\"token\":",
        "HTTP/1.1 401 -\r\ncontent-type: application/json\r\ncontent-length: 60\r\n\r\n{\"error\":\"inval",
        "HTTP/1.1 200 -\r\ncontent-le",
    ] {
        let wire = Wire::start(move |_, _, _| Do::Close(head));
        let client = wire.client(TIMEOUT).await;
        let outcome = within_timeout(client.refresh()).await;
        assert!(is_transient(&outcome), "{head}: {outcome:?}");
        assert!(client.credentials().is_logged_in());
    }
}

#[actix_rt::test]
async fn a_body_without_a_length_ends_with_its_connection() {
    for head in [
        "HTTP/1.1 200 -\r\n\r\ngood",
        "HTTP/1.1 200 -\r\nconnection: close\r\n\r\ngood",
        "HTTP/1.1 200 -\r\nconnection: keep-alive\r\n\r\ngood",
        "HTTP/1.0 200 -\r\n\r\ngood",
        "HTTP/1.0 200 -\r\nconnection: keep-alive\r\n\r\ngood",
        "HTTP/1.1 100 -\r\n\r\nHTTP/1.1 200 -\r\n\r\ngood",
    ] {
        let wire = Wire::start(move |_, _, _| Do::Close(head));
        let client = wire.client(TIMEOUT).await;
        for _ in 0..2 {
            assert_eq!(get(&client).await, good(), "{head}");
        }
        assert_eq!(wire.connections(), 2, "{head}");
    }
}

#[actix_rt::test]
async fn over_tls_only_close_notify_ends_a_body() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for (number, tcp) in listener.incoming().enumerate() {
            let mut stream = acceptor.accept(tcp.unwrap()).unwrap();
            stream.read_exact(&mut [0; 100]).unwrap();
            stream.write_all(b"HTTP/1.1 200 -\r\n\r\ngood").unwrap();
            if number == 1 {
                stream.shutdown().unwrap();
            }
        }
    });
    let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    let outcome = get(&client).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(get(&client).await, good());
}

/// Starts a server that sends this response to each request, in one write.
fn responding(response: &'static str) -> Wire {
    Wire::start(move |_, _, _| Do::Write(vec![response.into()]))
}

#[actix_rt::test]
async fn a_response_without_a_body_returns_at_once() {
    for (method, status, head) in [
        (Method::HEAD, 200, "HTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\n"),
        (Method::HEAD, 200, "HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n"),
        (Method::HEAD, 200, "HTTP/1.1 200 -\r\n\r\n"),
        (Method::GET, 304, "HTTP/1.1 304 -\r\ncontent-length: 4\r\n\r\n"),
        (Method::GET, 304, "HTTP/1.1 304 -\r\ntransfer-encoding: chunked\r\n\r\n"),
        (Method::GET, 204, "HTTP/1.1 204 -\r\n\r\n"),
        (Method::GET, 204, "HTTP/1.1 204 -\r\ncontent-length: 0\r\n\r\n"),
        (Method::GET, 200, "HTTP/1.1 200 -\r\ncontent-length: 0\r\n\r\n"),
        (Method::GET, 200, "HTTP/1.0 200 -\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n"),
    ] {
        let wire = responding(head);
        let client = wire.client(TIMEOUT).await;
        for _ in 0..2 {
            assert_eq!(ask(&client, method.clone()).await, Ok((status, String::new())), "{head}");
        }
        assert_eq!(wire.connections(), 1, "{method} {head}");
    }
}

#[actix_rt::test]
async fn a_connection_is_kept_only_if_the_server_keeps_it() {
    for (head, is_kept) in [
        ("HTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\ngood", true),
        ("HTTP/1.1 200 -\r\ncontent-length: 4\r\nconnection: CLOSE\r\n\r\ngood", false),
        ("HTTP/1.1 200 -\r\ncontent-length: 4\r\nconnection: x, close\r\n\r\ngood", false),
        ("HTTP/1.0 200 -\r\ncontent-length: 4\r\n\r\ngood", false),
        ("HTTP/1.0 200 -\r\ncontent-length: 4\r\nconnection: keep-alive\r\n\r\ngood", true),
        ("HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n", true),
        (
            "HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\ngood\r\n0\r\na: b\r\nc: d\r\n\r\n",
            true,
        ),
        // An empty line after the body belongs to no response.
        ("HTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\ngood\r\n", true),
    ] {
        // A POST request is never sent again.
        for method in [Method::GET, Method::POST] {
            let wire = responding(head);
            let client = wire.client(TIMEOUT).await;
            for _ in 0..3 {
                assert_eq!(ask(&client, method.clone()).await, good(), "{head}");
            }
            assert_eq!(wire.connections(), if is_kept { 1 } else { 3 }, "{head}");
        }
    }
}

#[actix_rt::test]
async fn bytes_after_a_response_are_not_read_as_the_next_one() {
    let evil = "HTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\nevil";
    for whole in [true, false] {
        let wire = Wire::start(move |_, _, _| {
            let first = b"HTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\ngood".to_vec();
            Do::Write(if whole {
                vec![[&first, evil.as_bytes()].concat()]
            } else {
                vec![first, evil.into()]
            })
        });
        let client = wire.client(TIMEOUT).await;
        for method in [Method::GET, Method::POST, Method::GET, Method::GET] {
            assert_eq!(ask(&client, method).await, good());
            actix_rt::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[actix_rt::test]
async fn a_response_in_small_pieces_is_read_whole() {
    for response in [
        "HTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\ngood",
        "HTTP/1.1 200 -\r\ntransfer-encoding: chunked\r\n\r\n2\r\ngo\r\n2\r\nod\r\n0\r\nx: y\r\n\r\n",
        "\r\nHTTP/1.1 103 -\r\nlink: x\r\n\r\nHTTP/1.1 200 -\r\ncontent-length: 4\r\n\r\ngood",
    ] {
        let wire = Wire::start(move |_, _, _| {
            Do::Write(response.bytes().map(|byte| vec![byte]).collect())
        });
        let client = wire.client(TIMEOUT).await;
        for _ in 0..3 {
            assert_eq!(get(&client).await, good(), "{response}");
        }
        assert_eq!(wire.connections(), 1);
    }
}

#[actix_rt::test]
async fn an_endless_head_or_body_is_an_error() {
    let head = || Do::Write(vec![b"HTTP/1.1 200 -\r\n".to_vec(), b"x: y\r\n".repeat(1 << 20)]);
    let line = || Do::Write(vec![b"HTTP/1.1 200 -\r\nx: ".to_vec(), b"y".repeat(8 << 20)]);
    let body = || {
        let head = b"HTTP/1.1 200 -\r\ncontent-type: application/json\r\n\r\n".to_vec();
        Do::Write(vec![head, b" ".repeat(64 << 20)])
    };
    let too_long = "the head of the response is too long";
    for (ends, problem) in [(head as fn() -> Do, too_long), (line, too_long), (body, "")] {
        let wire = Wire::start(move |_, _, _| ends());
        let client = wire.client(TIMEOUT).await;
        let outcome = get(&client).await.unwrap_err();
        assert!(outcome.contains(problem), "{outcome}");
        assert!(is_transient(&within_timeout(client.refresh()).await));
        assert!(client.credentials().is_logged_in());
    }
}

#[actix_rt::test]
async fn a_response_of_another_protocol_is_an_error() {
    for garbage in ["SSH-2.0-OpenSSH_9.2\r\n", "\x15\x03\x01\0\x02\x02", "HTTP/2 200\r\n\r\n"] {
        let wire = responding(garbage);
        let client = wire.client(Duration::from_secs(2)).await;
        assert!(get(&client).await.is_err(), "{garbage:?}");
        assert!(matches!(within_timeout(client.refresh()).await, Err(Error::Transient { .. })));
    }
}

#[actix_rt::test]
async fn a_response_before_the_end_of_the_request_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            // Read the head only.
            tcp.read_exact(&mut [0; 100]).unwrap();
            let response = "HTTP/1.1 413 -\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlong";
            tcp.write_all(response.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let server = Server::new(&url, &RootCerts::System, TIMEOUT).unwrap();
    let client = Client::new(&server, Credentials::builder().body_limit(64 << 20).build());
    let tokens =
        TokenResponse { token: "access".into(), refresh_token: "refresh".into(), expires_in: 60 };
    client.log_in_with(tokens).await.unwrap();
    for method in [Method::PUT, Method::POST] {
        let request = client.request(method, "/thing").body(vec![b'x'; 32 << 20]);
        let mut response = within_timeout(request.send()).await.unwrap();
        assert_eq!(response.status().as_u16(), 413);
        assert_eq!(response.body().await.unwrap(), "long");
    }
}
