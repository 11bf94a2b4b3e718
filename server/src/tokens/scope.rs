//! The scope of a session or of a request (RFC 6749 §3.3).

use std::fmt;
use std::sync::Arc;

/// The maximum length of a scope, in bytes. Access tokens carry it.
const MAX_LEN: usize = 1000;

/// A list of scope tokens without repetitions, in the order of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Arc<str>);

/// Why a text is not a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    #[error("is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("has a character other than printable ASCII without spaces, `\"` and `\\`")]
    Character,
}

impl Scope {
    /// Parses tokens that are separated by spaces. A text without tokens is the empty scope.
    pub fn parse(text: &str) -> Result<Self, InvalidScope> {
        Self::from_tokens(text.split(' ').filter(|token| !token.is_empty()))
    }

    /// Returns the scope of these tokens.
    pub fn from_tokens<'a>(tokens: impl Iterator<Item = &'a str>) -> Result<Self, InvalidScope> {
        let mut scope: Vec<&str> = Vec::new();
        let mut length = 0;
        for token in tokens {
            length += token.len() + 1;
            if length > MAX_LEN + 1 {
                return Err(InvalidScope::TooLong);
            }
            if token.is_empty() || !token.bytes().all(is_scope_byte) {
                return Err(InvalidScope::Character);
            }
            if !scope.contains(&token) {
                scope.push(token);
            }
        }
        Ok(Self(scope.join(" ").into()))
    }

    /// Returns the scope of a stored session or consent.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the tokens, separated by spaces.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|token| !token.is_empty())
    }

    #[must_use]
    pub fn contains(&self, token: &str) -> bool {
        self.tokens().any(|own| own == token)
    }

    /// Returns whether `other` has every token of this scope.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.tokens().all(|token| other.contains(token))
    }

    /// Returns the tokens of this scope and those of `other`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let further = other.tokens().filter(|token| !self.contains(token));
        Self(self.tokens().chain(further).collect::<Vec<_>>().join(" ").into())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns whether a scope may contain the byte: printable ASCII except `"` and `\`.
fn is_scope_byte(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~')
}

/// Which of the scopes that this server interprets a token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StandardScopes(u8);

impl StandardScopes {
    pub const PROFILE: Self = Self(1);
    pub const EMAIL: Self = Self(2);
    pub const OPENID: Self = Self(4);
    pub const GROUPS: Self = Self(8);
    /// Permits a client to reach applications that a proxy protects, as the user.
    pub const FORWARD_AUTH: Self = Self(16);

    /// Returns the scopes among `scopes` that this server interprets.
    #[must_use]
    pub fn of(scopes: &str) -> Self {
        let bits = scopes.split(' ').map(|scope| match scope {
            "profile" => Self::PROFILE.0,
            "email" => Self::EMAIL.0,
            "openid" => Self::OPENID.0,
            "groups" => Self::GROUPS.0,
            "forward_auth" => Self::FORWARD_AUTH.0,
            _ => 0,
        });
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// Returns whether any of the scopes gives claims about the user.
    #[must_use]
    pub fn has_claims(self) -> bool {
        self.0 & (Self::PROFILE.0 | Self::EMAIL.0 | Self::GROUPS.0) != 0
    }

    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn scope_keeps_order_and_drops_repetitions() {
        assert_eq!(scope(" write read  write ").to_string(), "write read");
        assert!(scope("").is_empty());
        assert_eq!(scope(" ").tokens().count(), 0);
        assert_eq!(scope("a b").union(&scope("b c")).as_str(), "a b c");
    }

    #[test]
    fn scope_of_other_characters_is_rejected() {
        assert!(Scope::parse("https://api/read!~ a:b").is_ok());
        for text in ["a\"b", "a\\b", "a\tb", "a\nb", "ä", "a\u{7f}", "\0"] {
            assert_eq!(Scope::parse(text), Err(InvalidScope::Character), "{text:?}");
        }
        assert!(Scope::parse(&"a".repeat(1000)).is_ok());
        assert_eq!(Scope::parse(&"a".repeat(1001)), Err(InvalidScope::TooLong));
        assert_eq!(Scope::parse(&"a ".repeat(501)), Err(InvalidScope::TooLong));
        assert!(Scope::from_tokens(["a b"].into_iter()).is_err());
    }

    #[test]
    fn scope_is_within_another_if_every_token_is() {
        let all = scope("read write");
        assert!(scope("write").is_within(&all));
        assert!(Scope::default().is_within(&all));
        assert!(!scope("write rea").is_within(&all));
        assert!(!all.is_within(&scope("Read Write")));
    }

    #[test]
    fn standard_scopes_are_found_among_others() {
        let found = StandardScopes::of("read email");
        assert!(found.contains(StandardScopes::EMAIL));
        assert!(!found.contains(StandardScopes::PROFILE));
        assert!(!StandardScopes::of("emails").contains(StandardScopes::EMAIL));
    }
}
