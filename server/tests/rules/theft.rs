//! Random histories with a thief, who copies tokens and presents them at any time.

use std::time::Duration;

use matchbook_server::sessions::{ClientInfo, EndReason, Policy};
use matchbook_server::store::sessions::State;
use matchbook_shared::InvalidGrantReason;
use proptest::prelude::*;

use crate::harness::{
    DEFAULT, Harness, Outcome, REISSUE, SAME_KEY_ONLY, SECOND, STRICT, check_histories, device,
};

#[derive(Debug, Clone)]
enum Action {
    /// The owner refreshes the newest token that it has.
    Owner { keyed: bool },
    /// The thief copies the owner's current token.
    Copy,
    /// The thief presents one of its tokens, with or without its own key.
    Thief { which: prop::sample::Index, keyed: bool },
    /// Lets time pass.
    Wait(Duration),
    /// The sweeper runs.
    Sweep,
}

fn action() -> impl Strategy<Value = Action> {
    let wait = prop_oneof![
        4 => (0..20_000u64).prop_map(Duration::from_millis),
        2 => Just(REISSUE.grace_period),
        1 => (31..7200u64).prop_map(Duration::from_secs),
    ];
    prop_oneof![
        4 => any::<bool>().prop_map(|keyed| Action::Owner { keyed }),
        2 => Just(Action::Copy),
        4 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, keyed)| Action::Thief { which, keyed }),
        4 => wait.prop_map(Action::Wait),
        1 => Just(Action::Sweep),
    ]
}

#[test]
fn thief_and_owner_never_hold_two_current_tokens() {
    let policies = prop_oneof![Just(DEFAULT), Just(SAME_KEY_ONLY), Just(STRICT)];
    let histories = (policies, prop::collection::vec(action(), 1..60));
    check_histories(histories, |harness, (policy, actions)| play(harness, policy, &actions));
}

fn play(harness: &mut Harness, policy: Policy, actions: &[Action]) {
    harness.begin(policy);
    let (session, first) = harness.open();
    let mut owner = first.refresh;
    let mut stolen: Vec<String> = Vec::new();
    // The tokens issued for each generation, and the origin of the newest.
    let mut chain = vec![owner.clone()];
    let (mut rotated_at, mut attempt) = (harness.now, None);
    // When each generation was rotated, and whether with a key.
    let mut rotations = Vec::new();
    let mut ever_keyed = false;
    let mut over = false;
    for action in actions {
        let (presented, key) = match action {
            Action::Owner { keyed } => (owner.clone(), keyed.then_some("owner")),
            Action::Thief { which, keyed } if !stolen.is_empty() => {
                (which.get(&stolen).clone(), keyed.then_some("thief"))
            }
            Action::Copy => {
                stolen.push(owner.clone());
                continue;
            }
            Action::Wait(duration) => {
                harness.wait(*duration);
                continue;
            }
            Action::Sweep => {
                harness.clear_salts(&[session]);
                harness.sweep();
                continue;
            }
            Action::Thief { .. } => continue,
        };
        let generation = chain.iter().position(|token| *token == presented).unwrap();
        let second = generation + 1 < chain.len();
        let age = harness.now.since(rotated_at);
        let is_owner = matches!(action, Action::Owner { .. });
        let again = generation + 2 == chain.len() && key.is_some() && key == attempt;
        let was_current = rotations.get(generation).map(|at| harness.now.since(*at));
        let must_end = if second {
            policy.reissue.is_none_or(|rules| {
                let late = age > if again { rules.recovery_window } else { rules.grace_period };
                // A token that was not current within four grace periods is reuse.
                let is_old = !again && was_current > Some(4 * rules.grace_period);
                late || is_old || (rules.same_key_only && ever_keyed && !again)
            })
        } else {
            ever_keyed && key.is_none() && policy.reissue.is_some_and(|rules| rules.same_key_only)
        };
        // A token that was current one grace period ago is not reuse.
        let may_end = must_end || was_current > Some(REISSUE.grace_period);
        let granted = match harness.present(&presented, key) {
            Outcome::Rotated(pair) => {
                assert!(!second && !over, "an old token was rotated");
                chain.push(pair.refresh.clone());
                (rotated_at, attempt) = (harness.now, key);
                rotations.push(harness.now);
                ever_keyed |= key.is_some();
                Some(pair.refresh)
            }
            Outcome::Reissued(pair) => {
                assert!(second && !over && !must_end, "the second one got something");
                assert_eq!(Some(&pair.refresh), chain.last(), "two live successors");
                Some(pair.refresh)
            }
            Outcome::TimedOut => panic!("there is no deadline"),
            Outcome::Rejected(reason) => {
                assert!(!must_end || reason == InvalidGrantReason::Reuse, "{reason:?}");
                if reason == InvalidGrantReason::Reuse {
                    assert!(may_end, "it was current a moment ago");
                    over = true;
                }
                assert!(over || reason == InvalidGrantReason::Superseded, "{reason:?}");
                None
            }
        };
        if over {
            // For owner and thief, permanently.
            for token in chain.clone() {
                assert_eq!(
                    harness.present(&token, key),
                    Outcome::Rejected(InvalidGrantReason::Reuse)
                );
            }
            return;
        }
        match granted {
            Some(token) if is_owner => owner = token,
            Some(token) => stolen.push(token),
            None => {}
        }
    }
    assert!(!over);
    // The theft may still be undetected; one late step ends the session.
    if chain.len() > 1 {
        harness.wait(REISSUE.grace_period + SECOND);
        let old = chain[chain.len() - 2].clone();
        assert_eq!(harness.present(&old, None), Outcome::Rejected(InvalidGrantReason::Reuse));
        let newest = chain[chain.len() - 1].clone();
        assert_eq!(harness.present(&newest, None), Outcome::Rejected(InvalidGrantReason::Reuse));
    }
}

