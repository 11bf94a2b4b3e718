//! Device codes and user codes (RFC 8628): what a device polls with, and what its user types.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::crypto::{RngError, Secret, TokenKey, TokenKeys, constant_time_eq, random};
use crate::ids::ClientId;

/// A device code: opaque to clients, `mb_dc_` and base64url of
/// MAC of the user code 16 ‖ secret 32 ‖ tag 16 bytes.
///
/// The tag is the first 16 bytes of HMAC-SHA256 under the key of device codes over everything
/// before it, and over the id of the client. A forged code or that of another client is
/// therefore rejected without a query.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceCode {
    pub user_code: UserCodeMac,
    /// The secret that proves possession of this code.
    pub secret: Secret,
}

/// The MAC of a user code, by which the database finds the request of a device. A user code is
/// too short for a digest without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserCodeMac([u8; MAC_LEN]);

/// What the user types at the page `/device`: eight letters, in groups of four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserCode([u8; USER_CODE_LEN]);

/// NEVER CHANGE THE PREFIX once a version is released: secret scanners would no longer find
/// leaked codes.
const PREFIX: &str = "mb_dc_";

/// The letters of user codes: no vowels, so that they form no words (RFC 8628 §6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// The number of letters: 34 bits, which are enough for a code that lives for minutes and
/// whose guessing is slowed down (RFC 8628 §5.1).
const USER_CODE_LEN: usize = 8;
const GROUP_LEN: usize = 4;

const MAC_LEN: usize = 16;
const PAYLOAD_LEN: usize = MAC_LEN + 32;
const TAG_LEN: usize = 16;

impl UserCodeMac {
    /// Returns the 16 bytes that the database stores.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl UserCode {
    /// Returns a new code that cannot be guessed.
    ///
    /// # Errors
    /// Fails if the system's random number generator fails.
    pub fn random() -> Result<Self, RngError> {
        // So many bits that each letter is equally likely, except for one part in 2^93.
        let mut number = u128::from_be_bytes(random()?);
        let count = LETTERS.len() as u128;
        let mut letters = [0; USER_CODE_LEN];
        for letter in &mut letters {
            let at = usize::try_from(number % count).unwrap_or_default();
            *letter = LETTERS[at % LETTERS.len()];
            number /= count;
        }
        Ok(Self(letters))
    }

    /// Parses what a user types: case, spaces and punctuation make no difference. Returns
    /// `None` for a text that is no code.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_ignored = |letter: &char| letter.is_whitespace() || letter.is_ascii_punctuation();
        let mut typed = text.chars().filter(|letter| !is_ignored(letter));
        let mut letters = [0; USER_CODE_LEN];
        for letter in &mut letters {
            let upper = u8::try_from(typed.next()?).ok()?.to_ascii_uppercase();
            *letter = LETTERS.contains(&upper).then_some(upper)?;
        }
        typed.next().is_none().then_some(Self(letters))
    }

    /// Returns the MAC of the code.
    #[must_use]
    pub fn mac(&self, key: &TokenKey) -> UserCodeMac {
        UserCodeMac(key.tag_of([b"user code", &self.0]))
    }
}

/// Writes the code as devices show it: `WDJB-MJHT`.
impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, letter) in self.0.iter().enumerate() {
            let separator = if at == GROUP_LEN { "-" } else { "" };
            write!(f, "{separator}{}", char::from(*letter))?;
        }
        Ok(())
    }
}

impl DeviceCode {
    /// Encodes the code for its client.
    #[must_use]
    pub fn encode(&self, client: &ClientId, key: &TokenKey) -> String {
        let payload = [self.user_code.as_bytes(), self.secret.as_bytes()].concat();
        let tag = tag(&payload, client, key);
        let mut text = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string([payload.as_slice(), &tag].concat(), &mut text);
        text
    }

