//! The two kinds of tokens: the format of refresh tokens, and the claims of access tokens.

mod access_token;
mod extra_claims;
mod refresh_token;

pub use access_token::{Claims, VerifiedToken};
pub use extra_claims::{ExtraClaims, InvalidClaims};
pub use refresh_token::{RefreshToken, RotationRandomness};
