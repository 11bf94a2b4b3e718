//! Dead kept connections, and interim responses.

use std::time::{Duration, Instant};

use awc::http::Method;
use matchbook_client::{Client, Error, Response, RootCerts};

use super::wire::{Do, Wire, certificate, client};
use super::{is_transient, within_timeout};

const TIMEOUT: Duration = Duration::from_secs(8);

async fn text(mut response: Response) -> String {
    String::from_utf8(response.body().await.unwrap().to_vec()).unwrap()
}

/// Sends a request and returns the body of the response.
async fn ask(client: &Client, method: &Method, key: Option<&str>) -> Result<String, Error> {
    let mut request = client.request(method.clone(), "/thing");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Ok(text(within_timeout(request.send()).await?).await)
}

/// Starts a server whose first connection serves one request and then does this.
fn dies_by(how: fn() -> Do) -> Wire {
    Wire::start(move |connection, request, _| match (connection, request) {
        (0, 1) => how(),
        _ => Do::respond("good"),
    })
}

fn methods() -> [(Method, Option<&'static str>, bool); 8] {
    [
        (Method::GET, None, true),
        (Method::PUT, None, true),
        (Method::DELETE, None, true),
        (Method::OPTIONS, None, true),
        (Method::POST, Some("a key"), true),
        (Method::PATCH, Some("a key"), true),
        (Method::POST, None, false),
        (Method::PATCH, None, false),
    ]
}

#[actix_rt::test]
async fn a_request_on_a_dead_connection_is_sent_again_if_that_is_safe() {
    for (method, key, is_safe) in methods() {
        let wire = dies_by(|| Do::Close(""));
        let client = wire.client(TIMEOUT).await;
        assert_eq!(ask(&client, &method, key).await.unwrap(), "good");
        let outcome = ask(&client, &method, key).await;
        if is_safe {
            assert_eq!(outcome.as_deref(), Ok("good"), "{method}");
        } else {
            assert!(is_transient(&outcome), "{method}: {outcome:?}");
        }
        assert_eq!(wire.requests().len(), if is_safe { 3 } else { 2 }, "{method}");
        assert_eq!(ask(&client, &Method::POST, None).await.unwrap(), "good", "{method}");
    }
}

#[actix_rt::test]
async fn a_silent_dead_connection_is_detected_long_before_the_timeout() {
    for (method, key) in [(Method::GET, None), (Method::POST, Some("a key"))] {
        let wire = dies_by(|| Do::Silence);
        let client = wire.client(TIMEOUT).await;
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
        // A connection that was idle for this time is doubtful.
        actix_rt::time::sleep(Duration::from_millis(1100)).await;
        let started_at = Instant::now();
        assert_eq!(ask(&client, &method, key).await.unwrap(), "good");
        assert!(started_at.elapsed() < TIMEOUT / 2, "{:?}", started_at.elapsed());
        assert_eq!(wire.requests().len(), 3);
    }
}

#[actix_rt::test]
async fn a_request_that_may_have_been_executed_is_not_sent_again_after_silence() {
    let wire = dies_by(|| Do::Silence);
    let client = wire.client(Duration::from_secs(2)).await;
    assert_eq!(ask(&client, &Method::POST, None).await.unwrap(), "good");
    assert!(is_transient(&ask(&client, &Method::POST, None).await));
    assert_eq!(wire.requests().len(), 2);
}

#[actix_rt::test]
async fn a_request_that_cannot_be_sent_again_uses_no_doubtful_connection() {
    for method in [Method::POST, Method::PATCH] {
        let wire = dies_by(|| Do::Silence);
        let client = wire.client(TIMEOUT).await;
        assert_eq!(ask(&client, &method, None).await.unwrap(), "good");
        actix_rt::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(ask(&client, &method, None).await.unwrap(), "good");
        assert_eq!(wire.requests().len(), 2);
    }
}

/// Starts a server whose first connection serves one request and delays the next. Other
/// connections serve requests only if `others_serve`.
fn slow_after_the_first(seconds: u64, others_serve: bool) -> Wire {
    Wire::start(move |connection, request, _| match (connection, request) {
        (0, 1) => {
            std::thread::sleep(Duration::from_secs(seconds));
            Do::respond("slow")
        }
        (0, _) => Do::respond("good"),
        _ if others_serve => Do::respond("quick"),
        _ => Do::Close(""),
    })
}

#[actix_rt::test]
async fn a_slow_response_on_a_doubtful_connection_is_used() {
    for (others_serve, expected) in [(false, "slow"), (true, "quick")] {
        let wire = slow_after_the_first(4, others_serve);
        let client = wire.client(TIMEOUT).await;
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
        actix_rt::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), expected);
        assert_eq!(wire.requests().len(), 3);
    }
}

