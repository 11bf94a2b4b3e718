//! What the sweeper takes away, and what it leaves.

use diesel::Connection;
use matchbook_server::store::users;
use matchbook_server::sweeper::{ROWS_PER_TICK, Sweeper};
use matchbook_server::token::{SessionId, UserId};
use matchbook_server::{clock, sessions};
use matchbook_shared::Reason;

use crate::subject::{Answer, DAY, DEFAULT, MINUTE, SECOND, STRICT, Subject};

#[test]
fn a_salt_is_gone_when_its_window_is_over_and_not_before() {
    let mut subject = Subject::new(DEFAULT);
    let (session, first) = subject.open();
    let Answer::Rotated(second) = subject.show(&first.refresh, None) else { panic!() };
    subject.wait(30 * SECOND);
    assert_eq!(subject.clear_salts(&[session]), 0);
    assert_eq!(subject.show(&first.refresh, None), Answer::Repeated(second.clone()));
    subject.wait(SECOND);
    assert_eq!(subject.clear_salts(&[session]), 1);
    assert!(subject.standing(session).unwrap().salt.is_none());
    assert_eq!(subject.clear_salts(&[session]), 0, "there is nothing left to do");
    assert!(matches!(subject.show(&second.refresh, None), Answer::Rotated(_)));
}

#[test]
fn a_salt_is_kept_for_its_attempt_key_as_long_as_recovery_lasts() {
    let mut subject = Subject::new(DEFAULT);
    let (session, first) = subject.open();
    subject.show(&first.refresh, Some("k"));
    subject.wait(DAY);
    assert_eq!(subject.clear_salts(&[session]), 0);
    assert_eq!(subject.sweep(), (0, 0));
    assert!(matches!(subject.show(&first.refresh, Some("k")), Answer::Repeated(_)));
    subject.wait(SECOND);
    assert_eq!(subject.sweep(), (1, 0));
    let standing = subject.standing(session).unwrap();
    assert!(standing.salt.is_none() && standing.attempt_digest.is_none());
    assert_eq!(subject.sweep(), (0, 0), "there is nothing left to do");
}

#[test]
fn a_salt_that_a_killed_server_has_left_is_come_across() {
    let mut subject = Subject::new(DEFAULT);
    let (session, first) = subject.open();
    subject.show(&first.refresh, None);
    subject.wait(30 * SECOND);
    assert_eq!(subject.sweep(), (0, 0));
    subject.wait(SECOND);
    assert_eq!(subject.sweep(), (1, 0));
    assert!(subject.standing(session).unwrap().salt.is_none());
}

#[test]
fn in_strict_mode_no_salt_is_kept_at_all() {
    let mut subject = Subject::new(STRICT);
    let (session, first) = subject.open();
    subject.show(&first.refresh, Some("k"));
    let standing = subject.standing(session).unwrap();
    assert!(standing.salt.is_none() && standing.attempt_digest.is_none());
}

#[test]
fn a_salt_goes_with_its_session() {
    let mut subject = Subject::new(DEFAULT);
    let (session, first) = subject.open();
    subject.show(&first.refresh, Some("k"));
    subject.log_out(session);
    assert_eq!(subject.sweep(), (1, 0));
}

#[test]
fn a_session_is_deleted_some_time_after_its_end_and_a_live_one_never() {
    let mut subject = Subject::new(DEFAULT);
    let (out, _) = subject.open();
    let (idle, idle_token) = subject.open();
    let (live, mut live_token) = subject.open();
    subject.log_out(out);
    let mut deleted = Vec::new();
    // The owner of the third refreshes every day; the sweeper comes every day.
    for day in 1..=60 {
        subject.wait(DAY);
        let Answer::Rotated(pair) = subject.show(&live_token.refresh, None) else { panic!() };
        live_token = pair;
        if subject.sweep().1 > 0 {
            deleted.push(day);
        }
    }
    assert_eq!(deleted, [7, 37], "a week after its end: logged out, not refreshed");
    for session in [out, idle] {
        assert!(subject.standing(session).is_none());
    }
    assert!(subject.standing(live).is_some());
    assert_eq!(subject.show(&idle_token.refresh, None), Answer::Refused(Reason::Unknown));
    assert_eq!(
        subject.events().last().unwrap(),
        &("refresh_refused".to_owned(), "unknown".to_owned())
    );
}

#[test]
fn a_refresh_in_time_saves_a_session_from_the_sweeper_until_its_absolute_end() {
    let mut subject = Subject::new(DEFAULT);
    let (session, mut token) = subject.open();
    for _ in 0..3 {
        subject.wait(29 * DAY);
        let Answer::Rotated(pair) = subject.show(&token.refresh, None) else { panic!() };
        token = pair;
        assert_eq!(subject.sweep(), (0, 0));
    }
    // The ninety days are over in three, and a week comes on top.
    subject.wait(9 * DAY);
    assert_eq!(subject.sweep().1, 0);
    subject.wait(DAY);
    assert_eq!(subject.sweep().1, 1);
    assert!(subject.standing(session).is_none());
}

#[test]
fn a_round_comes_across_every_session_in_small_steps() {
    let mut subject = Subject::new(DEFAULT);
    for _ in 0..25 {
        let (session, _) = subject.open();
        subject.log_out(session);
        subject.wait(SECOND);
    }
    subject.wait(7 * DAY);
    let (mut at, mut deleted) = (SessionId::FIRST, Vec::new());
    loop {
        let (policy, now) = (subject.policy, subject.now);
        let swept = sessions::sweep(&mut subject.conn, at, 10, &policy, now).unwrap();
        deleted.push(swept.deleted);
        let Some(last) = swept.last else { break };
        at = last;
    }
    assert_eq!(deleted, [10, 10, 5, 0]);
}

