//! The names of accounts that people see.

use unicode_normalization::UnicodeNormalization;

/// The maximum length of a display name, in characters.
const MAX_LEN: usize = 100;

/// The name of an account that people see, normalized: no spaces around it, one form of
/// each character (NFC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplayName(String);

/// The text is no display name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a display name has 1 to {MAX_LEN} characters, and no control characters")]
pub struct InvalidDisplayName;

impl DisplayName {
    /// Parses a display name.
    pub fn parse(text: &str) -> Result<Self, InvalidDisplayName> {
        // Longer texts are not normalized, so that a request cannot cost much time.
        if text.len() > 64 * MAX_LEN {
            return Err(InvalidDisplayName);
        }
        let name: String = text.trim().nfc().collect();
        let is_valid =
            (1..=MAX_LEN).contains(&name.chars().count()) && !name.chars().any(is_unprintable);
        is_valid.then_some(Self(name)).ok_or(InvalidDisplayName)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns whether the character controls how a text is shown: a control character, a line
/// separator, or a change of the direction of the text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_are_trimmed_and_composed() {
        for (text, expected) in [
            ("Ann", "Ann"),
            ("  Ann B.\u{a0}", "Ann B."),
            ("Ame\u{301}lie", "Am\u{e9}lie"),
            ("夏目 漱石", "夏目 漱石"),
        ] {
            assert_eq!(DisplayName::parse(text), Ok(DisplayName(expected.to_owned())));
        }
        assert!(DisplayName::parse(&"é".repeat(100)).is_ok());
    }

    #[test]
    fn texts_that_are_no_display_names_are_rejected() {
        let long = ["é".repeat(101), "e\u{301}".repeat(101), "x".repeat(1 << 20)];
        for text in ["", "  ", "a\nb", "a\0", "\u{202e}nna", "a\u{2028}b", "a\u{85}b"]
            .into_iter()
            .chain(long.iter().map(String::as_str))
        {
            assert_eq!(DisplayName::parse(text), Err(InvalidDisplayName), "{text:?}");
        }
    }
}
