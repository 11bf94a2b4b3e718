//! The algorithms of stored hashes, their parameters, and the cost that is permitted.

use std::num::NonZeroU32;

use argon2::password_hash::phc::{Output, Salt};
use argon2::{Algorithm, Argon2, Block, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::pbkdf2;

use super::{HashError, MEMORY_KIB, PASSES, UnusableHash, bcrypt, django, phc, werkzeug};

/// The maximum memory of a hash in bytes.
const MAX_MEMORY: u64 = 256 << 20;
/// The maximum product of memory in KiB and passes of Argon2. One GiB takes about half a
/// second.
const MAX_ARGON2_WORK: u64 = 8 << 20;
/// The maximum product of scrypt's three parameters: about five seconds.
const MAX_SCRYPT_WORK: u64 = 1 << 24;
/// The maximum number of iterations of PBKDF2: about five seconds.
const MAX_ITERATIONS: u32 = 10_000_000;
/// The minimum length of a hash in bytes. A shorter one fits too many passwords.
const MIN_HASH_LEN: usize = 16;
/// The maximum length of a hash, and of a salt, in bytes.
const MAX_LEN: usize = 1024;

/// A parsed hash.
pub(super) enum Scheme {
    Argon2(Argon2Hash),
    Scrypt(ScryptHash),
    Pbkdf2(Pbkdf2Hash),
    Bcrypt(bcrypt::Hash),
}

pub(super) struct Argon2Hash {
    pub(super) algorithm: Algorithm,
    pub(super) version: Version,
    pub(super) params: argon2::Params,
    pub(super) salt: Salt,
    pub(super) hash: Output,
}

pub(super) struct ScryptHash {
    params: scrypt::Params,
    memory: usize,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// The cost of scrypt (RFC 7914 §2).
#[derive(Clone, Copy)]
pub(super) struct ScryptCost {
    pub(super) log_n: u32,
    pub(super) r: u32,
    pub(super) p: u32,
}

pub(super) struct Pbkdf2Hash {
    algorithm: pbkdf2::Algorithm,
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Scheme {
    /// Parses a stored hash of any format, and checks its cost.
    pub(super) fn parse(text: &str) -> Result<Self, UnusableHash> {
        if text.starts_with('$') {
            return bcrypt::parse(text)
                .map_or_else(|| phc::parse(text), |hash| hash.map(Self::Bcrypt));
        }
        match text.split_once('$') {
            Some((method, _)) if method.contains(':') => werkzeug::parse(text),
            Some((algorithm, rest)) => django::parse(algorithm, rest),
            None => Err(UnusableHash::UnknownFormat),
        }
    }

    /// Returns a hash of Argon2 if its cost is permitted.
    pub(super) fn argon2(hash: Argon2Hash) -> Result<Self, UnusableHash> {
        let memory = u64::from(hash.params.m_cost());
        let work = memory.saturating_mul(hash.params.t_cost().into());
        if memory.saturating_mul(1024) > MAX_MEMORY || work > MAX_ARGON2_WORK {
            return Err(UnusableHash::TooExpensive);
        }
        check_lengths(&hash.salt, hash.hash.as_bytes())?;
        Ok(Self::Argon2(hash))
    }

    /// Returns a hash of scrypt if its cost is permitted.
    pub(super) fn scrypt(
        cost: ScryptCost,
        salt: Vec<u8>,
        hash: Vec<u8>,
    ) -> Result<Self, UnusableHash> {
        check_lengths(&salt, &hash)?;
        let ScryptCost { log_n, r, p } = cost;
        if log_n == 0 || r == 0 || p == 0 {
            return Err(UnusableHash::Malformed);
        }
        let n = 1u64.checked_shl(log_n).ok_or(UnusableHash::TooExpensive)?;
        let blocks = n.saturating_add(p.into());
        let memory = blocks.saturating_mul(r.into()).saturating_mul(128);
        let work = n.saturating_mul(r.into()).saturating_mul(p.into());
        if memory > MAX_MEMORY || work > MAX_SCRYPT_WORK {
            return Err(UnusableHash::TooExpensive);
        }
        let log_n = u8::try_from(log_n).map_err(|_| UnusableHash::TooExpensive)?;
        let params = scrypt::Params::new(log_n, r, p).map_err(|_| UnusableHash::Malformed)?;
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        Ok(Self::Scrypt(ScryptHash { params, memory, salt, hash }))
    }

    /// Returns a hash of PBKDF2 with the digest `sha1`, `sha256` or `sha512` if its cost is
    /// permitted.
    pub(super) fn pbkdf2(
        digest: &str,
        iterations: u32,
        salt: Vec<u8>,
        hash: Vec<u8>,
    ) -> Result<Self, UnusableHash> {
        let algorithm = match digest {
            "sha1" => pbkdf2::PBKDF2_HMAC_SHA1,
            "sha256" => pbkdf2::PBKDF2_HMAC_SHA256,
            "sha512" => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return Err(UnusableHash::UnknownFormat),
        };
        check_lengths(&salt, &hash)?;
        let iterations = NonZeroU32::new(iterations).ok_or(UnusableHash::Malformed)?;
        if iterations.get() > MAX_ITERATIONS {
            return Err(UnusableHash::TooExpensive);
        }
        Ok(Self::Pbkdf2(Pbkdf2Hash { algorithm, iterations, salt, hash }))
    }

    /// Returns whether the hash is as strong as a new one.
    pub(super) fn is_current(&self) -> bool {
        let Self::Argon2(hash) = self else { return false };
        hash.algorithm == Algorithm::Argon2id
            && hash.version == Version::V0x13
            && hash.params.m_cost() >= MEMORY_KIB
            && hash.params.t_cost() >= PASSES
    }

    /// Returns the memory that [`Self::fits`] needs, in bytes.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Argon2(hash) => hash.params.block_count().saturating_mul(Block::SIZE),
            Self::Scrypt(hash) => hash.memory,
            Self::Pbkdf2(_) | Self::Bcrypt(_) => 0,
        }
    }

    /// Returns whether the hash ignores the end of this password.
    pub(super) fn truncates(&self, password: &[u8]) -> bool {
        matches!(self, Self::Bcrypt(hash) if hash.truncates(password))
    }

    /// Returns whether the hash is of this password. Compares in constant time.
    pub(super) fn fits(&self, password: &[u8], memory: &mut [Block]) -> Result<bool, HashError> {
        match self {
            Self::Argon2(hash) => hash.fits(password, memory),
            Self::Scrypt(ScryptHash { params, salt, hash, .. }) => {
                let mut computed = vec![0; hash.len()];
                scrypt::scrypt(password, salt, params, &mut computed)?;
                Ok(verify_slices_are_equal(&computed, hash).is_ok())
            }
            Self::Pbkdf2(Pbkdf2Hash { algorithm, iterations, salt, hash }) => {
                Ok(pbkdf2::verify(*algorithm, *iterations, salt, password, hash).is_ok())
            }
            Self::Bcrypt(hash) => hash.fits(password),
        }
    }
}

impl Argon2Hash {
    fn fits(&self, password: &[u8], memory: &mut [Block]) -> Result<bool, HashError> {
        let mut computed = vec![0; self.hash.len()];
        let argon2 = Argon2::new(self.algorithm, self.version, self.params.clone());
        if self.params.block_count() <= memory.len() {
            argon2.hash_password_into_with_memory(password, &self.salt, &mut computed, memory)?;
        } else {
            argon2.hash_password_into(password, &self.salt, &mut computed)?;
        }
        Ok(verify_slices_are_equal(&computed, self.hash.as_bytes()).is_ok())
    }
}

fn check_lengths(salt: &[u8], hash: &[u8]) -> Result<(), UnusableHash> {
    let are_valid =
        (1..=MAX_LEN).contains(&salt.len()) && (MIN_HASH_LEN..=MAX_LEN).contains(&hash.len());
    if are_valid { Ok(()) } else { Err(UnusableHash::Malformed) }
}
