//! Random histories, whoever acts in them, against the model.

use std::collections::BTreeMap;
use std::time::Duration;

use matchbook_server::clock::Timestamp;
use matchbook_server::sessions::Policy;
use matchbook_shared::Reason;
use proptest::prelude::*;

use crate::model::{Expected, Model};
use crate::subject::{
    Answer, DAY, DEFAULT, EXCLUSIVE, HOUR, MINUTE, Pair, SECOND, STRICT, Subject, device, play_all,
};

/// What can happen.
#[derive(Debug, Clone)]
enum Action {
    /// Somebody shows a token: so many generations before the newest.
    Show { age: usize, key: Option<u8> },
    /// Time goes by.
    Wait(Duration),
    /// The clock is set back.
    SetBack(Duration),
    /// The user logs out.
    LogOut,
    /// The sweeper was told of the rotation.
    ClearSalt,
    /// The sweeper comes across the row.
    Sweep,
    /// The operator erases the salt, whenever that may be.
    EraseSalt,
    /// The operator has the session expire.
    Expire,
    /// The server starts anew with another secret; the old one is listed.
    ChangeSecret,
    /// The server starts anew with another lifetime of access tokens.
    ChangeLifetime(Duration),
    /// Somebody shows the newest token, and it is carried out after the deadline.
    ShowTooLate,
}

