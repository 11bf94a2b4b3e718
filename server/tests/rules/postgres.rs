//! What rotations and the sweeper cost PostgreSQL.

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

const SCANS: &str = "SELECT seq_scan + seq_tup_read AS number FROM pg_stat_user_tables WHERE \
                     relname = 'sessions'";
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

#[test]
#[ignore = "needs PostgreSQL: make test"]
fn the_sweeper_never_reads_the_whole_table() {
    let mut subject = Subject::new(DEFAULT);
    let (session, first) = subject.open();
    subject.sql(
        "INSERT INTO sessions SELECT gen_random_uuid(), user_id, generation, secret_digest, \
         previous_digest, salt, attempt_digest, rotated_at, access_jti, access_issued_at, \
         created_at, idle_expires_at, expires_at, ended_at, end_reason, user_agent, ip, \
         sweep_at + random() * interval '1 day' FROM sessions, generate_series(1, 50000)",
    );
    subject.sql("ANALYZE sessions");
    subject.conn = subject.connection();
    subject.sql("SELECT pg_stat_force_next_flush()");
    let before = subject.number(SCANS);
    subject.show(&first.refresh, None);
    subject.wait(36 * 60 * MINUTE);
    let mut seen = 0;
    for _ in 0..10 {
        seen += subject.sweep().seen;
        subject.clear_salts(&[session]);
    }
    assert_eq!(seen, 1000, "as many as it is to look at");
    subject.sql("SELECT pg_stat_force_next_flush()");
    subject.conn = subject.connection();
    assert_eq!(subject.number(SCANS), before);
}
