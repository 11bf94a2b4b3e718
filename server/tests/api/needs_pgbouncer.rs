//! PgBouncer in transaction mode between the server and PostgreSQL. `scripts/test` selects the
//! tests by this module's name.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use futures_util::future::join_all;
use matchbook_testkit::{PgBouncer, Postgres, TestEnv};

use crate::support::{Server, Tokens};

const ROLE: &str = "matchbook_server";

/// PostgreSQL with an empty database of the role, and a pooler with two connections.
fn pooled() -> (Postgres, PgBouncer) {
    let postgres = Postgres::new();
    let mut conn = PgConnection::establish(&postgres.url()).unwrap();
    for statement in
        [format!("CREATE ROLE {ROLE} LOGIN"), format!("CREATE DATABASE matchbook OWNER {ROLE}")]
    {
        conn.batch_execute(&statement).unwrap();
    }
    let pooler = PgBouncer::new(&postgres.address(), &["postgres", ROLE], 2);
    (postgres, pooler)
}

fn start(pooler: &PgBouncer) -> Server {
    let url = pooler.url_of(ROLE, "matchbook");
    Server::within(TestEnv::new(), |launch| {
        launch
            .variable("DATABASE_URL", &url)
            .set("database.pool_size", "8")
            .set("secret", "a-secret-of-more-than-thirty-two-characters")
    })
}

/// Eight clients that each log in and refresh 25 times, at once.
async fn load(server: &Server) {
    let clients = (0..8).map(async |_| {
        let mut tokens = server.log_in().await;
        for _ in 0..25 {
            tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
            assert_eq!(server.user(&tokens.access).await, 200);
        }
        let form = format!("refresh_token={}", tokens.refresh);
        assert_eq!(server.http.post("/logout", &form).await.status, 204);
        assert_eq!(server.user(&tokens.access).await, 401);
    });
    join_all(clients).await;
}

#[actix_rt::test]
#[ignore = "needs PgBouncer 1.21 or newer: make test"]
async fn server_works_behind_a_pooler_in_transaction_mode_and_leaves_no_settings_there() {
    let (_postgres, pooler) = pooled();
    let mut server = start(&pooler);
    load(&server).await;
    server.register("ann", "correct horse battery").await;
    server.log_in_as("ann", "correct horse battery").await;

    // The connections of the pooler are those of PostgreSQL's defaults.
    let url = pooler.url_of(ROLE, "matchbook");
    let mut connections: Vec<PgConnection> =
        (0..2).map(|_| PgConnection::establish(&url).unwrap()).collect();
    for conn in &mut connections {
        conn.batch_execute("BEGIN").unwrap();
        let changed = diesel::dsl::sql::<BigInt>(
            "(SELECT count(*) FROM pg_settings WHERE source IN ('session', 'client') \
             AND name IN ('plan_cache_mode', 'enable_seqscan', 'jit', 'statement_timeout', \
             'idle_in_transaction_session_timeout'))",
        );
        assert_eq!(diesel::select(changed).get_result::<i64>(conn).unwrap(), 0);
    }
    drop(connections);
    assert!(server.process.stop().success());
    let log = server.process.log();
    assert!(!log.contains("ERROR"), "{log}");
    assert_eq!(server.process.logged("so they must be those of the role"), 1, "{log}");
    assert!(log.contains("SET plan_cache_mode = "), "{log}");
}

#[actix_rt::test]
#[ignore = "needs PgBouncer 1.21 or newer: make test"]
async fn settings_of_the_role_that_the_log_names_take_their_place() {
    let (postgres, pooler) = pooled();
    let mut server = start(&pooler);
    let line = server.process.await_log("so they must be those of the role");
    assert!(server.process.stop().success());
    let statements = &line[line.find("ALTER ROLE").unwrap()..];
    let statements = statements.replace("\\\"", "\"");
    let statements: Vec<&str> = statements
        .split(';')
        .map(str::trim)
        .filter(|part| part.starts_with("ALTER ROLE"))
        .collect();
    assert_eq!(statements.len(), 7, "{line}");
    let mut conn = PgConnection::establish(&postgres.url()).unwrap();
    for statement in statements {
        conn.batch_execute(statement).unwrap();
    }

    // PgBouncer opens connections with the new settings.
    let pooler = PgBouncer::new(&postgres.address(), &["postgres", ROLE], 2);
    let server = start(&pooler);
    load(&server).await;
    assert_eq!(server.process.logged("so they must be those of the role"), 0);
    let mut conn = PgConnection::establish(&pooler.url_of(ROLE, "matchbook")).unwrap();
    let mode = diesel::dsl::sql::<Text>("current_setting('plan_cache_mode')");
    assert_eq!(diesel::select(mode).get_result::<String>(&mut conn).unwrap(), "force_generic_plan");
}
