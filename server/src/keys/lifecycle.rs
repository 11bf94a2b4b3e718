//! The phases of a signing key: it is published before it signs, and stays published until
//! every token that it signed has expired.
//!
//! Nothing is written when a key begins or ceases to sign: every server derives the phase
//! from the same rows and its clock.

use std::time::Duration;

use crate::clock::{MAX_SKEW_BETWEEN_SERVERS, Timestamp};
use crate::store::signing_keys::{Purpose, StoredKey};

/// The minimum time for which a key stays published after its last signature. Tokens may
/// exist that were issued when `tokens.access_lifetime` was longer.
const MIN_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The `active_from` of a key whose insert may not be committed yet. It is replaced once
/// other servers can read the row. A late commit therefore does not shorten the time
/// between publication and first signature.
pub(super) const UNSCHEDULED: Timestamp = Timestamp::END_OF_9999;

/// The state of a key at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Published, and does not sign yet.
    Pending,
    /// Signs.
    Active,
    /// Published, and no longer signs.
    Retiring,
    /// Not published: its tokens are rejected.
    Revoked,
    /// Every token that it signed has expired.
    Expired,
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// Returns whether the public key is published and its signatures are accepted.
    #[must_use]
    pub fn is_published(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Retiring)
    }
}

/// Returns the phase of each of `keys`, which must be all keys, by purpose and in sequence.
/// `lifetime` is that of access tokens and of ID tokens.
#[must_use]
pub fn phases(keys: &[StoredKey], lifetime: Duration, now: Timestamp) -> Vec<Phase> {
    let access = with_purpose(keys, Purpose::Access);
    let id = with_purpose(keys, Purpose::Id);
    let mut phases = phases_of_sequence(access, lifetime, now);
    // The keys for ID tokens last as long as any key that they stand in for.
    let mut unexpired = access.iter().zip(&phases).filter(|(_, phase)| **phase != Phase::Expired);
    if unexpired.any(|(key, _)| !signs_id_tokens(key)) {
        phases.extend(phases_of_sequence(id, lifetime, now));
    } else {
        phases.extend(id.iter().map(|_| Phase::Expired));
    }
    phases
}

/// Returns whether keys for ID tokens are needed: a key that signs access tokens, now or
/// later, has another algorithm than RS256.
pub(super) fn needs_id_keys(keys: &[StoredKey], phases: &[Phase]) -> bool {
    let signs = |phase: &Phase| matches!(phase, Phase::Pending | Phase::Active);
    let mut signing = keys.iter().zip(phases).filter(|(_, phase)| signs(phase));
    signing.any(|(key, _)| key.purpose == Purpose::Access && !signs_id_tokens(key))
}

/// Returns those of `keys`, which are ordered by purpose.
pub(super) fn with_purpose(keys: &[StoredKey], purpose: Purpose) -> &[StoredKey] {
    let begin = keys.partition_point(|key| key.purpose < purpose);
    let end = keys.partition_point(|key| key.purpose <= purpose);
    keys.get(begin..end).unwrap_or_default()
}

fn signs_id_tokens(key: &StoredKey) -> bool {
    key.algorithm == "RS256"
}

fn phases_of_sequence(keys: &[StoredKey], lifetime: Duration, now: Timestamp) -> Vec<Phase> {
    let is_unrevoked = |key: &&StoredKey| key.revoked_at.is_none();
    let mut begun = keys.iter().filter(is_unrevoked).filter(|key| key.active_from <= now);
    // After the clock was set back, no key may be active yet.
    let active = begun.next_back().or_else(|| keys.iter().find(is_unrevoked));
    let active = active.map(|key| key.sequence);
    let retention = lifetime.max(MIN_RETENTION) + MAX_SKEW_BETWEEN_SERVERS;
    let phase = |key: &StoredKey| {
        let is_over = |since: Timestamp| since.after(retention) <= now;
        match key.revoked_at {
            Some(revoked_at) if is_over(revoked_at) => Phase::Expired,
            Some(_) => Phase::Revoked,
            None if Some(key.sequence) == active => Phase::Active,
            None if Some(key.sequence) > active => Phase::Pending,
            None if superseded_at(keys, key).is_some_and(is_over) => Phase::Expired,
            None => Phase::Retiring,
        }
    };
    keys.iter().map(phase).collect()
}

/// Returns the time at which another key began to sign instead of `key`.
fn superseded_at(keys: &[StoredKey], key: &StoredKey) -> Option<Timestamp> {
    let later = keys.iter().filter(|later| later.sequence > key.sequence);
    // A key that was revoked before its time never signed.
    let signed = later.filter(|later| later.revoked_at.is_none_or(|at| at > later.active_from));
    signed.map(|later| later.active_from).min()
}

