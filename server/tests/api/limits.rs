//! Rate limits, and the address that a request counts for.

use matchbook_testkit::TestResponse;

use crate::support::{Server, Tokens};

fn limited(limits: &[(&str, &str)]) -> Server {
    Server::with(|launch| {
        let launch = launch.set("limits.enabled", "true");
        limits.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
    })
}

#[actix_rt::test]
async fn rate_limited_address_gets_429_with_retry_after() {
    let server = limited(&[("limits.register", "3"), ("limits.token", "2")]);
    for _ in 0..3 {
        server.guest().await;
    }
    let refused = server.http.get("/register").await;
    assert_eq!((refused.status, refused.field("error").as_str()), (429, "too_many_requests"));
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((15..=20).contains(&seconds), "one of three a minute is free in 20 s: {seconds}");
    for _ in 0..2 {
        assert_eq!(server.http.get("/token?userId=junk").await.status, 400, "counts all the same");
    }
    assert_eq!(server.http.get("/token?userId=junk").await.status, 429);
    assert_eq!(server.http.get("/health/ready").await.status, 200);
}

#[actix_rt::test]
async fn rate_limited_session_keeps_its_tokens() {
    let server = limited(&[("limits.session", "4")]);
    let (tokens, other) = (server.log_in().await, server.log_in().await);
    let mut newest = tokens.clone();
    for _ in 0..4 {
        newest = Tokens::of(&server.refresh(&newest.refresh).await);
    }
    let refused = server.refresh(&newest.refresh).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "15"), "{}", refused.text);
    assert_eq!(server.refresh(&tokens.refresh).await.status, 429, "with an old token as well");
    assert_eq!(server.user(&newest.access).await, 200, "the session goes on");
    Tokens::of(&server.refresh(&other.refresh).await);
    let events = "SELECT count(*) AS number FROM events WHERE kind <> 'logged_in'";
    assert_eq!(server.number(events), 0, "nothing was written");
}

#[actix_rt::test]
async fn clients_behind_a_trusted_proxy_are_limited_and_logged_individually() {
    let settings = [("limits.register", "1"), ("server.trusted_proxies", "127.0.0.0/8")];
    let server = limited(&settings);
    let as_client = async |path: &str, forwarded: &str| {
        let request =
            server.http.request("GET", path).insert_header(("x-forwarded-for", forwarded));
        TestResponse::of(request.send()).await
    };
    let guest = as_client("/register", "192.0.2.1").await;
    assert_eq!(guest.status, 200);
    assert_eq!(as_client("/register", "192.0.2.1").await.status, 429);
    assert_eq!(as_client("/register", "192.0.2.2").await.status, 200);
    assert_eq!(as_client("/register", "192.0.2.77, 192.0.2.2").await.status, 429, "no disguise");
    let path = format!("/token?userId={}", guest.json().as_str().unwrap());
    let tokens = Tokens::of(&as_client(&path, "192.0.2.3").await);
    let listed = server.http.get_as("/sessions", &tokens.access).await;
    assert_eq!(listed.json()[0]["ip"], "192.0.2.3");
}

#[actix_rt::test]
async fn health_checks_of_trusted_proxies_are_not_limited() {
    for (proxies, expected) in [("127.0.0.1", 200), ("192.0.2.1", 429)] {
        let server = limited(&[("limits.ready", "1"), ("server.trusted_proxies", proxies)]);
        for path in ["/health/ready", "/health/serving"] {
            server.http.get(path).await;
            assert_eq!(server.http.get(path).await.status, expected, "{path} from {proxies}");
        }
    }
}

#[actix_rt::test]
async fn x_forwarded_for_from_untrusted_peer_is_ignored() {
    let server = limited(&[("limits.register", "1")]);
    for (forwarded, expected) in [("192.0.2.1", 200), ("192.0.2.2", 429)] {
        let request = server.http.request("GET", "/register");
        let request = request.insert_header(("x-forwarded-for", forwarded));
        assert_eq!(TestResponse::of(request.send()).await.status, expected);
    }
}
