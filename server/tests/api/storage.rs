//! The stored data: digests, native types, one row per session.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};

use crate::support::{Server, Tokens, decode};

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn columns_have_native_types() {
    #[derive(QueryableByName, Debug)]
    struct Column {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Text)]
        kind: String,
    }
    let server = Server::start();
    let mut conn = PgConnection::establish(&server.world.database_url()).unwrap();
    let columns: Vec<Column> = diesel::sql_query(
        "SELECT column_name::text AS name, data_type::text AS kind \
         FROM information_schema.columns WHERE table_name = 'sessions'",
    )
    .load(&mut conn)
    .unwrap();
    assert_eq!(columns.len(), 29);
    for Column { name, kind } in columns {
        let expected = match name.as_str() {
            "place" => "smallint",
            "id" | "user_id" | "access_jti" | "login_session_id" => "uuid",
            "generation" | "oldest_recent_generation" | "next_oldest_recent_generation" => "bigint",
            "has_used_idempotency_key" => "boolean",
            "secret_digest" | "previous_digest" | "successor_salt" | "idempotency_key_digest" => {
                "bytea"
            }
            "end_reason" | "user_agent" | "claims" | "client_id" | "scope" | "audiences" => "text",
            "ip" => "inet",
            _ => "timestamp with time zone",
        };
        assert_eq!(kind, expected, "{name}");
    }
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn session_is_one_row_with_free_space_and_no_secret() {
    #[derive(QueryableByName, Debug)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        generation: i64,
        #[diesel(sql_type = Binary)]
        secret_digest: Vec<u8>,
        #[diesel(sql_type = Text)]
        ip: String,
        #[diesel(sql_type = Text)]
        user_id: String,
        #[diesel(sql_type = BigInt)]
        age_micros: i64,
        #[diesel(sql_type = Text)]
        storage: String,
    }
    let server = Server::start();
    let mut tokens = server.log_in().await;
    for _ in 0..5 {
        tokens = Tokens::of(&server.refresh(&tokens.refresh).await);
    }
    let mut conn = PgConnection::establish(&server.world.database_url()).unwrap();
    let rows: Vec<Row> = diesel::sql_query(
        "SELECT generation, secret_digest, host(ip) AS ip, user_id::text, \
         (extract(epoch FROM now() - created_at) * 1000000)::bigint AS age_micros, \
         (SELECT reloptions::text FROM pg_class WHERE relname = 'sessions') AS storage \
         FROM sessions",
    )
    .load(&mut conn)
    .unwrap();
    let [row] = &rows[..] else { panic!("one row: {rows:?}") };
    assert_eq!(row.generation, 5);
    assert_eq!(row.ip, "127.0.0.1");
    assert_eq!(row.user_id, tokens.claims()["sub"].as_str().unwrap());
    assert!((0..60_000_000).contains(&row.age_micros), "{row:?}");
    assert_eq!(row.storage, "{fillfactor=80}");
    let token = decode(tokens.refresh.strip_prefix("mb_rt_").unwrap());
    let secret = &token[25..57];
    assert_eq!(row.secret_digest, openssl::sha::sha256(secret));
}

#[actix_rt::test]
async fn sqlite_file_is_at_the_configured_path_and_can_be_moved() {
    let world = matchbook_testkit::TestEnv::new();
    let file = world.folder().join("elsewhere.db");
    let url = format!("sqlite://{}", file.display());
    let mut server = Server::within(world, |launch| launch.variable("DATABASE_URL", &url));
    let tokens = server.log_in().await;
    assert!(server.process.stop().success());
    assert!(file.exists());
    let moved = server.world.folder().join("moved.db");
    std::fs::rename(&file, &moved).unwrap();
    let url = format!("sqlite://{}", moved.display());
    let again = Server::within(server.world, |launch| launch.variable("DATABASE_URL", &url));
    assert_eq!(again.refresh(&tokens.refresh).await.status, 200);
}
