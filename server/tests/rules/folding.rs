//! Audit events that are counted in one row.

use std::net::IpAddr;
use std::sync::Barrier;
use std::thread;

use matchbook_server::clock::Timestamp;
use matchbook_server::ids::{EventId, SessionId, UserId};
use matchbook_server::store::events::{Event, Subject, count, insert};

use crate::harness::{DEFAULT, Harness, MINUTE, SECOND, START};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn rejection(session: SessionId, at: Timestamp) -> Event<'static> {
    Event {
        id: EventId::new(at).unwrap(),
        occurred_at: at,
        kind: "refresh_rejected",
        reason: Some("superseded"),
        subject: Subject::Session(session),
        user: None,
        generation: Some(1),
        ip: Some(ADDRESS),
        user_agent: None,
    }
}

/// The number of rows, and the sum of their counts.
fn rows(harness: &mut Harness) -> (i64, i64) {
    let rows = harness.number("SELECT count(*) AS number FROM events");
    (rows, harness.number("SELECT CAST(sum(count) AS bigint) AS number FROM events"))
}

#[test]
fn concurrent_servers_count_in_one_row() {
    const SERVERS: usize = 4;
    const TIMES: usize = 50;
    let mut harness = Harness::new(DEFAULT);
    let barrier = Barrier::new(SERVERS);
    for round in 1..=5 {
        let session = SessionId::new(UserId::random(), START).unwrap();
        let connections: Vec<_> = (0..SERVERS).map(|_| harness.connection()).collect();
        thread::scope(|scope| {
            for mut conn in connections {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..TIMES {
                        count(&mut conn, &rejection(session, START)).unwrap();
                    }
                });
            }
        });
        assert_eq!(rows(&mut harness), (round, round * 200));
    }
}

#[test]
fn different_events_or_minutes_have_separate_rows() {
    let mut harness = Harness::new(DEFAULT);
    let session = SessionId::new(UserId::random(), START).unwrap();
    let first = rejection(session, START);
    let same = rejection(session, START.after(59 * SECOND));
    let entries = [
        Event { occurred_at: START.after(MINUTE), ..rejection(session, START) },
        Event { kind: "superseded_elsewhere", ..rejection(session, START) },
        Event { reason: Some("unknown"), ..rejection(session, START) },
        Event { reason: None, ..rejection(session, START) },
        Event { ip: Some([192, 0, 2, 2].into()), ..rejection(session, START) },
        Event { ip: None, ..rejection(session, START) },
        rejection(SessionId::new(UserId::random(), START).unwrap(), START),
    ];
    for event in [&first, &same].into_iter().chain(&entries) {
        count(&mut harness.conn, event).unwrap();
    }
    assert_eq!(rows(&mut harness), (8, 9));
    // A copied token is one event, whichever request detects it.
    for kind in ["reuse_detected", "refresh_rejected", "refresh_rejected"] {
        let event = Event { kind, reason: Some("reuse"), ..rejection(session, START) };
        count(&mut harness.conn, &event).unwrap();
    }
    assert_eq!(rows(&mut harness), (9, 12));
    let detected = "SELECT count AS number FROM events WHERE kind = 'reuse_detected'";
    assert_eq!(harness.number(detected), 3);
    for _ in 0..2 {
        insert(&mut harness.conn, &rejection(session, START)).unwrap();
    }
    assert_eq!(rows(&mut harness), (11, 14), "events that are not counted have a row each");
}