/// A thief copies the current token and rotates so often that the last rotation
/// is always recent.
#[test]
fn rotating_thief_is_detected_when_the_owner_returns() {
    let mut harness = Harness::new(DEFAULT);
    for policy in [DEFAULT, SAME_KEY_ONLY] {
        for keyed in [false, true] {
            for every in [1, 10, 20, 29, 30] {
                harness.begin(policy);
                let (session, owner) = harness.open();
                let mut stolen = owner.refresh.clone();
                let mut rotate = |harness: &mut Harness| {
                    let key = keyed.then_some("thief");
                    let Outcome::Rotated(pair) = harness.present(&stolen, key) else {
                        panic!("the thief has the live token")
                    };
                    stolen = pair.refresh;
                };
                rotate(&mut harness);
                rotate(&mut harness);
                // Later than four grace periods, at any interval.
                let mut waited = Duration::ZERO;
                while waited <= 4 * REISSUE.grace_period {
                    harness.wait(every * SECOND);
                    waited += every * SECOND;
                    rotate(&mut harness);
                }
                let response = harness.present(&owner.refresh, Some("owner"));
                assert_eq!(
                    response,
                    Outcome::Rejected(InvalidGrantReason::Reuse),
                    "every {every} s"
                );
                let state = harness.session(session).unwrap().state;
                assert!(matches!(state, State::Ended { reason: EndReason::Reuse, .. }));
                assert_eq!(
                    harness.present(&stolen, None),
                    Outcome::Rejected(InvalidGrantReason::Reuse)
                );
            }
        }
    }
}

#[test]
fn tab_with_a_recently_current_token_is_superseded_however_often_others_rotate() {
    let mut harness = Harness::new(DEFAULT);
    let (_, first) = harness.open();
    let mut chain = vec![(first.refresh, harness.now)];
    for round in 0..200u32 {
        let Outcome::Rotated(pair) = harness.present(&chain.last().unwrap().0, None) else {
            panic!()
        };
        chain.last_mut().unwrap().1 = harness.now;
        chain.push((pair.refresh, harness.now));
        // Bursts and pauses.
        harness.wait(if round % 7 == 0 { REISSUE.grace_period } else { SECOND });
        for (token, rotated_at) in chain.iter().rev().skip(2).take(40) {
            if harness.now.since(*rotated_at) > REISSUE.grace_period {
                break;
            }
            assert_eq!(
                harness.present(token, None),
                Outcome::Rejected(InvalidGrantReason::Superseded)
            );
        }
    }
}

/// Without a key the thief goes first; the owner always sends one.
#[test]
fn same_key_only_session_rotated_with_a_key_requires_a_key() {
    let mut harness = Harness::new(SAME_KEY_ONLY);
    let (session, first) = harness.open();
    let Outcome::Rotated(second) = harness.present(&first.refresh, Some("one")) else { panic!() };
    let Outcome::Rotated(third) = harness.present(&second.refresh, Some("two")) else { panic!() };
    assert_eq!(harness.present(&third.refresh, None), Outcome::Rejected(InvalidGrantReason::Reuse));
    assert_ne!(harness.session(session).unwrap().state, State::Live);
}

#[test]
fn reissue_to_another_address_is_logged() {
    let elsewhere = || ClientInfo { ip: Some([198, 51, 100, 7].into()), ..device() };
    let mut harness = Harness::new(DEFAULT);
    let (_, first) = harness.open();
    let Outcome::Rotated(second) = harness.present(&first.refresh, Some("k")) else { panic!() };
    assert!(matches!(harness.present(&first.refresh, None), Outcome::Reissued(_)));
    assert!(matches!(
        harness.present_from(&first.refresh, None, elsewhere()),
        Outcome::Reissued(_)
    ));
    let Outcome::Rotated(_) = harness.present(&second.refresh, Some("l")) else { panic!() };
    assert_eq!(
        harness.present(&first.refresh, None),
        Outcome::Rejected(InvalidGrantReason::Superseded)
    );
    let superseded = harness.present_from(&first.refresh, None, elsewhere());
    assert_eq!(superseded, Outcome::Rejected(InvalidGrantReason::Superseded));
    harness.wait(REISSUE.grace_period + SECOND);
    let late = harness.present(&second.refresh, Some("l"));
    assert!(matches!(late, Outcome::Reissued(_)));
    let mut events: Vec<String> = harness.events().into_iter().map(|(what, _)| what).collect();
    events.sort();
    assert_eq!(
        events,
        [
            "logged_in",
            "refresh_recovered",
            "refresh_rejected",
            "reissued_elsewhere",
            "superseded_elsewhere"
        ]
    );
}
