//! Strict parsing of the URLs in settings.

use url::{ParseError, Url};

/// Why a URL is rejected. The message completes "the URL …" and does not quote the URL, which
/// may have a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The scheme is missing, or neither `https` nor `http`.
    #[error("must begin with `https://` or `http://`")]
    Scheme,
    /// A character that is invalid in a URL, and that parsers treat differently.
    #[error("must not contain spaces, control characters or backslashes")]
    Character,
    /// The URL has a user name or a password.
    #[error("must not contain a user name or a password")]
    UserInfo,
    /// The URL has a query or a fragment.
    #[error("must have no query and no fragment")]
    Query,
    /// The port is empty, 0, too large or not a number.
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    /// The host is an IPv6 address with a zone identifier.
    #[error("must not contain a zone identifier: use a host name, or an address without one")]
    Zone,
    /// The host is missing, or is neither a valid name nor an address.
    #[error("must have a valid host: {0}")]
    Host(ParseError),
}

/// Parses the base URL of a server: `https` or `http`, a host, and optionally a port and a path.
/// The parser of [`Url`] alone accepts and corrects more.
///
/// # Errors
/// The first violation found.
pub fn base_url(text: &str) -> Result<Url, UrlError> {
    if text.contains(['?', '#']) {
        return Err(UrlError::Query);
    }
    web_url(text)
}

/// Parses the URL of a resource, which may have a query. Otherwise like [`base_url`].
///
/// # Errors
/// The first violation found.
pub fn web_url(text: &str) -> Result<Url, UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(UrlError::Scheme);
    }
    // The parser drops some of these, and reads a backslash as a slash.
    if text.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Character);
    }
    if text.contains('#') {
        return Err(UrlError::Query);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    // The parser skips slashes before the host.
    if authority.is_empty() {
        return Err(UrlError::Host(ParseError::EmptyHost));
    }
    if authority.starts_with('[') && authority.contains('%') {
        return Err(UrlError::Zone);
    }
    // The parser reads an empty port as the default one.
    if authority.ends_with(':') {
        return Err(UrlError::Port);
    }
    let url = Url::parse(text).map_err(|error| match error {
        ParseError::InvalidPort => UrlError::Port,
        error => UrlError::Host(error),
    })?;
    if url.port() == Some(0) { Err(UrlError::Port) } else { Ok(url) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_base_url_is_rejected() {
        for (text, error) in [
            ("https://auth.example.com:99999", UrlError::Port),
            ("https://auth.example.com:65536", UrlError::Port),
            ("https://auth.example.com:500l", UrlError::Port),
            ("https://auth.example.com:-1", UrlError::Port),
            ("https://auth.example.com:+1", UrlError::Port),
            ("https://auth.example.com:", UrlError::Port),
            ("https://auth.example.com:/path", UrlError::Port),
            ("https://auth.example.com:0", UrlError::Port),
            ("https://[::1]:", UrlError::Port),
            ("https://[::1]:x", UrlError::Port),
            ("auth.example.com", UrlError::Scheme),
            ("localhost:5001", UrlError::Scheme),
            ("//auth.example.com", UrlError::Scheme),
            ("https:/auth.example.com", UrlError::Scheme),
            ("https:auth.example.com", UrlError::Scheme),
            ("htps://auth.example.com", UrlError::Scheme),
            ("ftp://auth.example.com", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Scheme),
            ("://auth.example.com", UrlError::Scheme),
            ("", UrlError::Scheme),
            (" https://auth.example.com", UrlError::Scheme),
            ("https://auth.example.com ", UrlError::Character),
            ("https://auth.example.com\n", UrlError::Character),
            ("https://auth.exa\tmple.com", UrlError::Character),
            ("https://auth.example.com/a b", UrlError::Character),
            ("https://auth.example.com\\@evil.example", UrlError::Character),
            ("https://auth.example.com\u{200e}\u{7f}", UrlError::Character),
            ("https://user@auth.example.com", UrlError::UserInfo),
            ("https://user:hush@auth.example.com", UrlError::UserInfo),
            ("https://@auth.example.com", UrlError::UserInfo),
            ("https://auth.example.com?a=1", UrlError::Query),
            ("https://auth.example.com/#", UrlError::Query),
            ("https://[fe80::1%25eth0]:5001", UrlError::Zone),
            ("https://[fe80::1%eth0]", UrlError::Zone),
        ] {
            assert_eq!(base_url(text), Err(error), "{text:?}");
        }
        for text in [
            "https://",
            "https:///path",
            "https://:5001",
            "https://[::1",
            "https://::1",
            "https://[::1]]",
            "https://[1.2.3.4]",
            "https://[]",
            "https://1.2.3.256",
            "https://a<b",
            "https://xn--a",
            "https://%",
        ] {
            let error = base_url(text).expect_err(text);
            assert!(matches!(error, UrlError::Host(_) | UrlError::Port), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_base_url_is_parsed_like_in_a_browser() {
        for (text, host, port) in [
            ("https://auth.example.com", "auth.example.com", 443),
            ("http://auth.example.com/some/path/", "auth.example.com", 80),
            ("HTTPS://Auth.Example.com:8443", "auth.example.com", 8443),
            ("https://[::1]:5001", "[::1]", 5001),
            ("https://[0:0:0:0:0:0:0:1]", "[::1]", 443),
            ("http://127.0.0.1:80", "127.0.0.1", 80),
            ("https://bücher.example", "xn--bcher-kva.example", 443),
        ] {
            let url = base_url(text).expect(text);
            assert_eq!((url.host_str(), url.port_or_known_default()), (Some(host), Some(port)));
        }
    }

    #[test]
    fn the_url_of_a_resource_may_have_a_query() {
        assert!(web_url("https://api.example.com/a?b=c&d=e@f").is_ok());
        for text in ["https://a.example/b?c#d", "https://u@a.example/?b", "https://a.example:?b"] {
            assert!(web_url(text).is_err(), "{text}");
        }
    }
}
