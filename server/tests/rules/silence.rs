//! PostgreSQL that does not respond: a blocked call gives its thread, its permit and its
//! connection back.

use std::time::{Duration, Instant};

use diesel::RunQueryDsl;
use diesel::connection::SimpleConnection;
use matchbook_server::store::{Conn, Error};

use crate::harness::{DEFAULT, Harness, MINUTE, SECOND};

/// Blocks in libpq for much longer than any timeout.
fn block(conn: &mut Conn) -> diesel::QueryResult<()> {
    conn.batch_execute("SET statement_timeout = 0; SELECT pg_sleep(3600)")
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn connection_of_a_call_without_an_answer_is_closed() {
    let harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.query_timeout = SECOND);
    let began = Instant::now();
    // A rejection of the pool would not say so: its only permit is free again each time.
    for _ in 0..2 {
        let blocked = store.write(block).await;
        assert!(matches!(blocked, Err(Error::QueryTimeout(_))), "{blocked:?}");
    }
    store.write(|conn| conn.batch_execute("SELECT 1")).await.unwrap();
    assert!(began.elapsed() < MINUTE, "nothing waited for the permit");
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn dedicated_connection_without_an_answer_is_closed_and_opened_again() {
    let harness = Harness::new(DEFAULT);
    let dedicated = harness.store().dedicated_connection();
    let limit = Duration::from_millis(500);
    for _ in 0..3 {
        assert!(dedicated.run(limit, block).await.is_err());
    }
    dedicated.run(MINUTE, |conn| conn.batch_execute("SELECT 1")).await.unwrap();
    assert!(dedicated.connections() >= 2);
}

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn call_that_ends_in_time_keeps_its_connection() {
    let harness = Harness::new(DEFAULT);
    let store = harness.store_with(|options| options.query_timeout = 2 * SECOND);
    let id = |conn: &mut Conn| {
        conn.batch_execute("SELECT pg_sleep(1)")?;
        diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"))
            .get_result::<i32>(conn)
    };
    let first = store.write(id).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.write(id).await.unwrap(), first, "the same connection");
    }
}
