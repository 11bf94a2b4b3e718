//! Guessing of passwords: delays, known browsers, and the load of hashing.

use std::time::{Duration, Instant};

use actix_rt::task::JoinHandle;
use matchbook_testkit::{Http, TestResponse};
use serde_json::json;

use crate::support::{Server, Tokens};

const PASSWORD: &str = "violet tractor seven hums";
const OTHER: &str = "marble lantern drifts north";

/// A server that trusts the addresses that requests claim to come from.
fn behind_proxy() -> Server {
    Server::with(|launch| launch.set("server.trusted_proxies", "127.0.0.0/8"))
}

/// The cookie that a login sets, as a browser sends it back.
pub(crate) fn device_cookie(login: &TestResponse) -> String {
    assert_eq!(login.status, 200, "{}", login.text);
    let cookie = login.header("set-cookie");
    let (cookie, attributes) = cookie.split_once("; ").unwrap();
    assert!(cookie.starts_with("__Host-matchbook_device="), "{cookie}");
    assert_eq!(attributes, "Max-Age=31536000; Path=/; Secure; HttpOnly; SameSite=Lax");
    cookie.to_owned()
}

/// A login as its sender describes it.
#[derive(Clone)]
struct Attempt {
    name: String,
    password: &'static str,
    address: String,
    cookie: String,
}

impl Attempt {
    fn at(name: &str, password: &'static str, address: &str) -> Self {
        Self { name: name.to_owned(), password, address: address.to_owned(), cookie: String::new() }
    }

    async fn send(self, http: Http) -> TestResponse {
        let body = json!({ "name": self.name, "password": self.password });
        let request = http
            .request("POST", "/login")
            .timeout(Duration::from_secs(60))
            .insert_header(("x-forwarded-for", self.address))
            .insert_header(("cookie", self.cookie));
        TestResponse::of(request.send_json(&body)).await
    }
}

/// Guesses at a name from 50 addresses at once.
fn guess_from_fifty_addresses(server: &Server) -> Vec<JoinHandle<TestResponse>> {
    let guesses = (0..50).map(|n| {
        let guess = Attempt::at("ann", OTHER, &format!("198.51.100.{n}"));
        actix_rt::spawn(guess.send(server.http.clone()))
    });
    guesses.collect()
}

#[actix_rt::test]
async fn owner_logs_in_at_once_from_a_known_browser_and_slower_from_another_during_an_attack() {
    let server = behind_proxy();
    server.register("ann", PASSWORD).await;
    let login = Attempt::at("ann", PASSWORD, "192.0.2.1").send(server.http.clone()).await;
    let known =
        Attempt { cookie: device_cookie(&login), ..Attempt::at("ann", PASSWORD, "192.0.2.1") };
    for guess in guess_from_fifty_addresses(&server) {
        assert_eq!(guess.await.unwrap().status, 401);
    }
    // Each of these guesses is delayed by eight seconds.
    let guesses = guess_from_fifty_addresses(&server);
    let response = known.clone().send(server.http.clone()).await;
    assert_eq!(device_cookie(&response), known.cookie, "the browser keeps its cookie");
    let again = known.clone().send(server.http.clone()).await;
    assert_eq!(again.status, 200);
    assert!(guesses.iter().all(|guess| !guess.is_finished()), "the owner waited for no guess");

    let start = Instant::now();
    let unknown = Attempt::at("ann", PASSWORD, "192.0.2.99").send(server.http.clone()).await;
    assert_eq!(unknown.status, 200, "an unknown browser gets in as well");
    assert!(start.elapsed() >= Duration::from_secs(4), "slower: {:?}", start.elapsed());
    for guess in guesses {
        assert_eq!(guess.await.unwrap().status, 401, "no guess is locked out either");
    }
}

#[actix_rt::test]
async fn of_the_delayed_attempts_of_an_address_one_waits_and_the_others_get_429() {
    let server = behind_proxy();
    server.register("ann", PASSWORD).await;
    // Unknown names are treated like known ones.
    for name in ["ann", "unknown"] {
        let attempt = |address| Attempt::at(name, OTHER, address).send(server.http.clone());
        for _ in 0..6 {
            assert_eq!(attempt("198.51.100.1").await.status, 401, "{name}");
        }
        let requests = (0..4).map(|_| attempt("198.51.100.1"));
        let mut responses = futures_util::future::join_all(requests).await;
        responses.sort_by_key(|response| response.status);
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [401, 429, 429, 429], "{name}");
        assert_eq!(responses[1].header("retry-after"), "1");
        assert_eq!(attempt("198.51.100.2").await.status, 401, "{name}: another address");
    }
}

