//! Ids of users, sessions, access tokens and audit log entries.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::crypto::{Digest, RngError, random};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
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
    /// The id of a user. A guest's id is also the credential for its only login, so it
    /// is random and is not logged before the login.
    UserId
}
id! {
    /// The id of a session: one login on one device (`sid` in an access token).
    SessionId
}
id! {
    /// The id of a login session: one browser that is logged in at the pages of the server.
    LoginSessionId
}
id! {
    /// The id of an access token (`jti`, RFC 7519 §4.1.7).
    AccessTokenId
}
id! {
    /// The id of an entry of the audit log.
    EventId
}

/// The id of an OAuth client (`client_id`, RFC 6749 §2.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ClientId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<String> for ClientId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The routing value of a user and of all its sessions: the first column in the keys of
/// `users`, `sessions`, `session_revocations` and `events`. A distributed database can
/// therefore store all rows of a user on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u8);

/// NEVER CHANGE THIS MASK once a version is released: the place is in every stored key,
/// and in every session id that clients hold. It is the low six bits of a byte.
const PLACE_MASK: u8 = 0x3f;

/// NEVER CHANGE THIS POSITION once a version is released: sessions of issued tokens would
/// no longer be found. The byte's two high bits are the variant of the UUID.
const PLACE_BYTE: usize = 8;

impl Place {
    /// The smallest place.
    pub const MIN: Self = Self(0);

    /// Returns all places, in the order of the primary keys.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::MIN.and_later()
    }

    /// Returns this place and those after it.
    pub fn and_later(self) -> impl Iterator<Item = Self> {
        (self.0..=PLACE_MASK).map(Self)
    }

    /// Returns the value of the column `place`.
    #[must_use]
    pub fn value(self) -> i16 {
        i16::from(self.0)
    }
}

impl UserId {
    /// The smallest id.
    pub const MIN: Self = Self(Uuid::nil());

    /// Returns the place of the user.
    ///
    /// NEVER CHANGE THIS HASH once a version is released: stored users would no longer be
    /// found. In SQL it is `get_byte(sha256(uuid_send(id)), 0) & 63`.
    #[must_use]
    pub fn place(self) -> Place {
        Place(Digest::of(&[self.0.as_bytes()]).as_bytes()[0] & PLACE_MASK)
    }

    /// Returns a new id that cannot be guessed.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Returns the user of an OAuth client that acts for itself.
    ///
    /// NEVER CHANGE THIS HASH once a version is released: sessions of clients would no
    /// longer be found.
    #[must_use]
    pub fn of_client(client: &ClientId) -> Self {
        let digest = Digest::of(&[b"matchbook client\0", client.as_str().as_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

impl SessionId {
    /// The smallest id.
    pub const MIN: Self = Self(Uuid::nil());

    /// Returns a new id that carries the place of its user. Later ids sort later (UUID
    /// version 7), so that new rows of a place are neighbors in the primary key's index.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn new(user: UserId, now: Timestamp) -> Result<Self, RngError> {
        with_place_of(user, now).map(Self)
    }

    /// Returns the place of the session's user.
    #[must_use]
    pub fn place(self) -> Place {
        place_in(self.0)
    }
}

impl LoginSessionId {
    /// The smallest id.
    pub const MIN: Self = Self(Uuid::nil());

    /// Returns a new id that carries the place of its user, as [`SessionId::new`] does.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn new(user: UserId, now: Timestamp) -> Result<Self, RngError> {
        with_place_of(user, now).map(Self)
    }

    /// Returns the place of the user.
    #[must_use]
    pub fn place(self) -> Place {
        place_in(self.0)
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

/// Returns a new UUID that carries the place of a user.
fn with_place_of(user: UserId, now: Timestamp) -> Result<Uuid, RngError> {
    let mut bytes = uuid_v7(now, &random()?).into_bytes();
    bytes[PLACE_BYTE] = bytes[PLACE_BYTE] & !PLACE_MASK | user.place().0;
    Ok(Uuid::from_bytes(bytes))
}

/// Returns the place that a UUID carries.
fn place_in(id: Uuid) -> Place {
    Place(id.as_bytes()[PLACE_BYTE] & PLACE_MASK)
}

fn uuid_v7(now: Timestamp, random: &[u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.as_unix_millis(), random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_session_ids_sort_later() {
        let user = UserId::random();
        let early = SessionId::new(user, Timestamp::from_secs(1_700_000_000)).unwrap();
        let late = SessionId::new(user, Timestamp::from_secs(1_700_000_001)).unwrap();
        assert!(early.0 < late.0);
    }

    #[test]
    fn session_id_is_a_version_7_uuid_with_the_place_of_its_user() {
        let now = Timestamp::from_secs(1_700_000_000);
        let mut places = std::collections::HashSet::new();
        for _ in 0..2000 {
            let user = UserId::random();
            let session = SessionId::new(user, now).unwrap();
            assert_eq!(session.place(), user.place());
            assert_eq!(session.0.get_version_num(), 7);
            assert_eq!(session.0.get_variant(), uuid::Variant::RFC4122);
            assert_ne!(session, SessionId::new(user, now).unwrap());
            places.insert(user.place());
        }
        assert_eq!(places.len(), Place::all().count());
    }

    /// Places of released ids never change.
    #[test]
    fn place_of_a_user_and_of_a_session_is_fixed() {
        let user = UserId(Uuid::from_u128(0x0190_0000_0000_4000_8000_0000_0000_0001));
        let session = SessionId(Uuid::from_u128(0x0190_0000_0000_7000_a500_0000_0000_0001));
        assert_eq!(user.place().value(), 47);
        assert_eq!(session.place().value(), 0x25);
    }
}
