//! What a handler may use.

use crate::active::ActiveTokens;
use crate::keys::KeyRing;
use crate::sessions::Policy;
use crate::store::Store;
use crate::token::Pepper;

/// Shared by all handlers of a server.
pub struct State {
    /// The database.
    pub store: Store,
    /// Signs and verifies access tokens.
    pub keys: KeyRing,
    /// Tags and recognises refresh tokens.
    pub pepper: Pepper,
    /// Knows which access tokens are active.
    pub active: ActiveTokens,
    /// How long tokens and sessions live.
    pub policy: Policy,
    /// `iss` in access tokens.
    pub issuer: String,
    /// `aud` in access tokens.
    pub audience: String,
}
