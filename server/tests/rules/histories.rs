//! Random histories of all actors, compared with the model.

use std::collections::BTreeMap;
use std::time::Duration;

use matchbook_server::clock::Timestamp;
use matchbook_server::sessions::Policy;
use matchbook_shared::InvalidGrantReason;
use proptest::prelude::*;

use crate::harness::{
    DAY, DEFAULT, HOUR, Harness, MINUTE, Outcome, SAME_KEY_ONLY, SECOND, STRICT, TokenPair,
    check_histories, device,
};
use crate::model::{Expected, Model};

/// An action.
#[derive(Debug, Clone)]
enum Action {
    /// A client presents a token, `n` generations before the newest.
    Show { age: usize, key: Option<u8> },
    /// Lets time pass.
    Wait(Duration),
    /// The clock is set back.
    SetBack(Duration),
    /// Logs the user out.
    LogOut,
    /// The sweeper tracks the rotation.
    ClearSalt,
    /// The sweeper visits the row in its pass.
    Sweep,
    /// An operator erases the successor salt.
    EraseSalt,
    /// An operator makes the session expire.
    Expire,
    /// The server restarts with a new secret; the old one is listed.
    ChangeSecret,
    /// The server restarts with another lifetime of access tokens.
    ChangeLifetime(Duration),
    /// A client presents the newest token, and the refresh is executed after its deadline.
    PresentTooLate,
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
        1 => Just(Action::PresentTooLate),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let rules = prop_oneof![3 => Just(DEFAULT), 2 => Just(SAME_KEY_ONLY), 1 => Just(STRICT)];
    // With equal idle and absolute lifetimes the absolute expiry is reached.
    let idle = prop_oneof![Just(DEFAULT.idle_lifetime), Just(DEFAULT.absolute_lifetime)];
    (rules, idle).prop_map(|(rules, idle_lifetime)| Policy { idle_lifetime, ..rules })
}

/// All responses so far.
#[derive(Default)]
struct Seen {
    /// The tokens by generation.
    chain: Vec<TokenPair>,
    /// Whether the lifetime of access tokens has changed.
    lifetime_changed: bool,
    /// The pairs returned for presented tokens.
    successors: BTreeMap<String, String>,
}

#[test]
fn random_histories_match_the_model() {
    let histories = (policy(), prop::collection::vec(action(), 1..50));
    check_histories(histories, |harness, (policy, actions)| play(harness, policy, &actions));
}

fn play(harness: &mut Harness, policy: Policy, actions: &[Action]) {
    harness.begin(policy);
    let (session, first) = harness.open();
    let mut model = Model::open(policy, harness.now);
    let mut seen = Seen { chain: vec![first], ..Seen::default() };
    let mut over = false;
    for action in actions {
        match action {
            Action::Wait(duration) => harness.wait(*duration),
            Action::SetBack(duration) => harness.now = harness.now.before(*duration),
            Action::ChangeSecret => harness.change_secret(),
            Action::ChangeLifetime(lifetime) => {
                harness.policy.access_lifetime = *lifetime;
                model.set_access_lifetime(*lifetime);
                seen.lifetime_changed = true;
            }
            Action::PresentTooLate => {
                let newest = seen.chain.last().unwrap().refresh.clone();
                let late = harness.prepare(&newest, Some("late"), device());
                let response = harness.carry_out(&late.until(Timestamp::from_secs(0)));
                match model.is_over(harness.now) {
                    None => assert_eq!(response, Outcome::TimedOut),
                    Some(reason) => assert_eq!(response, Outcome::Rejected(reason)),
                }
            }
            Action::LogOut => {
                harness.log_out(session);
                model.log_out(harness.now);
                over = true;
            }
            Action::ClearSalt => {
                harness.clear_salts(&[session]);
                model.clear_salt(harness.now);
            }
            Action::Sweep => {
                harness.sweep();
                model.sweep(harness.now);
                assert_eq!(harness.session(session).is_some(), model.state().0);
            }
            Action::EraseSalt => {
                harness.sql("UPDATE sessions SET successor_salt = NULL");
                model.erase_salt();
            }
            Action::Expire => {
                harness.expire();
                model.expire(harness.now);
            }
            Action::Show { age, key } => {
                let generation = (seen.chain.len() - 1).saturating_sub(*age);
                let expected = model.present(generation, *key, harness.now);
                let response = present(harness, &mut seen, generation, *key, expected);
                assert!(!over || !response, "an ended session issues no token");
                // Setting the clock back can undo an expiry.
                over |= matches!(
                    expected,
                    Expected::Rejected(
                        InvalidGrantReason::Reuse
                            | InvalidGrantReason::LoggedOut
                            | InvalidGrantReason::Unknown
                    )
                );
            }
        }
        let (exists, live) = model.state();
        if exists {
            let row = harness.session(session).unwrap();
            assert_eq!(usize::try_from(row.generation).unwrap(), live);
            assert_eq!(live + 1, seen.chain.len(), "one token for each generation");
        }
    }
}

