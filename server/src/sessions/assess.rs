//! The decision about a refresh token.

use std::cmp::Ordering;

use matchbook_shared::InvalidGrantReason;

use super::{EndReason, Policy};
use crate::clock::Timestamp;
use crate::crypto::IdempotencyKey;
use crate::store::sessions::{Previous, Session, State};
use crate::tokens::RefreshToken;

/// Why a refresh token that this server issued is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidGrant {
    /// There is no such session, or it has not reached this generation.
    Unknown,
    /// The session was not refreshed for its idle lifetime.
    ExpiredIdle,
    /// The session reached its absolute lifetime.
    ExpiredAbsolute,
    /// The session has already ended.
    Ended(EndReason),
    /// A newer token was issued within the grace period. The session continues.
    Superseded,
    /// The token was rotated, and may not be presented again. The session ends.
    Reuse,
}

impl InvalidGrant {
    /// Returns the reason in the response.
    #[must_use]
    pub fn reason(self) -> InvalidGrantReason {
        match self {
            Self::Unknown => InvalidGrantReason::Unknown,
            Self::ExpiredIdle => InvalidGrantReason::ExpiredIdle,
            Self::ExpiredAbsolute => InvalidGrantReason::ExpiredAbsolute,
            Self::Superseded => InvalidGrantReason::Superseded,
            Self::Reuse | Self::Ended(EndReason::Reuse) => InvalidGrantReason::Reuse,
            Self::Ended(EndReason::LoggedOut) => InvalidGrantReason::LoggedOut,
            Self::Ended(EndReason::PasswordChanged) => InvalidGrantReason::PasswordChanged,
            Self::Ended(EndReason::UserDisabled) => InvalidGrantReason::UserDisabled,
            Self::Ended(EndReason::Other) => InvalidGrantReason::Other,
        }
    }
}

/// The decision about a refresh token, from the row of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assessment {
    /// It is the current token and is rotated.
    Current,
    /// It is newer than the database, and is rotated anyway
    /// (`accept_ahead_of_database`).
    AheadOfDatabase,
    /// It was rotated, and its successor is reissued.
    Reissue {
        /// When the grace period or the recovery window ends.
        until: Timestamp,
    },
    Rejected(InvalidGrant),
}

/// The idempotency key of a request.
#[derive(Clone, Copy)]
pub enum PresentedKey<'a> {
    Missing,
    Sent(&'a IdempotencyKey),
    /// The key of the last rotation, whatever its value. `explain` uses it to find out
    /// what a key would change.
    OfLastRotation,
}

impl<'a> From<Option<&'a IdempotencyKey>> for PresentedKey<'a> {
    fn from(key: Option<&'a IdempotencyKey>) -> Self {
        key.map_or(Self::Missing, Self::Sent)
    }
}

/// A refresh token, and the idempotency key that came with it.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    pub token: &'a RefreshToken,
    pub key: PresentedKey<'a>,
}

impl Presented<'_> {
    /// Returns whether the last rotation exchanged this token.
    fn was_rotated_last(self, session: &Session, previous: &Previous) -> bool {
        self.token.generation.checked_add(1) == Some(session.generation)
            && self.token.secret.digest().matches(previous.digest.as_bytes())
    }

    /// Returns whether the last rotation had this key. The token must be the one that it
    /// exchanged.
    fn has_key_of(self, previous: &Previous) -> bool {
        let Some(digest) = &previous.idempotency_key_digest else { return false };
        match self.key {
            PresentedKey::Missing => false,
            PresentedKey::Sent(key) => {
                self.token.secret.idempotency_key_digest(key).matches(digest.as_bytes())
            }
            PresentedKey::OfLastRotation => true,
        }
    }
}

/// Assesses a token by the row of its session. Expiry and the end of the session take
/// precedence.
#[must_use]
pub fn assess(
    presented: Presented<'_>,
    session: &Session,
    policy: &Policy,
    now: Timestamp,
) -> Assessment {
    // A session that expired before it was ended counts as expired.
    let at = match session.state {
        State::Live => now,
        State::Ended { at, .. } => at,
    };
    if session.expires_at <= at {
        return Assessment::Rejected(InvalidGrant::ExpiredAbsolute);
    }
    if session.idle_expires_at <= at {
        return Assessment::Rejected(InvalidGrant::ExpiredIdle);
    }
    if let State::Ended { reason, .. } = session.state {
        return Assessment::Rejected(InvalidGrant::Ended(reason));
    }
    // With `same_key_only`, a session that has used a key always needs one. A request
    // without a key does not come from its client.
    let lacks_key = policy.same_key_only()
        && session.has_used_idempotency_key
        && matches!(presented.key, PresentedKey::Missing);
    let token = presented.token;
    match token.generation.cmp(&session.generation) {
        Ordering::Less => assess_superseded(presented, session, policy, now),
        Ordering::Equal if !token.secret.digest().matches(session.secret_digest.as_bytes()) => {
            // Two tokens of one generation exist: the database was restored from an older
            // state and issued it a second time.
            Assessment::Rejected(InvalidGrant::Reuse)
        }
        Ordering::Greater if !policy.accept_ahead_of_database => {
            Assessment::Rejected(InvalidGrant::Unknown)
        }
        _ if lacks_key => Assessment::Rejected(InvalidGrant::Reuse),
        Ordering::Equal => Assessment::Current,
        Ordering::Greater => Assessment::AheadOfDatabase,
    }
}

/// Assesses a token that is no longer the current one.
fn assess_superseded(
    presented: Presented<'_>,
    session: &Session,
    policy: &Policy,
    now: Timestamp,
) -> Assessment {
    let (Some(rules), Some(previous)) = (policy.reissue, &session.previous) else {
        return Assessment::Rejected(InvalidGrant::Reuse);
    };
    let is_previous = presented.was_rotated_last(session, previous);
    let same_key = is_previous && presented.has_key_of(previous);
    if rules.same_key_only && session.has_used_idempotency_key && !same_key {
        return Assessment::Rejected(InvalidGrant::Reuse);
    }
    let mut until = previous.rotated_at.after(rules.grace_period);
    if same_key {
        until = until.max(previous.rotated_at.after(rules.recovery_window));
    }
    if until < now {
        return Assessment::Rejected(InvalidGrant::Reuse);
    }
    if is_previous && previous.successor_salt.is_some() {
        return Assessment::Reissue { until };
    }
    // The last rotation may be a thief's. It excuses only tokens that were current
    // within the last few grace periods.
    if is_previous || presented.token.generation >= session.oldest_recent_generation {
        Assessment::Rejected(InvalidGrant::Superseded)
    } else {
        Assessment::Rejected(InvalidGrant::Reuse)
    }
}

#[cfg(test)]
mod tests;
