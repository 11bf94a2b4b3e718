//! The device authorization grant: the intervals of polls, the decision of the user, and races
//! between servers.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use matchbook_server::clock;
use matchbook_server::crypto::{Secret, TokenKey};
use matchbook_server::ids::{EventId, LoginSessionId, SessionId, UserId};
use matchbook_server::sessions::{
    self, Context, DeviceDecided, DevicePoll, EndReason, Keep, POLL_INTERVAL, UserSessions,
};
use matchbook_server::store::accounts::{self, NewAccount};
use matchbook_server::store::device_codes::{self, Approval, DeviceRequest};
use matchbook_server::store::login_sessions::{self, NewLoginSession};
use matchbook_server::store::{Conn, users};
use matchbook_server::sweeper::Sweeper;
use matchbook_server::tokens::{DeviceCode, Scope, UserCode};

use crate::harness::{CLIENT, DAY, DEFAULT, HOUR, Harness, MINUTE, SECOND, device};

/// How long a user code is valid.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How many times a race is run. Its outcome varies.
const RACES: usize = 20;

impl Harness {
    /// Inserts the request of a device.
    fn begin_device(&mut self) -> DeviceCode {
        let user_code = UserCode::random().unwrap().mac(&TokenKey::new(&[1; 32]));
        let code = DeviceCode { user_code, secret: Secret::random().unwrap() };
        let request = DeviceRequest {
            client: CLIENT.into(),
            scope: Scope::parse("read").unwrap(),
            audiences: Vec::new(),
            expires_at: self.now.after(LIFETIME),
            poll_interval: POLL_INTERVAL,
        };
        let (conn, digest) = (&mut self.conn, code.secret.digest());
        assert!(device_codes::insert(conn, user_code, &digest, &request, self.now).unwrap());
        assert!(!device_codes::insert(conn, user_code, &digest, &request, self.now).unwrap());
        code
    }

    /// Logs a new account in at the pages.
    fn approval(&mut self) -> Approval {
        let user = UserId::random();
        users::insert(&mut self.conn, user, self.now).unwrap();
        let account = NewAccount { user, display_name: None, password_hash: None, is_admin: false };
        assert!(accounts::insert(&mut self.conn, account, self.now).unwrap());
        let id = LoginSessionId::new(user, self.now).unwrap();
        let login = NewLoginSession {
            id,
            user,
            secret: Secret::random().unwrap().digest(),
            now: self.now,
            idle_expires_at: self.now.after(HOUR),
            expires_at: self.now.after(HOUR),
            user_agent: None,
            ip: None,
        };
        login_sessions::insert(&mut self.conn, &login).unwrap();
        Approval { user, auth_time: self.now, login_session: id }
    }

    fn poll(&mut self, code: &DeviceCode) -> DevicePoll {
        sessions::poll_device(&mut self.conn, code, self.now).unwrap()
    }

    fn approve(&mut self, code: &DeviceCode, approval: Approval) -> DeviceDecided {
        sessions::approve_device(&mut self.conn, code.user_code, approval, true, self.now).unwrap()
    }

    fn deny(&mut self, code: &DeviceCode, user: UserId) -> DeviceDecided {
        sessions::deny_device(&mut self.conn, code.user_code, user, self.now).unwrap()
    }

    fn issue(&mut self, code: &DeviceCode, user: UserId) -> Option<SessionId> {
        let session = SessionId::new(user, self.now).unwrap();
        sessions::issue_code_of_device(&mut self.conn, code, session, self.now).unwrap()
    }

    fn rows(&mut self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) AS number FROM {table}"))
    }

    /// Runs both on connections of their own at once, and returns their results.
    fn race<A: Send + 'static, B: Send + 'static>(
        &self,
        one: impl FnOnce(&mut Conn) -> A + Send + 'static,
        other: impl FnOnce(&mut Conn) -> B + Send + 'static,
    ) -> (A, B) {
        let barrier = Arc::new(Barrier::new(2));
        let (mut first, mut second) = (self.connection(), self.connection());
        let there = barrier.clone();
        let thread = std::thread::spawn(move || {
            there.wait();
            other(&mut second)
        });
        barrier.wait();
        let one = one(&mut first);
        (one, thread.join().unwrap())
    }
}

