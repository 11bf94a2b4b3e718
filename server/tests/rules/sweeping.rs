//! The data that the sweeper deletes, and the data that it keeps.

use diesel::Connection;
use matchbook_server::crypto::{Digest, Secret};
use matchbook_server::ids::{Place, SessionId, UserId};
use matchbook_server::sessions::SALT_MARGIN;
use matchbook_server::store::import::{self, ImportedUser};
use matchbook_server::store::one_time_links::{self, NewLink, Purpose};
use matchbook_server::store::{Page, imported_refresh_tokens, revocations, users};
use matchbook_server::sweeper::{ROWS_PER_TICK, Sweeper};
use matchbook_server::{clock, sessions};
use matchbook_shared::InvalidGrantReason;

use crate::harness::{DAY, DEFAULT, Harness, MINUTE, Outcome, SECOND, STRICT, device};

#[test]
fn successor_salt_is_cleared_after_the_grace_period_and_not_before() {
    let mut harness = Harness::new(DEFAULT);
    let (session, first) = harness.open();
    let Outcome::Rotated(second) = harness.present(&first.refresh, None) else { panic!() };
    harness.wait(30 * SECOND);
    assert_eq!(harness.clear_salts(&[session]), 0);
    assert_eq!(harness.present(&first.refresh, None), Outcome::Reissued(second.clone()));
    harness.wait(SECOND);
    assert_eq!(harness.clear_salts(&[session]), 1);
    assert!(harness.session(session).unwrap().previous.unwrap().successor_salt.is_none());
    assert_eq!(harness.clear_salts(&[session]), 0, "there is nothing left to do");
    assert!(matches!(harness.present(&second.refresh, None), Outcome::Rotated(_)));
}

#[test]
fn successor_salt_with_an_idempotency_key_is_kept_for_the_recovery_window() {
    let mut harness = Harness::new(DEFAULT);
    let (session, first) = harness.open();
    harness.present(&first.refresh, Some("k"));
    harness.wait(DAY);
    assert_eq!(harness.clear_salts(&[session]), 0);
    assert_eq!(harness.sweep(), (0, 0));
    assert!(matches!(harness.present(&first.refresh, Some("k")), Outcome::Reissued(_)));
    harness.wait(SALT_MARGIN + SECOND);
    assert_eq!(harness.sweep(), (1, 0));
    let previous = harness.session(session).unwrap().previous.unwrap();
    assert!(previous.successor_salt.is_none() && previous.idempotency_key_digest.is_none());
    assert_eq!(harness.sweep(), (0, 0), "there is nothing left to do");
}

#[test]
fn successor_salt_of_a_killed_server_is_cleared() {
    let mut harness = Harness::new(DEFAULT);
    let (session, first) = harness.open();
    harness.present(&first.refresh, None);
    harness.wait(30 * SECOND + SALT_MARGIN);
    assert_eq!(harness.sweep(), (0, 0));
    harness.wait(SECOND);
    assert_eq!(harness.sweep(), (1, 0));
    assert!(harness.session(session).unwrap().previous.unwrap().successor_salt.is_none());
}

#[test]
fn successor_salt_of_a_late_commit_is_kept_until_its_date_is_corrected() {
    let mut harness = Harness::new(DEFAULT);
    let (_, first) = harness.open();
    let attempt = harness.prepare(&first.refresh, None, device());
    let Outcome::Rotated(second) = harness.carry_out(&attempt) else { panic!() };
    harness.wait(MINUTE);
    // The sweeper of another server.
    assert_eq!(harness.sweep(), (0, 0));
    harness.redate(&attempt);
    assert_eq!(harness.present(&first.refresh, None), Outcome::Reissued(second));
}

#[test]
fn strict_mode_stores_no_successor_salt() {
    let mut harness = Harness::new(STRICT);
    let (session, first) = harness.open();
    harness.present(&first.refresh, Some("k"));
    let previous = harness.session(session).unwrap().previous.unwrap();
    assert!(previous.successor_salt.is_none() && previous.idempotency_key_digest.is_none());
}

