//! PostgreSQL only: work that another transaction makes fail runs again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use diesel::QueryResult;
use diesel::connection::{Connection, SimpleConnection};
use futures_util::future::join;
use matchbook_server::store::Conn;

use crate::harness::{DEFAULT, Harness, SECOND};

#[actix_rt::test]
#[ignore = "needs PostgreSQL: make test"]
async fn deadlocked_work_runs_again() {
    let mut harness = Harness::new(DEFAULT);
    harness.sql("CREATE TABLE pair (id INT PRIMARY KEY, changes INT NOT NULL)");
    harness.sql("INSERT INTO pair VALUES (1, 0), (2, 0)");
    let store = harness.store_with(|options| {
        options.pool_size = 2;
        options.query_timeout = 60 * SECOND;
    });
    let attempts = Arc::new(AtomicUsize::new(0));
    let both_hold_a_row = Arc::new(Barrier::new(2));
    let work = |order: [i32; 2]| {
        let (attempts, both_hold_a_row) = (attempts.clone(), both_hold_a_row.clone());
        let mut first_attempt = true;
        move |conn: &mut Conn| -> QueryResult<()> {
            attempts.fetch_add(1, Ordering::SeqCst);
            let meets = std::mem::take(&mut first_attempt);
            conn.transaction(|conn| {
                let change = |conn: &mut Conn, id: i32| {
                    conn.batch_execute(&format!(
                        "UPDATE pair SET changes = changes + 1 WHERE id = {id}"
                    ))
                };
                change(conn, order[0])?;
                if meets {
                    both_hold_a_row.wait();
                }
                change(conn, order[1])
            })
        }
    };
    let (one, other) = join(store.write(work([1, 2])), store.write(work([2, 1]))).await;
    one.unwrap();
    other.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 3, "one of them ran again");
    assert_eq!(harness.number("SELECT sum(changes) AS number FROM pair"), 4);
}
