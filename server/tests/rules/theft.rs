//! Random histories with a thief, who copies tokens and shows them at any time.

use std::time::Duration;

use matchbook_server::sessions::{ClientInfo, Policy};
use matchbook_shared::Reason;
use proptest::prelude::*;

use crate::subject::{
    Answer, DEFAULT, EXCLUSIVE, RETRY, SECOND, STRICT, Subject, device, play_all,
};

#[derive(Debug, Clone)]
enum Action {
    /// The owner refreshes the newest token that it has.
    Owner { keyed: bool },
    /// The thief copies what the owner has at this moment.
    Copy,
    /// The thief shows one of the tokens it has, with a key of its own or none.
    Thief { which: prop::sample::Index, keyed: bool },
    /// Time goes by.
    Wait(Duration),
    /// The sweeper comes by.
    Sweep,
}

fn action() -> impl Strategy<Value = Action> {
    let wait = prop_oneof![
        4 => (0..20_000u64).prop_map(Duration::from_millis),
        2 => Just(RETRY.grace_period),
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
fn thief_and_owner_never_hold_two_live_successors_and_who_comes_second_ends_it() {
    let policies = prop_oneof![Just(DEFAULT), Just(EXCLUSIVE), Just(STRICT)];
    let histories = (policies, prop::collection::vec(action(), 1..60));
    play_all(histories, |subject, (policy, actions)| play(subject, policy, &actions));
}

fn play(subject: &mut Subject, policy: Policy, actions: &[Action]) {
    subject.begin(policy);
    let (session, first) = subject.open();
    let mut owner = first.refresh;
    let mut stolen: Vec<String> = Vec::new();
    // What was granted for each generation, and how the newest came to be.
    let mut chain = vec![owner.clone()];
    let (mut rotated_at, mut attempt) = (subject.now, None);
    // When each generation was rotated, and whether ever with a key.
    let mut rotations = Vec::new();
    let mut ever_keyed = false;
    let mut over = false;
    for action in actions {
        let (shown, key) = match action {
            Action::Owner { keyed } => (owner.clone(), keyed.then_some("owner")),
            Action::Thief { which, keyed } if !stolen.is_empty() => {
                (which.get(&stolen).clone(), keyed.then_some("thief"))
            }
            Action::Copy => {
                stolen.push(owner.clone());
                continue;
            }
            Action::Wait(duration) => {
                subject.wait(*duration);
                continue;
            }
            Action::Sweep => {
                subject.clear_salts(&[session]);
                subject.sweep();
                continue;
            }
            Action::Thief { .. } => continue,
        };
        let generation = chain.iter().position(|token| *token == shown).unwrap();
        let second = generation + 1 < chain.len();
        let age = subject.now.since(rotated_at);
        let is_owner = matches!(action, Action::Owner { .. });
        let again = generation + 2 == chain.len() && key.is_some() && key == attempt;
        let was_current = rotations.get(generation).map(|at| subject.now.since(*at));
        let must_end = if second {
            policy.reuse.is_none_or(|reuse| {
                let late = age > if again { reuse.recovery_window } else { reuse.grace_period };
                // Nothing excuses a token that was not current for four windows.
                let is_old = !again && was_current > Some(4 * reuse.grace_period);
                late || is_old || (reuse.same_key_only && ever_keyed && !again)
            })
        } else {
            ever_keyed && key.is_none() && policy.reuse.is_some_and(|reuse| reuse.same_key_only)
        };
        // Whatever was current a window ago is excused.
        let may_end = must_end || was_current > Some(RETRY.grace_period);
        let granted = match subject.show(&shown, key) {
            Answer::Rotated(pair) => {
                assert!(!second && !over, "an old token was rotated");
                chain.push(pair.refresh.clone());
                (rotated_at, attempt) = (subject.now, key);
                rotations.push(subject.now);
                ever_keyed |= key.is_some();
                Some(pair.refresh)
            }
            Answer::Repeated(pair) => {
                assert!(second && !over && !must_end, "the second one got something");
                assert_eq!(Some(&pair.refresh), chain.last(), "two live successors");
                Some(pair.refresh)
            }
            Answer::TooLate => panic!("there is no deadline"),
            Answer::Refused(reason) => {
                assert!(!must_end || reason == Reason::Reuse, "{reason:?}");
                if reason == Reason::Reuse {
                    assert!(may_end, "it was current a moment ago");
                    over = true;
                }
                assert!(over || reason == Reason::Superseded, "{reason:?}");
                None
            }
        };
        if over {
            // For both of them, and for good.
            for token in chain.clone() {
                assert_eq!(subject.show(&token, key), Answer::Refused(Reason::Reuse));
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
    // One of them may still be unseen; a single step out of time ends it.
    if chain.len() > 1 {
        subject.wait(RETRY.grace_period + SECOND);
        let old = chain[chain.len() - 2].clone();
        assert_eq!(subject.show(&old, None), Answer::Refused(Reason::Reuse));
        let newest = chain[chain.len() - 1].clone();
        assert_eq!(subject.show(&newest, None), Answer::Refused(Reason::Reuse));
    }
}

/// A thief copies the live token and keeps rotating, so often that the last rotation
/// is always a moment ago.
#[test]
fn a_thief_who_keeps_rotating_is_detected_when_the_owner_comes_back() {
    let mut subject = Subject::new(DEFAULT);
    for policy in [DEFAULT, EXCLUSIVE] {
        for keyed in [false, true] {
            for every in [1, 10, 20, 29, 30] {
                subject.begin(policy);
                let (session, owner) = subject.open();
                let mut stolen = owner.refresh.clone();
                let mut rotate = |subject: &mut Subject| {
                    let key = keyed.then_some("thief");
                    let Answer::Rotated(pair) = subject.show(&stolen, key) else {
                        panic!("the thief has the live token")
                    };
                    stolen = pair.refresh;
                };
                rotate(&mut subject);
                rotate(&mut subject);
                // Later than four windows, whatever the rhythm.
                let mut waited = Duration::ZERO;
                while waited <= 4 * RETRY.grace_period {
                    subject.wait(every * SECOND);
                    waited += every * SECOND;
                    rotate(&mut subject);
                }
                let answer = subject.show(&owner.refresh, Some("owner"));
                assert_eq!(answer, Answer::Refused(Reason::Reuse), "every {every} s");
                let reason = subject.standing(session).unwrap().end_reason;
                assert_eq!(reason.as_deref(), Some("reuse"));
                assert_eq!(subject.show(&stolen, None), Answer::Refused(Reason::Reuse));
            }
        }
    }
}

#[test]
fn a_tab_that_was_current_a_window_ago_is_superseded_however_often_others_rotate() {
    let mut subject = Subject::new(DEFAULT);
    let (_, first) = subject.open();
    let mut chain = vec![(first.refresh, subject.now)];
    for round in 0..200u32 {
        let Answer::Rotated(pair) = subject.show(&chain.last().unwrap().0, None) else { panic!() };
        chain.last_mut().unwrap().1 = subject.now;
        chain.push((pair.refresh, subject.now));
        // Bursts and pauses.
        subject.wait(if round % 7 == 0 { RETRY.grace_period } else { SECOND });
        for (token, rotated_at) in chain.iter().rev().skip(2).take(40) {
            if subject.now.since(*rotated_at) > RETRY.grace_period {
                break;
            }
            assert_eq!(subject.show(token, None), Answer::Refused(Reason::Superseded));
        }
    }
}

/// Without a key the thief goes first; the owner always sends one.
#[test]
fn an_exclusive_session_that_was_rotated_with_a_key_is_never_rotated_without_one() {
    let mut subject = Subject::new(EXCLUSIVE);
    let (session, first) = subject.open();
    let Answer::Rotated(second) = subject.show(&first.refresh, Some("one")) else { panic!() };
    let Answer::Rotated(third) = subject.show(&second.refresh, Some("two")) else { panic!() };
    assert_eq!(subject.show(&third.refresh, None), Answer::Refused(Reason::Reuse));
    assert!(subject.standing(session).unwrap().ended_at.is_some());
}

#[test]
fn what_comes_from_elsewhere_within_the_grace_period_is_logged() {
    let elsewhere = || ClientInfo { ip: Some([198, 51, 100, 7].into()), ..device() };
    let mut subject = Subject::new(DEFAULT);
    let (_, first) = subject.open();
    let Answer::Rotated(second) = subject.show(&first.refresh, Some("k")) else { panic!() };
    assert!(matches!(subject.show(&first.refresh, None), Answer::Repeated(_)));
    assert!(matches!(subject.show_from(&first.refresh, None, elsewhere()), Answer::Repeated(_)));
    let Answer::Rotated(_) = subject.show(&second.refresh, Some("l")) else { panic!() };
    assert_eq!(subject.show(&first.refresh, None), Answer::Refused(Reason::Superseded));
    let superseded = subject.show_from(&first.refresh, None, elsewhere());
    assert_eq!(superseded, Answer::Refused(Reason::Superseded));
    subject.wait(RETRY.grace_period + SECOND);
    let late = subject.show(&second.refresh, Some("l"));
    assert!(matches!(late, Answer::Repeated(_)));
    let mut events: Vec<String> = subject.events().into_iter().map(|(what, _)| what).collect();
    events.sort();
    assert_eq!(
        events,
        [
            "refresh_recovered",
            "refresh_refused",
            "reissued_elsewhere",
            "signed_in",
            "superseded_elsewhere"
        ]
    );
}
