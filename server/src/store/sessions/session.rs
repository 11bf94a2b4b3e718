//! A session as the rules see it, parsed from its row.

use std::net::IpAddr;

use diesel::prelude::*;

use super::{StoredGrant, key};
use crate::clock::Timestamp;
use crate::crypto::{Digest, Salt};
use crate::ids::{AccessTokenId, ClientId, SessionId, UserId};
use crate::store::Conn;
use crate::store::schema::sessions;
use crate::store::types::IpAddress;
use crate::tokens::{ClientGrant, ExtraClaims};

/// A session.
pub struct Session {
    pub user: UserId,
    /// The number of rotations.
    pub generation: i64,
    /// Digest of the current refresh token's secret.
    pub secret_digest: Digest,
    /// The generation before the current one, if the session has been rotated.
    pub previous: Option<Previous>,
    /// Whether any rotation had an idempotency key.
    pub has_used_idempotency_key: bool,
    /// The oldest generation that was current within the last grace periods.
    pub oldest_recent_generation: i64,
    /// The last access token.
    pub access: AccessTokenId,
    pub access_issued_at: Timestamp,
    /// When the last access token of the session expires.
    pub access_expires_at: Timestamp,
    pub created_at: Timestamp,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    pub state: State,
    /// The `User-Agent` of the last login or refresh.
    pub user_agent: Option<String>,
    /// The address of the last login or refresh.
    pub ip: Option<IpAddr>,
    /// Further claims of its access tokens.
    pub claims: Option<ExtraClaims>,
    /// The grant of the OAuth client that opened it; `None` at the native endpoints.
    pub grant: Option<ClientGrant>,
}

/// The last rotated generation of a session.
pub struct Previous {
    /// Digest of its secret.
    pub digest: Digest,
    pub rotated_at: Timestamp,
    /// The salt of its successor, while that may be reissued.
    pub successor_salt: Option<Salt>,
    /// Digest of the idempotency key of the rotation.
    pub idempotency_key_digest: Option<Digest>,
}

/// Whether a session has ended. A live session may have expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Live,
    Ended { at: Timestamp, reason: EndReason },
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// A copied refresh token was detected.
    Reuse,
    /// Its user or an operator ended it.
    LoggedOut,
    /// The password of its user was changed or reset.
    PasswordChanged,
    /// Its user was disabled or deleted.
    UserDisabled,
    /// A reason of another version of the server.
    Other,
}

/// The end of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionEnd {
    pub at: Timestamp,
    pub reason: EndReason,
}

impl EndReason {
    pub const ALL: [Self; 5] =
        [Self::Reuse, Self::LoggedOut, Self::PasswordChanged, Self::UserDisabled, Self::Other];

    /// Returns the reason as the database stores it.
    ///
    /// NEVER CHANGE these values once a version is released: the rows of ended sessions
    /// have them.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reuse => "reuse",
            Self::LoggedOut => "logged_out",
            Self::PasswordChanged => "password_changed",
            Self::UserDisabled => "user_disabled",
            Self::Other => "other",
        }
    }

    /// Returns the reason of a logout that its user did not ask for.
    #[must_use]
    pub fn explains_logout(self) -> Option<&'static str> {
        (self != Self::LoggedOut).then(|| self.as_str())
    }

    fn parse(text: &str) -> Self {
        [Self::Reuse, Self::LoggedOut, Self::PasswordChanged, Self::UserDisabled]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .unwrap_or(Self::Other)
    }
}

impl Session {
    /// Moves the last rotation to `time` at the earliest, and accepts `generation` as
    /// recently current: until `time` its token was seen as the current one. The date of
    /// a rotation that was committed late is too early.
    pub fn rotated_after(&mut self, time: Timestamp, generation: i64) {
        if let Some(previous) = &mut self.previous {
            previous.rotated_at = previous.rotated_at.max(time);
        }
        self.oldest_recent_generation = self.oldest_recent_generation.min(generation);
    }

    #[must_use]
    pub fn rotated_at(&self) -> Option<Timestamp> {
        self.previous.as_ref().map(|previous| previous.rotated_at)
    }
}

