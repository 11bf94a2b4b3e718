//! The order in which keys sign: each is published before it signs, and stays
//! published until what it signed has expired.
//!
//! Nothing is written when a key begins or ceases to sign: every server tells
//! that from the same rows, by its clock.

use std::time::Duration;

use crate::clock::{CLOCKS_APART, Timestamp};
use crate::store::signing_keys::StoredKey;

/// How long a key stays published after its last signature, at least: tokens may
/// be out that were made to live longer than tokens do by now.
const AT_LEAST: Duration = Duration::from_secs(24 * 3600);

/// When a key signs whose insert is not known to be committed: never. Its time is
/// set once other servers can read it, so that a late commit shortens no lead.
pub(super) const UNDECIDED: Timestamp = Timestamp::END_OF_9999;

/// What a key is at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Published, and does not sign yet.
    Pending,
    /// Signs.
    Active,
    /// Published, and signs no longer.
    Retiring,
    /// Nothing that it signed is good any more.
    Revoked,
    /// All that it signed has expired.
    Gone,
}

impl Phase {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Revoked => "revoked",
            Self::Gone => "gone",
        }
    }

    /// Whether its public half is published, and its signatures are good.
    #[must_use]
    pub fn is_published(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Retiring)
    }
}

/// What each of `keys`, all there are in their order, is `now`; access tokens
/// live for `lifetime`.
#[must_use]
pub fn phases(keys: &[StoredKey], lifetime: Duration, now: Timestamp) -> Vec<Phase> {
    let unrevoked = |key: &&StoredKey| key.revoked_at.is_none();
    let mut begun = keys.iter().filter(unrevoked).filter(|key| key.active_from <= now);
    // A clock that was set back may find none that has begun.
    let active = begun.next_back().or_else(|| keys.iter().find(unrevoked)).map(|key| key.sequence);
    let phase = |key: &StoredKey| {
        let kept = lifetime.max(AT_LEAST) + CLOCKS_APART;
        let over = |since: Timestamp| since.after(kept) <= now;
        match key.revoked_at {
            Some(revoked_at) if over(revoked_at) => Phase::Gone,
            Some(_) => Phase::Revoked,
            None if Some(key.sequence) == active => Phase::Active,
            None if Some(key.sequence) > active => Phase::Pending,
            None if superseded_at(keys, key).is_some_and(over) => Phase::Gone,
            None => Phase::Retiring,
        }
    };
    keys.iter().map(phase).collect()
}

/// When another began to sign in the place of `key`.
fn superseded_at(keys: &[StoredKey], key: &StoredKey) -> Option<Timestamp> {
    let later = keys.iter().filter(|later| later.sequence > key.sequence);
    // One that was revoked before its time never signed.
    let signed = later.filter(|later| later.revoked_at.is_none_or(|at| at > later.active_from));
    signed.map(|later| later.active_from).min()
}

#[cfg(test)]
mod tests {
    use super::Phase::{Active, Gone, Pending, Retiring, Revoked};
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(900);
    const DAY: i64 = 24 * 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + second)
    }

    fn key(sequence: i64, active_from: i64, revoked_at: Option<i64>) -> StoredKey {
        StoredKey {
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
    fn a_key_waits_signs_retires_and_is_gone_when_its_last_token_is() {
        let keys = [key(1, 0, None), key(2, 600, None)];
        for (second, expected) in [
            (-10, [Active, Pending]),
            (0, [Active, Pending]),
            (599, [Active, Pending]),
            (600, [Retiring, Active]),
            (600 + DAY + 59, [Retiring, Active]),
            (600 + DAY + 60, [Gone, Active]),
        ] {
            assert_eq!(phases(&keys, LIFETIME, at(second)), expected, "{second}");
        }
    }

    #[test]
    fn a_revoked_key_never_signs_again_and_is_remembered_as_long_as_its_tokens() {
        let keys = [key(1, 0, None), key(2, 600, Some(700)), key(3, 700, None)];
        assert_eq!(phases(&keys, LIFETIME, at(700)), [Retiring, Revoked, Active]);
        assert_eq!(phases(&keys, LIFETIME, at(600 + DAY + 60)), [Gone, Revoked, Active]);
        assert_eq!(phases(&keys, LIFETIME, at(700 + DAY + 60)), [Gone, Gone, Active]);
    }

    #[test]
    fn a_key_that_was_revoked_before_it_signed_supersedes_nothing() {
        let keys = [key(1, 0, None), key(2, 600, Some(300)), key(3, 2000, None)];
        assert_eq!(phases(&keys, LIFETIME, at(1999)), [Active, Revoked, Pending]);
        assert_eq!(phases(&keys, LIFETIME, at(2000)), [Retiring, Revoked, Active]);
    }
}
