//! Signing keys: they sign and verify access tokens and tokens for clients, and are
//! published, rotated and revoked for all servers that share a database.
//!
//! Clients need not support any other algorithm than RS256 for ID tokens (`OpenID` Connect
//! Core §15.1). If access tokens have another one, keys of a second sequence sign ID tokens
//! ([`Purpose`]). The same rules apply to both sequences.
//!
//! A new key is published for [`Options::publish_ahead`] before it signs. The key set may
//! be cached for half as long, so that a cache always contains the key that signs. Every
//! server reads the keys each second.

mod encryption;
mod lifecycle;
mod ring;
mod rotation;
mod signing_key;
mod times;
mod verification;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::crypto::{CryptoError, RngError};
use crate::store;
pub use crate::store::signing_keys::Purpose;

pub use lifecycle::{Phase, phases};
pub use ring::{KeyRing, KeySet, REFRESH_INTERVAL};
pub use rotation::{KeyContext, Revoked, check_new_secret, replace_all, revoke, rotate};
pub use signing_key::Algorithm;
pub use times::KeyTimes;
pub use verification::{IdTokenHint, VerifyError};

/// The kinds of tokens that the keys sign. The header `typ` keeps a token of one kind from
/// being accepted as another (RFC 8725 §3.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// RFC 9068 §2.1.
    Access,
    /// An ID token of `OpenID` Connect.
    Id,
    /// A logout token (Back-Channel Logout 1.0 §2.4).
    Logout,
}

impl TokenType {
    const ALL: [Self; 3] = [Self::Access, Self::Id, Self::Logout];

    /// Returns the header `typ`.
    const fn name(self) -> &'static str {
        match self {
            Self::Access => "at+jwt",
            Self::Id => "JWT",
            Self::Logout => "logout+jwt",
        }
    }
}

/// The minimum of [`Options::max_staleness`].
const MIN_STALENESS_LIMIT: Duration = Duration::from_secs(30);

/// The reasons why a key cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a key operation failed: {0}")]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot read or change the signing keys: {0}")]
    Query(#[from] diesel::result::Error),
    /// The key was encrypted under another secret, or its row was altered.
    #[error(
        "cannot decrypt the signing key {kid} in the database with this server's secret: set \
         the secret that it was encrypted with, add that one to `old_secrets`, or start with an \
         empty database"
    )]
    WrongSecret { kid: String },
    /// The key was decrypted, but this version cannot use it.
    #[error("cannot use the signing key {kid} in the database: {problem}")]
    Unusable { kid: String, problem: String },
    /// The keys were last read too long ago: any of them may have been revoked.
    #[error("the signing keys could not be read for {}", humantime::format_duration(*.0))]
    Stale(Duration),
    #[error("key {0:?} does not exist or is not in use: `keys list` shows the keys in use")]
    NoSuchKey(String),
    /// The next key exists already.
    #[error("key {kid} is already published and signs from {active_from} on: wait until then")]
    Pending { kid: String, active_from: Timestamp },
    #[error("another process changed the keys at the same time: check the keys and try again")]
    Changed,
    #[error("cannot encode the claims of a token: {0}")]
    Claims(#[source] serde_json::Error),
    /// The library gives no reason.
    #[error("cannot sign a token")]
    Signature,
    /// The server's secrets decrypt no key in use.
    #[error("no key to sign with: the keys in use were encrypted under another secret")]
    NoKey,
    /// The secret that was reported as compromised is still in use.
    #[error(
        "the database still uses `secret` or one of `old_secrets`: if that secret is \
         compromised, set a new `secret` (`openssl rand -base64 32`), remove the compromised one \
         from all settings, and run this command again"
    )]
    SecretInUse,
    #[error("the creation of a key was canceled: {0}")]
    Canceled(#[from] actix_rt::task::JoinError),
}

/// The settings of the key ring and of access tokens.
#[derive(Clone)]
pub struct Options {
    /// The algorithm of new keys for access tokens.
    pub algorithm: Algorithm,
    /// The size of new RSA keys for ID tokens: 2048, 3072 or 4096.
    pub rsa_bits: u32,
    /// The time for which a key is published before it signs.
    pub publish_ahead: Duration,
    /// The time for which a key signs before the next one does; `None` if keys are only
    /// rotated by command.
    pub rotate_after: Option<Duration>,
    /// `iss` in access tokens.
    pub issuer: String,
    /// `aud` in access tokens.
    pub audience: String,
    /// The lifetime of access tokens.
    pub access_lifetime: Duration,
}

impl Options {
    /// Returns the algorithm of new keys.
    fn algorithm(&self, purpose: Purpose) -> Algorithm {
        match purpose {
            Purpose::Access => self.algorithm,
            Purpose::Id => Algorithm::Rs256 { bits: self.rsa_bits },
        }
    }

    /// Returns the time for which keys are used after they were read. A server without its
    /// database accepts and publishes a revoked key for at most this time. Caches of the
    /// key set trust the key for about as long.
    fn max_staleness(&self) -> Duration {
        MIN_STALENESS_LIMIT.max(self.publish_ahead / 2)
    }
}
