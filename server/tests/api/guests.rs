//! A guest id opens one session, once.

use crate::support::{Server, Tokens, eventually};

#[actix_rt::test]
async fn guest_with_a_live_session_is_told_to_refresh() {
    let server = Server::start();
    let id = server.guest().await;
    Tokens::of(&server.http.get(&format!("/token?userId={id}")).await);
    let again = server.http.get(&format!("/token?userId={id}")).await;
    assert_eq!(again.status, 400);
    assert_eq!(
        again.text,
        r#"{"error":"User already has an active token","message":"Use the /refresh endpoint with your refresh token to get a new token"}"#
    );
}

#[actix_rt::test]
async fn guest_with_an_ended_session_cannot_log_in_again() {
    let server = Server::with(|launch| {
        launch.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "1s")
    });
    let id = server.guest().await;
    Tokens::of(&server.http.get(&format!("/token?userId={id}")).await);
    let path = format!("/token?userId={id}");
    eventually("sign_in_used".to_owned(), async || server.http.get(&path).await.field("error"))
        .await;
    assert_eq!(server.http.get(&path).await.status, 400);
}

#[actix_rt::test]
async fn concurrent_logins_with_one_guest_id_open_one_session() {
    let server = Server::start();
    let id = server.guest().await;
    let path = format!("/token?userId={id}");
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (http, path) = (server.http.clone(), path.clone());
            actix_rt::spawn(async move { http.get(&path).await })
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        let response = task.await.unwrap();
        match response.status {
            200 => granted += 1,
            _ => assert_eq!(response.status, 400, "{}", response.text),
        }
    }
    assert_eq!(granted, 1);
}

#[actix_rt::test]
async fn unknown_guest_id_is_rejected() {
    let server = Server::start();
    let id = "00000000-0000-4000-8000-000000000000";
    let response = server.http.get(&format!("/token?userId={id}")).await;
    assert_eq!((response.status, response.field("error").as_str()), (404, "unknown_user"));
}
