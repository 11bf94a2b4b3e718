use std::time::Duration;

use actix_web::http::header::COOKIE;
use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::{App, HttpServer, body};
use futures_util::StreamExt;
use matchbook_client::{Credentials, RootCerts, Server, TokenResponse};
use matchbook_shared::{SERVER_MARK, SERVER_MARK_VALUE};
use serde_json::json;

use super::*;
use crate::cookie::Cookie;

#[actix_rt::test]
async fn calls_of_the_page_are_reported_except_event_streams_and_unknown_paths() {
    let now = Instant::now();
    let sessions = Data::new(BrowserSessions::new(Cookie { secure: false }, 1, false, now));
    let (id, identity) = sessions.create(now).unwrap();
    let server =
        Server::new("http://localhost:1", &RootCerts::System, Duration::from_secs(1)).unwrap();
    let client = Data::new(Client::new(&server, Credentials::default()));
    let app = App::new().app_data(sessions.clone()).app_data(client).configure(routes);
    let app = init_service(app).await;
    let stream = feed::event_stream(identity.feed(), identity.credentials().clone()).unwrap();

    let long = format!("/api/{}", "x".repeat(1000));
    for (method, path, status) in [
        (Method::GET, "/api/events", 200),
        (Method::GET, "/api/%65vents", 200),
        (Method::GET, long.as_str(), 404),
        (Method::POST, "/api/logout", 204),
    ] {
        let request = TestRequest::with_uri(path)
            .method(method)
            .insert_header((COOKIE, format!("matchbook_client={id}")))
            .insert_header(("x-matchbook", "page"));
        let response = call_service(&app, request.to_request()).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
    let received: Vec<_> = stream.take(2).collect().await;
    let event = String::from_utf8_lossy(received[1].as_ref().unwrap()).into_owned();
    assert!(event.contains("\"path\":\"/api/logout\""), "{event}");
}

/// Ends the session of another device through the page's API, and returns the status. The
/// server lists that session, and responds to its revocation with `status` and
/// `body`. `listed` and `marked`: whether the two responses have the server's mark.
async fn end_session_at(listed: bool, status: u16, body: &'static str, marked: bool) -> u16 {
    let id = "00000000-0000-4000-8000-000000000001";
    let list = json!([{
        "id": id, "createdAt": "2026-01-01T00:00:00Z", "lastUsedAt": "2026-01-01T00:00:00Z",
        "expiresAt": "2027-01-01T00:00:00Z", "userAgent": null, "current": false,
    }]);
    let upstream = HttpServer::new(move || {
        let respond = |marked, status, body| {
            let status = StatusCode::from_u16(status).unwrap();
            let mut response = HttpResponse::build(status);
            if marked {
                response.insert_header((SERVER_MARK, SERVER_MARK_VALUE));
            }
            response.content_type("application/json").body(body)
        };
        let list = list.to_string();
        App::new()
            .route(
                "/sessions",
                web::get().to(move || {
                    let response = respond(listed, 200, list.clone());
                    async { response }
                }),
            )
            .default_service(web::to(move || {
                let response = respond(marked, status, body.to_owned());
                async { response }
            }))
    });
    let upstream = upstream.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.addrs()[0]);
    let running = upstream.run();
    let handle = running.handle();
    actix_rt::spawn(running);

    let now = Instant::now();
    let sessions = Data::new(BrowserSessions::new(Cookie { secure: false }, 1, false, now));
    let (cookie, identity) = sessions.create(now).unwrap();
    let server = Server::new(&url, &RootCerts::System, Duration::from_secs(8)).unwrap();
    let client = Client::new(&server, Credentials::default());
    let tokens =
        TokenResponse { token: "access".into(), refresh_token: "refresh".into(), expires_in: 60 };
    let credentials = identity.credentials().clone();
    client.with_credentials(credentials).log_in_with(tokens).await.unwrap();
    let app = App::new().app_data(sessions).app_data(Data::new(client)).configure(routes);
    let app = init_service(app).await;
    let request = TestRequest::with_uri(&format!("/api/sessions/{id}"))
        .method(Method::DELETE)
        .insert_header((COOKIE, format!("matchbook_client={cookie}")))
        .insert_header(("x-matchbook", "page"));
    let response = call_service(&app, request.to_request()).await;
    handle.stop(false).await;
    response.status().as_u16()
}

#[actix_rt::test]
async fn sessions_are_listed_and_ended_only_by_responses_of_the_token_server() {
    for status in [200, 204, 404] {
        assert_eq!(end_session_at(true, status, "", true).await, 204, "{status}");
    }
    for (status, body) in [
        (200, "<html>log in to this network</html>"),
        (204, ""),
        (401, r#"{"status":401,"error":"Unauthorized"}"#),
        (403, "<html>"),
        (404, "<html>"),
    ] {
        assert_eq!(end_session_at(true, status, body, false).await, 503, "{status}");
    }
    // A list from elsewhere is rejected.
    assert_eq!(end_session_at(false, 204, "", true).await, 503);
}

#[actix_rt::test]
async fn a_second_burst_and_a_request_of_an_earlier_login_have_their_own_error_codes() {
    let superseded = ApiError::App(AppError::Client(Error::SupersededByLogin));
    for (error, status, code, retry_after) in [
        (ApiError::BurstInProgress, 503, "busy", Some("1")),
        (ApiError::TooManyPages, 503, "too_many_pages", Some("1")),
        (superseded, 409, "superseded_by_login", None),
    ] {
        let response = error.error_response();
        assert_eq!(response.status().as_u16(), status);
        let header = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
        assert_eq!(header, retry_after);
        let bytes = body::to_bytes(response.into_body()).await.unwrap();
        let error: ErrorBody = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(error.error, code);
    }
}