#[test]
fn successor_salt_is_deleted_with_its_session() {
    let mut harness = Harness::new(DEFAULT);
    let (session, first) = harness.open();
    harness.present(&first.refresh, Some("k"));
    harness.log_out(session);
    assert_eq!(harness.sweep(), (1, 0));
}

#[test]
fn ended_session_is_deleted_after_retention_and_a_live_one_is_not() {
    let mut harness = Harness::new(DEFAULT);
    let (out, _) = harness.open();
    let (idle, idle_token) = harness.open();
    let (live, mut live_token) = harness.open();
    harness.log_out(out);
    let mut deleted = Vec::new();
    // The owner of the third session refreshes every day; the sweeper runs every day.
    for day in 1..=60 {
        harness.wait(DAY);
        let Outcome::Rotated(pair) = harness.present(&live_token.refresh, None) else { panic!() };
        live_token = pair;
        if harness.sweep().1 > 0 {
            deleted.push(day);
        }
    }
    assert_eq!(deleted, [7, 37], "a week after its end: logged out, not refreshed");
    for session in [out, idle] {
        assert!(harness.session(session).is_none());
    }
    assert!(harness.session(live).is_some());
    assert_eq!(
        harness.present(&idle_token.refresh, None),
        Outcome::Rejected(InvalidGrantReason::Unknown)
    );
    assert_eq!(
        harness.events().last().unwrap(),
        &("refresh_rejected".to_owned(), "unknown".to_owned())
    );
}

#[test]
fn refreshed_session_is_kept_until_its_absolute_expiry() {
    let mut harness = Harness::new(DEFAULT);
    let (session, mut token) = harness.open();
    for _ in 0..3 {
        harness.wait(29 * DAY);
        let Outcome::Rotated(pair) = harness.present(&token.refresh, None) else { panic!() };
        token = pair;
        assert_eq!(harness.sweep(), (0, 0));
    }
    // The ninety days end in three, and retention adds a week.
    harness.wait(9 * DAY);
    assert_eq!(harness.sweep().1, 0);
    harness.wait(DAY);
    assert_eq!(harness.sweep().1, 1);
    assert!(harness.session(session).is_none());
}

#[test]
fn pass_visits_every_session_in_small_steps() {
    let mut harness = Harness::new(DEFAULT);
    for _ in 0..25 {
        let (session, _) = harness.open();
        harness.log_out(session);
        harness.wait(SECOND);
    }
    harness.wait(7 * DAY);
    let (mut at, mut deleted) = (None, Vec::new());
    loop {
        let (policy, now) = (harness.policy, harness.now);
        let page = Page { after: at, limit: 10 };
        let swept = sessions::sweep(&mut harness.conn, page, &policy, now).unwrap();
        deleted.push(swept.deleted);
        let Some(last) = swept.last else { break };
        at = Some(last);
    }
    assert_eq!(deleted, [10, 10, 5, 0]);
}

#[actix_rt::test]
async fn server_clears_salts_of_its_own_rotations_before_the_next_pass() {
    let mut harness = Harness::new(DEFAULT);
    harness.now = clock::now().before(2 * MINUTE + SALT_MARGIN);
    for _ in 0..ROWS_PER_TICK {
        harness.open();
    }
    harness.wait(SECOND);
    let mut rotated = Vec::new();
    // The last in the order of a pass.
    let last = Place::all().last().unwrap();
    let mut users = std::iter::repeat_with(UserId::random).filter(|user| user.place() == last);
    for key in [None, None, Some("k")] {
        let (session, first) = harness.open_as(users.next().unwrap());
        harness.present(&first.refresh, key);
        rotated.push(session);
    }
    let salts = "SELECT count(successor_salt) AS number FROM sessions";
    let (mut sweeper, salt_expiry) = Sweeper::new(harness.store(), DEFAULT, DAY);
    // This sweeper tracks the first session, not the second.
    salt_expiry.track(rotated[0], harness.now, &DEFAULT);
    sweeper.tick().await.unwrap();
    assert!(harness.session(rotated[0]).unwrap().previous.unwrap().successor_salt.is_none());
    assert_eq!(harness.number(salts), 2);
    sweeper.tick().await.unwrap();
    assert_eq!(harness.number(salts), 1, "come across; the idempotency key keeps its own");
}

