//! Redis loses revocations: it is flushed, evicts keys, fails over, or is replaced.

use matchbook_testkit::{Http, Process, ProcessBuilder, Redis, TestEnv};
use redis::{Commands, Connection};

use super::parts::start;
use crate::support::{Server, Tokens, binary, eventually, http};

pub(crate) fn connect(redis: &Redis) -> Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

/// Sends Redis a command whose response does not matter.
pub(crate) fn order(redis: &Redis, command: &str) {
    let mut words = command.split(' ');
    let mut order = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        order.arg(word);
    });
    order.exec(&mut connect(redis)).unwrap();
}

/// The Redis keys of an access token and of its session's tombstone.
pub(crate) fn keys(tokens: &Tokens) -> (String, String) {
    let claims = tokens.claims();
    let (sid, jti) = (claims["sid"].as_str().unwrap(), claims["jti"].as_str().unwrap());
    (format!("access:{{{sid}}}:{jti}"), format!("ended:{{{sid}}}"))
}

/// Two servers on one database, each with its own Redis. Both log at level debug.
pub(crate) struct Pair {
    pub(crate) here: Server,
    pub(crate) there: Http,
    pub(crate) process: Process,
}

impl Pair {
    pub(crate) fn start(here: &str, there: &str) -> Self {
        Self::with([here, there], |_, launch| launch)
    }

    /// `settings` is called with `true` for the first server.
    pub(crate) fn with(
        redis: [&str; 2],
        settings: impl Fn(bool, ProcessBuilder) -> ProcessBuilder,
    ) -> Self {
        Self::within(TestEnv::new(), redis, settings)
    }

    pub(crate) fn within(
        world: TestEnv,
        [here, there]: [&str; 2],
        settings: impl Fn(bool, ProcessBuilder) -> ProcessBuilder,
    ) -> Self {
        let with = |is_here: bool, launch: ProcessBuilder, redis: &str| {
            let launch = launch.variable("REDIS_URL", redis).set("log.level", "debug");
            settings(is_here, launch)
        };
        let process = with(false, world.server(binary()), there).start();
        let here = start(world, |launch| with(true, launch, here));
        let there = http(&here.world, &process);
        Self { here, there, process }
    }

    pub(crate) fn on(redis: &Redis) -> Self {
        Self::start(&redis.url(), &redis.url())
    }

    /// Logs in, with a token that both servers have cached.
    pub(crate) async fn log_in(&self) -> Tokens {
        let tokens = self.here.log_in().await;
        assert_eq!(self.status(&tokens).await, (200, 200));
        assert_eq!(self.status(&tokens).await, (200, 200));
        tokens
    }

    /// Logs out, and retries as long as a server has not confirmed it.
    pub(crate) async fn log_out(&self, tokens: &Tokens) {
        log_out(&self.here.http, tokens).await;
    }

    /// Returns the status of one request.
    pub(crate) async fn request_logout(&self, tokens: &Tokens) -> u16 {
        request_logout(&self.here.http, tokens).await
    }

    /// The status of both servers for the access token.
    pub(crate) async fn status(&self, tokens: &Tokens) -> (u16, u16) {
        let there = self.there.get_as("/user", &tokens.access).await.status;
        (self.here.user(&tokens.access).await, there)
    }

    /// Waits until the other server has read the revocation.
    pub(crate) async fn read_there(&self) {
        eventually(true, async || self.process.logged("revocations=1") > 0).await;
    }

    /// Waits until both servers use Redis and report no problem.
    pub(crate) async fn ready(&self) {
        for http in [&self.here.http, &self.there] {
            // With the problems, so that a failure shows them.
            eventually(("ready".to_owned(), "null".to_owned()), async || {
                let response = http.get("/health/ready").await;
                (response.field("status"), response.json()["problems"].to_string())
            })
            .await;
        }
    }
}

async fn request_logout(http: &Http, tokens: &Tokens) -> u16 {
    http.post("/logout", &format!("refresh_token={}", tokens.refresh)).await.status
}

