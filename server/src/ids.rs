//! Ids of users, sessions, access tokens and audit log entries.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::crypto::{RngError, random};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// The id of a user. A guest's id is also the credential for its only log-in, so it
    /// is random and is not logged before that.
    UserId
}
id! {
    /// The id of a session: one log-in on one device (`sid` in an access token).
    SessionId
}
id! {
    /// The id of an access token (`jti`, RFC 7519 §4.1.7).
    AccessTokenId
}
id! {
    /// The id of an entry of the audit log.
    EventId
}

impl UserId {
    /// The smallest id.
    pub const MIN: Self = Self(Uuid::nil());

    /// Returns a new id that cannot be guessed.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl SessionId {
    /// The smallest id.
    pub const MIN: Self = Self(Uuid::nil());

    /// Returns a new id. Later ids sort later (UUID version 7), so that new rows go to
    /// one end of the primary key's index.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn new(now: Timestamp) -> Result<Self, RngError> {
        Ok(Self(uuid_v7(now, &random()?)))
    }
}

impl AccessTokenId {
    /// Returns the id made of 16 random bytes (UUID version 4).
    #[must_use]
    pub(crate) fn from_random_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}

impl EventId {
    /// Returns a new id. Later ids sort later.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn new(now: Timestamp) -> Result<Self, RngError> {
        Ok(Self::from_random_bytes(now, &random()?))
    }

    pub(crate) fn from_random_bytes(now: Timestamp, bytes: &[u8; 10]) -> Self {
        Self(uuid_v7(now, bytes))
    }

    /// Returns the id of the n-th of several entries that are written together.
    #[must_use]
    pub fn offset(self, n: u128) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().wrapping_add(n)))
    }

    /// Returns the smallest id that an entry written at `time` can have.
    #[must_use]
    pub fn first_at(time: Timestamp) -> Self {
        let millis = time.as_unix_millis();
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }
}

fn uuid_v7(now: Timestamp, random: &[u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.as_unix_millis(), random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_session_ids_sort_later() {
        let early = SessionId::new(Timestamp::from_secs(1_700_000_000)).unwrap();
        let late = SessionId::new(Timestamp::from_secs(1_700_000_001)).unwrap();
        assert!(early.0 < late.0);
    }
}
