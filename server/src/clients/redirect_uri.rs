//! Redirect URIs: which can be registered, and which a request may use (RFC 8252,
//! RFC 9700 §4.1.3).

use percent_encoding::percent_decode_str;
use url::Url;

/// The maximum length of a redirect URI, in bytes.
const MAX_LEN: usize = 2000;

/// The start of a redirect URI whose port may differ between registration and request: a
/// native app listens on a free port (RFC 8252 §7.3).
const LOOPBACK: [&str; 2] = ["http://127.0.0.1", "http://[::1]"];

/// Why a redirect URI cannot be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirectUri {
    #[error("is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("has a control character")]
    ControlCharacter,
    #[error("has a backslash, which browsers read as a slash")]
    Backslash,
    #[error("has a `*`: list each redirect URI, there are no wildcards")]
    Wildcard,
    #[error("has a fragment (`#`), which is for the client's own page")]
    Fragment,
    #[error("has a character that must be percent-encoded in a URI")]
    Character,
    #[error("is not absolute: write it like `https://app.example.com/callback`")]
    NotAbsolute,
    #[error("has user info (`user@`) before its host")]
    UserInfo,
    #[error("has the path segment `.` or `..`, also as `%2e`, which browsers resolve")]
    DotSegment,
    #[error("is not written in the normal form: write scheme and host in lower case")]
    NotNormal,
    #[error(
        "uses `http` without TLS, which is for `127.0.0.1` and `[::1]` only, and for `localhost` \
         with `oauth.allow_localhost = true`"
    )]
    Http,
    #[error(
        "has a scheme that is neither `https` nor `http` nor a domain name of the app, like \
         `com.example.app`"
    )]
    Scheme,
}

/// Checks that a redirect URI can be registered. `http://localhost` is permitted by
/// `allow_localhost`.
pub fn check(uri: &str, allow_localhost: bool) -> Result<(), InvalidRedirectUri> {
    use InvalidRedirectUri as Invalid;
    if uri.len() > MAX_LEN {
        return Err(Invalid::TooLong);
    }
    check_characters(uri)?;
    let (scheme, rest) = uri.split_once(':').ok_or(Invalid::NotAbsolute)?;
    let parsed = Url::parse(uri).map_err(|_| Invalid::NotAbsolute)?;
    if parsed.scheme() != scheme {
        return Err(Invalid::NotNormal);
    }
    let (authority, path) = split_authority(rest);
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(Invalid::UserInfo);
    }
    let path = path.split('?').next().unwrap_or_default();
    let is_dot =
        |segment: &str| matches!(&*percent_decode_str(segment).collect::<Vec<u8>>(), b"." | b"..");
    if path.split('/').any(is_dot) {
        return Err(Invalid::DotSegment);
    }
    match scheme {
        "https" | "http" => {
            let host = authority.map(without_port).filter(|host| !host.is_empty());
            let host = host.ok_or(Invalid::NotAbsolute)?;
            // The parser repairs hosts like `0x7f.1`; what a browser would do must be readable.
            if parsed.host_str() != Some(host) {
                return Err(Invalid::NotNormal);
            }
            let is_loopback = matches!(host, "127.0.0.1" | "[::1]");
            let is_permitted =
                scheme == "https" || is_loopback || (host == "localhost" && allow_localhost);
            is_permitted.then_some(()).ok_or(Invalid::Http)
        }
        // RFC 8252 §7.1. This also excludes `javascript`, `data`, `file` and the like.
        _ => scheme.contains('.').then_some(()).ok_or(Invalid::Scheme),
    }
}

fn check_characters(uri: &str) -> Result<(), InvalidRedirectUri> {
    for character in uri.chars() {
        match character {
            '\\' => return Err(InvalidRedirectUri::Backslash),
            '*' => return Err(InvalidRedirectUri::Wildcard),
            '#' => return Err(InvalidRedirectUri::Fragment),
            ' ' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => {
                return Err(InvalidRedirectUri::Character);
            }
            _ if character.is_control() => return Err(InvalidRedirectUri::ControlCharacter),
            _ if !character.is_ascii() => return Err(InvalidRedirectUri::Character),
            _ => {}
        }
    }
    Ok(())
}

