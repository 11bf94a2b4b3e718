//! Servers on one database with different Redis servers, a Redis cluster that fails
//! over, and a server without Redis.

use std::process::Command;
use std::time::{Duration, Instant};

use matchbook_testkit::{Process, Redis, TcpProxy, TestEnv};
use redis::Commands;

use super::parts::{cluster, start};
use super::redis_loss::{Pair, connect, keys, order, problems};
use crate::oauth::PASSWORD;
use crate::support::{Tokens, binary, eventually, http};

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_holds_at_once_at_a_server_with_another_redis() {
    let (one, other) = (Redis::new(), Redis::new());
    let pair = Pair::start(&one.url(), &other.url());
    for _ in 0..4 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        assert_eq!(pair.status(&tokens).await, (401, 401));
        let mut conn = connect(&other);
        eventually(true, async || conn.exists::<_, bool>(keys(&tokens).1).unwrap()).await;
    }
    for http in [&pair.here.http, &pair.there] {
        eventually(true, async || problems(http).await.contains("different Redis")).await;
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_at_a_server_without_redis_holds_at_once_at_a_server_with_redis() {
    let redis = Redis::new();
    let world = TestEnv::new();
    let process = world.server(binary()).variable("REDIS_URL", &redis.url()).start();
    let here = start(world, |launch| launch.variable("REDIS_URL", ""));
    let there = http(&here.world, &process);
    let pair = Pair { here, there, process };
    for _ in 0..4 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        assert_eq!(pair.status(&tokens).await, (401, 401));
    }
}

/// Two databases of one Redis have keys of their own.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_holds_at_once_at_a_server_with_another_database_of_its_redis() {
    let redis = Redis::new();
    let numbered = |number: u8| format!("redis://127.0.0.1:{}/{number}", redis.port());
    let pair = Pair::start(&numbered(0), &numbered(1));
    for _ in 0..4 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        assert_eq!(pair.status(&tokens).await, (401, 401));
    }
}

const TRUST: &str = "redis.trusted_without_database";
const SERVERS: &str = "SELECT count(*) AS number FROM servers";

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_does_not_wait_for_a_killed_server_for_long() {
    let (one, other) = (Redis::new(), Redis::new());
    let mut pair = Pair::with([&one.url(), &other.url()], |_, launch| launch.set(TRUST, "1s"));
    pair.process.kill();
    assert_eq!(pair.here.number(SERVERS), 2);
    let quick = async || {
        let tokens = pair.here.log_in().await;
        let since = Instant::now();
        pair.log_out(&tokens).await;
        // While its row still exists.
        since.elapsed() < Duration::from_secs(1) && pair.here.number(SERVERS) == 2
    };
    eventually(true, quick).await;
    // Half a minute later its row is deleted.
    eventually(1, async || pair.here.number(SERVERS)).await;
}

/// Also for as long as it could trust its Redis, if it had been killed.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_does_not_wait_for_a_stopped_server() {
    let (one, other) = (Redis::new(), Redis::new());
    let mut pair = Pair::start(&one.url(), &other.url());
    assert_eq!(pair.here.number(SERVERS), 2);
    assert!(pair.process.stop().success());
    let tokens = pair.here.log_in().await;
    assert_eq!(pair.request_logout(&tokens).await, 204);
}

/// A logout is not acknowledged while another server cannot receive it and may trust its Redis.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_holds_in_a_network_partition() {
    let redis = Redis::new();
    let world = TestEnv::new();
    let to_redis = TcpProxy::to(&format!("127.0.0.1:{}", redis.port()));
    let redis_here = format!("redis://{}", to_redis.address());
    let (to_database, url_there) = world.database_proxy();
    let pair = Pair::within(world, [&redis_here, &redis.url()], |here, launch| {
        let launch = launch.set(TRUST, "6s").set("database.acquire_timeout", "300ms");
        if here { launch } else { launch.variable("DATABASE_URL", &url_there) }
    });
    pair.ready().await;
    let tokens = pair.log_in().await;
    // One server is left with the database, the other one with Redis.
    to_database.disconnect();
    to_redis.disconnect();
    let mut rejected = 0;
    while pair.request_logout(&tokens).await != 204 {
        rejected += 1;
        assert_eq!(pair.here.user(&tokens.access).await, 401, "it has ended");
    }
    assert!(rejected > 0, "acknowledged while the other server trusts its Redis");
    assert_eq!(pair.status(&tokens).await, (401, 503));
    to_database.restore();
    eventually((401, 401), async || pair.status(&tokens).await).await;
}

