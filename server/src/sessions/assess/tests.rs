//! The decision about a token of generation 7 or near it, in a session whose last rotation
//! replaced generation 6.

use std::time::Duration;

use InvalidGrant::{Ended, ExpiredAbsolute, ExpiredIdle, Reuse, Superseded, Unknown};

use super::*;
use crate::crypto::{Salt, Secret};
use crate::ids::{AccessTokenId, SessionId, UserId};
use crate::sessions::ReissueRules;

const GRACE_PERIOD: Duration = Duration::from_secs(30);
const RECOVERY_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const INSTANT: Duration = Duration::from_micros(1);

/// When the last rotation was. The session expires five days later if it is idle, and ten
/// days later in any case.
const ROTATED_AT: Timestamp = Timestamp::from_secs(1_800_000_000);
const CURRENT: i64 = 7;
const OLDEST_RECENT: i64 = 4;

const POLICY: Policy = Policy {
    access_lifetime: Duration::from_secs(15 * 60),
    idle_lifetime: Duration::from_secs(5 * 24 * 60 * 60),
    absolute_lifetime: Duration::from_secs(10 * 24 * 60 * 60),
    retention: Duration::from_secs(7 * 24 * 60 * 60),
    reissue: Some(REISSUE),
    accept_ahead_of_database: false,
};
const REISSUE: ReissueRules = ReissueRules {
    grace_period: GRACE_PERIOD,
    recovery_window: RECOVERY_WINDOW,
    same_key_only: false,
};
const STRICT: Policy = Policy { reissue: None, ..POLICY };
const SAME_KEY_ONLY: Policy =
    Policy { reissue: Some(ReissueRules { same_key_only: true, ..REISSUE }), ..POLICY };
const ACCEPT_AHEAD: Policy = Policy { accept_ahead_of_database: true, ..POLICY };

/// One presented token.
struct Case {
    policy: Policy,
    session: Session,
    token: RefreshToken,
    key: Key,
    now: Timestamp,
}

#[derive(Clone, Copy)]
enum Key {
    Missing,
    OfRotation,
    Other,
    /// As `explain` asks.
    Whatever,
}

/// A token as it was issued. Each generation has a secret of its own.
fn token(generation: i64) -> RefreshToken {
    RefreshToken {
        session: SessionId(uuid::Uuid::from_u128(1)),
        generation,
        secret: Secret::from_bytes([u8::try_from(generation).unwrap(); 32]),
        client: None,
    }
}

/// A token of the same generation that was issued after the database was restored.
fn second_token(generation: i64) -> RefreshToken {
    RefreshToken { secret: Secret::from_bytes([99; 32]), ..token(generation) }
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(&format!("idempotency-key-{name}")).unwrap()
}

fn moment_before(age: Duration) -> Duration {
    age.saturating_sub(INSTANT)
}

/// A session whose last rotation had no key.
fn session() -> Session {
    Session {
        user: UserId(uuid::Uuid::from_u128(2)),
        generation: CURRENT,
        secret_digest: token(CURRENT).secret.digest(),
        previous: Some(Previous {
            digest: token(CURRENT - 1).secret.digest(),
            rotated_at: ROTATED_AT,
            successor_salt: Some(Salt::new([5; 32])),
            idempotency_key_digest: None,
        }),
        has_used_idempotency_key: false,
        oldest_recent_generation: OLDEST_RECENT,
        access: AccessTokenId::from_random_bytes([3; 16]),
        access_issued_at: ROTATED_AT,
        access_expires_at: ROTATED_AT.after(POLICY.access_lifetime),
        created_at: ROTATED_AT.before(DAY),
        idle_expires_at: ROTATED_AT.after(5 * DAY),
        expires_at: ROTATED_AT.after(10 * DAY),
        state: State::Live,
        user_agent: None,
        ip: None,
        claims: None,
        grant: None,
    }
}

/// The previous token, in the moment after its rotation.
fn case(policy: Policy) -> Case {
    let token = token(CURRENT - 1);
    Case { policy, session: session(), token, key: Key::Missing, now: ROTATED_AT }
}

impl Case {
    fn present(mut self, token: RefreshToken) -> Self {
        self.token = token;
        self
    }

