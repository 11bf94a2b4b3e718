//! The stored form of passwords: PHC strings of Argon2id.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::hashing::Verdict;
use super::password::Password;
use crate::crypto::{RngError, random};

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

/// Why a hash cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error("the stored hash of a password has an unknown format")]
    UnknownFormat,
    #[error("a password cannot be hashed: {0}")]
    Argon2(#[from] argon2::Error),
    #[error("a password hash cannot be encoded: {0}")]
    Encoding(#[from] argon2::password_hash::phc::Error),
    #[error("the parameters of a password hash cannot be encoded: {0}")]
    Parameters(argon2::password_hash::Error),
    #[error(transparent)]
    Randomness(#[from] RngError),
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

/// Verifies a password.
pub(super) fn verify(
    password: &Password,
    stored: &str,
    memory: &mut [Block],
) -> Result<Verdict, HashError> {
    let parsed = PasswordHash::new(stored).map_err(|_| HashError::UnknownFormat)?;
    let algorithm = Algorithm::try_from(parsed.algorithm.as_str());
    let (Ok(algorithm), Some(salt), Some(expected)) = (algorithm, parsed.salt, parsed.hash) else {
        return Err(HashError::UnknownFormat);
    };
    let version = parsed.version.map_or(Ok(Version::V0x10), Version::try_from)?;
    let params = Params::try_from(&parsed).map_err(|_| HashError::UnknownFormat)?;
    let is_outdated = algorithm != Algorithm::Argon2id
        || version != Version::V0x13
        || params.m_cost() < MEMORY_KIB
        || params.t_cost() < PASSES;
    let needed = params.block_count();
    let argon2 = Argon2::new(algorithm, version, params);
    let mut hash = vec![0; expected.len()];
    if needed <= memory.len() {
        argon2.hash_password_into_with_memory(password.as_bytes(), &salt, &mut hash, memory)?;
    } else {
        argon2.hash_password_into(password.as_bytes(), &salt, &mut hash)?;
    }
    Ok(match verify_slices_are_equal(&hash, expected.as_bytes()) {
        Err(_) => Verdict::Wrong,
        Ok(()) if is_outdated => Verdict::RightButOutdated,
        Ok(()) => Verdict::Right,
    })
}
