//! The two kinds of tokens: the format of refresh tokens, and the claims of access tokens.

mod access_token;
mod client_grant;
mod extra_claims;
mod refresh_token;
mod scope;

pub use access_token::{Audience, Claims, Subject, TokenHolder, VerifiedToken};
pub use client_grant::ClientGrant;
pub use extra_claims::{ExtraClaims, InvalidClaims};
pub use refresh_token::{RefreshToken, RotationRandomness};
pub use scope::{InvalidScope, Scope, StandardScopes};
