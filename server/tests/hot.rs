//! The cost of a rotation in PostgreSQL.
//!
//! This is a separate binary that runs alone: PostgreSQL removes old row versions
//! only while no other transaction on the whole server is older, and other
//! tests create databases meanwhile.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

#[path = "rules/harness.rs"]
#[expect(dead_code, reason = "the rules' own tests use all of it")]
mod harness;

use std::time::Duration;

use crate::harness::{DEFAULT, Harness, MINUTE, Outcome};

/// The counters of `sessions`: updates, and how many of them were HOT.
fn updates(harness: &mut Harness) -> (i64, i64) {
    let mut count = |column| {
        harness.number(&format!(
            "SELECT {column} AS number FROM pg_stat_user_tables WHERE relname = 'sessions'"
        ))
    };
    (count("n_tup_upd"), count("n_tup_hot_upd"))
}

const INDEXES: &str = "SELECT pg_indexes_size('sessions') AS number";

#[test]
#[ignore = "needs PostgreSQL: make test"]
fn rotation_is_a_hot_update_and_no_index_grows() {
    const SESSIONS: usize = 100;
    const ROTATIONS: i64 = 10_000;
    let mut harness = Harness::new(DEFAULT);
    let (ids, mut tokens): (Vec<_>, Vec<_>) = (0..SESSIONS).map(|_| harness.open()).unzip();
    let indexes = harness.number(INDEXES);
    for i in 0..usize::try_from(ROTATIONS).unwrap() {
        // Every second refresh has an idempotency key.
        let key = (i % 2 == 0).then_some("k");
        // Every column that a rotation can change changes.
        harness.wait(Duration::from_secs(1));
        let token = &mut tokens[i % SESSIONS];
        let Outcome::Rotated(pair) = harness.present(&token.refresh, key) else {
            panic!("it rotates")
        };
        *token = pair;
    }
    harness.wait(MINUTE);
    assert!(harness.clear_salts(&ids) > 0, "that counts as well");
    harness.conn = harness.connection();
    let mut counted = updates(&mut harness);
    for _ in 0..600 {
        if counted.0 >= ROTATIONS {
            break;
        }
        // The counters are written when a connection closes.
        std::thread::sleep(Duration::from_millis(50));
        counted = updates(&mut harness);
    }
    let (all, hot) = counted;
    assert!(all >= ROTATIONS, "{all} of {ROTATIONS} rotations were counted");
    assert!(hot * 100 >= all * 95, "{hot} of {all} updates were HOT");
    assert_eq!(harness.number(INDEXES), indexes, "an index grew");
}
