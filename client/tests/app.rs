//! The client app against a real server: both as processes.

use std::path::{Path, PathBuf};

use matchbook_bench::{Answer, Http, Launch, Process, Relay, World};

/// The server's binary lies beside the client's.
fn server_binary() -> PathBuf {
    let binary =
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")).with_file_name("matchbook-server");
    assert!(binary.exists(), "build the server first: cargo build -p matchbook-server");
    binary
}

/// A client app that talks to `server`, with its files in the folder of `world`.
fn client(world: &World, server: &str) -> Launch {
    Launch::new(
        Path::new(env!("CARGO_BIN_EXE_matchbook-client")),
        world.folder(),
        "MATCHBOOK_CLIENT",
    )
    .set("client.address", "127.0.0.1:0")
    .set("client.workers", "4")
    .set("server.url", server)
}

struct Pair {
    server: Process,
    client: Process,
    http: Http,
    world: World,
}

impl Pair {
    fn start(settings: impl FnOnce(Launch) -> Launch) -> Self {
        let world = World::new();
        let server = settings(world.server(&server_binary())).start();
        let client = client(&world, server.url()).start();
        let http = Http::new(client.url(), None);
        Self { server, client, http, world }
    }

    /// Waits until the access token has expired, without the client's doing.
    async fn outlive(&self, lifetime: u64) {
        actix_rt::time::sleep(std::time::Duration::from_secs(lifetime)).await;
    }
}

#[actix_rt::test]
async fn the_article_told_by_the_console() {
    let mut pair = Pair::start(|server| server.set("tokens.access_lifetime", "2s"));
    let login = pair.http.get("/login").await;
    assert_eq!((login.status, login.text.as_str()), (200, "Logged in"));
    let before = pair.http.get("/info").await;
    assert_eq!(before.status, 200);
    assert!(before.text.starts_with("User Id: "), "{}", before.text);

    pair.outlive(2).await;
    let after = pair.http.get("/info").await;
    assert_eq!((after.status, after.text), (200, before.text));

    assert!(pair.client.stop().success());
    let console = pair.client.log();
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
async fn fifty_at_once_on_an_expired_token_cause_one_refresh_and_get_fifty_answers() {
    let mut pair = Pair::start(|server| server.set("tokens.access_lifetime", "4s"));
    assert_eq!(pair.http.get("/login").await.status, 200);
    let expected = pair.http.get("/info").await.text;
    for _ in 0..3 {
        pair.outlive(4).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let http = Http::new(pair.client.url(), None);
                actix_rt::spawn(async move { http.get("/info").await })
            })
            .collect();
        for task in tasks {
            let answer = task.await.unwrap();
            assert_eq!((answer.status, answer.text), (200, expected.clone()));
        }
    }
    assert!(pair.client.stop().success() && pair.server.stop().success());
    assert_eq!(pair.client.logged("POST /refresh"), 3);
    assert_eq!(pair.client.logged("POST /refresh 200"), 3);
    assert!(pair.client.logged("GET /user 401") > 3, "many did meet the 401");
    assert_eq!(pair.server.logged("refresh token reused"), 0);
}

#[actix_rt::test]
async fn info_before_login_says_what_to_do() {
    let pair = Pair::start(|server| server);
    let answer = pair.http.get("/info").await;
    assert_eq!((answer.status, answer.text.as_str()), (401, "Not logged in: open /login first."));
}

#[actix_rt::test]
async fn with_the_server_away_the_client_says_so_keeps_its_tokens_and_goes_on_when_it_is_back() {
    let mut pair = Pair::start(|server| server);
    let address = pair.server.url().rsplit('/').next().unwrap().to_owned();
    assert_eq!(pair.http.get("/login").await.status, 200);
    let expected = pair.http.get("/info").await.text;

    assert!(pair.server.stop().success());
    for path in ["/info", "/login"] {
        let answer = pair.http.get(path).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
        assert!(answer.text.contains("the token server does not answer"), "{}", answer.text);
    }

    let again = pair.world.server(&server_binary()).set("server.address", &address);
    pair.server = again.start();
    let answer = pair.http.get("/info").await;
    assert_eq!((answer.status, answer.text), (200, expected));
}