#[test]
fn each_poll_that_comes_too_early_makes_the_interval_five_seconds_longer() {
    let mut harness = Harness::new(DEFAULT);
    let code = harness.begin_device();
    assert_eq!(harness.poll(&code), DevicePoll::Pending);
    for (seconds, expected) in [
        (5, DevicePoll::Pending),
        // The way to the server may take a second less than before.
        (4, DevicePoll::Pending),
        (3, DevicePoll::TooEarly),
        (8, DevicePoll::TooEarly),
        (13, DevicePoll::TooEarly),
        (20, DevicePoll::Pending),
        (18, DevicePoll::TooEarly),
        (24, DevicePoll::Pending),
    ] {
        harness.wait(seconds * SECOND);
        assert_eq!(harness.poll(&code), expected, "after {seconds} s");
    }
}

#[test]
fn approval_is_seen_by_a_poll_that_comes_too_early_as_well() {
    let mut harness = Harness::new(DEFAULT);
    let code = harness.begin_device();
    let approval = harness.approval();
    harness.poll(&code);
    assert_eq!(harness.poll(&code), DevicePoll::TooEarly);
    assert_eq!(harness.approve(&code, approval), DeviceDecided::Done);
    let user = approval.user;
    assert_eq!(harness.poll(&code), DevicePoll::Approved { user, session: None });
    let session = harness.issue(&code, user);
    assert!(session.is_some());
    assert_eq!(harness.issue(&code, user), session, "once");
    // Its code decides whether a later poll is a repetition.
    harness.wait(2 * LIFETIME);
    assert_eq!(harness.poll(&code), DevicePoll::Approved { user, session });
}

#[test]
fn request_expires_at_its_time() {
    let mut harness = Harness::new(DEFAULT);
    let approval = harness.approval();
    let [pending, approved, denied] = [(); 3].map(|()| harness.begin_device());
    harness.wait(Duration::from_micros(599_999_999));
    assert_eq!(harness.poll(&pending), DevicePoll::Pending);
    assert_eq!(harness.approve(&approved, approval), DeviceDecided::Done);
    assert_eq!(harness.deny(&denied, approval.user), DeviceDecided::Done);
    harness.wait(Duration::from_micros(1));
    for code in [&pending, &approved] {
        assert_eq!(harness.poll(code), DevicePoll::Expired);
        assert_eq!(harness.issue(code, approval.user), None);
    }
    assert_eq!(harness.poll(&denied), DevicePoll::Denied);
    assert_eq!(harness.approve(&pending, approval), DeviceDecided::TooLate);
    assert_eq!(harness.deny(&pending, approval.user), DeviceDecided::TooLate);
    assert_eq!(harness.rows("authorization_codes"), 0);
}

#[test]
fn secret_of_the_device_code_is_compared() {
    let mut harness = Harness::new(DEFAULT);
    let code = harness.begin_device();
    let other = DeviceCode { secret: Secret::random().unwrap(), ..code.clone() };
    assert_eq!(harness.poll(&other), DevicePoll::Expired);
    assert_eq!(harness.poll(&code), DevicePoll::Pending);
}

#[test]
fn login_session_that_has_ended_approves_nothing() {
    let mut harness = Harness::new(DEFAULT);
    let code = harness.begin_device();
    let approval = harness.approval();
    harness.sql("DELETE FROM login_sessions");
    assert_eq!(harness.approve(&code, approval), DeviceDecided::LoggedOut);
    assert_eq!(harness.poll(&code), DevicePoll::Pending);
    assert_eq!(harness.rows("consents"), 0);
}

#[test]
fn concurrent_polls_issue_one_code() {
    let mut harness = Harness::new(DEFAULT);
    for done in 1..=RACES {
        let code = harness.begin_device();
        let approval = harness.approval();
        harness.approve(&code, approval);
        let (now, user) = (harness.now, approval.user);
        let poll = |code: DeviceCode| {
            let session = SessionId::new(user, now).unwrap();
            move |conn: &mut Conn| {
                sessions::issue_code_of_device(conn, &code, session, now).unwrap()
            }
        };
        let (one, other) = harness.race(poll(code.clone()), poll(code));
        assert!(one.is_some() && one == other, "{one:?} {other:?}");
        assert_eq!(harness.rows("authorization_codes"), i64::try_from(done).unwrap());
    }
}

