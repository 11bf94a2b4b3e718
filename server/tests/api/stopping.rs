//! Graceful shutdown finishes running requests and loses nothing.

use std::time::Duration;

use matchbook_testkit::{TestEnv, TestResponse};

use crate::support::{Server, Tokens, binary, eventually, http};

#[actix_rt::test]
async fn requests_during_shutdown_are_completed_or_can_be_retried() {
    let server = Server::start();
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(server.log_in().await);
    }
    let refreshes: Vec<_> = sessions
        .iter()
        .map(|tokens| {
            let request = server.http.request("POST", "/refresh");
            let form = [("refresh_token", tokens.refresh.clone())];
            actix_rt::spawn(async move { request.send_form(&form).await.is_ok() })
        })
        .collect();
    actix_rt::time::sleep(Duration::from_millis(20)).await;
    let Server { world, mut process, .. } = server;
    let stopped = actix_rt::task::spawn_blocking(move || (process.stop(), process.log()));
    let mut responded = 0;
    for refresh in refreshes {
        responded += usize::from(refresh.await.unwrap());
    }
    let (status, log) = stopped.await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(responded > 0, "some were in time");
    let again = Server::within(world, |launch| launch);
    for tokens in &sessions {
        Tokens::of(&again.refresh(&tokens.refresh).await);
    }
}

#[actix_rt::test]
async fn endless_request_delays_shutdown_only_up_to_the_timeout() {
    use std::io::Write;
    let world = TestEnv::new();
    let launch = world.server(binary()).set("tls.mode", "off").set("server.shutdown_timeout", "1s");
    let mut process = launch.start();
    let address = process.url().strip_prefix("http://").unwrap().to_owned();
    let mut slow = std::net::TcpStream::connect(address).unwrap();
    let head = "POST /refresh HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\
                content-type: application/x-www-form-urlencoded\r\n\r\nrefresh_token=";
    slow.write_all(head.as_bytes()).unwrap();
    assert_eq!(http(&world, &process).get("/health/live").await.status, 200);
    let asked = std::time::Instant::now();
    assert_eq!(process.stop().code(), Some(0), "{}", process.log());
    assert!(asked.elapsed() < Duration::from_secs(30), "it waits for a second, not for the client");
}

/// Starts a server with this time for its drain.
fn with_drain(time: &str) -> Server {
    Server::with(|launch| launch.set("server.drain", time).set("server.shutdown_timeout", "1s"))
}

/// Returns the status codes of `/health/ready` and `/health/serving`.
async fn health(server: &Server) -> (u16, u16) {
    let ready = server.http.get("/health/ready").await;
    let serving = server.http.get("/health/serving").await;
    (ready.status, serving.status)
}

#[actix_rt::test]
async fn draining_server_fails_health_checks_and_serves_until_a_second_signal() {
    let mut server = with_drain("1h");
    let tokens = server.log_in().await;
    assert_eq!(health(&server).await, (200, 200));
    let before = server.http.get_as("/user", &tokens.access).await;
    assert_ne!(before.header("connection"), "close");

    server.process.send_sigterm();
    eventually((503, 503), async || health(&server).await).await;
    let ready = server.http.get("/health/ready").await;
    assert_eq!((ready.field("status"), ready.header("retry-after")), ("draining".to_owned(), "1"));
    let problems = ready.json()["problems"].to_string();
    assert!(problems.contains("The server is about to stop"), "{problems}");
    assert_eq!(server.http.get("/health/live").await.status, 200);
    let user = server.http.get_as("/user", &tokens.access).await;
    assert_eq!((user.status, user.header("connection")), (200, "close"));
    // The drain does not count for `server.shutdown_timeout`.
    actix_rt::time::sleep(Duration::from_secs(4)).await;
    Tokens::of(&server.refresh(&tokens.refresh).await);

    assert_eq!(server.process.stop().code(), Some(0), "{}", server.process.log());
}

#[actix_rt::test]
async fn server_stops_at_the_end_of_its_drain() {
    let mut server = with_drain("1s");
    server.process.send_sigterm();
    assert_eq!(server.process.wait().code(), Some(0), "{}", server.process.log());
    assert_eq!(server.process.logged("draining"), 1);
}

#[actix_rt::test]
async fn interrupted_server_does_not_drain() {
    let mut server = with_drain("1h");
    server.process.send_sigint();
    assert_eq!(server.process.wait().code(), Some(0), "{}", server.process.log());
    assert_eq!(server.process.logged("draining"), 0);
}

#[actix_rt::test]
async fn idle_connection_is_closed_after_keep_alive() {
    use std::io::{Read, Write};
    let world = TestEnv::new();
    let launch = world.server(binary()).set("tls.mode", "off").set("server.keep_alive", "1s");
    let process = launch.start();
    let address = process.url().strip_prefix("http://").unwrap().to_owned();
    let mut idle = std::net::TcpStream::connect(address).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut received = String::new();
    idle.read_to_string(&mut received).unwrap();
    assert!(received.starts_with("HTTP/1.1 200 OK"), "{received}");
    assert!(!received.contains("connection: close"), "{received}");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn requests_beyond_the_database_queue_get_503_at_once() {
    use diesel::connection::SimpleConnection;
    let settings = [
        ("database.pool_size", "1"),
        ("database.max_queue", "2"),
        ("database.acquire_timeout", "20s"),
    ];
    let server = Server::with(|launch| {
        settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
    });
    let tokens = server.log_in().await;
    // Refreshes wait for this.
    let mut conn = server.database();
    conn.batch_execute("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").unwrap();
    let refreshes: Vec<_> = (0..20)
        .map(|_| {
            let request = server.http.request("POST", "/refresh");
            let form = [("refresh_token", tokens.refresh.clone())];
            actix_rt::spawn(async move { TestResponse::of(request.send_form(&form)).await })
        })
        .collect();
    // One request runs, two wait; all others get their response long before the 20 s.
    eventually(17, async || refreshes.iter().filter(|refresh| refresh.is_finished()).count()).await;
    conn.batch_execute("ROLLBACK").unwrap();
    let mut granted = 0;
    for refresh in refreshes {
        let response = refresh.await.unwrap();
        if response.status == 200 {
            granted += 1;
        } else {
            assert_eq!((response.status, response.header("retry-after")), (503, "1"));
            assert_eq!(response.field("error"), "temporarily_unavailable");
        }
    }
    assert_eq!(granted, 3, "every waiting request gets a response");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn query_timeout_is_503_with_retry_after() {
    use diesel::connection::SimpleConnection;
    let server = Server::with(|launch| {
        launch.set("database.query_timeout", "300ms").set("database.acquire_timeout", "300ms")
    });
    let tokens = server.log_in().await;
    let mut conn = server.database();
    conn.batch_execute("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").unwrap();
    let refused = server.refresh(&tokens.refresh).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{}", refused.text);
    conn.batch_execute("ROLLBACK").unwrap();
    // The rotation was executed, and the retry gets the same pair.
    Tokens::of(&server.refresh(&tokens.refresh).await);
    let generation = "SELECT generation AS number FROM sessions";
    assert_eq!(server.number(generation), 1);
}
