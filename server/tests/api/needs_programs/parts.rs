//! PostgreSQL and Redis in other setups: over TLS, with a password, as a
//! cluster.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use matchbook_testkit::{Postgres, Process, ProcessBuilder, Redis, TestEnv, TestResponse};

use super::redis_loss::log_out;
use crate::support::{Server, Tokens, binary, eventually, http};

/// A CA and a certificate for `localhost` that it signed, as PEM files.
struct Certificates {
    ca: String,
    certificate: String,
    key: String,
}

impl Certificates {
    fn make(folder: &Path, name: &str) -> Self {
        let path = |what: &str| folder.join(format!("{name}-{what}")).to_str().unwrap().to_owned();
        let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
        let (certificate, key) = (path("server.pem"), path("server.key"));
        openssl(&["-subj", "/CN=CA", "-keyout", &ca_key, "-out", &ca]);
        openssl(&[
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
        Self { ca, certificate, key }
    }
}

fn openssl(arguments: &[&str]) {
    let common = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    let made = Command::new("openssl").args(common).args(arguments).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Returns the rights that the documentation gives a Redis user.
pub(crate) fn documented_rights() -> &'static str {
    let document = include_str!("../../../../docs/deployment.md");
    document.lines().find(|line| line.starts_with("~access:*")).unwrap()
}

/// Returns the rights that the documentation gives a Redis user of a cluster.
pub(crate) fn cluster_rights() -> String {
    let document = include_str!("../../../../docs/deployment.md");
    let (_, after) = document.split_once("A cluster needs `").unwrap();
    let (rights, _) = after.split_once("` instead").unwrap();
    documented_rights().replace("+select", rights)
}

/// Connects to this database, with short timeouts.
pub(crate) fn on(launch: ProcessBuilder, url: &str) -> ProcessBuilder {
    launch
        .variable("DATABASE_URL", url)
        .set("database.acquire_timeout", "500ms")
        .set("database.query_timeout", "1s")
}

pub(crate) async fn until_ready(server: &Server) {
    eventually(200, async || server.http.get("/health/ready").await.status).await;
}

/// A server with its own PostgreSQL or Redis.
pub(crate) fn start(
    world: TestEnv,
    settings: impl FnOnce(ProcessBuilder) -> ProcessBuilder,
) -> Server {
    Server::within(world, settings)
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn postgres_over_tls_requires_a_valid_certificate() {
    let world = TestEnv::new();
    let good = Certificates::make(world.folder(), "good");
    let other = Certificates::make(world.folder(), "other");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let postgres = Postgres::with(
        &[("ssl", "on")],
        &[
            ("server.crt", &read(&good.certificate)),
            ("server.key", &read(&good.key)),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n"),
        ],
    );
    let url = postgres.create("over_tls");
    let by_name = url.replace("127.0.0.1", "localhost");
    let verified = |url: &str, ca: &str| format!("{url}?sslmode=verify-full&sslrootcert={ca}");

    for (url, problem) in [
        (verified(&by_name, &other.ca), "certificate verify failed"),
        (verified(&url, &good.ca), "does not match host name"),
        (format!("{by_name}?sslmode=disable"), "no encryption"),
    ] {
        let launch = world.server(binary()).variable("DATABASE_URL", &url);
        let output = launch.set("database.start_timeout", "10ms").run(&[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(problem), "{url}: {said}");
    }

    let url = verified(&by_name, &good.ca);
    let server = start(world, |launch| launch.variable("DATABASE_URL", &url));
    let tokens = server.log_in().await;
    assert_eq!(server.refresh(&tokens.refresh).await.status, 200);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn redis_works_over_tls_with_a_restricted_user() {
    let world = TestEnv::new();
    let good = Certificates::make(world.folder(), "good");
    let other = Certificates::make(world.folder(), "other");
    let redis = Redis::with(|port| {
        let port = port.to_string();
        let rights = format!("user app on >hush {}", documented_rights());
        let file = world.folder().join("users.acl");
        std::fs::write(&file, format!("user default off\n{rights}\n")).unwrap();
        [
            ["--port", "0"],
            ["--tls-port", &port],
            ["--tls-cert-file", &good.certificate],
            ["--tls-key-file", &good.key],
            ["--tls-ca-cert-file", &good.ca],
            ["--tls-auth-clients", "no"],
            ["--aclfile", file.to_str().unwrap()],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
    });
    let url = |password: &str| format!("rediss://app:{password}@localhost:{}", redis.port());
    let with = |launch: ProcessBuilder, url: &str, ca: &str| {
        launch.variable("REDIS_URL", url).set("redis.ca_file", ca).set("log.level", "debug")
    };
    for (url, ca) in [(url("hush"), &other.ca), (url("wrong"), &good.ca)] {
        let process = with(world.server(binary()), &url, ca).start();
        let ready = http(&world, &process).get("/health/ready").await;
        assert_eq!(ready.field("status"), "degraded", "{}", process.log());
        assert_eq!(process.logged("hush"), 0);
    }
    let server = start(world, |launch| with(launch, &url("hush"), &good.ca));
    is_cached(&server).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn redis_works_as_a_cluster() {
    let nodes = cluster(3, 0);
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let url = format!("redis-cluster://{}", hosts[..2].join(","));
    let server = start(TestEnv::new(), |launch| launch.variable("REDIS_URL", &url));
    // Enough sessions that each node has some.
    for _ in 0..12 {
        is_cached(&server).await;
    }
    drop(nodes);
}

/// Starts a cluster of `nodes` nodes, with `replicas` replicas per primary.
pub(crate) fn cluster(nodes: usize, replicas: usize) -> Vec<Redis> {
    let with = |_| ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let nodes: Vec<_> =
        (0..nodes).map(|_| Redis::with(|port| with(port).map(str::to_owned).to_vec())).collect();
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())))
        .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    for node in &nodes {
        let mut conn = redis::Client::open(node.url()).unwrap().get_connection().unwrap();
        let is_whole = |conn: &mut redis::Connection| {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(conn).unwrap();
            let count = format!("cluster_known_nodes:{}", nodes.len());
            // Only a replica that has the data of its primary can be promoted.
            let replication: redis::InfoDict = redis::cmd("INFO").query(conn).unwrap();
            let is_synchronized = replication.get("role") == Some("master".to_owned())
                || replication.get("master_link_status") == Some("up".to_owned());
            is_synchronized && info.contains("cluster_state:ok") && info.contains(&count)
        };
        while !is_whole(&mut conn) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    nodes
}

/// Checks that a session is cached in Redis and ended there at logout.
pub(crate) async fn is_cached(server: &Server) {
    eventually("ready".to_owned(), async || server.http.get("/health/ready").await.field("status"))
        .await;
    let tokens = server.log_in().await;
    let next = Tokens::of(&server.refresh(&tokens.refresh).await);
    assert_eq!(server.user(&next.access).await, 200);
    let form = format!("refresh_token={}", next.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    assert_eq!(server.user(&next.access).await, 401);
    assert_eq!(server.process.logged("redis unavailable"), 0, "{}", server.process.log());
}

/// Calls of each command since the statistics were reset.
fn calls(conn: &mut redis::Connection, command: &str) -> i64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query(conn).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
    let calls = line.and_then(|line| line.strip_prefix("calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn check_and_refresh_take_one_redis_round_trip_each() {
    let redis = Redis::new();
    let server = start(TestEnv::new(), |launch| launch.variable("REDIS_URL", &redis.url()));
    let mut tokens = server.log_in().await;
    let mut conn = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut conn).unwrap();
    for _ in 0..20 {
        assert_eq!(server.user(&tokens.access).await, 200);
    }
    assert_eq!(calls(&mut conn, "mget"), 20);
    for _ in 0..5 {
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    // Both commands of a refresh are sent at once.
    assert_eq!((calls(&mut conn, "mget"), calls(&mut conn, "set")), (25, 5));
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut conn).unwrap();
    let commands = stats.lines().filter(|line| line.starts_with("cmdstat_"));
    let others: Vec<_> = commands
        .filter(|line| !["mget", "set", "info", "config", "ping"].iter().any(|c| line.contains(c)))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Two servers on one database; the first reaches Redis through a proxy.
fn pair(redis: &Redis) -> (Server, matchbook_testkit::TcpProxy, Process) {
    let world = TestEnv::new();
    let relay = matchbook_testkit::TcpProxy::to(&format!("127.0.0.1:{}", redis.port()));
    let trust = ("redis.trusted_without_database", "1s");
    let there = world.server(binary()).variable("REDIS_URL", &redis.url()).set(trust.0, trust.1);
    let there = there.start();
    let url = format!("redis://{}", relay.address());
    let here = start(world, |launch| launch.variable("REDIS_URL", &url).set(trust.0, trust.1));
    (here, relay, there)
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_without_redis_holds_at_once_at_a_server_with_redis() {
    let redis = Redis::new();
    let (here, relay, process) = pair(&redis);
    let there = http(&here.world, &process);
    for _ in 0..3 {
        let tokens = here.log_in().await;
        assert_eq!(there.get_as("/user", &tokens.access).await.status, 200);
        relay.disconnect();
        log_out(&here.http, &tokens).await;
        assert_eq!(
            there.get_as("/user", &tokens.access).await.status,
            401,
            "it got the revocation"
        );
        assert_eq!(here.user(&tokens.access).await, 401);
        relay.restore();
        eventually("ready".to_owned(), async || {
            here.http.get("/health/ready").await.field("status")
        })
        .await;
        assert_eq!(here.user(&tokens.access).await, 401);
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn frozen_redis_gets_missed_revocations_before_it_is_trusted() {
    let redis = Redis::new();
    let (here, _relay, process) = pair(&redis);
    let there = http(&here.world, &process);
    let tokens = here.log_in().await;
    let refused = async || {
        let here = here.user(&tokens.access).await;
        (here, there.get_as("/user", &tokens.access).await.status)
    };
    assert_eq!(refused().await, (200, 200));
    // It keeps its data, and does not respond.
    redis.pause();
    log_out(&here.http, &tokens).await;
    assert_eq!(refused().await, (401, 401));
    redis.resume();
    for _ in 0..100 {
        assert_eq!(refused().await, (401, 401));
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
    let ready = here.http.get("/health/ready").await;
    assert_eq!(ready.field("status"), "ready", "it is asked again");
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn every_thread_queries_the_redis_that_receives_revocations() {
    let (notified, other) = (Redis::new(), Redis::new());
    let world = TestEnv::new();
    let relay = matchbook_testkit::TcpProxy::to(&format!("127.0.0.1:{}", notified.port()));
    let url = format!("redis://{}", relay.address());
    let server = start(world, |launch| launch.variable("REDIS_URL", &url));
    // From now on the same address leads to another Redis, which never got the revocation.
    relay.forward_to(&format!("127.0.0.1:{}", other.port()));
    let tokens = server.log_in().await;
    let claims = tokens.claims();
    let (sid, jti) = (claims["sid"].as_str().unwrap(), claims["jti"].as_str().unwrap());
    let connect = |redis: &Redis| redis::Client::open(redis.url()).unwrap().get_connection();
    let (mut from, mut to) = (connect(&notified).unwrap(), connect(&other).unwrap());
    for key in [format!("access:{{{sid}}}:{jti}"), "matchbook:epoch".to_owned()] {
        let value: String = redis::cmd("GET").arg(&key).query(&mut from).unwrap();
        redis::cmd("SET").arg(&key).arg(value).exec(&mut to).unwrap();
    }
    // Both threads have had time to connect.
    for _ in 0..50 {
        assert_eq!(server.user(&tokens.access).await, 200);
        actix_rt::time::sleep(Duration::from_millis(10)).await;
    }
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    for _ in 0..50 {
        assert_eq!(server.user(&tokens.access).await, 401);
        actix_rt::time::sleep(Duration::from_millis(10)).await;
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn server_paused_during_a_logout_does_not_trust_redis_at_first() {
    let redis = Redis::new();
    let (here, relay, process) = pair(&redis);
    let there = http(&here.world, &process);
    let tokens = here.log_in().await;
    let ask = || {
        let request = there.request("GET", "/user").bearer_auth(&tokens.access).send();
        actix_rt::spawn(async move { TestResponse::of(request).await.status })
    };
    // Connections that are already open, so that their requests wait in the socket.
    for asked in (0..8).map(|_| ask()).collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), 200);
    }
    relay.disconnect();
    process.pause();
    log_out(&here.http, &tokens).await;
    let asked: Vec<_> = (0..8).map(|_| ask()).collect();
    actix_rt::time::sleep(Duration::from_millis(100)).await;
    process.resume();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 401);
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn restarted_redis_gets_lost_revocations_again() {
    let redis = Redis::new();
    let server = start(TestEnv::new(), |launch| launch.variable("REDIS_URL", &redis.url()));
    let tokens = server.log_in().await;
    let form = format!("refresh_token={}", tokens.refresh);
    assert_eq!(server.http.post("/logout", &form).await.status, 204);
    // As if a lagging replica or an old snapshot replaced it.
    let mut conn = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let ended = format!("ended:{{{}}}", tokens.claims()["sid"].as_str().unwrap());
    assert!(redis::cmd("DEL").arg(ended).query::<bool>(&mut conn).unwrap());
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut conn).unwrap();

    assert_eq!(server.user(&tokens.access).await, 401, "the database says so");
    server.process.await_log("redis connection restored");
    assert_eq!(server.user(&tokens.access).await, 401, "and now Redis does");
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn revocation_outlives_every_access_token_of_any_configured_lifetime() {
    let redis = Redis::new();
    let url = redis.url();
    let here = start(TestEnv::new(), |launch| launch.variable("REDIS_URL", &url));
    let short = || {
        let launch = here.world.server(binary()).variable("REDIS_URL", &url);
        launch.set("tokens.access_lifetime", "1s").start()
    };
    let process = short();
    let there = http(&here.world, &process);
    let first = here.log_in().await;
    // The newest token comes from the server whose tokens live for one second.
    let form = format!("refresh_token={}", first.refresh);
    let second = Tokens::of(&there.post("/refresh", &form).await);
    let form = format!("refresh_token={}", second.refresh);
    assert_eq!(there.post("/logout", &form).await.status, 204);
    let mut conn = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let ended = format!("ended:{{{}}}", first.claims()["sid"].as_str().unwrap());
    let mut lives_for = || redis::cmd("TTL").arg(&ended).query::<i64>(&mut conn).unwrap();
    assert!(lives_for() > 890, "as long as the first token, and a minute");
    let another = short();
    another.await_log("redis connection established revocations=1");
    assert!(lives_for() > 890, "and no start makes that shorter");
    assert_eq!(here.user(&first.access).await, 401);
}
