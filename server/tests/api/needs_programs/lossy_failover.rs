//! A database that fails over to a replica that lagged, or is restored: acknowledged logouts
//! hold.

use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl};
use matchbook_testkit::{Postgres, Process, ProcessBuilder, Redis, Stop, TcpProxy, TestEnv};
use redis::Commands;

use super::redis_loss::{connect, keys};
use crate::support::{Server, Tokens, binary, eventually, http};

/// A primary and an asynchronous standby.
struct Databases {
    primary: Postgres,
    standby: Postgres,
}

impl Databases {
    fn start() -> Self {
        let primary = Postgres::new();
        primary.create("matchbook");
        let standby = Postgres::standby_of(&primary);
        Self { primary, standby }
    }

    /// The URL with both hosts.
    fn url(&self) -> String {
        format!(
            "postgres://postgres@{},{}/matchbook",
            self.primary.address(),
            self.standby.address()
        )
    }

    /// The standby gets no more commits.
    async fn lag(&self) {
        self.standby.catch_up(&self.primary);
        self.standby.configure("primary_conninfo", "");
        let receivers = "SELECT count(*) AS number FROM pg_stat_wal_receiver";
        eventually(0, async || number(&self.standby.url(), receivers)).await;
    }

    /// Kills the primary and promotes the standby.
    fn fail_over(&mut self) {
        self.primary.stop(Stop::Immediate);
        self.standby.promote();
    }

    /// The number of sessions that have ended, and whose end was recorded as forgotten.
    fn ended_again(&self) -> (i64, i64) {
        let url = self.standby.url_of("matchbook");
        let ended = "SELECT count(*) AS number FROM sessions WHERE end_reason = 'logged_out'";
        let events = "SELECT count(*) AS number FROM events WHERE reason = 'forgotten_by_database'";
        (number(&url, ended), number(&url, events))
    }
}

fn number(url: &str, query: &str) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    let mut conn = PgConnection::establish(url).unwrap();
    diesel::sql_query(query).get_result::<Row>(&mut conn).unwrap().number
}

/// Two servers. The first is killed and started again to lose its memory.
struct Servers {
    here: Server,
    there: Process,
    launch: Box<dyn Fn(&TestEnv) -> ProcessBuilder>,
}

impl Servers {
    fn start(database: &str, redis: &str) -> Self {
        let (database, redis) = (database.to_owned(), redis.to_owned());
        let launch = move |world: &TestEnv| {
            let launch = world.server(binary()).variable("DATABASE_URL", &database);
            launch.variable("REDIS_URL", &redis).set("log.level", "debug")
        };
        let world = TestEnv::new();
        let there = launch(&world).start();
        let process = launch(&world).start();
        let here = Server { http: http(&world, &process), process, world };
        Self { here, there, launch: Box::new(launch) }
    }

    async fn log_out(&self, tokens: &Tokens) {
        let form = format!("refresh_token={}", tokens.refresh);
        assert_eq!(self.here.http.post("/logout", &form).await.status, 204);
    }

    fn restart_here(&mut self) {
        self.here.process.kill();
        self.here.process = (self.launch)(&self.here.world).start();
        self.here.http = http(&self.here.world, &self.here.process);
    }

    async fn ready(&self) {
        for process in [&self.here.process, &self.there] {
            let http = http(&self.here.world, process);
            eventually(200, async || http.get("/health/ready").await.status).await;
        }
    }

    /// Checks that neither server accepts a token of this session.
    async fn assert_logged_out(&self, tokens: &Tokens) {
        for process in [&self.here.process, &self.there] {
            let http = http(&self.here.world, process);
            assert_eq!(http.get_as("/user", &tokens.access).await.status, 401);
            let form = format!("refresh_token={}", tokens.refresh);
            let refresh = http.post("/refresh", &form).await;
            assert_eq!(refresh.status, 401, "{}: {}", refresh.text, process.log());
            assert_eq!(refresh.field("reason"), "logged_out");
        }
    }
}

