//! Servers on one database with different Redis servers, a Redis cluster that fails
//! over, and a server without Redis.

use std::process::Command;

use matchbook_testkit::{Process, Redis};
use redis::Commands;

use super::parts::{cluster, start};
use super::redis_loss::{Pair, connect, keys, order, problems};
use crate::support::{binary, eventually, http};

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
    let world = matchbook_testkit::TestEnv::new();
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

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn server_with_another_redis_trusts_it_only_while_the_database_responds() {
    let (one, other) = (Redis::new(), Redis::new());
    let world = matchbook_testkit::TestEnv::new();
    let (relay, url) = world.database_proxy();
    let process = world
        .server(binary())
        .variable("REDIS_URL", &other.url())
        .variable("DATABASE_URL", &url)
        .set("database.acquire_timeout", "300ms")
        .start();
    let here = start(world, |launch| launch.variable("REDIS_URL", &one.url()));
    let there = http(&here.world, &process);
    let pair = Pair { here, there, process };
    let tokens = pair.log_in().await;
    eventually(true, async || problems(&pair.there).await.contains("different Redis")).await;
    relay.disconnect();
    pair.log_out(&tokens).await;
    assert_eq!(pair.status(&tokens).await, (401, 503));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_does_not_wait_for_a_stopped_server() {
    let (one, other) = (Redis::new(), Redis::new());
    let mut pair = Pair::start(&one.url(), &other.url());
    pair.process.kill();
    let count = "SELECT count(*) AS number FROM servers";
    assert_eq!(pair.here.number(count), 2);
    let quick = async || {
        let tokens = pair.here.log_in().await;
        let since = std::time::Instant::now();
        pair.log_out(&tokens).await;
        // While its row still exists.
        since.elapsed() < std::time::Duration::from_secs(1) && pair.here.number(count) == 2
    };
    eventually(true, quick).await;
    // A minute later its row is deleted.
    eventually(1, async || pair.here.number(count)).await;
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
    let server =
        start(matchbook_testkit::TestEnv::new(), |launch| launch.variable("REDIS_URL", &url));
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
fn tombstone(host: &str, tokens: &crate::support::Tokens) -> String {
    let (_, port) = host.split_once(':').unwrap();
    let read = Command::new("redis-cli").args(["-c", "-p", port, "GET", &keys(tokens).1]).output();
    String::from_utf8(read.unwrap().stdout).unwrap().trim().to_owned()
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn cluster_node_is_not_accepted_as_a_single_redis() {
    let nodes = cluster(3, 0);
    let server = start(matchbook_testkit::TestEnv::new(), |launch| {
        launch.variable("REDIS_URL", &nodes[0].url())
    });
    assert!(problems(&server.http).await.contains("redis-cluster://"));
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);
}