#[test]
fn concurrent_decisions_make_one() {
    let mut harness = Harness::new(DEFAULT);
    for _ in 0..RACES {
        let code = harness.begin_device();
        let (approval, now) = (harness.approval(), harness.now);
        let (mac, user) = (code.user_code, harness.approval().user);
        let (approved, denied) = harness.race(
            move |conn| sessions::approve_device(conn, mac, approval, true, now).unwrap(),
            move |conn| sessions::deny_device(conn, mac, user, now).unwrap(),
        );
        let is_approved = approved == DeviceDecided::Done;
        assert_eq!(denied == DeviceDecided::Done, !is_approved, "{approved:?} {denied:?}");
        let expected = if is_approved {
            DevicePoll::Approved { user: approval.user, session: None }
        } else {
            DevicePoll::Denied
        };
        assert_eq!(harness.poll(&code), expected);
    }
}

/// Ends all sessions of a user, as the user or an operator does.
fn end_all(user: UserId, harness: &Harness) -> impl FnOnce(&mut Conn) + Send + 'static {
    let (now, policy) = (harness.now, harness.policy);
    move |conn| {
        let event = EventId::new(now).unwrap();
        let client = device();
        let cx = Context { policy: &policy, client: &client, event, now };
        let selected = UserSessions { user, keep: Keep::Nothing, reason: EndReason::LoggedOut };
        sessions::revoke_all(conn, selected, &cx).unwrap();
    }
}

#[test]
fn approval_does_not_survive_a_concurrent_end_of_all_sessions() {
    let mut harness = Harness::new(DEFAULT);
    for _ in 0..RACES {
        let code = harness.begin_device();
        let (approval, now) = (harness.approval(), harness.now);
        let mac = code.user_code;
        let end = end_all(approval.user, &harness);
        let approve = move |conn: &mut Conn| {
            sessions::approve_device(conn, mac, approval, true, now).unwrap()
        };
        let (approved, ()) = harness.race(approve, end);
        let expected = match approved {
            DeviceDecided::Done => DevicePoll::Expired,
            DeviceDecided::LoggedOut => DevicePoll::Pending,
            DeviceDecided::TooLate => panic!("not decided before"),
        };
        assert_eq!(harness.poll(&code), expected, "{approved:?}");
    }
}

#[test]
fn code_of_a_device_does_not_survive_a_concurrent_end_of_all_sessions() {
    let mut harness = Harness::new(DEFAULT);
    for _ in 0..RACES {
        let code = harness.begin_device();
        let approval = harness.approval();
        harness.approve(&code, approval);
        let (now, session) = (harness.now, SessionId::new(approval.user, harness.now).unwrap());
        let end = end_all(approval.user, &harness);
        let presented = code.clone();
        let issue = move |conn: &mut Conn| {
            sessions::issue_code_of_device(conn, &presented, session, now).unwrap();
        };
        harness.race(issue, end);
        assert_eq!((harness.rows("device_codes"), harness.rows("authorization_codes")), (0, 0));
    }
}

#[actix_rt::test]
async fn sweeper_deletes_expired_requests_and_keeps_others() {
    let mut harness = Harness::new(DEFAULT);
    for seconds in [62, 58] {
        harness.now = clock::now().before(LIFETIME + seconds * SECOND);
        harness.begin_device();
    }
    let (mut sweeper, _salt_expiry) = Sweeper::new(harness.store(), DEFAULT, DAY);
    sweeper.tick().await.unwrap();
    assert_eq!(harness.rows("device_codes"), 1, "the clocks of servers may differ by a minute");
}

#[test]
fn expired_requests_are_deleted_later_if_they_have_opened_a_session() {
    let mut harness = Harness::new(DEFAULT);
    let approval = harness.approval();
    harness.begin_device();
    let used = harness.begin_device();
    harness.approve(&used, approval);
    harness.issue(&used, approval.user);
    let mut sweep = |expired_for: Duration| {
        let now = harness.now.after(LIFETIME + expired_for);
        let (unused, used) = (now.before(MINUTE), now.before(HOUR));
        device_codes::delete_expired(&mut harness.conn, unused, used).unwrap()
    };
    assert_eq!([MINUTE, MINUTE + SECOND, HOUR, HOUR + SECOND].map(&mut sweep), [0, 1, 0, 1]);
}