/// Logs out, and retries as long as a server has not confirmed it.
pub(crate) async fn log_out(http: &Http, tokens: &Tokens) {
    eventually(true, async || match request_logout(http, tokens).await {
        503 => false,
        status => {
            assert_eq!(status, 204);
            true
        }
    })
    .await;
}

/// The problem that a server reports.
pub(crate) async fn problems(http: &Http) -> String {
    http.get("/health/ready").await.json()["problems"].to_string()
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn flushed_redis_and_a_late_write_reactivate_no_token() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    for _ in 0..5 {
        let tokens = pair.log_in().await;
        let (access, _) = keys(&tokens);
        let mut conn = connect(&redis);
        let value: String = conn.get(&access).unwrap();
        pair.log_out(&tokens).await;
        redis.flush();
        // As if a request that read the database before the logout wrote to Redis late.
        conn.set::<_, _, ()>(&access, &value).unwrap();
        assert_eq!(pair.status(&tokens).await, (401, 401));
        pair.ready().await;
        assert_eq!(pair.status(&tokens).await, (401, 401));

        // Entries from before the flush no longer count.
        let tokens = pair.log_in().await;
        let (access, ended) = keys(&tokens);
        eventually(true, async || {
            pair.status(&tokens).await;
            conn.get::<_, String>(&access).unwrap() != value
        })
        .await;
        conn.set::<_, _, ()>(&access, value).unwrap();
        pair.log_out(&tokens).await;
        conn.del::<_, ()>(ended).unwrap();
        assert_eq!(pair.status(&tokens).await, (401, 401));
    }
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn lost_tombstone_reactivates_no_token() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    let (_, ended) = keys(&tokens);
    pair.log_out(&tokens).await;
    pair.read_there().await;
    // Like an evicting policy.
    assert!(connect(&redis).del::<_, bool>(&ended).unwrap());
    assert_eq!(pair.status(&tokens).await, (401, 401));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn old_redis_snapshot_reactivates_no_token() {
    let redis = Redis::with(|_| ["--enable-debug-command", "yes"].map(str::to_owned).to_vec());
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    order(&redis, "SAVE");
    pair.log_out(&tokens).await;
    pair.read_there().await;
    order(&redis, "DEBUG RELOAD NOSAVE");
    let (access, ended) = keys(&tokens);
    let mut conn = connect(&redis);
    assert!(conn.exists::<_, bool>(access).unwrap() && !conn.exists::<_, bool>(ended).unwrap());
    assert_eq!(pair.status(&tokens).await, (401, 401));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn demoted_redis_is_disconnected_and_gets_all_revocations_when_promoted() {
    let (redis, other) = (Redis::new(), Redis::new());
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    let late = pair.log_in().await;
    // The other Redis has the cached tokens, and misses revocations from now on.
    other.replicate(&redis);
    other.promote();
    pair.log_out(&tokens).await;
    pair.read_there().await;

    // No connection closes.
    redis.replicate(&other);
    let mut conn = connect(&redis);
    assert!(!conn.exists::<_, bool>(keys(&tokens).1).unwrap());
    assert!(conn.exists::<_, bool>(keys(&tokens).0).unwrap());
    for server in [&pair.here.process, &pair.process] {
        server.await_log("it is a replica, not a primary");
    }
    assert!(problems(&pair.there).await.contains("it is a replica, not a primary"));
    assert_eq!(pair.status(&tokens).await, (401, 401));
    assert_eq!(pair.status(&late).await, (200, 200));
    pair.log_out(&late).await;
    assert_eq!(pair.status(&late).await, (401, 401));

    let restored = || pair.process.logged("redis connection restored");
    let before = restored();
    order(&redis, "REPLICAOF NO ONE");
    pair.ready().await;
    assert_eq!(pair.status(&tokens).await, (401, 401));
    for tokens in [tokens, late] {
        assert!(conn.exists::<_, bool>(keys(&tokens).1).unwrap(), "published again");
    }
    assert_eq!(restored(), before + 1, "{}", pair.process.log());
}

/// Makes Redis a replica, and a primary again before the next poll.
fn begin_another_history(conn: &mut Connection) {
    let mut demote = redis::pipe();
    demote.cmd("REPLICAOF").arg("127.0.0.1").arg(1).cmd("REPLICAOF").arg("NO").arg("ONE");
    demote.exec(conn).unwrap();
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn revocation_written_to_another_redis_history_does_not_count_as_published() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    begin_another_history(&mut connect(&redis));
    pair.log_out(&tokens).await;
    // The other server may read another Redis than the one that was written to.
    assert_eq!(
        pair.here.process.logged("waiting for other servers to read the revocations servers=1"),
        1
    );
    assert_eq!(pair.status(&tokens).await, (401, 401));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn redis_with_another_history_gets_all_revocations() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    pair.log_out(&tokens).await;
    pair.read_there().await;
    let mut conn = connect(&redis);
    assert!(conn.del::<_, bool>(keys(&tokens).1).unwrap());
    begin_another_history(&mut conn);
    for server in [&pair.here.process, &pair.process] {
        server.await_log("it was restarted, failed over or replaced");
        server.await_log("redis connection restored revocations=1");
    }
    assert!(conn.exists::<_, bool>(keys(&tokens).1).unwrap());
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn evicting_policy_is_reported_at_each_change() {
    let redis = Redis::with(|_| ["--maxmemory-policy", "volatile-ttl"].map(str::to_owned).to_vec());
    let metrics = format!("127.0.0.1:{}", matchbook_testkit::free_port());
    let server = start(TestEnv::new(), |launch| {
        launch.variable("REDIS_URL", &redis.url()).set("metrics.address", &metrics)
    });
    let measures = Http::new(&format!("http://{metrics}"), None);
    let evicting = async |policy: Option<&str>| {
        let problem = |text: String| policy.map_or(text == "null", |policy| text.contains(policy));
        eventually(true, async || problem(problems(&server.http).await)).await;
        let text = measures.get("/metrics").await.text;
        let gauge = format!("matchbook_redis_evicting {}", i32::from(policy.is_some()));
        assert!(text.contains(&gauge), "{text}");
    };
    evicting(Some("volatile-ttl")).await;
    order(&redis, "CONFIG SET maxmemory-policy allkeys-lru");
    evicting(Some("allkeys-lru")).await;
    order(&redis, "CONFIG SET maxmemory-policy noeviction");
    evicting(None).await;
    let logged = server.process.logged("redis may evict revocations");
    assert_eq!(logged, 2, "once per change: {}", server.process.log());
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn full_redis_is_still_read_and_a_logout_holds() {
    let redis = Redis::new();
    let pair = Pair::on(&redis);
    let tokens = pair.log_in().await;
    order(&redis, "CONFIG SET maxmemory 1");
    let uncached = pair.here.log_in().await;
    assert_eq!(pair.status(&uncached).await, (200, 200));
    let words = "OOM command not allowed";
    assert!(problems(&pair.here.http).await.contains(words), "its own words");
    assert_eq!(pair.here.process.logged(words), 1, "{}", pair.here.process.log());
    pair.log_out(&tokens).await;
    assert_eq!(pair.status(&tokens).await, (401, 401), "no tombstone is needed");
    let mut conn = connect(&redis);
    assert!(!conn.exists::<_, bool>(keys(&tokens).1).unwrap());

    order(&redis, "CONFIG SET maxmemory 0");
    pair.ready().await;
    eventually(true, async || conn.exists::<_, bool>(keys(&tokens).1).unwrap()).await;
    for server in [&pair.here.process, &pair.process] {
        assert_eq!(server.logged("redis unavailable"), 0, "{}", server.log());
        assert!(server.logged("redis out of memory") <= 1, "{}", server.log());
    }
}
