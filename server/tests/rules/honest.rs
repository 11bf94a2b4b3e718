//! Random histories of honest clients: several processes with the same tokens,
//! lost responses, crashes, clock changes. None ends in a logout.

use std::time::Duration;

use matchbook_server::clock::Timestamp;
use matchbook_server::sessions::{Policy, RefreshOutcome};
use matchbook_shared::InvalidGrantReason;
use proptest::prelude::*;

use crate::harness::{
    DAY, DEFAULT, Harness, Outcome, REISSUE, SAME_KEY_ONLY, check_histories, device,
};

/// Number of processes that share the tokens.
const PROCESSES: usize = 3;

/// Actions of honest clients and their environment.
#[derive(Debug, Clone)]
enum Action {
    /// A process reads the stored token, to send it.
    Read(usize),
    /// The request arrives at the server, which responds.
    Arrive(usize),
    /// The response arrives, and is stored unless another token was stored
    /// meanwhile.
    Store(usize),
    /// The response is lost, or the process crashes before it stores it.
    Lose(usize),
    /// The request is executed at once and committed after a stall, when its
    /// caller has given up.
    Stall(usize, Duration),
    /// The same, but the deadline passes before it is executed.
    MissDeadline(usize),
    /// Time passes, at most as long as honest clients wait.
    Wait(Duration),
    /// The server's clock is set back.
    SetBack(Duration),
    /// The sweeper runs.
    Sweep,
    /// The server restarts with a new secret.
    ChangeSecret,
}

fn action() -> impl Strategy<Value = Action> {
    let wait = prop_oneof![
        4 => (0..10_000u64).prop_map(Duration::from_millis),
        2 => Just(REISSUE.grace_period),
        2 => (0..24 * 60u64).prop_map(|minutes| Duration::from_secs(minutes * 60)),
        1 => Just(REISSUE.recovery_window),
    ];
    prop_oneof![
        6 => (0..PROCESSES).prop_map(Action::Read),
        6 => (0..PROCESSES).prop_map(Action::Arrive),
        4 => (0..PROCESSES).prop_map(Action::Store),
        2 => (0..PROCESSES).prop_map(Action::Lose),
        1 => ((0..PROCESSES), wait.clone()).prop_map(|(who, time)| Action::Stall(who, time)),
        1 => (0..PROCESSES).prop_map(Action::MissDeadline),
        5 => wait.prop_map(Action::Wait),
        1 => (0..3600u64).prop_map(|seconds| Action::SetBack(Duration::from_secs(seconds))),
        2 => Just(Action::Sweep),
        1 => Just(Action::ChangeSecret),
    ]
}

/// The configuration of clients and server.
#[derive(Debug, Clone, Copy)]
struct Setup {
    policy: Policy,
    /// Whether clients store an idempotency key beside the token before they send.
    keyed: bool,
    /// Whether one process at a time refreshes, from reading the token to the
    /// response or its loss.
    gated: bool,
}

impl Setup {
    /// How long after its first use a token may be presented again. If others may
    /// rotate meanwhile, a key does not help beyond the grace period.
    fn max_wait(self) -> Duration {
        if self.keyed && self.gated { REISSUE.recovery_window } else { REISSUE.grace_period }
    }

    /// When a token that is read now must arrive: others may refresh
    /// meanwhile, except behind a lock.
    fn until(self, used_at: Option<Duration>, now: Duration) -> Duration {
        let travel = if self.gated { self.max_wait() } else { REISSUE.grace_period };
        let again = used_at.map_or(Duration::MAX, |used_at| used_at + self.max_wait());
        (now + travel).min(again)
    }
}

fn setup() -> impl Strategy<Value = Setup> {
    let setup = |policy, keyed, gated| Just(Setup { policy, keyed, gated });
    let policy = Policy { idle_lifetime: 80 * DAY, ..DEFAULT };
    let same_key_only = Policy { idle_lifetime: 80 * DAY, ..SAME_KEY_ONLY };
    prop_oneof![
        setup(policy, false, false),
        setup(policy, true, false),
        setup(policy, true, true),
        // With `same_key_only` one refresh runs at a time.
        setup(same_key_only, true, true),
        setup(same_key_only, false, false),
    ]
}

/// The state that the processes share.
struct Stored {
    token: String,
    /// The idempotency key stored for it.
    key: Option<String>,
    /// When the server first rotated it: the waiting time counts from then.
    used_at: Option<Duration>,
}

/// The state of a process.
#[derive(Clone)]
enum Process {
    Idle,
    Sending { token: String, key: Option<String>, until: Duration },
    Waiting { token: String, response: Outcome },
}

#[test]
fn honest_histories_never_end_in_a_logout() {
    let histories = (setup(), prop::collection::vec(action(), 1..80));
    check_histories(histories, |harness, (setup, actions)| play(harness, setup, &actions));
}

