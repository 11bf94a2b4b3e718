//! Errors of Redis, and the rights that a server needs.

use std::time::Duration;

use matchbook_testkit::{Redis, TcpProxy, TestEnv};

use super::parts::{cluster, cluster_rights, documented_rights, is_cached, start};
use super::redis_loss::{connect, order, problems};
use crate::support::{Server, eventually};

/// Gives the user `app` exactly these rights.
fn allow(redis: &Redis, rights: &str) {
    order(redis, &format!("ACL SETUSER app reset on >hush {rights}"));
}

fn refused(redis: &Redis) -> Vec<String> {
    let log: redis::Value = redis::cmd("ACL").arg("LOG").query(&mut connect(redis)).unwrap();
    let redis::Value::Array(entries) = log else { return vec![format!("{log:?}")] };
    entries.iter().map(|entry| format!("{entry:?}")).collect()
}

fn server_on(url: &str) -> Server {
    start(TestEnv::new(), |launch| launch.variable("REDIS_URL", url))
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn documented_redis_rights_are_sufficient() {
    let redis = Redis::new();
    allow(&redis, documented_rights());
    let url = format!("redis://app:hush@127.0.0.1:{}/1", redis.port());
    is_cached(&server_on(&url)).await;
    assert_eq!(refused(&redis), Vec::<String>::new());

    let nodes = cluster(3, 0);
    for node in &nodes {
        allow(node, &cluster_rights());
    }
    let url = format!("redis-cluster://app:hush@127.0.0.1:{}", nodes[0].port());
    let server = server_on(&url);
    for _ in 0..6 {
        is_cached(&server).await;
    }
    // This includes polls.
    actix_rt::time::sleep(Duration::from_secs(2)).await;
    for node in &nodes {
        assert_eq!(refused(node), Vec::<String>::new());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn missing_redis_right_is_logged_once_and_reported_until_granted() {
    let redis = Redis::new();
    let url = format!("redis://app:hush@127.0.0.1:{}/1", redis.port());
    let missing = documented_rights().split(' ').map(|right| (right, String::new()));
    // Keys may be read but not written.
    let read_only = ["~access:*", "~ended:*"].map(|keys| (keys, format!("%R{keys}")));
    for (right, instead) in missing.chain(read_only) {
        allow(&redis, &documented_rights().replace(right, &instead));
        let server = server_on(&url);
        let log = || server.process.log();
        assert!(problems(&server.http).await.contains("NOPERM"), "{right}: {}", log());
        let tokens = server.log_in().await;
        assert_eq!(server.user(&tokens.access).await, 200);
        // Wait for two more attempts.
        actix_rt::time::sleep(Duration::from_millis(2300)).await;
        assert_eq!(server.process.logged("redis unavailable"), 1, "{right}: {}", log());
        assert_eq!(server.process.logged("NOPERM"), 1, "{right}: {}", log());
        assert_eq!(server.process.logged("redis connection"), 0, "{right}: {}", log());
        allow(&redis, documented_rights());
        eventually("null".to_owned(), async || problems(&server.http).await).await;
        assert_eq!(server.process.logged("redis connection established"), 1, "{}", log());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn each_right_of_a_cluster_is_used() {
    let nodes = cluster(3, 0);
    let url = format!("redis-cluster://app:hush@127.0.0.1:{}", nodes[0].port());
    let rights = cluster_rights();
    // A cluster has no epoch key.
    for right in rights.split(' ').filter(|right| *right != "~matchbook:epoch") {
        for node in &nodes {
            order(node, "ACL LOG RESET");
            allow(node, &rights.replace(right, ""));
        }
        let server = server_on(&url);
        let tokens = server.log_in().await;
        assert_eq!(server.user(&tokens.access).await, 200, "{right}");
        // This includes polls.
        actix_rt::time::sleep(Duration::from_secs(2)).await;
        let is_refused = nodes.iter().any(|node| !refused(node).is_empty());
        assert!(is_refused, "{right}: {}", server.process.log());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn rejected_redis_password_is_logged_once_with_the_redis_message() {
    let redis = Redis::with(|_| ["--requirepass", "right"].map(str::to_owned).to_vec());
    let [node, ..] = &cluster(3, 0)[..] else { panic!("no node") };
    allow(node, documented_rights());
    for (scheme, login, port, words) in [
        ("redis", "", redis.port(), "NOAUTH Authentication required"),
        ("redis", ":wrong@", redis.port(), "WRONGPASS invalid username-password pair"),
        ("redis-cluster", "app:wrong@", node.port(), "WRONGPASS invalid username-password pair"),
        ("redis-cluster", "app:hush@", node.port(), "NOPERM this user has no permissions"),
    ] {
        let server = server_on(&format!("{scheme}://{login}127.0.0.1:{port}"));
        let log = || server.process.log();
        assert!(problems(&server.http).await.contains(words), "{}", log());
        actix_rt::time::sleep(Duration::from_millis(2300)).await;
        assert_eq!(server.process.logged("redis unavailable"), 1, "{}", log());
        assert_eq!(server.process.logged(words), 1, "{}", log());
        assert_eq!(server.process.logged("redis connection"), 0, "{}", log());
        assert_eq!(server.process.logged("wrong@"), 0, "{}", log());
        assert_eq!(server.process.logged("hush"), 0, "{}", log());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn removed_redis_rights_break_the_connection_once() {
    let redis = Redis::new();
    allow(&redis, documented_rights());
    let server = server_on(&format!("redis://app:hush@127.0.0.1:{}", redis.port()));
    is_cached(&server).await;
    // A refresh writes to Redis, which rejects the command.
    order(&redis, "ACL SETUSER app -set");
    let tokens = server.log_in().await;
    assert!(problems(&server.http).await.contains("NOPERM"));
    assert_eq!(server.user(&tokens.access).await, 200);
    actix_rt::time::sleep(Duration::from_millis(2300)).await;
    assert_eq!(server.process.logged("redis unavailable"), 1, "{}", server.process.log());
    assert_eq!(server.process.logged("redis connection restored"), 0, "{}", server.process.log());
    order(&redis, "ACL SETUSER app +set");
    server.process.await_log("redis connection restored");
}

/// Redis that loads a snapshot responds, but not to reads and writes.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn loading_redis_is_reported_with_its_words_and_used_again() {
    let redis = Redis::with(|_| ["--enable-debug-command", "yes"].map(str::to_owned).to_vec());
    let server = server_on(&redis.url());
    is_cached(&server).await;
    let tokens = server.log_in().await;
    order(&redis, "DEBUG POPULATE 400 other 10");
    order(&redis, "CONFIG SET loading-process-events-interval-bytes 1024");
    // Microseconds for each key.
    order(&redis, "CONFIG SET key-load-delay 10000");
    let url = redis.url();
    let loading = actix_rt::task::spawn_blocking(move || {
        let mut conn = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("DEBUG").arg("RELOAD").exec(&mut conn).unwrap();
    });
    let words = "LOADING Redis is loading the dataset in memory";
    // It responds to `INFO`, so a read finds out.
    eventually(true, async || {
        assert_eq!(server.user(&tokens.access).await, 200);
        problems(&server.http).await.contains(words)
    })
    .await;
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(server.user(&tokens.access).await, 401);
    loading.await.unwrap();
    eventually("null".to_owned(), async || problems(&server.http).await).await;
    assert_eq!(server.process.logged(words), 1, "{}", server.process.log());
    assert_eq!(server.user(&tokens.access).await, 401);
}

/// At a failover, a managed Redis cuts the connections to the former primary, and its name
/// leads to the new one.
#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn failover_of_a_managed_redis_is_followed_by_its_name() {
    let (former, new) = (Redis::new(), Redis::new());
    new.replicate(&former);
    let relay = TcpProxy::to(&format!("127.0.0.1:{}", former.port()));
    let server = server_on(&format!("redis://{}", relay.address()));
    is_cached(&server).await;
    let (ended, kept) = (server.log_in().await, server.log_in().await);
    for round in 1..=2 {
        let (former, new) = if round == 1 { (&former, &new) } else { (&new, &former) };
        new.promote();
        former.replicate(new);
        // The name still leads to the former primary for a moment.
        order(former, "CLIENT KILL TYPE normal");
        let words = "it is a replica, not a primary";
        eventually(true, async || problems(&server.http).await.contains(words)).await;
        let form = format!("refresh_token={}", ended.refresh);
        assert_eq!(server.http.post("/logout", &form).await.status, 204);
        relay.forward_to(&format!("127.0.0.1:{}", new.port()));
        eventually("null".to_owned(), async || problems(&server.http).await).await;
        assert_eq!(server.process.logged("redis connection restored"), round);
        assert_eq!(server.user(&ended.access).await, 401);
        assert_eq!(server.user(&kept.access).await, 200);
        let mut conn = super::redis_loss::connect(new);
        let tombstone = super::redis_loss::keys(&ended).1;
        assert!(redis::Commands::exists::<_, bool>(&mut conn, tombstone).unwrap());
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn write_to_a_demoted_primary_is_reported_with_the_words_of_redis() {
    let redis = Redis::new();
    let other = Redis::new();
    let server = server_on(&redis.url());
    is_cached(&server).await;
    redis.replicate(&other);
    // Before the next poll, or after it.
    let tokens = server.log_in().await;
    assert_eq!(server.user(&tokens.access).await, 200);
    let rejected = ["READONLY You can't write against a read only replica", "it is a replica"];
    let log = || server.process.log();
    eventually(true, async || rejected.iter().any(|words| log().contains(words))).await;
    actix_rt::time::sleep(Duration::from_millis(2300)).await;
    assert!(problems(&server.http).await.contains("it is a replica, not a primary"));
    for words in rejected {
        assert!(server.process.logged(words) <= 1, "once: {}", log());
    }
}
