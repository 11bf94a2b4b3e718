//! Compares the table in `docs/rotation.md` with the behavior of the rules.

use std::fmt::Write;
use std::time::Duration;

use matchbook_server::sessions::Policy;
use matchbook_server::store::sessions::State;
use matchbook_shared::InvalidGrantReason;

use crate::harness::{DEFAULT, HOUR, Harness, Outcome, SAME_KEY_ONLY, SECOND, STRICT};

/// A case: a token is rotated, and presented again after a delay.
struct Case {
    says: &'static str,
    wait: Duration,
    /// The idempotency keys of the first and the second request.
    keys: (Option<&'static str>, Option<&'static str>),
    /// How often the successor is rotated in between, and the delay after the last time.
    further: usize,
    every: Duration,
}

const CASES: &[Case] = &[
    Case {
        says: "two tabs refresh at once",
        wait: Duration::ZERO,
        keys: (None, None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "two tabs refresh at once, each with its own idempotency key",
        wait: Duration::ZERO,
        keys: (Some("one"), Some("two")),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "a delayed request arrives after the next refresh",
        wait: SECOND,
        keys: (None, None),
        further: 1,
        every: Duration::ZERO,
    },
    Case {
        says: "… with the same idempotency key",
        wait: SECOND,
        keys: (Some("one"), Some("one")),
        further: 1,
        every: Duration::ZERO,
    },
    Case {
        says: "the response is lost, retried after 5 s",
        wait: Duration::from_secs(5),
        keys: (None, None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "… with the same idempotency key",
        wait: Duration::from_secs(5),
        keys: (Some("one"), Some("one")),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "the response is lost, retried after 60 s",
        wait: Duration::from_secs(60),
        keys: (None, None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "… with the same idempotency key",
        wait: Duration::from_secs(60),
        keys: (Some("one"), Some("one")),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "the response is lost, retried after 1 h",
        wait: HOUR,
        keys: (None, None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "… with the same idempotency key",
        wait: HOUR,
        keys: (Some("one"), Some("one")),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "a thief replays 5 s after the owner",
        wait: Duration::from_secs(5),
        keys: (None, None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "… and the owner had sent an idempotency key",
        wait: Duration::from_secs(5),
        keys: (Some("one"), None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "a thief replays 60 s after the owner",
        wait: Duration::from_secs(60),
        keys: (None, None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "… and the owner had sent an idempotency key",
        wait: Duration::from_secs(60),
        keys: (Some("one"), None),
        further: 0,
        every: Duration::ZERO,
    },
    Case {
        says: "a thief replays an older token after 60 s",
        wait: Duration::from_secs(60),
        keys: (None, None),
        further: 1,
        every: Duration::ZERO,
    },
    Case {
        says: "a thief copies the current token and rotates every 20 s; the owner returns after 40 s",
        wait: Duration::ZERO,
        keys: (None, None),
        further: 2,
        every: Duration::from_secs(20),
    },
    Case {
        says: "… the owner returns after 2 minutes",
        wait: Duration::ZERO,
        keys: (None, None),
        further: 6,
        every: Duration::from_secs(20),
    },
];

/// Measures the outcome of a case.
fn outcome(harness: &mut Harness, policy: Policy, case: &Case) -> &'static str {
    harness.begin(policy);
    let (session, first) = harness.open();
    let Outcome::Rotated(second) = harness.present(&first.refresh, case.keys.0) else {
        panic!("the first time rotates")
    };
    let mut newest = second.clone();
    for _ in 0..case.further {
        harness.wait(case.every);
        let Outcome::Rotated(pair) = harness.present(&newest.refresh, case.keys.0) else {
            panic!("the newest one rotates")
        };
        newest = pair;
    }
    harness.wait(case.wait);
    let response = harness.present(&first.refresh, case.keys.1);
    let alive = harness.session(session).unwrap().state == State::Live;
    match response {
        Outcome::Reissued(pair) if alive && pair == second => "the same pair",
        Outcome::Reissued(pair) if alive && pair.refresh == second.refresh => {
            "the same refresh token, a new access token"
        }
        Outcome::Rejected(InvalidGrantReason::Superseded) if alive => {
            "rejected, the session continues"
        }
        Outcome::Rejected(InvalidGrantReason::Reuse) if !alive => "**the session ends**",
        response => panic!("{}: {response:?}, alive: {alive}", case.says),
    }
}

#[test]
fn the_table_in_the_rotation_document_matches_the_measured_behavior() {
    let mut harness = Harness::new(DEFAULT);
    let mut table =
        "| a rotated refresh token is presented again | default | `same_key_only = true` | \
                     `mode = \"strict\"` |\n|---|---|---|---|\n"
            .to_owned();
    for case in CASES {
        let [default, same_key_only, strict] =
            [DEFAULT, SAME_KEY_ONLY, STRICT].map(|policy| outcome(&mut harness, policy, case));
        writeln!(table, "| {} | {default} | {same_key_only} | {strict} |", case.says).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rotation.md");
    let document = std::fs::read_to_string(path).unwrap();
    assert!(document.contains(&table), "docs/rotation.md must contain this table:\n{table}");
}