/// A command of the operator has no Redis in which it could publish.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn command_waits_for_a_server_that_is_cut_off() {
    let redis = Redis::new();
    let world = TestEnv::new();
    let (to_database, url_there) = world.database_proxy();
    let operator = world.server(binary()).set(TRUST, "6s");
    let server = start(world, |launch| {
        let launch = launch.variable("REDIS_URL", &redis.url()).set(TRUST, "6s");
        launch.variable("DATABASE_URL", &url_there).set("database.acquire_timeout", "300ms")
    });
    server.register("ann", PASSWORD).await;
    let tokens = server.log_in_as("ann", PASSWORD).await;
    assert_eq!(server.user(&tokens.access).await, 200);
    to_database.disconnect();
    let disable = move || operator.run(&["users", "disable", "ann"]);
    let done = actix_rt::task::spawn_blocking(disable).await.unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.contains("does not respond"), "{said}");
    assert_eq!(server.user(&tokens.access).await, 503);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn redis_cluster_gets_all_revocations_after_a_failover() {
    let nodes = cluster(6, 1);
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let url = format!("redis-cluster://{}", hosts.join(","));
    let pair = Pair::start(&url, &url);
    // Enough sessions that each primary has some.
    let mut sessions = Vec::new();
    for _ in 0..24 {
        sessions.push(pair.log_in().await);
    }
    for tokens in &sessions[..8] {
        pair.log_out(tokens).await;
    }
    let restored = |process: &Process| process.logged("redis connection restored");
    let before = (restored(&pair.here.process), restored(&pair.process));
    let replica = nodes.iter().find(|node| role(node) == "slave").unwrap();
    order(replica, "CLUSTER FAILOVER TAKEOVER");
    for tokens in &sessions[..16] {
        pair.log_out(tokens).await;
        assert_eq!(pair.status(tokens).await, (401, 401));
    }
    for (process, before) in [(&pair.here.process, before.0), (&pair.process, before.1)] {
        eventually(true, async || restored(process) > before).await;
    }
    pair.ready().await;
    // As if the new primary had lagged: lost tombstones are published again.
    for tokens in &sessions[..16] {
        assert_eq!(tombstone(&hosts[0], tokens), "1");
        assert_eq!(pair.status(tokens).await, (401, 401));
    }
    for tokens in &sessions[16..] {
        assert_eq!(pair.status(tokens).await, (200, 200));
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logouts_hold_while_a_killed_cluster_node_is_replaced() {
    let mut nodes = cluster(6, 1);
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let url = format!("redis-cluster://{}", hosts.join(","));
    let pair = Pair::start(&url, &url);
    let mut ended = Vec::new();
    for _ in 0..12 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        ended.push(tokens);
    }
    let primary = nodes.iter_mut().find(|node| role(node) == "master").unwrap();
    primary.kill();
    let restored = || pair.here.process.logged("redis connection restored");
    // Until the replica is promoted, and some more.
    for _ in 0..600 {
        let tokens = pair.log_in().await;
        pair.log_out(&tokens).await;
        assert_eq!(pair.status(&tokens).await, (401, 401));
        let refreshed = pair.here.refresh(&tokens.refresh).await;
        assert_eq!(refreshed.status, 401, "{}", refreshed.text);
        ended.push(tokens);
        if restored() > 0 && ended.len() > 40 {
            break;
        }
    }
    pair.ready().await;
    for tokens in &ended {
        assert_eq!(pair.status(tokens).await, (401, 401));
    }
}

/// A failover leaves a higher epoch, even if it is over between two polls and no
/// connection has broken.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn a_cluster_with_another_epoch_is_told_everything() {
    let nodes = cluster(3, 0);
    let url = format!("redis-cluster://127.0.0.1:{}", nodes[0].port());
    let server = start(TestEnv::new(), |launch| launch.variable("REDIS_URL", &url));
    server.process.await_log("redis connection established");
    // The node with the highest epoch keeps it.
    order(&nodes[0], "CLUSTER BUMPEPOCH");
    order(&nodes[1], "CLUSTER BUMPEPOCH");
    server.process.await_log("it was restarted, failed over or replaced");
    server.process.await_log("redis connection restored");
}

fn role(node: &Redis) -> String {
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut connect(node)).unwrap();
    info.get("role").unwrap()
}

/// The value of a session's tombstone in a cluster.
fn tombstone(host: &str, tokens: &Tokens) -> String {
    let (_, port) = host.split_once(':').unwrap();
    let read = Command::new("redis-cli").args(["-c", "-p", port, "GET", &keys(tokens).1]).output();
    String::from_utf8(read.unwrap().stdout).unwrap().trim().to_owned()
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn cluster_node_is_not_accepted_as_a_single_redis() {
    let nodes = cluster(3, 0);
    let server = start(TestEnv::new(), |launch| launch.variable("REDIS_URL", &nodes[0].url()));
    assert!(problems(&server.http).await.contains("redis-cluster://"));
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);
}