#[actix_rt::test]
async fn cookie_exempts_only_the_account_that_it_is_for_and_only_ten_failures() {
    let server = behind_proxy();
    server.register("ann", PASSWORD).await;
    server.register("bob", PASSWORD).await;
    let login = Attempt::at("bob", PASSWORD, "192.0.2.1").send(server.http.clone()).await;
    let cookie = device_cookie(&login);
    let attempt = |name, password| {
        let attempt =
            Attempt { cookie: cookie.clone(), ..Attempt::at(name, password, "192.0.2.1") };
        attempt.send(server.http.clone())
    };
    let two_at_once = async |name| {
        let (first, second) =
            futures_util::future::join(attempt(name, OTHER), attempt(name, OTHER)).await;
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        statuses
    };
    // Two failures of an unknown browser after five would be delayed, so one of them gets 429.
    for _ in 0..4 {
        assert_eq!(two_at_once("bob").await, [401, 401]);
    }
    for _ in 0..6 {
        assert_eq!(attempt("ann", OTHER).await.status, 401);
    }
    assert_eq!(two_at_once("ann").await, [401, 429], "bob's cookie says nothing about ann");
    for _ in 0..8 {
        attempt("bob", OTHER).await;
    }
    assert_eq!(two_at_once("bob").await, [401, 429], "the browser has used up its failures");
}

#[actix_rt::test]
async fn passwords_in_requests_with_a_token_are_throttled_apart_from_logins() {
    let server = behind_proxy();
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    for _ in 0..6 {
        server.try_log_in_as("ann", OTHER).await;
    }
    let prove = async |password: &str| {
        server.post_json_as("/account/totp", &json!({ "password": password }), &tokens.access).await
    };
    let (first, second) = futures_util::future::join(prove(PASSWORD), prove(PASSWORD)).await;
    assert_eq!([first.status, second.status], [200, 200], "failed logins do not delay it");
    for _ in 0..6 {
        assert_eq!(prove(OTHER).await.status, 401);
    }
    let (first, second) = futures_util::future::join(prove(OTHER), prove(OTHER)).await;
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [401, 429]);
}

#[actix_rt::test]
async fn logins_beyond_the_bound_of_hashing_get_503_and_refreshes_continue() {
    // One thread, and a queue of 64.
    let server = Server::with(|launch| launch.set("password.memory", "19MiB"));
    let mut tokens = server.log_in().await;
    let logins: Vec<_> = (0..160)
        .map(|n| {
            let attempt = Attempt::at(&format!("user{n}"), PASSWORD, "");
            actix_rt::spawn(attempt.send(server.http.clone()))
        })
        .collect();
    for _ in 0..10 {
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    let mut rejected = 0;
    for login in logins {
        let response = login.await.unwrap();
        match response.status {
            401 => {}
            503 => {
                rejected += 1;
                assert_eq!(response.field("error"), "temporarily_unavailable");
                assert_eq!(response.header("retry-after"), "1");
            }
            status => panic!("{status}: {}", response.text),
        }
    }
    assert!((1..=160 - 65).contains(&rejected), "{rejected} of 160");
}

/// The medians and the z-score of the Mann-Whitney U test of two samples.
fn compare(left: &[Duration], right: &[Duration]) -> (Duration, Duration, f64) {
    let median = |sample: &[Duration]| {
        let mut sorted = sample.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let wins: usize = left.iter().map(|l| right.iter().filter(|r| l > *r).count()).sum();
    let float = |n: usize| f64::from(u32::try_from(n).unwrap());
    let pairs = float(left.len() * right.len());
    let variance = pairs * float(left.len() + right.len() + 1) / 12.0;
    let score = (float(wins) - pairs / 2.0) / variance.sqrt();
    (median(left), median(right), score)
}

#[actix_rt::test]
async fn unknown_name_takes_as_long_as_a_wrong_password() {
    let server = Server::start();
    let mut last = String::new();
    for round in 0..3 {
        // Few failures at each name, so that no attempt is delayed.
        for n in 0..15 {
            server.register(&format!("known{round}{n}"), PASSWORD).await;
        }
        let mut wrong = Vec::new();
        let mut unknown = Vec::new();
        for n in 0..60 {
            for (kind, samples) in [("known", &mut wrong), ("other", &mut unknown)] {
                let name = format!("{kind}{round}{}", n % 15);
                let start = Instant::now();
                assert_eq!(server.try_log_in_as(&name, OTHER).await.status, 401);
                samples.push(start.elapsed());
            }
        }
        let (wrong, unknown, score) = compare(&wrong, &unknown);
        if score.abs() < 3.5 {
            return;
        }
        last = format!("wrong password {wrong:?}, unknown name {unknown:?}, z-score {score:.1}");
    }
    panic!("{last}");
}