#[actix_rt::test]
async fn a_server_clears_the_salts_of_its_own_rotations_before_its_round_comes_by() {
    let mut subject = Subject::new(DEFAULT);
    subject.now = clock::now().before(2 * MINUTE);
    for _ in 0..ROWS_PER_TICK {
        subject.open();
    }
    subject.wait(SECOND);
    let mut rotated = Vec::new();
    for key in [None, None, Some("k")] {
        let (session, first) = subject.open();
        subject.show(&first.refresh, key);
        rotated.push(session);
    }
    let salts = "SELECT count(salt) AS number FROM sessions";
    let (mut sweeper, salt_expiry) = Sweeper::new(subject.store(), DEFAULT, DAY);
    // This one is told of the first, not of the second.
    salt_expiry.track(rotated[0], subject.now);
    sweeper.tick().await.unwrap();
    assert!(subject.standing(rotated[0]).unwrap().salt.is_none());
    assert_eq!(subject.number(salts), 2);
    sweeper.tick().await.unwrap();
    assert_eq!(subject.number(salts), 1, "come across; the attempt key keeps its own");
}

#[test]
fn old_entries_of_the_security_log_go_and_new_ones_stay() {
    use matchbook_server::store::events::delete_old;
    let mut subject = Subject::new(DEFAULT);
    subject.open();
    subject.wait(MINUTE);
    let (session, _) = subject.open();
    subject.log_out(session);
    let before = subject.now;
    assert_eq!(delete_old(&mut subject.conn, before, 10).unwrap(), 1);
    assert_eq!(subject.number("SELECT count(*) AS number FROM events"), 2);
}

#[test]
#[ignore = "needs PostgreSQL: make test"]
fn a_row_that_is_being_changed_is_passed_over_and_nobody_waits() {
    let mut subject = Subject::new(DEFAULT);
    let (busy, first) = subject.open();
    let (other, second) = subject.open();
    let (_, third) = subject.open();
    for token in [&first, &second, &third] {
        subject.show(&token.refresh, None);
    }
    subject.wait(MINUTE);
    let mut other_server = subject.connection();
    other_server
        .transaction(|conn| {
            // As a refresh does, or another server's sweeper.
            let change = format!("UPDATE sessions SET generation = 1 WHERE id = '{busy}'");
            diesel::RunQueryDsl::execute(diesel::sql_query(change), conn)?;
            subject.sql("SET lock_timeout = '1s'");
            assert_eq!(subject.clear_salts(&[busy, other]), 1);
            assert_eq!(subject.sweep(), (1, 0));
            diesel::QueryResult::Ok(())
        })
        .unwrap();
    assert_eq!(subject.sweep(), (1, 0), "its turn comes");
}

#[test]
fn several_servers_sweep_side_by_side_and_each_salt_is_cleared_once() {
    let mut subject = Subject::new(DEFAULT);
    for _ in 0..60 {
        let (_, first) = subject.open();
        subject.show(&first.refresh, None);
    }
    subject.wait(MINUTE);
    let (policy, now) = (subject.policy, subject.now);
    let servers: Vec<_> = (0..3)
        .map(|_| {
            let mut conn = subject.connection();
            std::thread::spawn(move || {
                let (mut at, mut cleared) = (SessionId::FIRST, 0);
                loop {
                    let swept = sessions::sweep(&mut conn, at, 7, &policy, now).unwrap();
                    cleared += swept.cleared;
                    let Some(last) = swept.last else { return cleared };
                    at = last;
                }
            })
        })
        .collect();
    let cleared: usize = servers.into_iter().map(|server| server.join().unwrap()).sum();
    // What all have passed over comes up on the next round.
    assert_eq!(cleared + subject.sweep().0, 60);
    assert_eq!(subject.number("SELECT count(salt) AS number FROM sessions"), 0);
}

#[test]
fn guests_that_never_sign_in_or_have_no_session_left_are_deleted() {
    let mut subject = Subject::new(DEFAULT);
    let (day, week) = (DAY, 7 * DAY);
    let guest = |subject: &mut Subject| {
        let id = UserId::random();
        users::insert(&mut subject.conn, id, subject.now).unwrap();
        id
    };
    let unused = guest(&mut subject);
    let (ended, _) = subject.open();
    let gone = subject.standing(ended).unwrap().user;
    subject.sql("DELETE FROM sessions");
    let (live, _) = subject.open();
    let kept = subject.standing(live).unwrap().user;
    let sweep = |subject: &mut Subject| {
        let (unused, used) = (subject.now.before(day), subject.now.before(week));
        users::sweep(&mut subject.conn, UserId::FIRST, 100, unused, used).unwrap().deleted
    };
    let exists = |subject: &mut Subject, id| users::is_there(&mut subject.conn, id).unwrap();
    subject.wait(day);
    assert_eq!(sweep(&mut subject), 0);
    subject.wait(SECOND);
    let new = guest(&mut subject);
    assert_eq!(sweep(&mut subject), 1);
    assert!(!exists(&mut subject, unused) && exists(&mut subject, new));
    assert!(exists(&mut subject, gone), "its session may still be asked about");
    subject.wait(week);
    users::use_login(&mut subject.conn, new, subject.now).unwrap();
    assert_eq!(sweep(&mut subject), 1);
    assert!(!exists(&mut subject, gone) && exists(&mut subject, kept));
    assert!(exists(&mut subject, new), "it is signing in");
    assert!(subject.standing(live).is_some());
}