    fn with(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    fn after(mut self, age: Duration) -> Self {
        self.now = ROTATED_AT.after(age);
        self
    }

    /// The last rotation had a key.
    fn keyed(mut self) -> Self {
        self.session.has_used_idempotency_key = true;
        let previous = self.session.previous.as_mut().unwrap();
        let digest = token(CURRENT - 1).secret.idempotency_key_digest(&key("rotation"));
        previous.idempotency_key_digest = Some(digest);
        self
    }

    fn without_salt(mut self) -> Self {
        self.session.previous.as_mut().unwrap().successor_salt = None;
        self
    }

    fn ended(mut self, age: Duration, reason: EndReason) -> Self {
        self.session.state = State::Ended { at: ROTATED_AT.after(age), reason };
        self
    }

    /// The idle lifetime is longer than the rest of the absolute one.
    fn never_idle(mut self) -> Self {
        self.session.idle_expires_at = ROTATED_AT.after(20 * DAY);
        self
    }

    fn assess(&self) -> Assessment {
        let (of_rotation, other) = (key("rotation"), key("another"));
        let key = match self.key {
            Key::Missing => PresentedKey::Missing,
            Key::OfRotation => PresentedKey::Sent(&of_rotation),
            Key::Other => PresentedKey::Sent(&other),
            Key::Whatever => PresentedKey::OfLastRotation,
        };
        let presented = Presented { token: &self.token, key };
        assess(presented, &self.session, &self.policy, self.now)
    }
}

#[track_caller]
fn current(case: &Case) {
    assert_eq!(case.assess(), Assessment::Current);
}

#[track_caller]
fn ahead(case: &Case) {
    assert_eq!(case.assess(), Assessment::AheadOfDatabase);
}

#[track_caller]
fn reissued(case: &Case, window: Duration) {
    assert_eq!(case.assess(), Assessment::Reissue { until: ROTATED_AT.after(window) });
}

#[track_caller]
fn rejected(case: &Case, reason: InvalidGrant) {
    assert_eq!(case.assess(), Assessment::Rejected(reason));
}

#[test]
fn current_token_is_rotated_until_its_session_expires() {
    let case = |age| case(POLICY).present(token(CURRENT)).after(age);
    current(&case(Duration::ZERO));
    current(&case(moment_before(5 * DAY)));
    rejected(&case(5 * DAY), ExpiredIdle);
    current(&case(moment_before(10 * DAY)).never_idle());
    rejected(&case(10 * DAY).never_idle(), ExpiredAbsolute);
    rejected(&case(10 * DAY), ExpiredAbsolute);
}

#[test]
fn second_token_of_the_current_generation_is_reuse() {
    for policy in [POLICY, STRICT, SAME_KEY_ONLY, ACCEPT_AHEAD] {
        rejected(&case(policy).present(second_token(CURRENT)), Reuse);
    }
}

#[test]
fn token_of_an_ended_session_is_rejected_with_the_reason_of_the_end() {
    for reason in [EndReason::LoggedOut, EndReason::Reuse, EndReason::Other] {
        for presented in [token(CURRENT), token(CURRENT - 1), token(1), token(CURRENT + 1)] {
            let ended = case(ACCEPT_AHEAD).present(presented).ended(HOUR, reason);
            rejected(&ended.after(2 * HOUR), Ended(reason));
        }
    }
}

#[test]
fn earlier_of_end_and_expiry_is_the_reason() {
    let case = |ended| {
        let case = case(POLICY).present(token(CURRENT)).ended(ended, EndReason::LoggedOut);
        case.after(11 * DAY)
    };
    rejected(&case(moment_before(5 * DAY)), Ended(EndReason::LoggedOut));
    rejected(&case(5 * DAY), ExpiredIdle);
    rejected(&case(moment_before(10 * DAY)).never_idle(), Ended(EndReason::LoggedOut));
    rejected(&case(10 * DAY).never_idle(), ExpiredAbsolute);
}

#[test]
fn token_ahead_of_the_database_is_accepted_only_by_policy() {
    let newer = |policy| case(policy).present(token(CURRENT + 1));
    for policy in [POLICY, STRICT, SAME_KEY_ONLY] {
        rejected(&newer(policy), Unknown);
    }
    ahead(&newer(ACCEPT_AHEAD));
    ahead(&case(ACCEPT_AHEAD).present(token(CURRENT + 100)));
    rejected(&newer(ACCEPT_AHEAD).after(5 * DAY), ExpiredIdle);
    let needs_key = Policy { accept_ahead_of_database: true, ..SAME_KEY_ONLY };
    rejected(&newer(needs_key).keyed(), Reuse);
    ahead(&newer(needs_key).keyed().with(Key::Other));
}

#[test]
fn previous_token_is_reissued_to_any_client_within_the_grace_period() {
    for sent in [Key::Missing, Key::OfRotation, Key::Other, Key::Whatever] {
        let case = |age| case(POLICY).with(sent).after(age);
        reissued(&case(Duration::ZERO), GRACE_PERIOD);
        reissued(&case(GRACE_PERIOD), GRACE_PERIOD);
        rejected(&case(GRACE_PERIOD + INSTANT), Reuse);
    }
}

#[test]
fn previous_token_is_reissued_with_its_key_within_the_recovery_window() {
    let case = |sent, age| case(POLICY).keyed().with(sent).after(age);
    for sent in [Key::OfRotation, Key::Whatever] {
        reissued(&case(sent, Duration::ZERO), RECOVERY_WINDOW);
        reissued(&case(sent, RECOVERY_WINDOW), RECOVERY_WINDOW);
        rejected(&case(sent, RECOVERY_WINDOW + INSTANT), Reuse);
    }
    for sent in [Key::Missing, Key::Other] {
        reissued(&case(sent, GRACE_PERIOD), GRACE_PERIOD);
        rejected(&case(sent, GRACE_PERIOD + INSTANT), Reuse);
    }
}

#[test]
fn session_that_used_a_key_needs_it_under_same_key_only() {
    let keyed = |sent| case(SAME_KEY_ONLY).keyed().with(sent);
    reissued(&keyed(Key::OfRotation), RECOVERY_WINDOW);
    rejected(&keyed(Key::Other), Reuse);
    rejected(&keyed(Key::Missing), Reuse);
    rejected(&keyed(Key::Missing).present(token(CURRENT)), Reuse);
    current(&keyed(Key::Other).present(token(CURRENT)));
    rejected(&keyed(Key::OfRotation).present(token(OLDEST_RECENT)), Reuse);
    // A session that has never used a key is not affected.
    reissued(&case(SAME_KEY_ONLY), GRACE_PERIOD);
    current(&case(SAME_KEY_ONLY).present(token(CURRENT)));
    // Without `same_key_only`, a key is never required.
    current(&case(POLICY).keyed().present(token(CURRENT)));
}

#[test]
fn previous_token_without_a_stored_salt_is_superseded() {
    rejected(&case(POLICY).without_salt().after(GRACE_PERIOD), Superseded);
    rejected(&case(POLICY).without_salt().after(GRACE_PERIOD + INSTANT), Reuse);
    let keyed = |age| case(POLICY).keyed().without_salt().with(Key::OfRotation).after(age);
    rejected(&keyed(RECOVERY_WINDOW), Superseded);
    rejected(&keyed(RECOVERY_WINDOW + INSTANT), Reuse);
}

#[test]
fn older_token_is_superseded_if_it_was_current_recently() {
    let older = |generation, age| case(POLICY).present(token(generation)).after(age);
    rejected(&older(OLDEST_RECENT, GRACE_PERIOD), Superseded);
    rejected(&older(OLDEST_RECENT - 1, GRACE_PERIOD), Reuse);
    rejected(&older(OLDEST_RECENT, GRACE_PERIOD + INSTANT), Reuse);
    // The key of the last rotation does not belong to an older token.
    let keyed = older(OLDEST_RECENT, GRACE_PERIOD + INSTANT).keyed();
    rejected(&keyed.with(Key::Whatever), Reuse);
    // A second token of the previous generation was not rotated, so it has no successor.
    rejected(&case(POLICY).present(second_token(CURRENT - 1)), Superseded);
}

#[test]
fn strict_policy_rejects_every_rotated_token_as_reuse() {
    for generation in [1, OLDEST_RECENT, CURRENT - 1] {
        let strict = case(STRICT).keyed().present(token(generation));
        rejected(&strict.with(Key::OfRotation), Reuse);
    }
    current(&case(STRICT).keyed().present(token(CURRENT)));
}
