//! Two servers on one database, and concurrent requests.

use std::collections::BTreeSet;
use std::time::Duration;

use matchbook_testkit::{Http, Process, TestResponse};

use crate::support::{Server, Tokens, binary, eventually, http};

/// Two servers with the same settings on one database.
pub(crate) struct Pair {
    pub(crate) here: Server,
    pub(crate) there: Http,
    _process: Process,
}

impl Pair {
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let here = Server::with(|launch| {
            settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
        });
        let launch = here.world.server(binary());
        let launch = settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value));
        let process = launch.start();
        let there = http(&here.world, &process);
        Self { here, there, _process: process }
    }

    /// One server or the other.
    pub(crate) fn server(&self, i: usize) -> Http {
        if i.is_multiple_of(2) { self.here.http.clone() } else { self.there.clone() }
    }

    /// Presents a refresh token `times` times concurrently, alternating between the servers.
    fn refresh_at_once(
        &self,
        token: &str,
        times: usize,
    ) -> Vec<actix_rt::task::JoinHandle<TestResponse>> {
        let form = format!("refresh_token={token}");
        (0..times)
            .map(|i| {
                let (http, form) = (self.server(i), form.clone());
                actix_rt::spawn(async move { http.post("/refresh", &form).await })
            })
            .collect()
    }
}

#[actix_rt::test]
async fn sixty_four_concurrent_refreshes_at_two_servers_get_one_pair() {
    let pair = Pair::with(&[]);
    let mut token = pair.here.log_in().await.refresh;
    for generation in 1..=3 {
        let mut pairs = BTreeSet::new();
        for response in pair.refresh_at_once(&token, 64) {
            let tokens = Tokens::of(&response.await.unwrap());
            pairs.insert((tokens.refresh, tokens.access));
        }
        assert_eq!(pairs.len(), 1, "one pair for all");
        assert_eq!(pair.here.number("SELECT generation AS number FROM sessions"), generation);
        token = pairs.pop_first().unwrap().0;
    }
    assert_eq!(pair.here.number("SELECT count(*) AS number FROM events"), 1, "the login");
}

#[actix_rt::test]
async fn concurrent_reissues_after_access_token_expiry_get_one_new_access_token() {
    let pair = Pair::with(&[("tokens.access_lifetime", "10s")]);
    let first = pair.here.log_in().await;
    let second = Tokens::of(&pair.here.refresh(&first.refresh).await);
    eventually(401, async || pair.here.user(&second.access).await).await;
    let mut pairs = BTreeSet::new();
    for response in pair.refresh_at_once(&first.refresh, 32) {
        let tokens = Tokens::of(&response.await.unwrap());
        pairs.insert((tokens.refresh, tokens.access));
    }
    assert_eq!(pairs.len(), 1, "one pair for all");
    let (refresh, access) = pairs.pop_first().unwrap();
    assert_eq!(refresh, second.refresh);
    assert_eq!(pair.here.user(&access).await, 200);
}

#[actix_rt::test]
async fn strict_mode_grants_one_of_many_concurrent_refreshes_and_ends_the_session() {
    let pair = Pair::with(&[("rotation.mode", "strict")]);
    let token = pair.here.log_in().await.refresh;
    let mut granted = Vec::new();
    for response in pair.refresh_at_once(&token, 16) {
        let response = response.await.unwrap();
        match response.status {
            200 => granted.push(Tokens::of(&response)),
            _ => assert_eq!((response.status, response.field("reason").as_str()), (401, "reuse")),
        }
    }
    assert_eq!(granted.len(), 1);
    assert_eq!(pair.here.user(&granted[0].access).await, 401);
    let found = "SELECT count(*) AS number FROM events WHERE kind = 'reuse_detected'";
    assert_eq!(pair.here.number(found), 1, "it is found out once");
}

#[actix_rt::test]
async fn nothing_of_a_session_works_after_an_acknowledged_logout() {
    let pair = Pair::with(&[]);
    for round in 0..20 {
        let first = pair.here.log_in().await;
        let refreshes = pair.refresh_at_once(&first.refresh, 8);
        actix_rt::time::sleep(Duration::from_millis(round)).await;
        let logout = pair.server(usize::try_from(round).unwrap());
        let out = logout.post("/logout", &format!("refresh_token={}", first.refresh)).await;
        assert_eq!(out.status, 204, "{}", out.text);
        // No token of any response, from before or after the logout, is valid from here on.
        let mut held = vec![first.clone()];
        for response in refreshes {
            let response = response.await.unwrap();
            match response.status {
                200 => held.push(Tokens::of(&response)),
                _ => assert_eq!(response.field("reason"), "logged_out"),
            }
        }
        for tokens in held {
            for server in [&pair.here.http, &pair.there] {
                assert_eq!(server.get_as("/user", &tokens.access).await.status, 401);
                let form = format!("refresh_token={}", tokens.refresh);
                let refused = server.post("/refresh", &form).await;
                assert_eq!(refused.field("reason"), "logged_out", "{}", refused.text);
            }
        }
    }
}

#[actix_rt::test]
async fn refreshes_and_two_sweepers_do_not_interfere() {
    // Grace periods end at once, so the sweepers always find something.
    let settings = [
        ("rotation.grace_period", "1ms"),
        ("tokens.access_lifetime", "1s"),
        ("log.level", "debug"),
    ];
    let pair = Pair::with(&settings);
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(pair.here.log_in().await);
    }
    for round in 0..30 {
        for (i, tokens) in sessions.iter_mut().enumerate() {
            let form = format!("refresh_token={}", tokens.refresh);
            *tokens = Tokens::of(&pair.server(i + round).post("/refresh", &form).await);
        }
        actix_rt::time::sleep(Duration::from_millis(100)).await;
    }
    let salts = "SELECT count(*) AS number FROM sessions WHERE successor_salt IS NOT NULL";
    eventually(0, async || pair.here.number(salts)).await;
    pair.here.process.await_log("tracked salts cleared");
    assert_eq!(
        pair.here.number("SELECT CAST(sum(generation) AS bigint) AS number FROM sessions"),
        300
    );
    assert_eq!(pair.here.number("SELECT count(*) AS number FROM sessions"), 10);
}
