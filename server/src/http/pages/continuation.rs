//! The parameter `continue`: where a login leads.
//!
//! It is the query of an authorization request, never a URL. A login therefore leads to
//! `/oauth/authorize` of this server or to the account, and nowhere else (open redirect).

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url, form_urlencoded};

use super::page::{Page, failure};
use crate::http::error::Error;

/// The maximum length of a query, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// The query of the authorization request that continues after a login; `None`: the user came
/// without one.
#[derive(Clone, Default)]
pub(in crate::http) struct Continue(Option<String>);

/// Where the form of a page may lead: browsers also check the redirects that follow it.
pub(super) enum FormAction {
    ThisServer,
    /// To this server, and to a source of a content security policy.
    And(String),
    Any,
}

impl Continue {
    /// Parses the value of the parameter: the query of an authorization request, or an empty
    /// text.
    pub(in crate::http) fn parse(query: &str) -> Result<Self, Error> {
        if query.is_empty() {
            return Ok(Self(None));
        }
        if query.len() > MAX_LEN || !query.bytes().all(is_in_query) {
            return Err(Error::InvalidRequest(
                "The address of this page is not valid: go back to the application, and log in \
                 from there.",
            ));
        }
        Ok(Self(Some(query.to_owned())))
    }

    /// Returns the parameter with its value, for the URL of another page: empty, or
    /// `?continue=…`.
    pub(in crate::http) fn parameter(&self) -> String {
        match &self.0 {
            Some(query) => format!("?continue={}", utf8_percent_encode(query, NON_ALPHANUMERIC)),
            None => String::new(),
        }
    }

    /// Returns the value for a field of a form.
    pub(super) fn value(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Returns a page that redirects to the authorization request, or else to the account.
    pub(super) fn redirect(&self) -> Page {
        match &self.0 {
            Some(query) => Page::redirect(&format!("oauth/authorize?{query}")),
            None => Page::redirect("account"),
        }
    }

    /// Returns the login name that the client proposes (`login_hint`).
    pub(super) fn login_hint(&self) -> Option<String> {
        self.field("login_hint")
    }

    /// Returns where the login may lead: to the client, if the authorization request says so.
    pub(super) fn form_action(&self) -> FormAction {
        if self.0.is_none() {
            return FormAction::ThisServer;
        }
        let redirect_uri = self.field("redirect_uri").and_then(|uri| Url::parse(&uri).ok());
        // Without one, the client has only one redirect URI, which is not known here.
        redirect_uri.map_or(FormAction::Any, |uri| FormAction::And(source(&uri)))
    }

    fn field(&self, name: &str) -> Option<String> {
        let query = self.0.as_deref()?;
        let mut fields = form_urlencoded::parse(query.as_bytes());
        fields.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }
}

/// Returns whether a byte may be in a query (RFC 3986 §3.4).
fn is_in_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte)
}

/// Returns the source of a URL for a content security policy: its origin, or its scheme if
/// the policy has no syntax for the origin.
fn source(url: &Url) -> String {
    match url.host() {
        Some(Host::Domain(name)) if !is_plain(name) => format!("{}:", url.scheme()),
        Some(Host::Ipv6(_)) | None => format!("{}:", url.scheme()),
        Some(_) if url.origin().is_tuple() => url.origin().ascii_serialization(),
        Some(_) => format!("{}:", url.scheme()),
    }
}

/// Returns whether a host name has no character with a meaning in a policy.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

impl FromRequest for Continue {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = request.query_string();
        let mut fields = form_urlencoded::parse(query.as_bytes());
        let value = fields.find_map(|(key, value)| (key == "continue").then_some(value));
        let parsed = Self::parse(value.as_deref().unwrap_or_default());
        ready(parsed.map_err(|error| failure(error, request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_query_is_accepted() {
        let long = "x".repeat(MAX_LEN + 1);
        for text in ["a b", "a\r\nSet-Cookie: x", "a\0", "a#b", "a\"b", "a<b", "a\\b", "é", &long]
        {
            assert!(Continue::parse(text).is_err(), "{text:?}");
        }
        let query = "client_id=a&scope=x+y&redirect_uri=https%3A%2F%2Fapp.example%2Fcb";
        let parsed = Continue::parse(query).unwrap();
        assert_eq!(parsed.value(), query);
        let parameter = parsed.parameter();
        let decoded = form_urlencoded::parse(&parameter.as_bytes()[1..]).next().unwrap().1;
        assert_eq!(decoded, query);
    }

    #[test]
    fn form_leads_to_the_redirect_uri_of_the_request() {
        let source_of = |uri: &str| {
            let uri = utf8_percent_encode(uri, NON_ALPHANUMERIC);
            match Continue::parse(&format!("redirect_uri={uri}")).unwrap().form_action() {
                FormAction::And(source) => source,
                _ => panic!("{uri}"),
            }
        };
        for (uri, expected) in [
            ("https://app.example/cb?x", "https://app.example"),
            ("http://127.0.0.1:8080/cb", "http://127.0.0.1:8080"),
            ("http://[::1]:8080/cb", "http:"),
            ("com.example.app:/cb", "com.example.app:"),
            ("com.example.app://cb/x", "com.example.app:"),
            ("https://a;sandbox/cb", "https:"),
        ] {
            assert_eq!(source_of(uri), expected);
        }
        let without = Continue::parse("client_id=a").unwrap();
        assert!(matches!(without.form_action(), FormAction::Any));
        assert!(matches!(Continue(None).form_action(), FormAction::ThisServer));
    }
}