#[actix_rt::test]
async fn the_response_of_the_new_connection_is_used_if_the_doubtful_one_fails() {
    for ends in [
        || Do::Close(""),
        || Do::Close("HTTP/1.1 2"),
        || Do::respond_with(408, "connection: close\r\n", "late"),
    ] {
        // The new connection is opened after 2 seconds. It responds after the failure.
        let wire = Wire::start(move |connection, request, _| match (connection, request) {
            (0, 1) => {
                std::thread::sleep(Duration::from_secs(3));
                ends()
            }
            (0, _) => Do::respond("good"),
            _ => {
                std::thread::sleep(Duration::from_secs(2));
                Do::respond("new")
            }
        });
        let client = wire.client(TIMEOUT).await;
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
        actix_rt::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(ask(&client, &Method::GET, None).await.as_deref(), Ok("new"));
        assert_eq!(wire.requests().len(), 3);
    }
}

#[actix_rt::test]
async fn one_timeout_covers_all_attempts() {
    // The attempts: a doubtful connection, a new one, and a probe for TLS.
    let silent = Wire::start(|connection, request, _| match (connection, request) {
        (0, 0) => Do::respond("good"),
        _ => Do::Silence,
    });
    let late = Wire::start(|_, _, _| {
        std::thread::sleep(Duration::from_secs(3));
        Do::respond_with(400, "connection: close\r\n", "late")
    });
    let timeout = Duration::from_secs(4);
    // An attempt with a timeout of its own would take one second longer.
    let limit = timeout + Duration::from_millis(800);
    let client = silent.client(timeout).await;
    assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let began = Instant::now();
    assert!(is_transient(&ask(&client, &Method::GET, None).await));
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());

    let client = late.client(timeout).await;
    let began = Instant::now();
    assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "late");
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
}

#[actix_rt::test]
async fn a_late_response_on_a_kept_plain_connection_causes_no_tls_probe() {
    // Neither a kept plain connection nor a server that keeps it speaks TLS.
    let wire = Wire::start(|_, _, _| Do::respond_with(400, "content-type: text/html\r\n", "<p>"));
    let client = wire.client(TIMEOUT).await;
    for _ in 0..2 {
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "<p>");
    }
    assert_eq!(wire.connections(), 1);
}

#[actix_rt::test]
async fn a_slow_response_on_a_recently_used_connection_is_awaited() {
    let wire = Wire::start(|_, request, _| {
        if request == 1 {
            std::thread::sleep(Duration::from_secs(3));
        }
        Do::respond("good")
    });
    let client = wire.client(TIMEOUT).await;
    for _ in 0..2 {
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    }
    assert_eq!(wire.requests().len(), 2, "the request was sent twice");
}

#[actix_rt::test]
async fn a_408_on_a_kept_connection_is_not_the_response() {
    let wire = dies_by(|| Do::respond_with(408, "connection: close\r\n", "late"));
    let client = wire.client(TIMEOUT).await;
    for _ in 0..2 {
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    }
    assert_eq!(wire.requests().len(), 3);
}

#[actix_rt::test]
async fn a_request_with_a_partial_response_or_on_a_new_connection_is_not_sent_again() {
    let wire = dies_by(|| Do::Close("HTTP/1.1 2"));
    let client = wire.client(TIMEOUT).await;
    assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    assert!(is_transient(&ask(&client, &Method::GET, None).await));
    assert_eq!(wire.requests().len(), 2);

    let wire = Wire::start(|_, _, _| Do::Close(""));
    let client = wire.client(TIMEOUT).await;
    assert!(is_transient(&ask(&client, &Method::GET, None).await));
    assert_eq!(wire.requests().len(), 1);
}

#[actix_rt::test]
async fn other_kept_connections_are_dropped_with_a_dead_one() {
    // Both connections are dead after their first request.
    let wire = Wire::start(|connection, request, text| {
        if connection < 2 && request == 0 && text.contains("/together") {
            std::thread::sleep(Duration::from_millis(300));
        }
        if connection < 2 && request == 1 { Do::Close("") } else { Do::respond("good") }
    });
    let client = wire.client(TIMEOUT).await;
    let together = || async { client.get("/together").send().await.unwrap() };
    let (one, other) = futures_util::future::join(together(), together()).await;
    assert_eq!((text(one).await, text(other).await), ("good".into(), "good".into()));
    assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    assert_eq!(ask(&client, &Method::POST, None).await.unwrap(), "good");
    assert_eq!(wire.requests().len(), 5);
}

