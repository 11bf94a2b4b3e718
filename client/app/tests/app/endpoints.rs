//! The plain-text endpoints `/login` and `/info`.

use std::time::Duration;

use matchbook_testkit::{Http, TcpProxy, TestEnv};

use super::support::{Setup, authority, client, server_binary, wait_for_expiry};

#[actix_rt::test]
async fn login_info_and_refresh_appear_in_the_log_in_order() {
    let mut setup = Setup::start(|server| server.set("tokens.access_lifetime", "2s"));
    let login = setup.http.get("/login").await;
    assert_eq!((login.status, login.text.as_str()), (200, "Logged in"));
    let before = setup.http.get("/info").await;
    assert_eq!(before.status, 200);
    assert!(before.text.starts_with("User Id: "), "{}", before.text);

    wait_for_expiry(2).await;
    let after = setup.http.get("/info").await;
    assert_eq!((after.status, after.text), (200, before.text));

    assert!(setup.client.stop().success());
    let console = setup.client.log();
    let exchanges: Vec<&str> = console
        .lines()
        .filter_map(|line| line.find("GET /").or(line.find("POST /")).map(|at| &line[at..]))
        .collect();
    assert_eq!(
        exchanges,
        [
            "GET /register 200",
            "GET /token 200",
            "GET /user 200",
            "GET /user 401",
            "POST /refresh 200",
            "GET /user 200",
        ]
    );
}

#[actix_rt::test]
async fn fifty_concurrent_requests_with_an_expired_token_share_one_refresh() {
    let mut setup = Setup::start(|server| server.set("tokens.access_lifetime", "4s"));
    assert_eq!(setup.http.get("/login").await.status, 200);
    let expected = setup.http.get("/info").await.text;
    for _ in 0..3 {
        wait_for_expiry(4).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let http = Http::new(setup.client.url(), None);
                actix_rt::spawn(async move { http.get("/info").await })
            })
            .collect();
        for task in tasks {
            let response = task.await.unwrap();
            assert_eq!((response.status, response.text), (200, expected.clone()));
        }
    }
    assert!(setup.client.stop().success() && setup.server.stop().success());
    assert_eq!(setup.client.logged("POST /refresh"), 3);
    assert_eq!(setup.client.logged("POST /refresh 200"), 3);
    assert!(setup.client.logged("GET /user 401") > 3, "many requests got 401");
    assert_eq!(setup.server.logged("refresh token reused"), 0);
}

#[actix_rt::test]
async fn info_before_login_is_rejected_with_advice() {
    let setup = Setup::start(|server| server);
    let response = setup.http.get("/info").await;
    assert_eq!(
        (response.status, response.text.as_str()),
        (401, "Not logged in: open /login first.")
    );
}

#[actix_rt::test]
async fn tokens_are_kept_while_the_server_is_unavailable() {
    let mut setup = Setup::start(|server| server);
    let address = authority(setup.server.url());
    assert_eq!(setup.http.get("/login").await.status, 200);
    let expected = setup.http.get("/info").await.text;

    assert!(setup.server.stop().success());
    for path in ["/info", "/login"] {
        let response = setup.http.get(path).await;
        assert_eq!((response.status, response.header("retry-after")), (503, "1"));
        assert!(response.text.contains("cannot connect to the server"), "{}", response.text);
    }

    setup.server = setup.env.server(&server_binary()).set("server.address", &address).start();
    let response = setup.http.get("/info").await;
    assert_eq!((response.status, response.text), (200, expected));
}

#[actix_rt::test]
async fn a_lost_refresh_response_is_recovered_after_the_grace_period() {
    let env = TestEnv::new();
    let server = env
        .server(&server_binary())
        .set("tokens.access_lifetime", "3s")
        .set("rotation.grace_period", "1s")
        .set("tls.mode", "off")
        .start();
    let proxy = TcpProxy::to(&authority(server.url()));
    let url = format!("http://{}", proxy.address());
    let file = env.folder().join("matchbook-client.toml");
    std::fs::write(file, "[server]\nca_file = ''\ntimeout = '3s'").unwrap();
    let app = client(&env, &url).start();
    let http = Http::new(app.url(), None);
    assert_eq!(http.get("/login").await.status, 200);
    actix_rt::time::sleep(Duration::from_secs(3)).await;

    proxy.drop_responses_to("POST /refresh");
    assert_eq!(http.get("/info").await.status, 503);
    app.await_log("POST /refresh failed");
    proxy.restore();
    actix_rt::time::sleep(Duration::from_millis(1100)).await;
    let response = http.get("/info").await;
    assert_eq!(response.status, 200, "{}", response.text);
    server.await_log("refresh reissued");
}

#[actix_rt::test]
async fn tokens_of_an_ended_session_are_deleted_and_login_works_again() {
    let mut setup = Setup::start(|server| {
        server.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "1s")
    });
    assert_eq!(setup.http.get("/login").await.status, 200);
    wait_for_expiry(2).await;
    let ended = setup.http.get("/info").await;
    assert_eq!(ended.status, 401);
    assert_eq!(
        ended.text,
        "The session has ended because it was not used for longer than the server allows: open /login to log in again."
    );
    let after = setup.http.get("/info").await;
    assert_eq!(after.text, "Not logged in: open /login first.", "the tokens are deleted");
    assert_eq!(setup.http.get("/login").await.status, 200);
    assert!(setup.client.stop().success());
    assert_eq!(
        setup.client.logged("POST /refresh"),
        1,
        "tokens of an ended session are not refreshed again"
    );
}

#[actix_rt::test]
async fn logs_and_responses_contain_no_token() {
    let setup = Setup::start(|server| server);
    let mut app = client(&setup.env, setup.server.url()).set("log.level", "trace").start();
    let http = Http::new(app.url(), None);
    let login = http.get("/login").await;
    let info = http.get("/info").await;
    assert!(app.stop().success());
    let console = app.log();
    assert!(console.contains("GET /token 200"), "{console}");
    for text in [&console, &login.text, &info.text] {
        assert!(!text.contains("mb_rt_") && !text.contains("eyJ"), "{text}");
    }
}
