//! Transient database errors are not server errors. An unusable database stops startup.
//! Its password is never printed.

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use futures_util::future::{join, join_all};
use matchbook_testkit::{Postgres, TestEnv};

use crate::support::{Server, Tokens, binary, eventually};

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn transient_database_errors_are_503_and_never_500() {
    let server = Server::start();
    let tokens = server.log_in().await;
    let guest = server.guest().await;
    let mut conn = PgConnection::establish(&server.world.database_url()).unwrap();
    let mut fail = |code: &str| {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION USING ERRCODE = ''{code}'', MESSAGE = ''broken''; END'"
        );
        conn.batch_execute(&sql).unwrap();
        for table in ["users", "sessions"] {
            let sql = format!(
                "DROP TRIGGER IF EXISTS break ON {table}; CREATE TRIGGER break BEFORE INSERT OR \
                 UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION break()"
            );
            conn.batch_execute(&sql).unwrap();
        }
    };
    // A full disk, no memory, a deadlock, a serialization failure, a lock that is not
    // available, a canceled statement, a standby, a missing privilege.
    for code in ["53100", "53200", "40P01", "40001", "55P03", "57014", "25006", "42501"] {
        fail(code);
        let form = format!("refresh_token={}", tokens.refresh);
        for response in [
            server.refresh(&tokens.refresh).await,
            server.http.get("/register").await,
            server.http.get(&format!("/token?userId={guest}")).await,
            server.http.post("/logout", &form).await,
        ] {
            assert_eq!(response.status, 503, "{code}: {}", response.text);
            assert_eq!(response.field("error"), "temporarily_unavailable");
        }
    }
    server.sql("DROP FUNCTION break CASCADE");
    Tokens::of(&server.refresh(&tokens.refresh).await);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn lock_wait_beyond_the_timeout_is_503() {
    let server = Server::with(|launch| launch.set("database.query_timeout", "1s"));
    let tokens = server.log_in().await;
    let mut conn = PgConnection::establish(&server.world.database_url()).unwrap();
    conn.batch_execute("BEGIN; SELECT 1 FROM sessions FOR UPDATE").unwrap();
    let response = server.refresh(&tokens.refresh).await;
    assert_eq!(response.status, 503, "{}", response.text);
    conn.batch_execute("ROLLBACK").unwrap();
    Tokens::of(&server.refresh(&tokens.refresh).await);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn one_lost_connection_is_no_outage() {
    let server = Server::start();
    let tokens = server.log_in().await;
    let mut conn = PgConnection::establish(&server.world.database_url()).unwrap();
    conn.batch_execute("BEGIN; SELECT 1 FROM sessions FOR UPDATE").unwrap();
    let waiting = "SELECT count(*) AS number FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let lose = async {
        eventually(true, async || server.number(waiting) > 0).await;
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        );
    };
    let (response, ()) = join(server.refresh(&tokens.refresh), lose).await;
    assert_eq!(response.status, 503, "{}", response.text);
    // The fault has requested a check before the response.
    assert_eq!(server.http.get("/health/ready").await.status, 200);
    assert_eq!(server.process.logged("ERROR"), 0, "{}", server.process.log());
    conn.batch_execute("ROLLBACK").unwrap();
}

