//! The address to which a login returns: a page of a protected application.

use url::Url;

use crate::config::forward_auth::{Options, authority};

/// The maximum length, in bytes.
const MAX_LEN: usize = 4 * 1024;

/// An `https` URL on a configured host.
pub(super) struct ReturnAddress(Url);

impl ReturnAddress {
    /// Parses a URL. Returns `None` if its host is not configured, which prevents an open
    /// redirect.
    pub(super) fn parse(text: &str, options: &Options) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|_| text.len() <= MAX_LEN)?;
        let host = authority(&url)?;
        options.hosts.contains(&host).then_some(Self(url))
    }

    /// Returns the URL as it was parsed, so that a browser cannot read it in another way.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_of_configured_hosts_are_accepted() {
        let options = Options {
            hosts: vec!["app.example.com".to_owned(), "wiki.example.com:8443".to_owned()],
            cookie_domain: "example.com".to_owned(),
        };
        let parse = |text: &str| ReturnAddress::parse(text, &options).map(|it| it.0.to_string());
        for (text, expected) in [
            ("https://app.example.com", "https://app.example.com/"),
            ("https://APP.example.com:443/x?a=b&c=%20#f", "https://app.example.com/x?a=b&c=%20#f"),
            ("https://wiki.example.com:8443/", "https://wiki.example.com:8443/"),
            // Browsers read a backslash in the same way.
            ("https:\\\\app.example.com\\@evil.example", "https://app.example.com/@evil.example"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(expected), "{text}");
        }
        let long = format!("https://app.example.com/{}", "x".repeat(MAX_LEN));
        for text in [
            "",
            "/x",
            "//app.example.com/",
            "app.example.com",
            "http://app.example.com/",
            "https://app.example.com:8443/",
            "https://wiki.example.com/",
            "https://example.com/",
            "https://evil.example/",
            "https://app.example.com.evil.example/",
            "https://app.example.com@evil.example/",
            "https://ann:x@app.example.com/",
            "https://evil.example/\\@app.example.com/",
            "https://evil.example#app.example.com",
            "javascript:alert(1)//https://app.example.com",
            &long,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