/// Splits what follows the scheme and its colon into authority and path.
fn split_authority(rest: &str) -> (Option<&str>, &str) {
    let Some(rest) = rest.strip_prefix("//") else { return (None, rest) };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    (Some(authority), path)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Returns whether a request may use the URI `requested`. The strings are equal, except for
/// the port of a loopback address.
#[must_use]
pub fn matches(registered: &str, requested: &str) -> bool {
    if registered == requested {
        return true;
    }
    LOOPBACK.iter().any(|start| {
        match (after_port(registered, start), after_port(requested, start)) {
            (Some(registered), Some(requested)) => registered == requested,
            _ => false,
        }
    })
}

/// Returns what follows the port of a loopback redirect URI.
fn after_port<'a>(uri: &'a str, start: &str) -> Option<&'a str> {
    let rest = uri.strip_prefix(start)?;
    match rest.strip_prefix(':') {
        None => Some(rest),
        Some(rest) => {
            let end =
                rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            let (port, rest) = rest.split_at(end);
            port.parse::<u16>().ok().filter(|port| *port > 0).map(|_| rest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use InvalidRedirectUri as Invalid;

    #[test]
    fn https_and_loopback_and_schemes_with_a_dot_can_be_registered() {
        for uri in [
            "https://app.example.com/callback",
            "https://app.example.com",
            "https://app.example.com:8443/a/b?tenant=1&x=%20",
            "https://app.example.com:443/",
            "https://xn--bcher-kva.example/cb",
            "https://192.0.2.1/cb",
            "https://[2001:db8::1]/cb",
            "http://127.0.0.1/callback",
            "http://127.0.0.1:8080/callback",
            "http://[::1]:8080/callback",
            "com.example.app:/oauth2redirect",
            "com.example.app://callback",
        ] {
            assert_eq!(check(uri, false), Ok(()), "{uri}");
        }
        assert_eq!(check("http://localhost:3000/cb", true), Ok(()));
    }

    #[test]
    fn other_redirect_uris_cannot_be_registered() {
        let long = format!("https://app.example.com/{}", "a".repeat(MAX_LEN));
        for (uri, problem) in [
            (&*long, Invalid::TooLong),
            ("", Invalid::NotAbsolute),
            ("/callback", Invalid::NotAbsolute),
            ("app.example.com/callback", Invalid::NotAbsolute),
            ("//app.example.com/callback", Invalid::NotAbsolute),
            ("https:", Invalid::NotAbsolute),
            ("https:app.example.com", Invalid::NotAbsolute),
            ("https:/app.example.com/cb", Invalid::NotAbsolute),
            ("https:///app.example.com/cb", Invalid::NotAbsolute),
            ("https://", Invalid::NotAbsolute),
            ("https://:443/cb", Invalid::NotAbsolute),
            ("https://app.example.com/cb#", Invalid::Fragment),
            ("https://app.example.com/cb#part", Invalid::Fragment),
            ("https://user@app.example.com/cb", Invalid::UserInfo),
            ("https://user:password@app.example.com/cb", Invalid::UserInfo),
            ("https://trusted.example.com@evil.example/cb", Invalid::UserInfo),
            ("com.example.app://user@host/cb", Invalid::UserInfo),
            ("https://*.example.com/cb", Invalid::Wildcard),
            ("https://app.example.com/*", Invalid::Wildcard),
            ("https://app.example.com\\@evil.example/cb", Invalid::Backslash),
            ("https:\\\\app.example.com/cb", Invalid::Backslash),
            ("https://app.example.com/a/%2e%2e/cb", Invalid::DotSegment),
            ("https://app.example.com/a/%2E%2E/cb", Invalid::DotSegment),
            ("https://app.example.com/a/.%2e", Invalid::DotSegment),
            ("https://app.example.com/a/../cb", Invalid::DotSegment),
            ("https://app.example.com/./cb", Invalid::DotSegment),
            ("com.example.app:/a/../cb", Invalid::DotSegment),
            ("https://app.example.com/c\nb", Invalid::ControlCharacter),
            ("https://app.example.com/c\0b", Invalid::ControlCharacter),
            ("java\tscript:alert(1)", Invalid::ControlCharacter),
            ("https://app.example.com/c b", Invalid::Character),
            (" https://app.example.com/cb", Invalid::Character),
            ("https://bücher.example/cb", Invalid::Character),
            ("https://app.example.com/<b>", Invalid::Character),
            ("http://app.example.com/cb", Invalid::Http),
            ("http://127.0.0.2/cb", Invalid::Http),
            ("http://127.0.0.1.example.com/cb", Invalid::Http),
            ("http://localhost:3000/cb", Invalid::Http),
            ("http://localhost.example.com/cb", Invalid::Http),
            ("http://127.1/cb", Invalid::NotNormal),
            ("http://0x7f.0.0.1/cb", Invalid::NotNormal),
            ("https://APP.example.com/cb", Invalid::NotNormal),
            ("HTTPS://app.example.com/cb", Invalid::NotNormal),
            ("JavaScript:alert(1)", Invalid::NotNormal),
            ("javascript:alert(1)", Invalid::Scheme),
            ("data:text/html,x", Invalid::Scheme),
            ("file:///etc/passwd", Invalid::Scheme),
            ("vbscript:x", Invalid::Scheme),
            ("blob:https://app.example.com/x", Invalid::Scheme),
            ("ws://app.example.com/cb", Invalid::Scheme),
            ("myapp://callback", Invalid::Scheme),
        ] {
            assert_eq!(check(uri, false), Err(problem), "{uri:?}");
        }
    }

    #[test]
    fn requested_uri_is_compared_as_a_string() {
        let registered = "https://app.example.com/callback";
        assert!(matches(registered, registered));
        for requested in [
            "https://app.example.com/callback/",
            "https://app.example.com/callback?x=1",
            "https://app.example.com/callback#x",
            "https://app.example.com/Callback",
            "https://APP.example.com/callback",
            "https://app.example.com/call%62ack",
            "https://app.example.com:443/callback",
            "https://app.example.com/callbac",
            "https://app.example.com/callback2",
            "https://user@app.example.com/callback",
            "https://app.example.com.evil.example/callback",
            "http://app.example.com/callback",
            "",
        ] {
            assert!(!matches(registered, requested), "{requested}");
        }
        assert!(!matches("https://app.example.com/", "https://app.example.com"));
        assert!(!matches("http://localhost/cb", "http://localhost:3000/cb"));
        assert!(!matches("https://127.0.0.1/cb", "https://127.0.0.1:3000/cb"));
        assert!(!matches("com.example.app:/cb", "com.example.app:/cb/"));
    }

    #[test]
    fn loopback_address_matches_with_any_port() {
        for registered in ["http://127.0.0.1/cb", "http://127.0.0.1:8080/cb"] {
            for requested in ["http://127.0.0.1/cb", "http://127.0.0.1:51004/cb"] {
                assert!(matches(registered, requested), "{registered} {requested}");
            }
        }
        assert!(matches("http://[::1]/cb", "http://[::1]:1/cb"));
        assert!(matches("http://127.0.0.1", "http://127.0.0.1:80"));
        for requested in [
            "http://[::1]:8080/cb",
            "http://localhost:8080/cb",
            "http://127.0.0.1:8080/cb/",
            "http://127.0.0.1:8080/other",
            "http://127.0.0.1:8080/cb?x=1",
            "http://127.0.0.1:8080/cb#x",
            "http://127.0.0.1:/cb",
            "http://127.0.0.1:0/cb",
            "http://127.0.0.1:65536/cb",
            "http://127.0.0.1:80a/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://127.0.0.1@evil.example/cb",
            "http://127.0.0.1.evil.example/cb",
            "https://127.0.0.1:8080/cb",
        ] {
            assert!(!matches("http://127.0.0.1/cb", requested), "{requested}");
        }
    }
}
