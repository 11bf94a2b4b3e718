//! The parameter `continue`: where a login leads.
//!
//! It is the query of an authorization request, or a page of this server with a parameter, and
//! never the URL of another server (open redirect).

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url, form_urlencoded};

use super::page::{Page, failure};
use crate::http::error::Error;
use crate::tokens::UserCode;

/// The maximum length of a query, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// The value for the page `/device`. No authorization request is so short.
const DEVICE: &str = "device";

/// The value for the page `/device` with a code, which follows.
const DEVICE_WITH_CODE: &str = "device?user_code=";

/// The value for the way back to a protected application, before its encoded URL. No query of
/// an authorization request begins with it, because `/` and `?` are encoded there.
const APPLICATION: &str = "forward-auth/login?return=";

/// What continues after a login.
#[derive(Clone, Default)]
pub(in crate::http) enum Continue {
    /// The user came without a request.
    #[default]
    Account,
    /// The authorization request with this query.
    Authorization(String),
    /// The page `/device`, perhaps with a code: a relative URL.
    Device(String),
    /// The page that returns to a protected application: a relative URL. That page checks the URL
    /// of the application.
    Application(String),
}

/// Where the form of a page may lead: browsers also check the redirects that follow it.
pub(super) enum FormAction {
    ThisServer,
    /// To this server, and to a source of a content security policy.
    And(String),
    Any,
}

impl Continue {
    /// Parses the value of the parameter: the query of an authorization request, the page
    /// `/device`, or an empty text.
    pub(in crate::http) fn parse(query: &str) -> Result<Self, Error> {
        if query.is_empty() {
            return Ok(Self::Account);
        }
        if query == DEVICE {
            return Ok(Self::Device(query.to_owned()));
        }
        if let Some(code) = query.strip_prefix(DEVICE_WITH_CODE) {
            return Ok(Self::to_device(code));
        }
        if query.len() > MAX_LEN || !query.bytes().all(is_in_query) {
            return Err(Error::InvalidRequest(
                "The address of this page is not valid: go back to the application, and log in \
                 from there.",
            ));
        }
        if query.starts_with(APPLICATION) {
            return Ok(Self::Application(query.to_owned()));
        }
        Ok(Self::Authorization(query.to_owned()))
    }

    /// Returns what leads to the page `/device`, with a code that a user typed if it can be
    /// one.
    pub(super) fn to_device(user_code: &str) -> Self {
        let code = UserCode::parse(user_code);
        Self::Device(
            code.map_or_else(|| DEVICE.to_owned(), |code| format!("{DEVICE_WITH_CODE}{code}")),
        )
    }

    /// Returns what leads back to the application with this URL.
    pub(in crate::http) fn to_application(url: &str) -> Self {
        let url = utf8_percent_encode(url, NON_ALPHANUMERIC);
        Self::Application(format!("{APPLICATION}{url}"))
    }

    /// Returns the parameter with its value, for the URL of another page: empty, or
    /// `?continue=…`.
    pub(in crate::http) fn parameter(&self) -> String {
        match self.value() {
            "" => String::new(),
            value => format!("?continue={}", utf8_percent_encode(value, NON_ALPHANUMERIC)),
        }
    }

    /// Returns the value for a field of a form.
    pub(super) fn value(&self) -> &str {
        match self {
            Self::Account => "",
            Self::Authorization(value) | Self::Device(value) | Self::Application(value) => value,
        }
    }

    /// Returns a page that redirects to what continues.
    pub(super) fn redirect(&self) -> Page {
        match self {
            Self::Account => Page::redirect("account"),
            Self::Authorization(query) => Page::redirect(&format!("oauth/authorize?{query}")),
            Self::Device(page) | Self::Application(page) => Page::redirect(page),
        }
    }

    /// Returns the login name that the client proposes (`login_hint`).
    pub(super) fn login_hint(&self) -> Option<String> {
        self.field("login_hint")
    }

    /// Returns where the login may lead: to the client, if the authorization request says so, or
    /// to the application.
    pub(super) fn form_action(&self) -> FormAction {
        let url = match self {
            Self::Account | Self::Device(_) => return FormAction::ThisServer,
            Self::Authorization(_) => self.field("redirect_uri"),
            Self::Application(_) => self.field("return"),
        };
        let url = url.and_then(|url| Url::parse(&url).ok());
        // Without one, the client has only one redirect URI, which is not known here.
        url.map_or(FormAction::Any, |url| FormAction::And(source(&url)))
    }

    fn field(&self, name: &str) -> Option<String> {
        let query = match self {
            Self::Account | Self::Device(_) => return None,
            Self::Authorization(query) => query,
            Self::Application(page) => page.split_once('?')?.1,
        };
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
pub(super) fn source(url: &Url) -> String {
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
    fn page_of_devices_is_accepted_with_a_code_only() {
        for (value, expected) in [
            ("device", "device"),
            ("device?user_code=BCDF-GHJK", "device?user_code=BCDF-GHJK"),
            ("device?user_code=bcdfghjk", "device?user_code=BCDF-GHJK"),
            ("device?user_code=", "device"),
            ("device?user_code=https://evil.example", "device"),
            ("device?user_code=BCDF-GHJK&continue=x", "device"),
            ("device?user_code=\r\nSet-Cookie: x", "device"),
        ] {
            let parsed = Continue::parse(value).unwrap();
            assert!(matches!(parsed, Continue::Device(_)), "{value}");
            assert_eq!(parsed.value(), expected, "{value}");
        }
        for value in ["device/", "devices", "device=1", "device?other=BCDF-GHJK"] {
            let parsed = Continue::parse(value).unwrap();
            assert!(matches!(parsed, Continue::Authorization(_)), "{value}");
        }
    }

    #[test]
    fn way_back_to_an_application_is_a_page_of_this_server() {
        let next = Continue::to_application("https://app.example.com/x?a=b&c=d#e");
        let parsed = Continue::parse(next.value()).unwrap();
        assert!(matches!(&parsed, Continue::Application(page) if page.starts_with(APPLICATION)));
        assert_eq!(parsed.value(), next.value());
        assert_eq!(parsed.field("return").unwrap(), "https://app.example.com/x?a=b&c=d#e");
        assert!(parsed.login_hint().is_none());
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
        match Continue::to_application("https://app.example.com/x?a=b").form_action() {
            FormAction::And(source) => assert_eq!(source, "https://app.example.com"),
            _ => panic!("the form does not lead to the application"),
        }
        for here in ["", "device", "device?user_code=BCDF-GHJK"] {
            let action = Continue::parse(here).unwrap().form_action();
            assert!(matches!(action, FormAction::ThisServer), "{here}");
        }
    }
}