fn action() -> impl Strategy<Value = Action> {
    let age = prop_oneof![6 => Just(0usize), 6 => Just(1), 2 => Just(2), 1 => 3..6usize];
    let key = prop_oneof![Just(None), (0..2u8).prop_map(Some)];
    let duration = prop_oneof![
        4 => 0..5_000_000u64,
        2 => 29_000_000..=31_000_000u64,
        2 => Just(30_000_000u64),
        1 => (0..120u64).prop_map(|minutes| minutes * 60_000_000),
        1 => 86_399_000_000..=86_401_000_000u64,
        2 => (1..89u64).prop_map(|days| days * 86_400_000_000),
    ]
    .prop_map(Duration::from_micros);
    prop_oneof![
        12 => (age, key).prop_map(|(age, key)| Action::Show { age, key }),
        6 => duration.prop_map(Action::Wait),
        1 => (0..3_600_000_000u64).prop_map(|micros| Action::SetBack(Duration::from_micros(micros))),
        1 => Just(Action::LogOut),
        2 => Just(Action::ClearSalt),
        2 => Just(Action::Sweep),
        1 => Just(Action::EraseSalt),
        1 => Just(Action::Expire),
        1 => Just(Action::ChangeSecret),
        1 => (1..3600u64).prop_map(|secs| Action::ChangeLifetime(Duration::from_secs(secs))),
        1 => Just(Action::ShowTooLate),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let rules = prop_oneof![3 => Just(DEFAULT), 2 => Just(EXCLUSIVE), 1 => Just(STRICT)];
    // Where a session may rest as long as it may live, its absolute end is met.
    let idle = prop_oneof![Just(DEFAULT.idle_lifetime), Just(DEFAULT.absolute_lifetime)];
    (rules, idle).prop_map(|(rules, idle_lifetime)| Policy { idle_lifetime, ..rules })
}

/// What was ever answered.
#[derive(Default)]
struct Seen {
    /// The tokens by generation.
    chain: Vec<Pair>,
    /// Whether the lifetime of access tokens was ever changed.
    lifetime_changed: bool,
    /// What showing a token has brought.
    successors: BTreeMap<String, String>,
}

#[test]
fn every_history_goes_as_the_model_says() {
    let histories = (policy(), prop::collection::vec(action(), 1..50));
    play_all(histories, |subject, (policy, actions)| play(subject, policy, &actions));
}

fn play(subject: &mut Subject, policy: Policy, actions: &[Action]) {
    subject.begin(policy);
    let (session, first) = subject.open();
    let mut model = Model::open(policy, subject.now);
    let mut seen = Seen { chain: vec![first], ..Seen::default() };
    let mut over = false;
    for action in actions {
        match action {
            Action::Wait(duration) => subject.wait(*duration),
            Action::SetBack(duration) => subject.now = subject.now.before(*duration),
            Action::ChangeSecret => subject.change_secret(),
            Action::ChangeLifetime(lifetime) => {
                subject.policy.access_lifetime = *lifetime;
                model.set_access_lifetime(*lifetime);
                seen.lifetime_changed = true;
            }
            Action::ShowTooLate => {
                let newest = seen.chain.last().unwrap().refresh.clone();
                let late = subject.attempt(&newest, Some("late"), device());
                let answer = subject.carry_out(&late.until(Timestamp::from_secs(0)));
                match model.is_over(subject.now) {
                    None => assert_eq!(answer, Answer::TooLate),
                    Some(reason) => assert_eq!(answer, Answer::Refused(reason)),
                }
            }
            Action::LogOut => {
                subject.log_out(session);
                model.log_out(subject.now);
                over = true;
            }
            Action::ClearSalt => {
                subject.clear_salts(&[session]);
                model.clear_salt(subject.now);
            }
            Action::Sweep => {
                subject.sweep();
                model.sweep(subject.now);
                assert_eq!(subject.standing(session).is_some(), model.state().0);
            }
            Action::EraseSalt => {
                subject.sql("UPDATE sessions SET salt = NULL");
                model.erase_salt();
            }
            Action::Expire => {
                subject.expire();
                model.expire(subject.now);
            }
            Action::Show { age, key } => {
                let generation = (seen.chain.len() - 1).saturating_sub(*age);
                let expected = model.show(generation, *key, subject.now);
                let answer = show(subject, &mut seen, generation, *key, expected);
                assert!(!over || !answer, "what has ended never yields a token again");
                // An expiry can be undone by the clock.
                over |= matches!(
                    expected,
                    Expected::Refused(Reason::Reuse | Reason::LoggedOut | Reason::Unknown)
                );
            }
        }
        let (exists, live) = model.state();
        if exists {
            let standing = subject.standing(session).unwrap();
            assert_eq!(usize::try_from(standing.generation).unwrap(), live);
            assert_eq!(live + 1, seen.chain.len(), "one token for each generation");
        }
    }
}

/// Shows a token and compares; answers whether there was a grant.
fn show(
    subject: &mut Subject,
    seen: &mut Seen,
    generation: usize,
    key: Option<u8>,
    expected: Expected,
) -> bool {
    let shown = seen.chain[generation].refresh.clone();
    let answer = subject.show(&shown, key.map(|key| key.to_string()).as_deref());
    let newest = seen.chain.len() - 1;
    let granted = match (&answer, expected) {
        (Answer::Rotated(pair), Expected::Rotated) => {
            assert!(!seen.chain.iter().any(|old| old.refresh == pair.refresh));
            seen.chain.push(pair.clone());
            pair
        }
        (Answer::Repeated(pair), Expected::Repeated) => {
            let before = &seen.chain[newest];
            assert_eq!((&pair.refresh, &pair.jti), (&before.refresh, &before.jti), "the same pair");
            // Only a change of the settings shortens it.
            assert!(pair.expires_at == before.expires_at || seen.lifetime_changed);
            pair
        }
        (Answer::Repeated(pair), Expected::RepeatedAfresh) => {
            assert_eq!(pair.refresh, seen.chain[newest].refresh, "the same refresh token");
            assert_ne!(pair.jti, seen.chain[newest].jti, "another access token");
            assert!(pair.expires_at > subject.now.as_micros());
            seen.chain[newest] = pair.clone();
            pair
        }
        (Answer::Refused(reason), Expected::Refused(expected)) => {
            assert_eq!(*reason, expected);
            return false;
        }
        _ => panic!("{answer:?} where the model says {expected:?}"),
    };
    assert!(generation + 2 >= seen.chain.len(), "two generations old, and it yields something");
    let session = subject.parse(&granted.refresh).session;
    let until = subject.standing(session).unwrap().access_until.unwrap();
    assert!(granted.expires_at <= until.as_micros(), "its end is forgotten before it expires");
    let before = seen.successors.insert(shown, granted.refresh.clone());
    assert!(before.is_none_or(|before| before == granted.refresh), "one successor for each token");
    true
}

#[test]
fn the_edges_of_the_window_and_of_recovery_are_within() {
    let micro = Duration::from_micros(1);
    for (wait, key, granted) in [
        (30 * SECOND, None, true),
        (30 * SECOND + micro, None, false),
        (30 * SECOND + micro, Some("k"), true),
        (DAY, Some("k"), true),
        (DAY + micro, Some("k"), false),
        (MINUTE, Some("other"), false),
        (HOUR, None, false),
    ] {
        let mut subject = Subject::new(DEFAULT);
        let (_, first) = subject.open();
        subject.show(&first.refresh, Some("k"));
        subject.wait(wait);
        let answer = subject.show(&first.refresh, key);
        assert_eq!(matches!(answer, Answer::Repeated(_)), granted, "{wait:?} {key:?}: {answer:?}");
    }
}

#[test]
fn of_two_that_renew_an_expired_access_token_one_gets_its_way() {
    use matchbook_server::store::sessions::renew_access;
    use matchbook_server::token::RotationRandomness;
    let mut subject = Subject::new(DEFAULT);
    let (session, first) = subject.open();
    subject.show(&first.refresh, Some("k"));
    subject.wait(HOUR);
    // Both have seen the same row.
    let seen = subject.standing(session).unwrap();
    let (now, until) = (subject.now, subject.now.after(HOUR));
    let mut renew = || {
        let access = RotationRandomness::generate(now).unwrap().access;
        renew_access(&mut subject.conn, session, &seen, access, until, now)
    };
    assert_eq!((renew(), renew()), (Ok(true), Ok(false)));
}

#[test]
fn a_session_ends_when_it_rests_too_long_and_at_its_absolute_end_in_any_case() {
    let mut subject = Subject::new(DEFAULT);
    let (_, resting) = subject.open();
    let (_, mut busy) = subject.open();
    for _ in 0..3 {
        subject.wait(29 * DAY);
        let Answer::Rotated(pair) = subject.show(&busy.refresh, None) else { panic!() };
        busy = pair;
    }
    let idle = subject.show(&resting.refresh, None);
    assert_eq!(idle, Answer::Refused(Reason::ExpiredIdle), "its absolute end is still to come");
    subject.wait(3 * DAY);
    assert_eq!(subject.show(&busy.refresh, None), Answer::Refused(Reason::ExpiredAbsolute));
}
