//! The stored form of passwords: PHC strings of Argon2id. Imported accounts have the form of
//! another server until their user logs in.

mod bcrypt;
mod django;
mod phc;
mod scheme;
mod werkzeug;

use std::sync::{Mutex, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use super::hashing::Verdict;
use super::password::Password;
use crate::crypto::{CryptoError, RngError, random};
use scheme::Scheme;

/// The memory of a hash in KiB (OWASP Password Storage Cheat Sheet: 19 MiB).
const MEMORY_KIB: u32 = 19 * 1024;
/// The number of passes over the memory.
const PASSES: u32 = 2;
const PARALLELISM: u32 = 1;
const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// The number of blocks (1 KiB each) that [`create`] and [`verify`] use.
pub(super) const BLOCKS: usize = MEMORY_KIB as usize;
/// The memory of a hash in bytes.
pub(super) const MEMORY_PER_HASH: usize = BLOCKS * Block::SIZE;

/// Why a hash of another server cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableHash {
    #[error("the format of the password hash is not supported")]
    UnknownFormat,
    #[error("the password hash is malformed")]
    Malformed,
    /// A login would take too much memory or time.
    #[error(
        "the password hash is too expensive: at most 256 MiB and about five seconds are permitted"
    )]
    TooExpensive,
}

/// Why a hash cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error("a stored hash of a password cannot be used: {0}")]
    Unusable(#[from] UnusableHash),
    #[error("a password cannot be hashed: {0}")]
    Argon2(#[from] argon2::Error),
    #[error("a password cannot be hashed with scrypt: {0}")]
    Scrypt(#[from] ::scrypt::errors::InvalidOutputLen),
    #[error("a password cannot be hashed with bcrypt: {0}")]
    Bcrypt(#[from] ::bcrypt::BcryptError),
    #[error("a password hash cannot be encoded: {0}")]
    Encoding(#[from] argon2::password_hash::phc::Error),
    #[error("the parameters of a password hash cannot be encoded: {0}")]
    Parameters(argon2::password_hash::Error),
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

fn current() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, PARALLELISM, Some(HASH_LEN))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes a password with a new salt. Returns the PHC string.
pub(super) fn create(password: &Password, memory: &mut [Block]) -> Result<String, HashError> {
    let argon2 = current()?;
    let salt: [u8; SALT_LEN] = random()?;
    let mut hash = [0; HASH_LEN];
    argon2.hash_password_into_with_memory(password.as_bytes(), &salt, &mut hash, memory)?;
    encode(&argon2, &salt, &hash)
}

/// Hashes a password on this thread, for the command line.
pub fn create_here(password: &Password) -> Result<String, HashError> {
    create(password, &mut vec![Block::default(); BLOCKS])
}

/// Checks whether a hash of another server can be stored.
pub fn check(text: &str) -> Result<(), UnusableHash> {
    Scheme::parse(text).map(drop)
}

/// Returns a hash that no password fits.
pub(super) fn dummy() -> String {
    current()
        .ok()
        .and_then(|argon2| encode(&argon2, &[0; SALT_LEN], &[0; HASH_LEN]).ok())
        .unwrap_or_default()
}

fn encode(argon2: &Argon2<'_>, salt: &[u8], hash: &[u8]) -> Result<String, HashError> {
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params()).map_err(HashError::Parameters)?,
        salt: Some(Salt::new(salt)?),
        hash: Some(Output::new(hash)?),
    };
    Ok(hash.to_string())
}

/// Permits one hash at a time that needs more memory than a thread has.
static LARGE: Mutex<()> = Mutex::new(());

/// Verifies a password. Another server may have hashed it as its user typed it; here it is
/// normalized first. Either text is accepted.
pub(super) fn verify(
    password: &Password,
    stored: &str,
    memory: &mut [Block],
) -> Result<Verdict, HashError> {
    let scheme = Scheme::parse(stored)?;
    let is_large = scheme.memory() > Block::SIZE.saturating_mul(memory.len());
    let _permit = is_large.then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let (normalized, presented) = (password.as_bytes(), password.presented_bytes());
    if scheme.is_current() {
        if scheme.fits(normalized, memory)? {
            return Ok(Verdict::Right);
        }
        let fits = presented != normalized && scheme.fits(presented, memory)?;
        return Ok(if fits { Verdict::RightButOutdated } else { Verdict::Wrong });
    }
    let fits = scheme.fits(presented, memory)?
        || (presented != normalized && scheme.fits(normalized, memory)?);
    Ok(match fits {
        false => Verdict::Wrong,
        // The new hash would be of all characters, and the user may have mistyped those that
        // the old one ignores.
        true if scheme.truncates(presented) => Verdict::Right,
        true => Verdict::RightButOutdated,
    })
}

#[cfg(test)]
mod tests;