#[cfg(test)]
mod tests {
    use super::Phase::{Active, Expired, Pending, Retiring, Revoked};
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(900);
    const DAY: i64 = 24 * 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + second)
    }

    fn key(sequence: i64, active_from: i64, revoked_at: Option<i64>) -> StoredKey {
        StoredKey {
            purpose: Purpose::Access,
            sequence,
            kid: sequence.to_string(),
            algorithm: "EdDSA".into(),
            sealed: Vec::new(),
            created_at: at(0),
            active_from: at(active_from),
            revoked_at: revoked_at.map(at),
        }
    }

    #[test]
    fn key_is_pending_active_retiring_and_expired_in_turn() {
        let keys = [key(1, 0, None), key(2, 600, None)];
        for (second, expected) in [
            (-10, [Active, Pending]),
            (0, [Active, Pending]),
            (599, [Active, Pending]),
            (600, [Retiring, Active]),
            (600 + DAY + 59, [Retiring, Active]),
            (600 + DAY + 60, [Expired, Active]),
        ] {
            assert_eq!(phases(&keys, LIFETIME, at(second)), expected, "{second}");
        }
    }

    #[test]
    fn revoked_key_is_kept_until_its_tokens_expire() {
        let keys = [key(1, 0, None), key(2, 600, Some(700)), key(3, 700, None)];
        assert_eq!(phases(&keys, LIFETIME, at(700)), [Retiring, Revoked, Active]);
        assert_eq!(phases(&keys, LIFETIME, at(600 + DAY + 60)), [Expired, Revoked, Active]);
        assert_eq!(phases(&keys, LIFETIME, at(700 + DAY + 60)), [Expired, Expired, Active]);
    }

    fn id_key(sequence: i64, active_from: i64, revoked_at: Option<i64>) -> StoredKey {
        let algorithm = "RS256".to_owned();
        StoredKey { purpose: Purpose::Id, algorithm, ..key(sequence, active_from, revoked_at) }
    }

    #[test]
    fn keys_of_each_purpose_have_a_sequence_of_their_own() {
        let keys = [
            key(1, 0, None),
            key(2, 600, None),
            id_key(1, 0, None),
            id_key(2, 300, Some(400)),
            id_key(3, 900, None),
        ];
        let phases = |second| phases(&keys, LIFETIME, at(second));
        assert_eq!(phases(299), [Active, Pending, Active, Revoked, Pending]);
        assert_eq!(phases(600), [Retiring, Active, Active, Revoked, Pending]);
        assert_eq!(phases(900), [Retiring, Active, Retiring, Revoked, Active]);
        assert_eq!(phases(600 + DAY + 60), [Expired, Active, Expired, Expired, Active]);
    }

    #[test]
    fn key_for_id_tokens_is_needed_while_a_key_of_another_algorithm_signs() {
        let rs256 =
            |sequence, from| StoredKey { purpose: Purpose::Access, ..id_key(sequence, from, None) };
        let state = |keys: &[StoredKey], second| {
            let phases = phases(keys, LIFETIME, at(second));
            (needs_id_keys(keys, &phases), phases)
        };
        let to_another = [rs256(1, 0), key(2, 600, None), id_key(1, 0, None)];
        for second in [0, 599, 600] {
            let (is_needed, phases) = state(&to_another, second);
            assert!(is_needed && phases[2] == Active, "{second}");
        }
        let to_rs256 = [key(1, 0, None), rs256(2, 600), id_key(1, 0, None)];
        assert_eq!(state(&to_rs256, 599), (true, vec![Active, Pending, Active]));
        assert_eq!(state(&to_rs256, 600), (false, vec![Retiring, Active, Active]));
        assert_eq!(state(&to_rs256, 600 + DAY + 60), (false, vec![Expired, Active, Expired]));
        let revoked = [key(1, 0, Some(500)), rs256(2, 500), id_key(1, 0, None)];
        assert_eq!(state(&revoked, 500), (false, vec![Revoked, Active, Active]));
        assert_eq!(state(&[rs256(1, 0)], 0), (false, vec![Active]));
        assert_eq!(state(&[], 0), (false, vec![]));
    }

    #[test]
    fn key_revoked_before_it_signed_supersedes_no_key() {
        let keys = [key(1, 0, None), key(2, 600, Some(300)), key(3, 2000, None)];
        assert_eq!(phases(&keys, LIFETIME, at(1999)), [Active, Revoked, Pending]);
        assert_eq!(phases(&keys, LIFETIME, at(2000)), [Retiring, Revoked, Active]);
    }
}
