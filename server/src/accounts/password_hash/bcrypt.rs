//! bcrypt (`$2a$`, `$2b$`, `$2y$`), as `htpasswd -B`, passlib and most frameworks write it.

use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use bcrypt::HashParts;

use super::{HashError, UnusableHash};
use crate::crypto::encode_hex;

/// The maximum cost: about four seconds.
const MAX_COST: u32 = 16;
/// The minimum cost that exists.
const MIN_COST: u32 = 4;
/// How many bytes of a password the hash depends on.
const MAX_PASSWORD_LEN: usize = 72;

pub(super) struct Hash {
    text: String,
    /// Whether the hash is of the password's SHA-256 digest in hexadecimal.
    is_of_digest: bool,
}

/// Parses a hash. Returns `None` for another format.
pub(super) fn parse(text: &str) -> Option<Result<Hash, UnusableHash>> {
    let is_bcrypt = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix));
    is_bcrypt.then(|| {
        let parts = HashParts::from_str(text).map_err(|_| UnusableHash::Malformed)?;
        match parts.get_cost() {
            MIN_COST..=MAX_COST => Ok(Hash { text: text.to_owned(), is_of_digest: false }),
            0..MIN_COST => Err(UnusableHash::Malformed),
            _ => Err(UnusableHash::TooExpensive),
        }
    })
}

impl Hash {
    /// Returns the hash as one of the password's digest.
    pub(super) fn of_digest(self) -> Self {
        Self { is_of_digest: true, ..self }
    }

    /// Returns whether the hash ignores the end of this password.
    pub(super) fn truncates(&self, password: &[u8]) -> bool {
        !self.is_of_digest && password.len() > MAX_PASSWORD_LEN
    }

    pub(super) fn fits(&self, password: &[u8]) -> Result<bool, HashError> {
        if self.is_of_digest {
            let hex = encode_hex(digest(&SHA256, password).as_ref());
            return Ok(::bcrypt::verify(hex, &self.text)?);
        }
        Ok(::bcrypt::verify(password, &self.text)?)
    }
}
