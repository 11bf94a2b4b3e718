//! The claims of an access token.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::StandardScopes;
use crate::clock::Timestamp;
use crate::ids::{AccessTokenId, ClientId, SessionId, UserId};

/// The claims of an access token (RFC 9068 §2.2, and `sid`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims<'a> {
    /// The issuer: `tokens.issuer`.
    pub iss: Cow<'a, str>,
    /// The resource servers that the token is for.
    pub aud: Audience<'a>,
    pub sub: Subject<'a>,
    /// The client that requested the token.
    pub client_id: Cow<'a, str>,
    /// The time of issue, in seconds since the Unix epoch.
    pub iat: i64,
    /// The expiry time, in seconds since the Unix epoch.
    pub exp: i64,
    /// The id of the token.
    pub jti: AccessTokenId,
    /// The session that the token belongs to.
    pub sid: SessionId,
    /// The scopes, for an OAuth client that has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Cow<'a, str>>,
    /// When the user of an OAuth client last proved who they are, in seconds since the Unix
    /// epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
}

/// One resource server, or several (RFC 7519 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience<'a> {
    One(Cow<'a, str>),
    Several(Vec<Cow<'a, str>>),
}

impl Audience<'_> {
    #[must_use]
    pub fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

/// The subject of an access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Subject<'a> {
    User(UserId),
    /// A client that acts for itself. The id of a client is never a UUID.
    Client(Cow<'a, str>),
}

/// For whom an access token was issued, as far as this server is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenHolder {
    /// The user, at the native endpoints: the token permits everything.
    Native,
    /// An OAuth client that acts for the user.
    Client(StandardScopes),
    /// An OAuth client that acts for itself.
    Machine,
}

/// The parts of a verified access token that requests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The user. A client that acts for itself has a user as well, derived from its id.
    pub user: UserId,
    /// The session that the token belongs to.
    pub session: SessionId,
    /// The id of the token.
    pub id: AccessTokenId,
    /// The expiry time: a whole second.
    pub expires_at: Timestamp,
    pub holder: TokenHolder,
    /// Whether the token is for this server, and not only for other resource servers.
    pub is_for_this_server: bool,
}

impl Claims<'_> {
    /// The `client_id` of access tokens that the native endpoints issue.
    pub const NATIVE_CLIENT: &'static str = "matchbook";

    /// Returns the claims that requests use. `audience` is that of this server.
    #[must_use]
    pub fn verified(&self, audience: &str) -> VerifiedToken {
        let (user, holder) = match &self.sub {
            Subject::Client(client) => {
                (UserId::of_client(&ClientId::from(&**client)), TokenHolder::Machine)
            }
            Subject::User(user) if self.client_id == Self::NATIVE_CLIENT => {
                (*user, TokenHolder::Native)
            }
            Subject::User(user) => {
                let scopes = StandardScopes::of(self.scope.as_deref().unwrap_or_default());
                (*user, TokenHolder::Client(scopes))
            }
        };
        VerifiedToken {
            user,
            session: self.sid,
            id: self.jti,
            expires_at: Timestamp::from_secs(self.exp),
            holder,
            is_for_this_server: self.aud.contains(audience),
        }
    }
}
