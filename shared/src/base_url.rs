//! The check that every URL of a setting passes, whole.

use url::{ParseError, Url};

/// Why a text is not the URL of a server. It completes "the URL …" and quotes
/// nothing of the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The scheme is missing, or another one.
    #[error("must begin with `https://` or `http://`")]
    Scheme,
    /// A character that no URL has, and that parsers treat differently.
    #[error("must not contain spaces, control characters or backslashes")]
    Character,
    /// A user name or a password.
    #[error("must not contain a user name or a password")]
    UserInfo,
    /// A query or a fragment.
    #[error("must have no query and no fragment")]
    Query,
    /// A port that is empty, 0, too large or no number.
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    /// An IPv6 address with a zone identifier.
    #[error("must not contain a zone identifier: use a host name, or an address without one")]
    Zone,
    /// The host is missing, or is no name and no address.
    #[error("must have a valid host: {0}")]
    Host(ParseError),
}

/// Parses the URL of a server, to put paths after: `https` or `http`, a host, and
/// a port and path where wanted. The parser alone would take far more.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn base_url(text: &str) -> Result<Url, UrlError> {
    if text.contains(['?', '#']) {
        return Err(UrlError::Query);
    }
    web_url(text)
}

/// Parses a whole URL of a resource on a server, which may have a query.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn web_url(text: &str) -> Result<Url, UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(UrlError::Scheme);
    }
    // The parser drops some of these, and takes a backslash for a slash.
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
    // The parser takes an empty port for the default one.
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
    fn a_base_url_is_checked_whole() {
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
    fn a_base_url_is_read_as_browsers_read_it() {
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
    fn the_url_of_a_resource_may_have_a_query_and_nothing_else_more() {
        assert!(web_url("https://api.example.com/a?b=c&d=e@f").is_ok());
        for text in ["https://a.example/b?c#d", "https://u@a.example/?b", "https://a.example:?b"] {
            assert!(web_url(text).is_err(), "{text}");
        }
    }
}
