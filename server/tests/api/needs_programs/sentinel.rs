//! Redis behind Sentinel: failovers, two primaries at once, and what Sentinel rejects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use matchbook_testkit::{Process, ProcessBuilder, Redis, Sentinels, TestEnv};

use super::parts::{is_cached, start};
use super::redis_loss::{Pair, order, problems};
use crate::support::{Server, Tokens, binary, eventually, http};

/// A primary, a replica, and Sentinels that watch them.
struct Service {
    redis: [Redis; 2],
    sentinels: Arc<Sentinels>,
}

impl Service {
    fn start(sentinels: usize) -> Self {
        let redis = [Redis::new(), Redis::new()];
        redis[1].replicate(&redis[0]);
        let sentinels = Arc::new(Sentinels::watching(&redis[0], sentinels, 1, &[]));
        Self { redis, sentinels }
    }

    fn url(&self) -> String {
        self.sentinels.url()
    }

    /// The Redis that the Sentinels name.
    fn primary(&self) -> &Redis {
        let port = self.sentinels.primary();
        self.redis.iter().find(|redis| redis.port().to_string() == port).unwrap()
    }

    fn fail_over(&self) -> actix_rt::task::JoinHandle<()> {
        let sentinels = self.sentinels.clone();
        actix_rt::task::spawn_blocking(move || sentinels.fail_over())
    }
}

fn server_on(url: &str) -> Server {
    start(TestEnv::new(), |launch| launch.variable("REDIS_URL", url))
}

fn restored(process: &Process) -> usize {
    process.logged("redis connection restored")
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn primary_of_a_service_is_used_and_followed_after_a_failover() {
    let service = Service::start(3);
    let server = server_on(&format!("{}/2", service.url()));
    is_cached(&server).await;
    for round in 1..=2 {
        service.fail_over().await.unwrap();
        eventually(true, async || restored(&server.process) >= round).await;
        eventually("ready".to_owned(), async || {
            server.http.get("/health/ready").await.field("status")
        })
        .await;
        let tokens = server.log_in().await;
        let mut conn = redis::Client::open(format!("{}/2", service.primary().url()))
            .unwrap()
            .get_connection()
            .unwrap();
        let (access, _) = super::redis_loss::keys(&tokens);
        assert!(redis::Commands::exists::<_, bool>(&mut conn, access).unwrap());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn killed_primary_is_replaced_and_logouts_hold() {
    let mut service = Service::start(3);
    let pair = Pair::start(&service.url(), &service.url());
    let (before, during) = (pair.log_in().await, pair.log_in().await);
    pair.log_out(&before).await;
    service.redis[0].kill();
    pair.log_out(&during).await;
    assert_eq!(pair.status(&before).await, (401, 401));
    assert_eq!(pair.status(&during).await, (401, 401));
    for process in [&pair.here.process, &pair.process] {
        eventually(true, async || restored(process) > 0).await;
    }
    pair.ready().await;
    assert_eq!(pair.status(&before).await, (401, 401));
    assert_eq!(pair.status(&during).await, (401, 401));
}

/// The former primary takes writes until Sentinel demotes it, some ten seconds later. A
/// server that does not follow Sentinel stays there.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn no_server_accepts_an_ended_session_while_there_are_two_primaries() {
    let service = Service::start(3);
    // A logout waits for a killed server as long as it might trust its Redis.
    let trust = |launch: ProcessBuilder| launch.set("redis.trusted_without_database", "0s");
    let urls = [&*service.primary().url(), &service.url()];
    let mut pair = Pair::with(urls, |_, launch| trust(launch));
    // As many as `ROUNDS` says, for a longer run.
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2);
    for round in 0..rounds {
        let former = service.primary().url();
        let failing_over = service.fail_over();
        let url = if round % 2 == 0 { service.url() } else { former };
        pair.process.kill();
        let world = &pair.here.world;
        let launch = trust(world.server(binary()).variable("REDIS_URL", &url));
        pair.process = launch.set("log.level", "debug").start();
        pair.there = http(world, &pair.process);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(6) {
            let (one, two) = (pair.log_in().await, pair.log_in().await);
            pair.log_out(&one).await;
            assert_eq!(pair.status(&one).await, (401, 401));
            log_out_there(&pair, &two).await;
            for _ in 0..10 {
                assert_eq!(pair.status(&one).await, (401, 401));
                assert_eq!(pair.status(&two).await, (401, 401));
            }
        }
        failing_over.await.unwrap();
    }
}

async fn log_out_there(pair: &Pair, tokens: &Tokens) {
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(pair.there.post("/logout", &form).await.status, 204);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn sentinel_that_does_not_respond_delays_nothing() {
    let service = Service::start(3);
    service.sentinels.pause(0);
    let server = server_on(&service.url());
    is_cached(&server).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn rejection_by_sentinel_is_logged_once_and_reported_with_its_words() {
    let service = Service::start(1);
    let other = service.url().replace("/main", "/other");
    // The rights that the documentation names.
    service.sentinels.order(&[
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">guard",
        "-@all",
        "+sentinel|master",
        "+sentinel|get-master-addr-by-name",
    ]);
    let login = |password: &str| {
        format!("{}?sentinel_user=app&sentinel_password={password}", service.url())
    };
    is_cached(&server_on(&login("guard"))).await;
    service.sentinels.order(&["ACL", "SETUSER", "blind", "on", ">guard", "-@all"]);
    let blind = login("guard").replace("app", "blind");
    for (url, words) in [
        (other, "Sentinel: ERR No such master with that name"),
        (login("wrong"), "Sentinel: WRONGPASS invalid username-password pair"),
        (blind, "Sentinel: NOPERM"),
    ] {
        let server = server_on(&url);
        let log = || server.process.log();
        assert!(problems(&server.http).await.contains(words), "{}", log());
        actix_rt::time::sleep(Duration::from_millis(2300)).await;
        assert_eq!(server.process.logged("redis unavailable"), 1, "{}", log());
        assert_eq!(server.process.logged(words), 1, "{}", log());
        assert_eq!(server.process.logged("guard"), 0, "{}", log());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn redis_behind_sentinel_may_have_a_password() {
    let service = Service::start(1);
    let rights = super::parts::documented_rights();
    for redis in &service.redis {
        order(redis, &format!("ACL SETUSER app reset on >hush {rights}"));
    }
    let url = |password: &str| service.url().replace("//", &format!("//app:{password}@"));
    is_cached(&server_on(&url("hush"))).await;
    let words = "WRONGPASS invalid username-password pair";
    let server = server_on(&url("wrong"));
    assert!(problems(&server.http).await.contains(words), "{}", server.process.log());
}