/// Removes the tombstones and cached tokens, as if they had expired.
fn expire(redis: &Redis, tokens: &Tokens) {
    let (access, ended) = keys(tokens);
    connect(redis).del::<_, ()>(&[access, ended]).unwrap();
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn refresh_finds_the_tombstone_of_a_logout_that_a_failover_has_undone() {
    let mut databases = Databases::start();
    let redis = Redis::new();
    let mut servers = Servers::start(&databases.url(), &redis.url());
    let tokens = servers.here.log_in().await;
    let kept = servers.here.log_in().await;
    databases.lag().await;
    servers.log_out(&tokens).await;
    // Redis alone remembers it.
    servers.there.kill();
    databases.fail_over();
    servers.restart_here();
    assert_eq!(databases.ended_again(), (0, 0), "the database has forgotten it");
    let next = servers.here.refresh(&tokens.refresh).await;
    assert_eq!((next.status, next.field("reason").as_str()), (401, "logged_out"));
    assert_eq!(databases.ended_again(), (1, 1));
    expire(&redis, &tokens);
    assert_eq!(servers.here.user(&tokens.access).await, 401);
    assert_eq!(servers.here.refresh(&tokens.refresh).await.status, 401);
    Tokens::of(&servers.here.refresh(&kept.refresh).await);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn server_that_remembers_a_logout_ends_the_session_again_after_a_failover() {
    let mut databases = Databases::start();
    let redis = Redis::new();
    let mut servers = Servers::start(&databases.url(), &redis.url());
    let tokens = servers.here.log_in().await;
    let kept = servers.here.log_in().await;
    databases.lag().await;
    servers.log_out(&tokens).await;
    // Its poll has read the revocation.
    servers.there.await_log("revocations published");
    databases.fail_over();
    servers.restart_here();
    servers.there.await_log("logouts forgotten by the database, sessions ended again sessions=1");
    assert_eq!(databases.ended_again(), (1, 1));
    redis.flush();
    servers.ready().await;
    servers.assert_logged_out(&tokens).await;
    assert_eq!(databases.ended_again(), (1, 1));
    Tokens::of(&servers.here.refresh(&kept.refresh).await);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_holds_after_a_failover_that_redis_does_not_survive_either() {
    let mut databases = Databases::start();
    let mut redis = Redis::new();
    let servers = Servers::start(&databases.url(), &redis.url());
    let tokens = servers.here.log_in().await;
    databases.lag().await;
    servers.log_out(&tokens).await;
    redis.kill();
    databases.fail_over();
    servers.here.process.await_log("logouts forgotten by the database");
    servers.assert_logged_out(&tokens).await;
    assert_eq!(databases.ended_again(), (1, 1));
    redis.start();
    servers.ready().await;
    servers.assert_logged_out(&tokens).await;
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn server_without_redis_remembers_the_logouts_that_it_acknowledged() {
    let mut databases = Databases::start();
    let servers = Servers::start(&databases.url(), "");
    let tokens = servers.here.log_in().await;
    databases.lag().await;
    servers.log_out(&tokens).await;
    databases.fail_over();
    servers.here.process.await_log("logouts forgotten by the database");
    servers.assert_logged_out(&tokens).await;
    assert_eq!(databases.ended_again(), (1, 1));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn session_that_cannot_be_ended_again_is_logged_and_does_not_block_later_ones() {
    let mut databases = Databases::start();
    let servers = Servers::start(&databases.url(), "");
    let tokens = servers.here.log_in().await;
    // After the failover no session can end: the standby writes another timeline.
    let mut conn = PgConnection::establish(&databases.primary.url_of("matchbook")).unwrap();
    let defect = "CREATE FUNCTION defect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                  IF pg_walfile_name(pg_current_wal_lsn()) >= '00000002' THEN \
                  RAISE EXCEPTION USING ERRCODE = '23514'; END IF; RETURN NEW; END $$; \
                  CREATE TRIGGER defect BEFORE UPDATE OF ended_at ON sessions \
                  FOR EACH ROW EXECUTE FUNCTION defect()";
    conn.batch_execute(defect).unwrap();
    drop(conn);
    databases.lag().await;
    servers.log_out(&tokens).await;
    databases.fail_over();
    servers.here.process.await_log("and sessions not ended again");
    let mut conn = PgConnection::establish(&databases.standby.url_of("matchbook")).unwrap();
    conn.batch_execute("DROP FUNCTION defect CASCADE").unwrap();
    drop(conn);
    // The servers compare the database again.
    databases.standby.restart(Stop::Fast);
    servers.here.process.await_log("sessions ended again sessions=1");
    servers.assert_logged_out(&tokens).await;
    assert_eq!(databases.ended_again(), (1, 1));
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn logout_holds_after_the_database_was_restored_from_a_backup() {
    let mut databases = Databases::start();
    let redis = Redis::new();
    let relay = TcpProxy::to(&databases.primary.address());
    let url = format!("postgres://postgres@{}/matchbook", relay.address());
    let mut servers = Servers::start(&url, &redis.url());
    let tokens = servers.here.log_in().await;
    let kept = servers.here.log_in().await;
    // This copy is the backup.
    databases.lag().await;
    servers.log_out(&tokens).await;
    relay.disconnect();
    databases.fail_over();
    relay.forward_to(&databases.standby.address());
    relay.restore();
    servers.there.kill();
    servers.here.process.await_log("logouts forgotten by the database");
    servers.there = (servers.launch)(&servers.here.world).start();
    servers.ready().await;
    expire(&redis, &tokens);
    servers.assert_logged_out(&tokens).await;
    assert_eq!(databases.ended_again(), (1, 1));
    Tokens::of(&servers.here.refresh(&kept.refresh).await);
}

#[actix_rt::test]
#[ignore = "needs the programs of PostgreSQL and Redis: make test"]
async fn restarted_database_has_forgotten_nothing() {
    let mut databases = Databases::start();
    let redis = Redis::new();
    let url = databases.primary.url_of("matchbook");
    let servers = Servers::start(&url, &redis.url());
    let tokens = servers.here.log_in().await;
    servers.log_out(&tokens).await;
    databases.primary.restart(Stop::Fast);
    servers.ready().await;
    servers.assert_logged_out(&tokens).await;
    let events = "SELECT count(*) AS number FROM events WHERE reason = 'forgotten_by_database'";
    assert_eq!(number(&url, events), 0);
    assert_eq!(servers.here.process.logged("forgotten"), 0);
}