#[actix_rt::test]
async fn a_refresh_on_a_dead_connection_is_sent_again_with_its_key() {
    let tokens = r#"{"token":"a2","refreshToken":"r2","expiresIn":60}"#;
    let wire = Wire::start(move |connection, request, text| match (connection, request) {
        (0, 0) => Do::respond_with(401, "", ""),
        (0, _) => Do::Close(""),
        _ if text.starts_with("POST /refresh") => {
            Do::respond_with(200, "content-type: application/json\r\n", tokens)
        }
        _ => Do::respond("good"),
    });
    let client = wire.client(TIMEOUT).await;
    assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    let requests = wire.requests();
    let refreshes: Vec<_> = requests.iter().filter(|text| text.contains("/refresh")).collect();
    let key = |refresh: &str| {
        let mut lines = refresh.lines();
        lines.find(|line| line.starts_with("idempotency-key")).map(str::to_owned)
    };
    assert_eq!(refreshes.len(), 2);
    assert!(key(refreshes[0]).is_some() && key(refreshes[0]) == key(refreshes[1]));
}

#[actix_rt::test]
async fn a_dead_tls_connection_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let wire = Wire::serve("127.0.0.1:0", Some(acceptor), |connection, request, _| {
        if (connection, request) == (0, 1) { Do::Close("") } else { Do::respond("good") }
    });
    let url = format!("https://localhost:{}", wire.address.port());
    let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    for _ in 0..2 {
        assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    }
    assert_eq!(wire.requests().len(), 3);
}

const INTERIMS: [&str; 4] = [
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n",
    "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <b>\r\n\r\n",
    "HTTP/1.0 199 Anything\n\n",
];

/// Returns the response `good` after interim responses.
fn after(interim: &str) -> Vec<u8> {
    format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").into()
}

#[actix_rt::test]
async fn interim_responses_are_skipped_in_pieces_of_any_size() {
    for interim in INTERIMS {
        let whole = after(interim);
        let wire = Wire::start(move |_, request, _| match request {
            0 => Do::Write(vec![whole.clone()]),
            // Byte by byte.
            1 => Do::Write(whole.iter().map(|byte| vec![*byte]).collect()),
            _ => Do::Write(vec![after("")]),
        });
        let client = wire.client(TIMEOUT).await;
        for method in [Method::GET, Method::PUT, Method::GET] {
            assert_eq!(ask(&client, &method, None).await.as_deref(), Ok("good"), "{interim}");
        }
        assert_eq!(wire.requests().len(), 3, "responses match their requests");
        assert_eq!(wire.connections(), 1, "the connection is kept");
    }
}

#[actix_rt::test]
async fn interim_responses_are_skipped_over_tls_and_during_a_refresh() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, acceptor) = certificate(folder.path(), &["localhost"], (-1, 1));
    let wire = Wire::serve("127.0.0.1:0", Some(acceptor), |_, request, text| {
        let response = match request {
            0 => "HTTP/1.1 401 -\r\ncontent-length: 0\r\n\r\n".into(),
            _ if text.starts_with("POST /refresh") => {
                let tokens = r#"{"token":"a2","refreshToken":"r2","expiresIn":60}"#;
                let length = tokens.len();
                let head = "HTTP/1.1 200 -\r\ncontent-type: application/json";
                format!("{head}\r\ncontent-length: {length}\r\n\r\n{tokens}").into()
            }
            _ => after(""),
        };
        let interims = INTERIMS.map(|interim| interim.as_bytes().to_vec());
        Do::Write(interims.into_iter().chain([response]).collect())
    });
    let url = format!("https://localhost:{}", wire.address.port());
    let client = client(&url, &RootCerts::File(ca), TIMEOUT).await;
    assert_eq!(ask(&client, &Method::GET, None).await.unwrap(), "good");
    assert_eq!(client.credentials().status().unwrap().refreshes, 1);
}

#[actix_rt::test]
async fn an_interim_response_alone_is_an_error() {
    for (name, ends, problem) in [
        ("then nothing", Do::Write as fn(_) -> _, "in time"),
        (
            "without end",
            |_| Do::Write(vec![b"HTTP/1.1 103 -\r\nlink: ".repeat(4000)]),
            "the head of the response is too long",
        ),
        (
            "again and again",
            |_| Do::Write(vec![INTERIMS[0].repeat(100).into()]),
            "too many interim responses",
        ),
        ("then the end", |_| Do::Close(INTERIMS[0]), "no response"),
    ] {
        let wire = Wire::start(move |_, _, _| ends(vec![INTERIMS[0].into()]));
        let client = wire.client(Duration::from_millis(500)).await;
        let outcome = ask(&client, &Method::GET, None).await;
        assert!(is_transient(&outcome), "{name}: {outcome:?}");
        assert!(outcome.as_ref().unwrap_err().to_string().contains(problem), "{name}: {outcome:?}");
        assert!(within_timeout(client.refresh()).await.is_err(), "{name}");
        assert!(client.credentials().is_logged_in(), "{name}");
    }
}

#[actix_rt::test]
async fn the_header_expect_is_rejected() {
    let wire = Wire::start(|_, _, _| Do::respond("good"));
    let client = wire.client(TIMEOUT).await;
    let request = client.post("/thing").header("Expect", "100-continue").body("body");
    assert!(matches!(request.send().await, Err(Error::Invalid(_))));
    assert!(wire.requests().is_empty());
}