    /// Parses a code that this server issued to this client. Returns `None` for any other
    /// text.
    #[must_use]
    pub fn parse(text: &str, client: &ClientId, keys: &TokenKeys) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (payload, presented) = bytes.split_at_checked(PAYLOAD_LEN)?;
        if !keys.all().any(|key| constant_time_eq(&tag(payload, client, key), presented)) {
            return None;
        }
        let (mac, secret) = payload.split_at(MAC_LEN);
        Some(Self {
            user_code: UserCodeMac(mac.try_into().ok()?),
            secret: Secret::from_bytes(secret.try_into().ok()?),
        })
    }
}

/// Returns the tag of a payload. The payload has one length, so the client id cannot be
/// mistaken for a part of it.
fn tag(payload: &[u8], client: &ClientId, key: &TokenKey) -> [u8; TAG_LEN] {
    key.tag_of([payload, client.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(current: u8, old: &[u8]) -> TokenKeys {
        let key = |byte: &u8| TokenKey::new(&[*byte; 32]);
        TokenKeys { current: key(&current), old: old.iter().map(key).collect() }
    }

    #[test]
    fn user_code_has_eight_consonants_and_is_read_as_people_type_it() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..500 {
            let code = UserCode::random().unwrap();
            let text = code.to_string();
            assert_eq!((text.len(), &text[4..5]), (9, "-"), "{text}");
            seen.extend(code.0);
            for typed in [
                text.clone(),
                text.to_lowercase(),
                text.replace('-', ""),
                format!(" {} {}\n", &text[..4], &text[5..]),
                text.replace('-', "."),
            ] {
                assert_eq!(UserCode::parse(&typed), Some(code), "{typed:?}");
            }
        }
        assert_eq!(seen.len(), LETTERS.len(), "each letter occurs");
        for other in [
            "",
            "-",
            "BCDF-GHJ",
            "BCDF-GHJKL",
            "ACDF-GHJK",
            "BCDF-GHJ1",
            "BCDF–GHJK",
            "BCDFGHJÄ",
            "ｂcdfghjk",
        ] {
            assert_eq!(UserCode::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn device_code_parses_for_its_client_and_under_current_and_old_keys_only() {
        let issuing = keys(7, &[]);
        let code = DeviceCode {
            user_code: UserCode::random().unwrap().mac(&issuing.current),
            secret: Secret::random().unwrap(),
        };
        let client = ClientId::from("tv");
        let text = code.encode(&client, &issuing.current);
        assert!(DeviceCode::parse(&text, &client, &issuing) == Some(code.clone()));
        assert!(DeviceCode::parse(&text, &client, &keys(8, &[9, 7])) == Some(code));
        assert!(DeviceCode::parse(&text, &client, &keys(8, &[])).is_none());
        for other in ["t", "tvs", "tw"] {
            assert!(DeviceCode::parse(&text, &other.into(), &issuing).is_none(), "{other}");
        }
        for at in 0..text.len() {
            for other in ["A", "_", "", "=", "é"] {
                let mut changed = text.clone();
                changed.replace_range(at..=at, other);
                let is_rejected = DeviceCode::parse(&changed, &client, &issuing).is_none();
                assert!(is_rejected || changed == text, "{changed}");
            }
        }
        for length in 0..200 {
            let malformed = PREFIX.to_owned() + &"A".repeat(length);
            assert!(DeviceCode::parse(&malformed, &client, &issuing).is_none());
        }
    }

    #[test]
    fn mac_of_a_user_code_depends_on_the_code_and_the_key() {
        let [one, other] = ["BCDFGHJK", "BCDFGHJL"].map(|text| UserCode::parse(text).unwrap());
        let key = TokenKey::new(&[1; 32]);
        assert_eq!(one.mac(&key), one.mac(&key));
        assert_ne!(one.mac(&key), other.mac(&key));
        assert_ne!(one.mac(&key), one.mac(&TokenKey::new(&[2; 32])));
    }
}
