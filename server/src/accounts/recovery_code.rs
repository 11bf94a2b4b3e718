//! Recovery codes: each replaces the second factor once.

use crate::crypto::{Digest, RngError, random};

/// The characters of a code: digits and letters that cannot be mistaken for each other
/// (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The number of characters: 100 bits.
const LEN: usize = 20;

/// The number of characters between two hyphens.
const GROUP: usize = 5;

/// NEVER CHANGE THIS LABEL once a version is released: stored digests would no longer match.
const LABEL: &[u8] = b"matchbook recovery code";

/// A recovery code, normalized.
pub struct RecoveryCode(String);

impl RecoveryCode {
    /// Returns a new code.
    pub(super) fn random() -> Result<Self, RngError> {
        let bytes: [u8; LEN] = random()?;
        Ok(Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()))
    }

    /// Parses a code, with or without hyphens and spaces, in either case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let normalize = |c: char| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        };
        let is_part = |c: &char| !matches!(c, '-' | ' ');
        let code: String =
            text.trim().chars().filter(is_part).map(normalize).take(LEN + 1).collect();
        let is_valid = code.len() == LEN && code.bytes().all(|byte| ALPHABET.contains(&byte));
        is_valid.then_some(Self(code))
    }

    /// Returns the digest that the database stores. The code is random, so it needs no
    /// slow hash.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&[LABEL, self.0.as_bytes()])
    }

    /// Returns the code as its user sees it.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(LEN + LEN / GROUP);
        for (n, c) in self.0.chars().enumerate() {
            if n > 0 && n % GROUP == 0 {
                text.push('-');
            }
            text.push(c);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_in_what_people_type() {
        let code = RecoveryCode::random().unwrap();
        let shown = code.encode();
        assert_eq!(shown.len(), 23, "{shown}");
        let typed = [
            shown.to_lowercase(),
            shown.replace('-', " "),
            format!(" {} ", shown.replace('-', "")),
            shown.replace('0', "o").replace('1', "l"),
        ];
        for typed in typed {
            let parsed = RecoveryCode::parse(&typed).unwrap();
            assert!(parsed.digest() == code.digest(), "{typed}");
        }
        assert!(RecoveryCode::random().unwrap().digest() != code.digest());
    }

    #[test]
    fn other_texts_are_no_codes() {
        for text in ["", "123456", "ABCDE-FGHJK-MNPQR-STVW", "ABCDE-FGHJK-MNPQR-STVWXY", "U"] {
            assert!(RecoveryCode::parse(text).is_none(), "{text}");
        }
        assert!(RecoveryCode::parse(&"é".repeat(20)).is_none());
    }
}