/// Presents a token and compares with the model; returns whether tokens were issued.
fn present(
    harness: &mut Harness,
    seen: &mut Seen,
    generation: usize,
    key: Option<u8>,
    expected: Expected,
) -> bool {
    let presented = seen.chain[generation].refresh.clone();
    let response = harness.present(&presented, key.map(|key| key.to_string()).as_deref());
    let newest = seen.chain.len() - 1;
    let granted = match (&response, expected) {
        (Outcome::Rotated(pair), Expected::Rotated) => {
            assert!(!seen.chain.iter().any(|old| old.refresh == pair.refresh));
            seen.chain.push(pair.clone());
            pair
        }
        (Outcome::Reissued(pair), Expected::Reissued) => {
            let before = &seen.chain[newest];
            assert_eq!((&pair.refresh, &pair.jti), (&before.refresh, &before.jti), "the same pair");
            // Only a settings change shortens it.
            assert!(pair.expires_at == before.expires_at || seen.lifetime_changed);
            pair
        }
        (Outcome::Reissued(pair), Expected::ReissuedWithNewAccess) => {
            assert_eq!(pair.refresh, seen.chain[newest].refresh, "the same refresh token");
            assert_ne!(pair.jti, seen.chain[newest].jti, "another access token");
            assert!(pair.expires_at > harness.now.as_micros());
            seen.chain[newest] = pair.clone();
            pair
        }
        (Outcome::Rejected(reason), Expected::Rejected(expected)) => {
            assert_eq!(*reason, expected);
            return false;
        }
        _ => panic!("{response:?} where the model says {expected:?}"),
    };
    assert!(generation + 2 >= seen.chain.len(), "two generations old, and it yields something");
    let session = harness.parse(&granted.refresh).session;
    let until = harness.session(session).unwrap().access_expires_at;
    assert!(granted.expires_at <= until.as_micros(), "its end is forgotten before it expires");
    let before = seen.successors.insert(presented, granted.refresh.clone());
    assert!(before.is_none_or(|before| before == granted.refresh), "one successor for each token");
    true
}

#[test]
fn grace_period_and_recovery_window_include_their_last_instant() {
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
        let mut harness = Harness::new(DEFAULT);
        let (_, first) = harness.open();
        harness.present(&first.refresh, Some("k"));
        harness.wait(wait);
        let response = harness.present(&first.refresh, key);
        assert_eq!(
            matches!(response, Outcome::Reissued(_)),
            granted,
            "{wait:?} {key:?}: {response:?}"
        );
    }
}

#[test]
fn concurrent_access_token_renewals_succeed_once() {
    use matchbook_server::store::sessions::{AccessRenewal, renew_access};
    use matchbook_server::tokens::RotationRandomness;
    let mut harness = Harness::new(DEFAULT);
    let (session, first) = harness.open();
    harness.present(&first.refresh, Some("k"));
    harness.wait(HOUR);
    // Both requests have read the same row.
    let seen = harness.session(session).unwrap();
    let (now, until) = (harness.now, harness.now.after(HOUR));
    let mut renew = || {
        let access = RotationRandomness::generate(now).unwrap().access;
        let renewal = AccessRenewal { access, expires_at: until, now };
        renew_access(&mut harness.conn, session, &seen, &renewal)
    };
    assert_eq!((renew(), renew()), (Ok(true), Ok(false)));
}

#[test]
fn session_ends_at_idle_expiry_and_at_absolute_expiry() {
    let mut harness = Harness::new(DEFAULT);
    let (_, resting) = harness.open();
    let (_, mut busy) = harness.open();
    for _ in 0..3 {
        harness.wait(29 * DAY);
        let Outcome::Rotated(pair) = harness.present(&busy.refresh, None) else { panic!() };
        busy = pair;
    }
    let idle = harness.present(&resting.refresh, None);
    assert_eq!(
        idle,
        Outcome::Rejected(InvalidGrantReason::ExpiredIdle),
        "its absolute end is still to come"
    );
    harness.wait(3 * DAY);
    assert_eq!(
        harness.present(&busy.refresh, None),
        Outcome::Rejected(InvalidGrantReason::ExpiredAbsolute)
    );
}
