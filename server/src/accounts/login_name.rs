//! Login names, normalized so that one name has one form.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The maximum length of an email address, in characters (RFC 5321 §4.5.3.1.3).
const MAX_EMAIL_LEN: usize = 254;
/// The maximum length of the part before the `@` (RFC 5321 §4.5.3.1.1).
const MAX_LOCAL_LEN: usize = 64;
/// The maximum length of a user name, in characters.
const MAX_USERNAME_LEN: usize = 64;

/// What a login name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    Email,
    Username,
}

impl NameKind {
    /// Returns the kind as the database stores it.
    ///
    /// NEVER CHANGE these values once a version is released: stored names have them.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Username => "username",
        }
    }
}

/// A normalized login name: an email address or a user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginName {
    text: String,
    kind: NameKind,
}

/// The text is no login name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a login name is an email address, or 1 to 64 letters, digits and `.`, `-`, `_`, of which the \
     first is a letter or digit"
)]
pub struct InvalidName;

impl LoginName {
    /// Parses a login name. Names that differ in case, in spaces around them, or in
    /// equivalent forms of a character (NFKC) are the same name.
    ///
    /// NEVER CHANGE THE NORMAL FORM once a version is released: stored names would no longer
    /// be found.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        // Longer texts are not normalized, so that a request cannot cost much time.
        if text.len() > 8 * MAX_EMAIL_LEN {
            return Err(InvalidName);
        }
        let text = normalize(text.trim());
        let kind = match text.split_once('@') {
            Some((local, domain)) if is_local(local) && is_domain(domain) => NameKind::Email,
            None if is_username(&text) => NameKind::Username,
            _ => return Err(InvalidName),
        };
        if text.chars().count() > MAX_EMAIL_LEN {
            return Err(InvalidName);
        }
        Ok(Self { text, kind })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn kind(&self) -> NameKind {
        self.kind
    }
}

/// Returns the normal form: NFKC, lower case. Lower case can produce characters that NFKC
/// changes again.
fn normalize(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

fn is_local(text: &str) -> bool {
    (1..=MAX_LOCAL_LEN).contains(&text.chars().count()) && text.chars().all(is_visible)
}

/// Returns whether an email address can end in this domain: labels with a dot between them,
/// without the characters that have a meaning in an address.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let edges = [label.chars().next(), label.chars().next_back()];
        edges.into_iter().all(|edge| edge.is_some_and(char::is_alphanumeric))
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    text.contains('.') && text.split('.').all(is_label)
}

fn is_username(text: &str) -> bool {
    (1..=MAX_USERNAME_LEN).contains(&text.chars().count())
        && text.chars().next().is_some_and(char::is_alphanumeric)
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// Returns whether an unquoted local part can contain the character (RFC 6531 §3.3). Beyond
/// ASCII it must be a letter, a digit or a mark: an invisible character would make two names
/// look the same.
fn is_visible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_graphic() && !r#"()<>[]:;@\,""#.contains(c);
    }
    c.is_alphanumeric() || is_combining_mark(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_names_have_one_form() {
        for (text, name, kind) in [
            ("Ann@Example.COM", "ann@example.com", NameKind::Email),
            ("  ann@example.com ", "ann@example.com", NameKind::Email),
            // Full-width letters, and a letter with a combining accent.
            ("\u{ff21}nn@example.com", "ann@example.com", NameKind::Email),
            ("e\u{301}mile", "\u{e9}mile", NameKind::Username),
            ("\u{1e9b}\u{323}", "\u{1e69}", NameKind::Username),
            ("Ann_B-2.x", "ann_b-2.x", NameKind::Username),
            ("jos\u{e9}@example.com", "jos\u{e9}@example.com", NameKind::Email),
            ("o'neil+news@sub.example.com", "o'neil+news@sub.example.com", NameKind::Email),
        ] {
            let parsed = LoginName::parse(text).unwrap();
            assert_eq!((parsed.as_str(), parsed.kind()), (name, kind), "{text:?}");
            assert_eq!(LoginName::parse(parsed.as_str()).unwrap(), parsed, "{text:?}");
        }
    }

    #[test]
    fn texts_that_are_no_names_are_rejected() {
        let long = ["a".repeat(65), format!("a@{}.com", "b".repeat(260)), "a".repeat(1 << 20)];
        for text in [
            "",
            " ",
            "@",
            "a@",
            "@b.c",
            "a@b",
            "a@b@c.d",
            "a b",
            "a@b..c",
            "a@.c",
            "a@-b.c",
            "a\nb",
            "a\0",
            ".a",
            "a/b",
            "a:b",
            "a,b@c.d",
            "\"a\"@b.c",
            "a@b.c\r\nBcc: d@e.f",
            "<a@b.c>",
            "ad\u{200b}min@b.c",
            "\u{202e}nimda@b.c",
            "ad\u{ad}min@b.c",
            "ad\u{e0061}min@b.c",
            "ad\u{200d}min",
        ]
        .into_iter()
        .chain(long.iter().map(String::as_str))
        {
            assert_eq!(LoginName::parse(text), Err(InvalidName), "{text:?}");
        }
    }
}