#[actix_rt::test]
async fn an_answer_to_a_refresh_that_was_lost_is_had_again_after_the_retry_window() {
    let world = World::new();
    let server = world
        .server(&server_binary())
        .set("tokens.access_lifetime", "3s")
        .set("rotation.retry_window", "1s")
        .set("tls.mode", "off")
        .start();
    let relay = Relay::to(server.url().rsplit('/').next().unwrap());
    let url = format!("http://{}", relay.address());
    let file = world.folder().join("matchbook-client.toml");
    std::fs::write(file, "[server]\nca_file = ''\ntimeout = '3s'").unwrap();
    let app = client(&world, &url).start();
    let http = Http::new(app.url(), None);
    assert_eq!(http.get("/login").await.status, 200);
    actix_rt::time::sleep(std::time::Duration::from_secs(3)).await;

    relay.lose_answers_to("POST /refresh");
    assert_eq!(http.get("/info").await.status, 503);
    app.await_log("POST /refresh failed");
    relay.mend();
    actix_rt::time::sleep(std::time::Duration::from_millis(1100)).await;
    let answer = http.get("/info").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    server.await_log("refresh repeated");
}

#[actix_rt::test]
async fn a_session_that_the_server_ended_is_over_and_a_login_starts_another() {
    let mut pair = Pair::start(|server| {
        server.set("tokens.access_lifetime", "1s").set("sessions.idle_lifetime", "1s")
    });
    assert_eq!(pair.http.get("/login").await.status, 200);
    pair.outlive(2).await;
    let ended = pair.http.get("/info").await;
    assert_eq!(ended.status, 401);
    assert_eq!(ended.text, "The session has ended: open /login to log in again.");
    let after = pair.http.get("/info").await;
    assert_eq!(after.text, "Not logged in: open /login first.", "the tokens are erased");
    assert_eq!(pair.http.get("/login").await.status, 200);
    assert!(pair.client.stop().success());
    assert_eq!(pair.client.logged("POST /refresh"), 1, "what is over is not refreshed again");
}

#[actix_rt::test]
async fn a_server_under_a_foreign_certificate_is_not_talked_to() {
    let (pair, other) = (Pair::start(|server| server), World::new());
    let stranger = other.server(&server_binary()).start();
    let misled = client(&pair.world, stranger.url()).start();
    let answer = Http::new(misled.url(), None).get("/login").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text.contains("certificate verify failed"), "{}", answer.text);
    assert_eq!(stranger.logged("session opened"), 0);
}

#[actix_rt::test]
async fn a_client_without_a_ca_to_trust_does_not_start_and_says_why() {
    let world = World::new();
    let output = client(&world, "https://localhost:5001").run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains("`server.ca_file`: the CA file data/tls/ca.pem cannot be read"),
        "{error}"
    );
    assert!(error.contains("start the server first"), "{error}");
}

#[actix_rt::test]
async fn the_health_command_says_whether_the_app_answers() {
    let mut pair = Pair::start(|server| server);
    let address = pair.client.url().rsplit('/').next().unwrap().to_owned();
    let command = client(&pair.world, pair.server.url()).set("client.address", &address);
    assert!(command.run(&["health"]).status.success());
    assert_eq!(pair.client.stop().code(), Some(0));
    assert!(!command.run(&["health"]).status.success());
}

#[actix_rt::test]
async fn no_token_reaches_the_console_or_the_caller() {
    let pair = Pair::start(|server| server);
    let mut talkative = client(&pair.world, pair.server.url()).set("log.level", "trace").start();
    let http = Http::new(talkative.url(), None);
    let answers: [Answer; 2] = [http.get("/login").await, http.get("/info").await];
    assert!(talkative.stop().success());
    let console = talkative.log();
    assert!(console.contains("GET /token 200"), "{console}");
    for text in [&console, &answers[0].text, &answers[1].text] {
        assert!(!text.contains("mb_rt_") && !text.contains("eyJ"), "{text}");
    }
}
