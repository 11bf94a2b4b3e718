//! What is sent again, and where it may go.

use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::stream;
use matchbook_client::{Client, Credentials, Error, RootCerts, Server};
use serde_json::json;

use super::script::{Act, Asked, SECRET, Script};
use super::{get, guest, logged_in, soon};

/// The body of an answer.
async fn text(mut response: matchbook_client::Response) -> String {
    let body = response.body().limit(64 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[actix_rt::test]
async fn a_request_is_sent_again_whole() {
    let script = Script::start();
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
        let response = soon(request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        let asked = script.asked(&format!("/{name}"));
        assert_eq!(asked.len(), 2);
        assert_eq!(text(response).await.as_bytes(), asked[0].body, "{name}");
        assert_eq!(asked[0].body, asked[1].body, "{name}");
        assert_eq!(asked[0].body.is_empty(), name == "none");
        assert_ne!(asked[0].bearer(), asked[1].bearer());
        for asked in asked {
            assert_eq!(asked.query, "a=1&b=2");
            assert_eq!(asked.headers["x-name"], name);
            let content_type = asked.headers.get("content-type").map(String::as_str);
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
async fn what_failed_otherwise_than_by_its_token_is_not_sent_again() {
    let script = Script::start();
    let client = logged_in(&script).await;
    script.on("/order", [Act::Lose, Act::json(503, "{}")]);
    let outcome = client.post("/order").body("one").send().await;
    assert!(matches!(outcome, Err(Error::Transient { .. })));
    assert_eq!(client.post("/order").body("one").send().await.unwrap().status(), 503);
    assert_eq!(script.asked("/order").len(), 2, "it may have been done");
}

/// A stream of a few pieces, which can be had once.
fn pieces() -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + 'static {
    stream::iter(["once", " and", " only", " once"].map(|piece| Ok(Bytes::from(piece))))
}

#[actix_rt::test]
async fn a_stream_is_preceded_by_a_look_at_the_clock() {
    let script = Script::start();
    script.set_lifetime(0);
    let client = guest(&script, Credentials::default()).await;
    script.set_lifetime(60);
    script.expire();
    let response = soon(client.post("/stream").send_stream(pieces())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), text(response).await.as_str()),
        (200, "once and only once")
    );
    assert_eq!((script.refreshes(), script.asked("/stream").len()), (1, 1));
}

#[actix_rt::test]
async fn a_stream_whose_token_fails_all_the_same_is_not_sent_again_but_said_to_be_lost() {
    let script = Script::start();
    let client = guest(&script, Credentials::default()).await;
    script.expire();
    let outcome = soon(client.post("/stream").send_stream(pieces())).await;
    assert_eq!(outcome.err(), Some(Error::NotReplayable));
    assert_eq!((script.refreshes(), script.asked("/stream").len()), (1, 1));
    let response = soon(client.post("/stream").send_stream(pieces())).await.unwrap();
    assert_eq!(text(response).await, "once and only once");
    assert_eq!((script.refreshes(), script.asked("/stream").len()), (1, 2));
}

#[actix_rt::test]
async fn a_body_over_the_limit_is_not_kept_for_another_time() {
    let script = Script::start();
    let client = guest(&script, Credentials::builder().body_limit(10).build()).await;
    script.expire();
    let large = || client.post("/large").body("eleven bytes");
    assert_eq!(large().send().await.err(), Some(Error::NotReplayable));
    assert_eq!(text(large().send().await.unwrap()).await, "eleven bytes");
    assert_eq!((script.refreshes(), script.asked("/large").len()), (1, 2));
    script.expire();
    let small = client.post("/small").body("ten bytes!").send().await.unwrap();
    assert_eq!(text(small).await, "ten bytes!");
}

#[actix_rt::test]
async fn a_redirect_to_another_origin_never_carries_the_tokens() {
    let (script, elsewhere) = (Script::start(), Script::start());
    let client = logged_in(&script).await;
    let to = format!("{}/user", elsewhere.origin());
    let port = elsewhere.origin().rsplit(':').next().unwrap();
    for status in [301, 302, 303, 307, 308] {
        for to in [&to, &format!("//127.0.0.1:{port}/user"), &format!("http://localhost:{port}/")] {
            script.on("/away", [Act::redirect(status, to)]);
            let response = client.post("/away").body(SECRET).send().await.unwrap();
            assert_eq!(response.status(), status, "it is handed on");
        }
    }
    for status in [302, 307, 308] {
        script.always("/refresh", Act::redirect(status, &to));
        assert!(client.refresh().await.is_err());
        client.log_in_with(script.sign_in()).await.unwrap();
    }
    for asked in elsewhere.asked_in_all() {
        let shown = format!("{:?} {:?}", asked.headers, asked.body);
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(client.credentials().is_logged_in());
}

#[actix_rt::test]
async fn an_absolute_url_elsewhere_is_refused_before_anything_is_sent() {
    let (script, elsewhere) = (Script::start(), Script::start());
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
    // A user in front of the host, which looks like the host.
    let outcome = get(&client, &format!("http://{own}@127.0.0.1:{port}/user")).await;
    assert!(matches!(outcome, Err(Error::Invalid(_) | Error::OriginNotAllowed(_))), "{outcome:?}");
    assert!(elsewhere.asked_in_all().is_empty() && script.asked_in_all().is_empty());
    assert_eq!(get(&client, &format!("{}/user?a=1", script.origin())).await, Ok(200));
    assert_eq!(script.asked("/user")[0].query, "a=1");
}

#[actix_rt::test]
async fn nothing_that_is_given_as_a_path_leads_elsewhere() {
    let elsewhere = Script::start();
    let port = elsewhere.origin().rsplit(':').next().unwrap();
    // A server whose origin is the beginning of the other's.
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
        client.log_in_with(elsewhere.sign_in()).await.unwrap();
        assert!(soon(get(&client, &path)).await.is_err(), "{base}{path}");
        assert!(elsewhere.asked_in_all().is_empty(), "{base}{path}");
    }
}

#[actix_rt::test]
async fn a_further_origin_that_is_allowed_gets_the_bearer_and_the_server_alone_the_refresh() {
    let (script, elsewhere) = (Script::start(), Script::start());
    let server = script.server().allow_origin(elsewhere.origin()).unwrap();
    let client = Client::new(&server, Credentials::default());
    client.log_in_with(script.sign_in()).await.unwrap();
    let url = format!("{}/user", elsewhere.origin());
    let refused = r#"{"error":"invalid_token","message":"expired"}"#;
    elsewhere.on("/user", [Act::json(200, "{}"), Act::json(401, refused), Act::json(200, "{}")]);
    assert_eq!(get(&client, &url).await, Ok(200));
    assert_eq!(get(&client, &url).await, Ok(200));
    let bearers: Vec<_> = elsewhere.asked("/user").iter().map(Asked::bearer).collect();
    assert!(bearers[0].is_some() && bearers[0] == bearers[1] && bearers[1] != bearers[2]);
    assert_eq!((script.refreshes(), elsewhere.asked_in_all().len()), (1, 3));
    let lookalike = format!("{}.example/user", elsewhere.origin());
    assert!(get(&client, &lookalike).await.is_err());
}

#[actix_rt::test]
async fn what_is_no_header_no_path_and_no_url_is_told() {
    let script = Script::start();
    let client = logged_in(&script).await;
    let outcome = client.get("/user").header("not a name", "x").send().await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
    let outcome = client.get("/user").header("x-name", "two\r\nlines: yes").send().await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
    for url in ["http://", "http://[", "/user name"] {
        let outcome = get(&client, url).await;
        let told = matches!(outcome, Err(Error::Invalid(_) | Error::OriginNotAllowed(_)));
        assert!(told, "{url}: {outcome:?}");
    }
    assert!(script.asked_in_all().is_empty());
}

#[actix_rt::test]
async fn the_bearer_is_the_librarys_whatever_headers_a_caller_adds() {
    let script = Script::start();
    let client = logged_in(&script).await;
    let request = client.get("/user").header("authorization", "Basic eDp5");
    // It may be refused or overruled, not obeyed.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 200);
        assert!(script.asked("/user")[0].bearer().is_some());
    }
}
