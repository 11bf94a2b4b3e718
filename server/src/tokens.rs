//! The two kinds of tokens: the format of refresh tokens, and the claims and scopes of
//! access tokens. Also the secrets of their clients, and the codes of devices.

mod access_token;
mod client_grant;
mod client_secret;
mod device_code;
mod extra_claims;
mod id_token;
mod logout_token;
mod refresh_token;
mod scope;

pub use access_token::{Audience, Claims, Subject, TokenHolder, VerifiedToken};
pub use client_grant::ClientGrant;
pub use client_secret::{SecretDigests, client_secret_digest, new_client_secret};
pub use device_code::{DeviceCode, UserCode, UserCodeMac};
pub use extra_claims::{ExtraClaims, InvalidClaims};
pub use id_token::{IdTokenClaims, UserClaims, hash_of};
pub use logout_token::LogoutTokenClaims;
pub use refresh_token::{RefreshToken, RotationRandomness};
pub use scope::{InvalidScope, Scope, StandardScopes};
