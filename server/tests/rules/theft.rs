//! Random histories with a thief, who copies tokens and shows them at any time.

use std::time::Duration;

use matchbook_server::sessions::Policy;
use matchbook_shared::Reason;
use proptest::prelude::*;

use crate::subject::{Answer, DEFAULT, EXCLUSIVE, RETRY, SECOND, STRICT, Subject, play_all};

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
        2 => Just(RETRY.window),
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
        let must_end = second
            && policy.retry.is_none_or(|retry| {
                let late = age > if again { retry.recovery } else { retry.window };
                late || (retry.exclusive && attempt.is_some() && !again)
            });
        let granted = match subject.show(&shown, key) {
            Answer::Rotated(pair) => {
                assert!(!second && !over, "an old token was rotated");
                chain.push(pair.refresh.clone());
                (rotated_at, attempt) = (subject.now, key);
                Some(pair.refresh)
            }
            Answer::Repeated(pair) => {
                assert!(second && !over && !must_end, "the second one got something");
                assert_eq!(Some(&pair.refresh), chain.last(), "two live successors");
                Some(pair.refresh)
            }
            Answer::Refused(reason) => {
                if must_end && !over {
                    assert_eq!(reason, Reason::Reuse);
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
        subject.wait(RETRY.window + SECOND);
        let old = chain[chain.len() - 2].clone();
        assert_eq!(subject.show(&old, None), Answer::Refused(Reason::Reuse));
        let newest = chain[chain.len() - 1].clone();
        assert_eq!(subject.show(&newest, None), Answer::Refused(Reason::Reuse));
    }
}
