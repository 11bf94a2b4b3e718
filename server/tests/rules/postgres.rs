//! PostgreSQL only: the cost of the sweeper, and a commit that takes
//! long.

use std::time::Instant;

use diesel::connection::SimpleConnection;
use matchbook_server::sessions::{self, RefreshOutcome, SALT_MARGIN};
use matchbook_server::store::Page;
use matchbook_server::store::sessions::rotate;

use crate::harness::{DEFAULT, Harness, MINUTE, device, number};

#[test]
#[ignore = "needs PostgreSQL: make test"]
fn sweeper_uses_the_index_and_reads_at_most_one_step() {
    let mut harness = Harness::new(DEFAULT);
    let (session, first) = harness.open();
    harness.present(&first.refresh, None);
    harness.sql(
        "INSERT INTO sessions (place, id, user_id, generation, secret_digest, previous_digest, \
         successor_salt, rotated_at, access_jti, access_issued_at, access_expires_at, \
         created_at, idle_expires_at, expires_at) \
         SELECT place, encode(set_byte(uuid_send(gen_random_uuid()), 8, \
         get_byte(uuid_send(id), 8)), 'hex')::uuid, \
         user_id, generation, secret_digest, previous_digest, \
         CASE WHEN i % 100 = 0 THEN successor_salt END, rotated_at, access_jti, \
         access_issued_at, access_expires_at, created_at, idle_expires_at, expires_at \
         FROM sessions, generate_series(1, 50000) AS i",
    );
    harness.sql("ANALYZE sessions");
    harness.wait(MINUTE + SALT_MARGIN);
    let before = reads(&mut harness);
    let (mut at, mut cleared) = (None, 0);
    for _ in 0..10 {
        let (policy, now) = (harness.policy, harness.now);
        let page = Page { after: at, limit: 100 };
        let swept = sessions::sweep(&mut harness.conn, page, &policy, now).unwrap();
        cleared += swept.cleared;
        at = swept.last;
    }
    harness.clear_salts(&[session]);
    let after = reads(&mut harness);
    assert!(cleared > 0);
    assert_eq!(after.0, before.0, "sequential scans");
    let read = after.1 - before.1;
    assert!((1000..1100).contains(&read), "{read} rows for ten steps of a hundred");
}

/// Sequential scans of `sessions` so far, and rows fetched by an index.
fn reads(harness: &mut Harness) -> (i64, i64) {
    harness.sql("SELECT pg_stat_force_next_flush()");
    harness.conn = harness.connection();
    let mut count = |column| {
        harness.number(&format!(
            "SELECT {column} AS number FROM pg_stat_user_tables WHERE relname = 'sessions'"
        ))
    };
    (count("seq_scan"), count("idx_tup_fetch"))
}

/// The server that rotates the session dies before it dates the rotation.
#[test]
#[ignore = "needs PostgreSQL: make test"]
fn request_that_saw_the_token_current_gets_the_pair_of_a_concurrent_rotation() {
    let mut harness = Harness::new(DEFAULT);
    let (_, pair) = harness.open();
    let mut other = harness.connection();
    let stalled = harness.prepare(&pair.refresh, None, device());
    other.batch_execute("BEGIN").unwrap();
    assert!(rotate(&mut other, &stalled.update).unwrap().is_some());
    harness.wait(10 * MINUTE);
    let reuse = harness.prepare(&pair.refresh, None, device());
    let resolved = std::thread::scope(|scope| {
        let resolving = scope.spawn(|| harness.resolve_conflict(&reuse).unwrap());
        let waiting = "SELECT count(*) AS number FROM pg_stat_activity WHERE \
                       datname = current_database() AND wait_event_type = 'Lock'";
        let asked = Instant::now();
        while number(&mut other, waiting) == 0 {
            assert!(asked.elapsed() < MINUTE, "it does not wait for the row");
        }
        other.batch_execute("COMMIT").unwrap();
        resolving.join().unwrap()
    });
    assert!(
        matches!(resolved, RefreshOutcome::Reissued(_)),
        "it was rotated after this request began"
    );
}
