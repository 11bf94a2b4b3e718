//! Requests that are sent again, and their allowed targets.

use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::stream;
use matchbook_client::{Client, Credentials, Error, RootCerts, Server};
use matchbook_testkit::{Reaction, Received, ScriptedServer};
use serde_json::json;

use super::{SECRET, get, guest, logged_in, server_at, within_timeout};

/// Returns the body of a response.
async fn text(mut response: matchbook_client::Response) -> String {
    let body = response.body().limit(64 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[actix_rt::test]
async fn a_request_is_sent_again_with_its_query_headers_and_body() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let pairs = [("a", "1"), ("b", "2")];
    let requests = [
        ("json", client.post("/json").json(&json!({"whole": "x".repeat(100_000)}))),
        ("form", client.put("/form").form(&pairs)),
        ("body", client.patch("/body").body("z".repeat(100_000))),
        ("none", client.delete("/none")),
    ];
    for (name, request) in requests {
        script.expire();
        let request = request.query(&pairs).header("x-name", name);
        let response = within_timeout(request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        let received = script.received(&format!("/{name}"));
        assert_eq!(received.len(), 2);
        assert_eq!(text(response).await.as_bytes(), received[0].body, "{name}");
        assert_eq!(received[0].body, received[1].body, "{name}");
        assert_eq!(received[0].body.is_empty(), name == "none");
        assert_ne!(received[0].bearer(), received[1].bearer());
        for received in received {
            assert_eq!(received.query, "a=1&b=2");
            assert_eq!(received.headers["x-name"], name);
            let content_type = received.headers.get("content-type").map(String::as_str);
            match name {
                "json" => assert_eq!(content_type, Some("application/json")),
                "form" => assert_eq!(content_type, Some("application/x-www-form-urlencoded")),
                _ => {}
            }
        }
    }
    assert_eq!(script.refreshes(), 4);
}

#[actix_rt::test]
async fn a_request_that_failed_for_another_reason_is_not_sent_again() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    script.on("/order", [Reaction::DropConnection, Reaction::json(503, "{}")]);
    let outcome = client.post("/order").body("one").send().await;
    assert!(matches!(outcome, Err(Error::Transient { .. })));
    assert_eq!(client.post("/order").body("one").send().await.unwrap().status(), 503);
    assert_eq!(script.received("/order").len(), 2, "the order may have been executed");
}

/// Returns a stream of several chunks.
fn pieces() -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + 'static {
    stream::iter(["once", " and", " only", " once"].map(|piece| Ok(Bytes::from(piece))))
}

#[actix_rt::test]
async fn a_stream_is_sent_with_a_fresh_access_token() {
    let script = ScriptedServer::start();
    script.set_lifetime(0);
    let client = guest(&script, Credentials::default()).await;
    script.set_lifetime(60);
    script.expire();
    let response = within_timeout(client.post("/stream").send_stream(pieces())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), text(response).await.as_str()),
        (200, "once and only once")
    );
    assert_eq!((script.refreshes(), script.received("/stream").len()), (1, 1));
}

#[actix_rt::test]
async fn a_stream_whose_token_is_rejected_is_not_replayable() {
    let script = ScriptedServer::start();
    let client = guest(&script, Credentials::default()).await;
    script.expire();
    let outcome = within_timeout(client.post("/stream").send_stream(pieces())).await;
    assert_eq!(outcome.err(), Some(Error::NotReplayable));
    assert_eq!((script.refreshes(), script.received("/stream").len()), (1, 1));
    let response = within_timeout(client.post("/stream").send_stream(pieces())).await.unwrap();
    assert_eq!(text(response).await, "once and only once");
    assert_eq!((script.refreshes(), script.received("/stream").len()), (1, 2));
}

#[actix_rt::test]
async fn a_body_beyond_the_limit_is_not_replayable() {
    let script = ScriptedServer::start();
    let client = guest(&script, Credentials::builder().body_limit(10).build()).await;
    script.expire();
    let large = || client.post("/large").body("eleven bytes");
    assert_eq!(large().send().await.err(), Some(Error::NotReplayable));
    assert_eq!(text(large().send().await.unwrap()).await, "eleven bytes");
    assert_eq!((script.refreshes(), script.received("/large").len()), (1, 2));
    script.expire();
    let small = client.post("/small").body("ten bytes!").send().await.unwrap();
    assert_eq!(text(small).await, "ten bytes!");
}

