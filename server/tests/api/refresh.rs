//! Rotation: each refresh token is good once.

use crate::support::{Server, Tokens, eventually};

#[actix_rt::test]
async fn a_chain_of_refreshes_keeps_user_and_session() {
    let server = Server::start();
    let first = server.log_in().await;
    let mut tokens = first.clone();
    for _ in 0..20 {
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
        assert_eq!(server.user(&tokens.access).await, 200);
    }
    let (before, after) = (first.claims(), tokens.claims());
    assert_eq!((&before["sub"], &before["sid"]), (&after["sub"], &after["sid"]));
    assert_ne!(before["jti"], after["jti"]);
}

#[actix_rt::test]
async fn a_token_shown_again_ends_the_session_and_its_access_tokens_at_once() {
    let server = Server::start();
    let first = server.log_in().await;
    let second = Tokens::of(&server.refresh(&first.refresh).await);
    assert_eq!(server.user(&second.access).await, 200);

    let reused = server.refresh(&first.refresh).await;
    assert_eq!((reused.status, reused.field("error").as_str()), (401, "invalid_grant"));
    assert_eq!(reused.field("reason"), "reuse");
    server.process.await_log("refresh token reused: session ended");

    assert_eq!(server.user(&first.access).await, 401);
    assert_eq!(server.user(&second.access).await, 401);
    let ended = server.refresh(&second.refresh).await;
    assert_eq!((ended.status, ended.field("reason").as_str()), (401, "reuse"));
}

#[actix_rt::test]
async fn the_end_of_one_session_leaves_others_alone() {
    let server = Server::start();
    let (mine, other) = (server.log_in().await, server.log_in().await);
    Tokens::of(&server.refresh(&mine.refresh).await);
    assert_eq!(server.refresh(&mine.refresh).await.status, 401);
    assert_eq!(server.user(&other.access).await, 200);
    Tokens::of(&server.refresh(&other.refresh).await);
}

#[actix_rt::test]
async fn of_many_who_show_one_token_at_once_one_is_granted() {
    let server = Server::start();
    let token = server.log_in().await.refresh;
    let form = format!("refresh_token={token}");
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (http, form) = (server.http.clone(), form.clone());
            actix_rt::spawn(async move { http.post("/refresh", &form).await })
        })
        .collect();
    let mut granted = Vec::new();
    for task in tasks {
        let answer = task.await.unwrap();
        match answer.status {
            200 => granted.push(Tokens::of(&answer)),
            _ => assert_eq!(answer.status, 401, "{}", answer.text),
        }
    }
    assert_eq!(granted.len(), 1);
    assert_eq!(server.user(&granted[0].access).await, 401, "the reuse ended the session");
}

#[actix_rt::test]
async fn a_session_that_is_not_refreshed_expires() {
    let server = Server::with(|launch| {
        launch.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "2s")
    });
    let mut tokens = server.log_in().await;
    // Each refresh moves the end.
    for _ in 0..3 {
        eventually(401, async || server.user(&tokens.access).await).await;
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    actix_rt::time::sleep(std::time::Duration::from_millis(2100)).await;
    let answer = server.refresh(&tokens.refresh).await;
    assert_eq!((answer.status, answer.field("reason").as_str()), (401, "expired_idle"));
}

#[actix_rt::test]
async fn no_refresh_extends_a_session_past_its_absolute_end() {
    let server = Server::with(|launch| {
        launch
            .set("tokens.access_lifetime", "2s")
            .set("sessions.idle_lifetime", "3s")
            .set("sessions.absolute_lifetime", "3s")
    });
    let mut tokens = server.log_in().await;
    let opened = tokens.claims()["iat"].as_i64().unwrap();
    let began = std::time::Instant::now();
    let reason = loop {
        let answer = server.refresh(&tokens.refresh).await;
        if answer.status != 200 {
            break answer.field("reason");
        }
        assert!(began.elapsed().as_secs() < 30, "it is refreshed for ever");
        tokens = Tokens::of(&answer);
        let ends = tokens.claims()["exp"].as_i64().unwrap();
        assert!(ends <= opened + 3, "an access token ends no later than its session");
    };
    assert_eq!(reason, "expired_absolute");
    assert_eq!(server.user(&tokens.access).await, 401);
}

#[actix_rt::test]
async fn a_refresh_token_of_another_server_is_unknown() {
    let (here, there) = (Server::start(), Server::start());
    let token = there.log_in().await.refresh;
    let answer = here.refresh(&token).await;
    assert_eq!(answer.status, 401);
    assert!(answer.json().get("reason").is_none());
}