fn play(harness: &mut Harness, setup: Setup, actions: &[Action]) {
    harness.begin(setup.policy);
    let (session, first) = harness.open();
    let mut stored = Stored { token: first.refresh, key: None, used_at: None };
    let mut processes = vec![Process::Idle; PROCESSES];
    let mut keys = 0;
    // The time of the clients, independent of the server's clock.
    let mut elapsed = Duration::ZERO;
    for action in actions {
        match action {
            Action::Read(who) => {
                let busy = processes.iter().any(|process| !matches!(process, Process::Idle));
                if matches!(processes[*who], Process::Idle) && !(setup.gated && busy) {
                    if setup.keyed && stored.key.is_none() {
                        keys += 1;
                        stored.key = Some(keys.to_string());
                    }
                    let (token, key) = (stored.token.clone(), stored.key.clone());
                    let until = setup.until(stored.used_at, elapsed);
                    processes[*who] = Process::Sending { token, key, until };
                }
            }
            Action::Arrive(who) => {
                if let Process::Sending { token, key, .. } = processes[*who].clone() {
                    let response = harness.present(&token, key.as_deref());
                    if token == stored.token && stored.used_at.is_none() {
                        stored.used_at = Some(elapsed);
                    }
                    processes[*who] = Process::Waiting { token, response };
                }
            }
            Action::Store(who) => {
                if let Process::Waiting { token, response } = processes[*who].clone() {
                    processes[*who] = Process::Idle;
                    take(&mut stored, &token, response);
                }
            }
            Action::Lose(who) => processes[*who] = Process::Idle,
            Action::Stall(who, duration) => {
                if let Process::Sending { token, key, .. } = processes[*who].clone() {
                    processes[*who] = Process::Idle;
                    let attempt = harness.prepare(&token, key.as_deref(), device());
                    let rest = latest(setup.max_wait(), &stored, &processes)
                        .map_or(*duration, |end| end.saturating_sub(elapsed).min(*duration));
                    elapsed += rest;
                    harness.wait(rest);
                    if let Outcome::Rotated(_) = harness.carry_out(&attempt) {
                        // Requests between the commit and its dating decide nothing.
                        let reuse = harness.prepare(&token, key.as_deref(), device());
                        let retried = harness.resolve_conflict(&reuse).unwrap();
                        assert!(!matches!(retried, RefreshOutcome::Rejected { .. }));
                        harness.redate(&attempt);
                    }
                    if token == stored.token && stored.used_at.is_none() {
                        stored.used_at = Some(elapsed);
                    }
                }
            }
            Action::MissDeadline(who) => {
                if let Process::Sending { token, key, .. } = processes[*who].clone() {
                    processes[*who] = Process::Idle;
                    let attempt = harness.prepare(&token, key.as_deref(), device());
                    harness.carry_out(&attempt.until(Timestamp::from_secs(0)));
                }
            }
            Action::Wait(duration) => {
                let rest = latest(setup.max_wait(), &stored, &processes)
                    .map_or(*duration, |latest| latest.saturating_sub(elapsed).min(*duration));
                elapsed += rest;
                harness.wait(rest);
            }
            Action::SetBack(duration) => harness.now = harness.now.before(*duration),
            Action::Sweep => {
                harness.clear_salts(&[session]);
                harness.sweep();
            }
            Action::ChangeSecret => harness.change_secret(),
        }
    }
    // After every history the stored token is valid.
    let token = stored.token.clone();
    let key = stored.key.clone().or(setup.keyed.then(|| "last".to_owned()));
    let response = harness.present(&token, key.as_deref());
    assert!(!matches!(response, Outcome::Rejected(_)), "{response:?}");
}

/// Handles a response like a client.
fn take(stored: &mut Stored, presented: &str, response: Outcome) {
    match response {
        Outcome::Rotated(pair) | Outcome::Reissued(pair) => {
            if stored.token == presented {
                *stored = Stored { token: pair.refresh, key: None, used_at: None };
            }
        }
        // Another process was faster and has stored its response.
        Outcome::Rejected(InvalidGrantReason::Superseded) if stored.token != presented => {}
        Outcome::TimedOut => panic!("there is no deadline"),
        Outcome::Rejected(reason) => panic!("logged out: {reason:?}"),
    }
}

/// How long an honest client may take until a request must
/// arrive, or until it retries after a lost response.
fn latest(max_wait: Duration, stored: &Stored, processes: &[Process]) -> Option<Duration> {
    let lost = stored.used_at.map(|used_at| used_at + max_wait);
    let under_way = processes.iter().filter_map(|process| match process {
        Process::Sending { until, .. } => Some(*until),
        _ => None,
    });
    under_way.chain(lost).min()
}

#[test]
fn late_rotation_is_redated_after_an_access_token_renewal() {
    let mut harness = Harness::new(DEFAULT);
    let (session, pair) = harness.open();
    let attempt = harness.prepare(&pair.refresh, None, device());
    // Rotated in time; the retry finds the access token expired.
    let rotated = harness.carry_out(&attempt);
    assert!(matches!(rotated, Outcome::Rotated(_)));
    harness.wait(REISSUE.grace_period);
    harness.policy.access_lifetime = REISSUE.grace_period;
    assert!(matches!(harness.present(&pair.refresh, None), Outcome::Reissued(_)));
    harness.redate(&attempt);
    assert_eq!(harness.session(session).unwrap().rotated_at(), Some(harness.now));
    harness.wait(REISSUE.grace_period);
    assert!(matches!(harness.present(&pair.refresh, None), Outcome::Reissued(_)));
}