#[actix_rt::test]
async fn a_redirect_to_another_origin_receives_no_tokens() {
    let script = ScriptedServer::start();
    let elsewhere = ScriptedServer::start();
    let client = logged_in(&script).await;
    let to = format!("{}/user", elsewhere.origin());
    let port = elsewhere.origin().rsplit(':').next().unwrap();
    for status in [301, 302, 303, 307, 308] {
        for to in [&to, &format!("//127.0.0.1:{port}/user"), &format!("http://localhost:{port}/")] {
            script.on("/away", [Reaction::redirect(status, to)]);
            let response = client.post("/away").body(SECRET).send().await.unwrap();
            assert_eq!(response.status(), status, "the redirect is returned");
        }
    }
    for status in [302, 307, 308] {
        script.always("/refresh", Reaction::redirect(status, &to));
        assert!(client.refresh().await.is_err());
        client.log_in_with(script.log_in()).await.unwrap();
    }
    for received in elsewhere.all_received() {
        let shown = format!("{:?} {:?}", received.headers, received.body);
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn a_url_of_another_origin_is_rejected_before_anything_is_sent() {
    let script = ScriptedServer::start();
    let elsewhere = ScriptedServer::start();
    let client = logged_in(&script).await;
    let port = elsewhere.origin().rsplit(':').next().unwrap();
    let own = script.origin().trim_start_matches("http://");
    for url in [
        format!("{}/user", elsewhere.origin()),
        elsewhere.origin().to_uppercase(),
        format!("http://localhost:{port}/user"),
        format!("https://{own}/user"),
    ] {
        let outcome = get(&client, &url).await;
        assert!(matches!(outcome, Err(Error::OriginNotAllowed(_))), "{url}: {outcome:?}");
    }
    // A user name that looks like the host.
    let outcome = get(&client, &format!("http://{own}@127.0.0.1:{port}/user")).await;
    assert!(matches!(outcome, Err(Error::Invalid(_) | Error::OriginNotAllowed(_))), "{outcome:?}");
    assert!(elsewhere.all_received().is_empty() && script.all_received().is_empty());
    assert_eq!(get(&client, &format!("{}/user?a=1", script.origin())).await, Ok(200));
    assert_eq!(script.received("/user")[0].query, "a=1");
}

#[actix_rt::test]
async fn a_path_cannot_change_the_origin() {
    let elsewhere = ScriptedServer::start();
    let port = elsewhere.origin().rsplit(':').next().unwrap();
    // The origin of the server is a prefix of the other origin.
    let short = elsewhere.origin().strip_suffix(port).unwrap().to_owned() + &port[..port.len() - 1];
    for (base, path) in [
        (short.as_str(), port[port.len() - 1..].to_owned() + "/user"),
        ("http://127.0.0.1", format!(":{port}/user")),
        ("http://127.0.0.1", format!("@127.0.0.1:{port}/user")),
        ("http://127.0.0.1:1", format!("@127.0.0.1:{port}/user")),
        ("http://127.0.0.1:1", format!("//127.0.0.1:{port}/user")),
        ("http://127.0.0.1:1", format!("\\\\127.0.0.1:{port}/user")),
        ("http://127.0.0.1:1", format!("/\\127.0.0.1:{port}/user")),
    ] {
        let server = Server::new(base, &RootCerts::System, Duration::from_secs(2)).unwrap();
        let client = Client::new(&server, Credentials::default());
        client.log_in_with(elsewhere.log_in()).await.unwrap();
        assert!(within_timeout(get(&client, &path)).await.is_err(), "{base}{path}");
        assert!(elsewhere.all_received().is_empty(), "{base}{path}");
    }
}

#[actix_rt::test]
async fn an_allowed_origin_receives_the_access_token_but_no_refresh_token() {
    let script = ScriptedServer::start();
    let elsewhere = ScriptedServer::start();
    let server = server_at(&script).allow_origin(elsewhere.origin()).unwrap();
    let client = Client::new(&server, Credentials::default());
    client.log_in_with(script.log_in()).await.unwrap();
    let url = format!("{}/user", elsewhere.origin());
    let refused = r#"{"error":"invalid_token","message":"expired"}"#;
    elsewhere.on(
        "/user",
        [Reaction::json(200, "{}"), Reaction::json(401, refused), Reaction::json(200, "{}")],
    );
    assert_eq!(get(&client, &url).await, Ok(200));
    assert_eq!(get(&client, &url).await, Ok(200));
    let bearers: Vec<_> = elsewhere.received("/user").iter().map(Received::bearer).collect();
    assert!(bearers[0].is_some() && bearers[0] == bearers[1] && bearers[1] != bearers[2]);
    assert_eq!((script.refreshes(), elsewhere.all_received().len()), (1, 3));
    let lookalike = format!("{}.example/user", elsewhere.origin());
    assert!(get(&client, &lookalike).await.is_err());
}

#[actix_rt::test]
async fn an_invalid_header_path_or_url_is_an_error() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let outcome = client.get("/user").header("not a name", "x").send().await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
    let outcome = client.get("/user").header("x-name", "two\r\nlines: yes").send().await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
    for url in ["http://", "http://[", "/user name"] {
        let outcome = get(&client, url).await;
        let is_rejected = matches!(outcome, Err(Error::Invalid(_) | Error::OriginNotAllowed(_)));
        assert!(is_rejected, "{url}: {outcome:?}");
    }
    assert!(script.all_received().is_empty());
}

#[actix_rt::test]
async fn a_caller_cannot_replace_the_authorization_header() {
    let script = ScriptedServer::start();
    let client = logged_in(&script).await;
    let request = client.get("/user").header("authorization", "Basic eDp5");
    // The header may be rejected or replaced.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 200);
        assert!(script.received("/user")[0].bearer().is_some());
    }
}
