//! Use and publication of keys after a late commit, and without the
//! database.

use std::process::Stdio;
use std::time::{Duration, Instant};

use actix_rt::time::sleep;
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use matchbook_testkit::{Postgres, TestEnv};

use crate::support::{Server, Tokens, binary, eventually};

const JWKS: &str = "/.well-known/jwks.json";
/// How long a key is published before it signs.
const LEAD: Duration = Duration::from_secs(8);

fn waiting_commits(postgres: &Postgres) -> i64 {
    #[derive(QueryableByName)]
    struct Number {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    let url = postgres.url_of("matchbook").parse().unwrap();
    let mut conn = matchbook_server::store::connect(&url).unwrap();
    let query = "SELECT count(*) AS number FROM pg_stat_activity \
                 WHERE wait_event = 'SyncRep' AND query LIKE '%signing_keys%'";
    sql_query(query).get_result::<Number>(&mut conn).unwrap().number
}

async fn published(server: &Server) -> usize {
    let keys = server.http.get(JWKS).await.json();
    keys["keys"].as_array().unwrap().len()
}

#[actix_rt::test]
async fn key_without_an_activation_time_gets_one_from_any_server() {
    let server = Server::with(|launch| launch.set("keys.publish_ahead", "4s"));
    let output = server.world.server(binary()).run(&["keys", "rotate"]);
    assert!(output.status.success());
    // As if the command had died in between: the time is the end of the year 9999.
    server.sql(if server.world.database_url().starts_with("sqlite") {
        "UPDATE signing_keys_by_purpose SET active_from = 253402300799000000 WHERE sequence = 2"
    } else {
        "UPDATE signing_keys_by_purpose SET active_from = '9999-12-31T23:59:59Z' WHERE sequence = 2"
    });
    let mut tokens = server.log_in().await;
    let kid = |tokens: &Tokens| jsonwebtoken::decode_header(&tokens.access).unwrap().kid.unwrap();
    let old = kid(&tokens);
    let started = Instant::now();
    while kid(&tokens) == old {
        assert!(started.elapsed() < Duration::from_secs(30), "the key never signs");
        sleep(Duration::from_millis(100)).await;
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    assert_eq!(published(&server).await, 2);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn server_without_its_database_serves_and_accepts_keys_for_thirty_seconds() {
    let world = TestEnv::new();
    let (relay, url) = world.database_proxy();
    let server = Server::within(world, |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("database.acquire_timeout", "500ms")
            .set("keys.publish_ahead", "1m")
    });
    let tokens = server.log_in().await;
    relay.disconnect();
    let cut = Instant::now();
    assert_eq!(server.http.get(JWKS).await.status, 200);
    eventually(503, async || server.http.get(JWKS).await.status).await;
    let after = cut.elapsed();
    assert!((28..40).contains(&after.as_secs()), "after {after:?}");
    let response = server.http.get(JWKS).await;
    assert_eq!(response.field("error"), "temporarily_unavailable");
    assert_eq!(server.user(&tokens.access).await, 503);
    relay.restore();
    eventually(200, async || server.http.get(JWKS).await.status).await;
    assert_eq!(server.user(&tokens.access).await, 200);
}

mod needs_programs {
    use super::*;

    #[actix_rt::test]
    #[ignore = "needs the programs of PostgreSQL and Redis: make test"]
    async fn key_committed_late_is_published_for_the_full_publish_ahead() {
        let postgres = Postgres::new();
        let url = postgres.create("matchbook");
        let with = |launch: matchbook_testkit::ProcessBuilder| {
            launch.variable("DATABASE_URL", &url).set("keys.publish_ahead", "8s")
        };
        let server = Server::within(TestEnv::new(), with);
        let mut tokens = server.log_in().await;
        let kid =
            |tokens: &Tokens| jsonwebtoken::decode_header(&tokens.access).unwrap().kid.unwrap();
        let old = kid(&tokens);

        // Commits wait for a standby that does not exist.
        postgres.configure("synchronous_standby_names", "absent");
        let launch = with(server.world.server(binary()));
        let mut command = launch.command();
        command.args(["keys", "rotate"]).stdout(Stdio::null());
        let mut rotating = command.spawn().unwrap();
        eventually(1, async || waiting_commits(&postgres)).await;
        sleep(LEAD + Duration::from_secs(1)).await;
        assert_eq!(published(&server).await, 1);
        postgres.configure("synchronous_standby_names", "");
        eventually(2, async || published(&server).await).await;
        let seen = Instant::now();
        assert!(rotating.wait().unwrap().success());
        loop {
            tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
            if kid(&tokens) != old {
                break;
            }
            assert!(seen.elapsed() < 3 * LEAD, "the new key never signs");
            sleep(Duration::from_millis(50)).await;
        }
        // The server reads it within a second or two after the commit.
        let waited = seen.elapsed() + Duration::from_secs(3);
        assert!(waited >= LEAD, "it signed after {waited:?}");
    }
}