#[actix_rt::test]
async fn no_command_prints_the_password_of_the_database() {
    let world = TestEnv::new();
    // Nothing listens on this address. Each password contains `hush` or its halves.
    let urls = [
        "postgres://me:hush@127.0.0.1:9/x",
        "postgres://me:hush%25@127.0.0.1:9/x",
        "postgres://me:hush%@127.0.0.1:9/x",
        "postgres://me:%hush@127.0.0.1:9/x",
        "postgres://me:hush%00@127.0.0.1:9/x",
        "postgres://me:hu sh@127.0.0.1:9/x",
        "postgres://me:hu/sh@127.0.0.1:9/x",
        "postgres://me:hu?sh@127.0.0.1:9/x",
        "postgres://me:hu#sh@127.0.0.1:9/x",
        "postgres://me:hu@sh@127.0.0.1:9/x",
        "postgres://me:hush/x",
        "postgres://127.0.0.1:9/x?password=hush",
        "postgres://127.0.0.1:9/x?user=me&password=hu sh",
        "postgres://127.0.0.1:9/x?password=hush%",
        "postgres://127.0.0.1:9/x?password=hu=sh",
        "postgres://127.0.0.1:9/x?password=hu&sh",
        "postgres://127.0.0.1:9/x?password=hu@sh",
        "postgres://127.0.0.1:9/x?p%61ssword=hush",
        "postgres://127.0.0.1:9/x?sslpassword=hush",
        "host=127.0.0.1 password=hush",
        "mysql://me:hush@127.0.0.1/x",
    ];
    let commands: [&[&str]; 9] = [
        &[],
        &["check-config"],
        &["health"],
        &["explain"],
        &["keys", "list"],
        &["keys", "rotate"],
        &["keys", "revoke", "x"],
        &["sessions", "end", "--all"],
        &["secret", "rotate", "--compromised"],
    ];
    for url in urls {
        for command in commands {
            let launch = world.server(binary()).variable("DATABASE_URL", url);
            let launch = launch.set("database.start_timeout", "10ms");
            let output = launch.set("secret", "kJ8s0fQn3vT6yB1xW4zC7dE9gH2jL5mP").run(command);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert!(!said.is_empty(), "{url} {command:?}");
            for part in ["hush", "hu sh", "hu/", "hu?", "hu#", "hu@", "hu=", "hu&", "=sh", "&sh"] {
                assert!(!said.contains(part), "{url} {command:?}: {said}");
            }
        }
    }
}

mod needs_programs {
    use super::*;

    #[actix_rt::test]
    #[ignore = "needs the programs of PostgreSQL and Redis: make test"]
    async fn database_without_utf8_stops_startup() {
        let (world, postgres) = (TestEnv::new(), Postgres::new());
        let mut conn = PgConnection::establish(&postgres.url()).unwrap();
        for encoding in ["LATIN1", "SQL_ASCII"] {
            let sql = format!(
                "CREATE DATABASE {encoding} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE \
                 template0"
            );
            conn.batch_execute(&sql).unwrap();
            let url = postgres.url_of(&encoding.to_lowercase());
            let launch = world.server(binary()).variable("DATABASE_URL", &url);
            let output = launch.run(&[]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success(), "{encoding}");
            assert!(said.contains(&format!("its encoding is {encoding}")), "{said}");
        }
    }

    #[actix_rt::test]
    #[ignore = "needs the programs of PostgreSQL and Redis: make test"]
    async fn stricter_isolation_by_default_rejects_no_request() {
        let postgres = Postgres::with(&[("default_transaction_isolation", "serializable")], &[]);
        let url = postgres.create("matchbook");
        let server = Server::within(TestEnv::new(), |launch| launch.variable("DATABASE_URL", &url));
        let live = async || {
            let mut tokens = server.log_in().await;
            for _ in 0..5 {
                // Concurrent refreshes of one session and of many.
                let (first, second) =
                    join(server.refresh(&tokens.refresh), server.refresh(&tokens.refresh)).await;
                assert_eq!(second.status, 200, "{}", second.text);
                tokens = Tokens::of(&first);
            }
            let form = format!("refresh_token={}", tokens.refresh);
            let (refreshed, ended) =
                join(server.refresh(&tokens.refresh), server.http.post("/logout", &form)).await;
            assert!([200, 401].contains(&refreshed.status), "{}", refreshed.text);
            assert_eq!(ended.status, 204, "{}", ended.text);
        };
        join_all((0..12).map(|_| live())).await;
    }

    #[actix_rt::test]
    #[ignore = "needs the programs of PostgreSQL and Redis: make test"]
    async fn lock_timeout_of_the_database_is_503() {
        let postgres = Postgres::with(&[("lock_timeout", "200ms")], &[]);
        let url = postgres.create("matchbook");
        let server = Server::within(TestEnv::new(), |launch| launch.variable("DATABASE_URL", &url));
        let tokens = server.log_in().await;
        let mut conn = PgConnection::establish(&url).unwrap();
        conn.batch_execute("BEGIN; SELECT 1 FROM sessions FOR UPDATE").unwrap();
        let form = format!("refresh_token={}", tokens.refresh);
        for response in
            [server.refresh(&tokens.refresh).await, server.http.post("/logout", &form).await]
        {
            assert_eq!((response.status, response.header("retry-after")), (503, "1"));
            assert_eq!(response.field("error"), "temporarily_unavailable");
        }
        conn.batch_execute("ROLLBACK").unwrap();
        Tokens::of(&server.refresh(&tokens.refresh).await);
        assert_eq!(server.process.logged("database unavailable"), 0, "{}", server.process.log());
    }
}
