//! Which passwords are acceptable (NIST SP 800-63B-4 §3.1.1.2).

use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::UnicodeNormalization;
use zxcvbn::Score;

use super::login_name::LoginName;

/// The maximum length in characters. Much longer texts would be expensive to normalize.
const MAX_LEN: usize = 1024;

/// How many characters the estimate of the strength looks at. Its cost grows faster than
/// the length; a longer password is not weaker.
const ESTIMATED_LEN: usize = 64;

/// The name of the product, which a password must not consist of.
const PRODUCT: &str = "matchbook";

/// A password.
#[derive(Clone)]
pub struct Password {
    /// The form that is hashed (NFKC), so that each keyboard produces the same.
    normalized: SecretString,
    /// As the user typed it. Other servers hashed this form.
    presented: SecretString,
}

/// Why a password is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unacceptable {
    /// It has fewer characters than the minimum.
    TooShort(usize),
    TooLong,
    /// It is one of the most common passwords, the login name, the name of the service, a
    /// row of keys, or a variation of these.
    Guessable,
}

impl Unacceptable {
    /// Returns the reason, for the user.
    #[must_use]
    pub fn message(self) -> String {
        match self {
            Self::TooShort(min) => format!("The password must have at least {min} characters."),
            Self::TooLong => format!("The password must have at most {MAX_LEN} characters."),
            Self::Guessable => "The password is easy to guess: it is a common one, your name, or \
                                a simple variation of these. Choose several unrelated words."
                .to_owned(),
        }
    }
}

impl Password {
    /// Normalizes a password that a client presents. Returns `None` for a text that is
    /// longer than any password.
    #[must_use]
    pub fn presented(text: &SecretString) -> Option<Self> {
        let exposed = text.expose_secret();
        if exposed.chars().nth(MAX_LEN).is_some() {
            return None;
        }
        let normalized = exposed.nfkc().collect::<String>().into();
        Some(Self { normalized, presented: text.clone() })
    }

    /// Checks a new password. There are no rules about kinds of characters.
    pub fn choose(
        text: &SecretString,
        min_length: usize,
        name: &LoginName,
    ) -> Result<Self, Unacceptable> {
        let password = Self::presented(text).ok_or(Unacceptable::TooLong)?;
        let chosen = password.normalized.expose_secret();
        if chosen.chars().count() < min_length {
            return Err(Unacceptable::TooShort(min_length));
        }
        let start: String = chosen.chars().take(ESTIMATED_LEN).collect();
        let local = name.as_str().split('@').next().unwrap_or_default();
        let estimate = zxcvbn::zxcvbn(&start, &[PRODUCT, name.as_str(), local]);
        if estimate.score() < Score::Three {
            return Err(Unacceptable::Guessable);
        }
        Ok(password)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.normalized.expose_secret().as_bytes()
    }

    pub(super) fn presented_bytes(&self) -> &[u8] {
        self.presented.expose_secret().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(text: &str) -> Result<Password, Unacceptable> {
        let name = LoginName::parse("margaret@example.com").unwrap();
        Password::choose(&text.to_owned().into(), 12, &name)
    }

    #[test]
    fn long_unusual_passwords_of_any_characters_are_accepted() {
        for text in [
            "correct horse battery staple",
            "πάντα ῥεῖ καὶ οὐδὲν μένει",
            "            x7 Qv!",
            "夏草や兵どもが夢の跡の向こう側",
            &"vbnq83 ".repeat(20),
            &"z9! kdW".repeat(146),
        ] {
            assert!(choose(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn length_is_counted_in_characters_and_limited() {
        assert_eq!(choose("short8!Kq").err(), Some(Unacceptable::TooShort(12)));
        assert_eq!(choose("ééééééééééé").err(), Some(Unacceptable::TooShort(12)));
        assert_eq!(choose(&"x".repeat(1025)).err(), Some(Unacceptable::TooLong));
        assert_eq!(choose(&"x".repeat(1 << 22)).err(), Some(Unacceptable::TooLong));
    }

    #[test]
    fn common_passwords_names_and_their_variations_are_rejected() {
        for text in [
            "password1234",
            "Password123!",
            "123456789012",
            "qwertyuiop12",
            "aaaaaaaaaaaa",
            "abcabcabcabc",
            "iloveyouiloveyou",
            "matchbook1234",
            "Matchbook2026!",
            "margaret1234",
            "margaret@example.com",
            "margaretmargaret",
        ] {
            assert_eq!(choose(text).err(), Some(Unacceptable::Guessable), "{text}");
        }
    }

    #[test]
    fn equivalent_forms_are_one_password() {
        let presented = |text: &str| Password::presented(&text.to_owned().into()).unwrap();
        let composed = presented("caf\u{e9} \u{fb01}ne");
        assert_eq!(composed.as_bytes(), presented("cafe\u{301} fine").as_bytes());
    }
}