#[actix_rt::test]
async fn revocation_is_kept_for_the_clock_skew_between_servers() {
    let mut harness = Harness::new(DEFAULT);
    let mut log_out_expired = |expired_for| {
        harness.now = clock::now().before(DEFAULT.access_lifetime + expired_for);
        let (session, _) = harness.open();
        harness.log_out(session);
        session
    };
    let recent = log_out_expired(30 * SECOND);
    let old = log_out_expired(61 * SECOND);
    let (mut sweeper, _salt_expiry) = Sweeper::new(harness.store(), DEFAULT, DAY);
    sweeper.tick().await.unwrap();
    let kept = revocations::for_sessions(&mut harness.conn, &[recent, old]).unwrap();
    let kept: Vec<_> = kept.iter().map(|revocation| revocation.session_id).collect();
    assert_eq!(kept, [recent], "another server may still accept its access token");
}

#[actix_rt::test]
async fn expired_link_is_deleted_and_a_valid_one_kept() {
    let mut harness = Harness::new(DEFAULT);
    for seconds in [62, 58] {
        let digest = Secret::random().unwrap().digest();
        let expires_at = clock::now().before(seconds * SECOND);
        let link = NewLink {
            digest,
            purpose: Purpose::Reset,
            user: UserId::random(),
            name: None,
            password_hash: None,
            is_admin: false,
            is_mailed: false,
            expires_at,
        };
        one_time_links::insert(&mut harness.conn, &link, expires_at).unwrap();
    }
    let (mut sweeper, _salt_expiry) = Sweeper::new(harness.store(), DEFAULT, DAY);
    sweeper.tick().await.unwrap();
    let links = "SELECT count(*) AS number FROM one_time_links";
    assert_eq!(harness.number(links), 1, "the clocks of servers may differ by a minute");
}

#[test]
fn old_audit_events_are_deleted_and_new_ones_kept() {
    use matchbook_server::store::events::delete_old;
    let mut harness = Harness::new(DEFAULT);
    harness.open();
    harness.wait(MINUTE);
    let (session, _) = harness.open();
    harness.log_out(session);
    let before = harness.now;
    assert_eq!(delete_old(&mut harness.conn, Place::MIN, before, 10).unwrap().deleted, 1);
    assert_eq!(harness.number("SELECT count(*) AS number FROM events"), 2);
}

#[test]
#[ignore = "needs PostgreSQL: make test"]
fn locked_row_is_skipped_without_waiting() {
    let mut harness = Harness::new(DEFAULT);
    let (busy, first) = harness.open();
    let (other, second) = harness.open();
    let (_, third) = harness.open();
    for token in [&first, &second, &third] {
        harness.present(&token.refresh, None);
    }
    harness.wait(MINUTE + SALT_MARGIN);
    let mut other_server = harness.connection();
    other_server
        .transaction(|conn| {
            // Like a refresh, or the sweeper of another server.
            let change = format!("UPDATE sessions SET generation = 1 WHERE id = '{busy}'");
            diesel::RunQueryDsl::execute(diesel::sql_query(change), conn)?;
            harness.sql("SET lock_timeout = '1s'");
            assert_eq!(harness.clear_salts(&[busy, other]), 1);
            assert_eq!(harness.sweep(), (1, 0));
            diesel::QueryResult::Ok(())
        })
        .unwrap();
    assert_eq!(harness.sweep(), (1, 0), "its turn comes");
}

#[test]
fn concurrent_sweepers_clear_each_salt_once() {
    let mut harness = Harness::new(DEFAULT);
    for _ in 0..60 {
        let (_, first) = harness.open();
        harness.present(&first.refresh, None);
    }
    harness.wait(MINUTE + SALT_MARGIN);
    let (policy, now) = (harness.policy, harness.now);
    let servers: Vec<_> = (0..3)
        .map(|_| {
            let mut conn = harness.connection();
            std::thread::spawn(move || {
                let (mut at, mut cleared) = (None, 0);
                loop {
                    let page = Page { after: at, limit: 7 };
                    let swept = sessions::sweep(&mut conn, page, &policy, now).unwrap();
                    cleared += swept.cleared;
                    let Some(last) = swept.last else { return cleared };
                    at = Some(last);
                }
            })
        })
        .collect();
    let cleared: usize = servers.into_iter().map(|server| server.join().unwrap()).sum();
    // Rows that all of them skipped are handled in the next pass.
    assert_eq!(cleared + harness.sweep().0, 60);
    assert_eq!(harness.number("SELECT count(successor_salt) AS number FROM sessions"), 0);
}

