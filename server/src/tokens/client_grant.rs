//! The grant of a session that an OAuth client opened.

use super::Scope;
use crate::clock::Timestamp;
use crate::ids::ClientId;

/// What a session of an OAuth client may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientGrant {
    pub client: ClientId,
    pub scope: Scope,
    /// The resource servers that the access tokens are for (RFC 8707). Empty: the default
    /// audience.
    pub audiences: Vec<String>,
    /// When the user last proved who they are; `None` for a client that acts for itself.
    pub auth_time: Option<Timestamp>,
}
