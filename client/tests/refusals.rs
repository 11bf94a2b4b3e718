//! What the answers to a refresh mean, against a server that answers as told.

#![expect(clippy::expect_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use matchbook_client::{Credential, Error, Server, Session, Trust};

const TOKENS: &str = r#"{"token":"a","refreshToken":"r","expiresIn":60}"#;

/// Logs in at a server whose access tokens are never good and whose answer to
/// a refresh is this; what `get` comes to, and whether the tokens are kept.
async fn refresh_answered(status: u16, content_type: &str, body: &str) -> (Error, bool) {
    let answer = (status, content_type.to_owned(), body.to_owned());
    let server = HttpServer::new(move || {
        let (status, content_type, body) = answer.clone();
        let refresh = web::to(move || {
            let status = StatusCode::from_u16(status).expect("a status code");
            let mut response = HttpResponse::build(status);
            response.insert_header(("retry-after", "7")).content_type(content_type.clone());
            let response = response.body(body.clone());
            async move { response }
        });
        App::new()
            .route("/register", web::to(async || HttpResponse::Ok().json("id")))
            .route(
                "/token",
                web::to(async || HttpResponse::Ok().content_type("application/json").body(TOKENS)),
            )
            .route("/user", web::to(HttpResponse::Unauthorized))
            .route("/refresh", refresh)
    })
    .workers(1)
    .disable_signals()
    .bind("127.0.0.1:0")
    .expect("a free port");
    let url = format!("http://{}", server.addrs()[0]);
    let running = server.run();
    let handle = running.handle();
    actix_rt::spawn(running);

    let server = Server::new(&url, &Trust::System, Duration::from_secs(10)).expect("a server");
    let credential = Credential::default();
    let session = Session::new(&server, credential.clone());
    session.log_in_as_guest().await.expect("logged in");
    let error = session.get("/user").await.expect_err("the refresh is not granted");
    handle.stop(false).await;
    (error, credential.is_logged_in())
}

#[actix_rt::test]
async fn the_servers_own_401_ends_the_session() {
    let json = r#"{"error":"any","message":"of the article"}"#;
    let answer = refresh_answered(401, "application/json", json).await;
    assert_eq!(answer, (Error::LoggedOut(None), false));
}

#[actix_rt::test]
async fn invalid_grant_ends_the_session() {
    let json = r#"{"error":"invalid_grant","message":"","reason":"expired_idle"}"#;
    let answer = refresh_answered(400, "application/json", json).await;
    let reason = matchbook_shared::Reason::ExpiredIdle;
    assert_eq!(answer, (Error::LoggedOut(Some(reason)), false));
}

#[actix_rt::test]
async fn what_may_pass_keeps_the_tokens() {
    for (status, content_type) in [
        (401, "text/html"),
        (400, "text/html"),
        (429, "application/json"),
        (500, "application/json"),
        (502, "text/html"),
        (503, "application/json"),
    ] {
        let (error, kept) = refresh_answered(status, content_type, "<html>").await;
        assert!(matches!(error, Error::Transient { .. }) && kept, "{status}: {error:?}");
        if status >= 429 {
            let Error::Transient { retry_after, .. } = error else { unreachable!() };
            assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
        }
    }
}

#[actix_rt::test]
async fn another_refusal_is_told_and_keeps_the_tokens() {
    let json = r#"{"error":"invalid_request","message":"what is this"}"#;
    let answer = refresh_answered(400, "application/json", json).await;
    assert_eq!(answer, (Error::Unexpected("what is this".into()), true));
}