#[derive(Queryable)]
struct SessionRow {
    user: UserId,
    generation: i64,
    secret_digest: Vec<u8>,
    previous_digest: Option<Vec<u8>>,
    successor_salt: Option<Vec<u8>>,
    idempotency_key_digest: Option<Vec<u8>>,
    has_used_idempotency_key: bool,
    oldest_recent_generation: i64,
    rotated_at: Option<Timestamp>,
    access: AccessTokenId,
    access_issued_at: Timestamp,
    access_expires_at: Timestamp,
    created_at: Timestamp,
    idle_expires_at: Timestamp,
    expires_at: Timestamp,
    ended_at: Option<Timestamp>,
    end_reason: Option<String>,
    user_agent: Option<String>,
    ip: Option<IpAddress>,
    claims: Option<String>,
    client: Option<String>,
    grant: StoredGrant,
}

/// A row that no server writes.
#[derive(Debug, thiserror::Error)]
#[error("a row of `sessions` is inconsistent: {0}")]
struct InconsistentRow(&'static str);

impl TryFrom<SessionRow> for Session {
    type Error = InconsistentRow;

    fn try_from(row: SessionRow) -> Result<Self, InconsistentRow> {
        let previous = match (&row.previous_digest, row.rotated_at) {
            (Some(previous_digest), Some(rotated_at)) => Some(Previous {
                digest: digest(previous_digest)?,
                rotated_at,
                successor_salt: row.successor_salt.as_deref().map(salt).transpose()?,
                idempotency_key_digest: row
                    .idempotency_key_digest
                    .as_deref()
                    .map(digest)
                    .transpose()?,
            }),
            (None, None) => None,
            _ => return Err(InconsistentRow("`previous_digest` without `rotated_at`")),
        };
        let state = match (row.ended_at, &row.end_reason) {
            (Some(at), Some(reason)) => State::Ended { at, reason: EndReason::parse(reason) },
            (None, None) => State::Live,
            _ => return Err(InconsistentRow("`ended_at` without `end_reason`")),
        };
        Ok(Self {
            user: row.user,
            generation: row.generation,
            secret_digest: digest(&row.secret_digest)?,
            previous,
            has_used_idempotency_key: row.has_used_idempotency_key,
            oldest_recent_generation: row.oldest_recent_generation,
            access: row.access,
            access_issued_at: row.access_issued_at,
            access_expires_at: row.access_expires_at,
            created_at: row.created_at,
            idle_expires_at: row.idle_expires_at,
            expires_at: row.expires_at,
            state,
            user_agent: row.user_agent,
            ip: row.ip.map(|address| address.0),
            claims: row.claims.map(ExtraClaims::from_stored),
            grant: row.grant.of_client(row.client.map(ClientId::from)),
        })
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, InconsistentRow> {
    Digest::from_bytes(bytes).ok_or(InconsistentRow("a digest has another length"))
}

fn salt(bytes: &[u8]) -> Result<Salt, InconsistentRow> {
    Salt::from_bytes(bytes).ok_or(InconsistentRow("a salt has another length"))
}

/// Reads a session.
pub fn find(conn: &mut Conn, id: SessionId) -> QueryResult<Option<Session>> {
    let row: Option<SessionRow> = sessions::table
        .find(key(id))
        .select((
            sessions::user_id,
            sessions::generation,
            sessions::secret_digest,
            sessions::previous_digest,
            sessions::successor_salt,
            sessions::idempotency_key_digest,
            sessions::has_used_idempotency_key,
            sessions::oldest_recent_generation,
            sessions::rotated_at,
            sessions::access_jti,
            sessions::access_issued_at,
            sessions::access_expires_at,
            sessions::created_at,
            sessions::idle_expires_at,
            sessions::expires_at,
            sessions::ended_at,
            sessions::end_reason,
            sessions::user_agent,
            sessions::ip,
            sessions::claims,
            sessions::client_id,
            (sessions::scope, sessions::audiences, sessions::auth_time),
        ))
        .first(conn)
        .optional()?;
    let session = row.map(Session::try_from).transpose();
    session.map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}
