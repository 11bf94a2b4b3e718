//! What a rotation costs PostgreSQL.
//!
//! In a binary of its own, which runs alone: PostgreSQL clears old versions away
//! only as long as no other transaction on the whole server is older, and other
//! tests create databases meanwhile.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

#[path = "rules/subject.rs"]
#[expect(dead_code, reason = "the rules' own tests use all of it")]
mod subject;

use std::time::Duration;

use crate::subject::{Answer, DEFAULT, MINUTE, Subject};

/// The counters of `sessions`: updates, and those of them that were HOT.
fn updates(subject: &mut Subject) -> (i64, i64) {
    let mut count = |column| {
        subject.number(&format!(
            "SELECT {column} AS number FROM pg_stat_user_tables WHERE relname = 'sessions'"
        ))
    };
    (count("n_tup_upd"), count("n_tup_hot_upd"))
}

const INDEXES: &str = "SELECT pg_indexes_size('sessions') AS number";

#[test]
#[ignore = "needs PostgreSQL: make test"]
fn a_rotation_is_a_hot_update_and_no_index_grows() {
    const SESSIONS: usize = 100;
    const ROTATIONS: i64 = 10_000;
    let mut subject = Subject::new(DEFAULT);
    let (ids, mut tokens): (Vec<_>, Vec<_>) = (0..SESSIONS).map(|_| subject.open()).unzip();
    let indexes = subject.number(INDEXES);
    for i in 0..usize::try_from(ROTATIONS).unwrap() {
        // Every second one with an attempt key, as some clients do.
        let key = (i % 2 == 0).then_some("k");
        // Every column that a rotation changes does change.
        subject.wait(Duration::from_secs(1));
        let token = &mut tokens[i % SESSIONS];
        let Answer::Rotated(pair) = subject.show(&token.refresh, key) else { panic!("it rotates") };
        *token = pair;
    }
    subject.wait(MINUTE);
    assert!(subject.clear_salts(&ids) > 0, "that counts as well");
    subject.conn = subject.connection();
    let mut counted = updates(&mut subject);
    for _ in 0..600 {
        if counted.0 >= ROTATIONS {
            break;
        }
        // The counters are written by a connection that has gone.
        std::thread::sleep(Duration::from_millis(50));
        counted = updates(&mut subject);
    }
    let (all, hot) = counted;
    assert!(all >= ROTATIONS, "{all} of {ROTATIONS} rotations were counted");
    assert!(hot * 100 >= all * 95, "{hot} of {all} updates were HOT");
    assert_eq!(subject.number(INDEXES), indexes, "an index grew");
}