#[test]
fn guests_without_login_or_without_sessions_are_deleted() {
    let mut harness = Harness::new(DEFAULT);
    let (day, week) = (DAY, 7 * DAY);
    let guest = |harness: &mut Harness| {
        let id = UserId::random();
        users::insert(&mut harness.conn, id, harness.now).unwrap();
        id
    };
    let unused = guest(&mut harness);
    let (ended, _) = harness.open();
    let gone = harness.session(ended).unwrap().user;
    harness.sql("DELETE FROM sessions");
    let (live, _) = harness.open();
    let kept = harness.session(live).unwrap().user;
    let sweep = |harness: &mut Harness| {
        let (unused, used) = (harness.now.before(day), harness.now.before(week));
        users::sweep(&mut harness.conn, Page { after: None, limit: 100 }, unused, used)
            .unwrap()
            .deleted
    };
    let exists = |harness: &mut Harness, id| users::exists(&mut harness.conn, id).unwrap();
    harness.wait(day);
    assert_eq!(sweep(&mut harness), 0);
    harness.wait(SECOND);
    let new = guest(&mut harness);
    assert_eq!(sweep(&mut harness), 1);
    assert!(!exists(&mut harness, unused) && exists(&mut harness, new));
    assert!(exists(&mut harness, gone), "its session may still be asked about");
    harness.wait(week);
    users::use_login(&mut harness.conn, new, harness.now).unwrap();
    assert_eq!(sweep(&mut harness), 1);
    assert!(!exists(&mut harness, gone) && exists(&mut harness, kept));
    assert!(exists(&mut harness, new), "it is logging in");
    assert!(harness.session(live).is_some());
}

#[test]
fn imported_refresh_tokens_are_deleted_when_they_expire_or_long_after_their_use() {
    let mut harness = Harness::new(DEFAULT);
    let now = harness.now;
    let conn = &mut harness.conn;
    let user = |n: u8| UserId(uuid::Uuid::from_u128(u128::from(n) + 1));
    let digest = |n: u8| Digest::from_bytes(&[n; 32]).unwrap();
    let imported: Vec<ImportedUser> = [now.before(SECOND), now.after(SECOND), now.after(DAY)]
        .into_iter()
        .zip(0..)
        .map(|(expires_at, n)| ImportedUser {
            user: user(n),
            name: format!("user{n}"),
            kind: "username",
            created_at: now,
            verified_at: None,
            display_name: None,
            password_hash: None,
            is_admin: false,
            disabled_at: None,
            refresh_tokens: vec![(digest(n), expires_at)],
        })
        .collect();
    import::insert(conn, &imported, &[], now).unwrap();
    let session = SessionId::new(user(2), now).unwrap();
    assert!(imported_refresh_tokens::claim(conn, digest(2), session, now).unwrap());
    assert!(!imported_refresh_tokens::claim(conn, digest(2), session, now).unwrap());
    assert!(!imported_refresh_tokens::claim(conn, digest(0), session, now).unwrap(), "expired");
    let mut sweep = |now, used| {
        let page = Page { after: None, limit: 2 };
        let first = imported_refresh_tokens::sweep(conn, page, now, used).unwrap();
        let page = Page { after: first.last, limit: 2 };
        first.deleted + imported_refresh_tokens::sweep(conn, page, now, used).unwrap().deleted
    };
    assert_eq!(sweep(now, now.before(DAY)), 1);
    assert_eq!(sweep(now.after(2 * DAY), now), 1, "the used one is kept");
    assert_eq!(sweep(now.after(2 * DAY), now.after(SECOND)), 1);
    assert!(!imported_refresh_tokens::any(conn).unwrap());
}
