//! The cookies of a browser: its identity, and the token of an earlier login.

use actix_web::http::header::{COOKIE, HeaderMap};
use matchbook_client::DeviceToken;
use openssl::error::ErrorStack;
use openssl::sha::sha256;

/// How long a browser keeps the token of an earlier login, in seconds: a year.
const DEVICE_LIFETIME: u32 = 365 * 24 * 3600;

/// The digest of a cookie, by which the app finds its browser.
pub(crate) type CookieDigest = [u8; 32];

/// Returns the digest of a cookie.
pub(crate) fn digest(id: &[u8]) -> CookieDigest {
    sha256(id)
}

/// The cookie's format.
#[derive(Clone, Copy)]
pub(crate) struct Cookie {
    /// Sent over HTTPS only.
    pub(crate) secure: bool,
}

impl Cookie {
    /// The name must never change: browsers would lose their sessions. The `__Host-`
    /// prefix makes browsers enforce `Secure`, `Path=/` and the exact host.
    fn name(self) -> &'static str {
        if self.secure { "__Host-matchbook_client" } else { "matchbook_client" }
    }

    /// Returns the cookie's values in a request. There is more than one if another
    /// site of the same domain has set a cookie of this name. Values need not be UTF-8.
    pub(crate) fn values(self, headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
        Self::values_of(self.name(), headers)
    }

    fn values_of<'a>(
        name: &'static str,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let pairs = headers.get_all(COOKIE).flat_map(|line| line.as_bytes().split(|b| *b == b';'));
        pairs.filter_map(move |pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let found = pair[..equals].trim_ascii();
            let value = pair[equals + 1..].trim_ascii();
            (found == name.as_bytes()).then_some(value)
        })
    }

    /// The name must never change: browsers would lose their tokens.
    fn device_name(self) -> &'static str {
        if self.secure { "__Host-matchbook_client_device" } else { "matchbook_client_device" }
    }

    /// Returns the token of an earlier login of this browser.
    pub(crate) fn device(self, headers: &HeaderMap) -> Option<DeviceToken> {
        let mut values = Self::values_of(self.device_name(), headers);
        values.find_map(|value| DeviceToken::new(std::str::from_utf8(value).ok()?))
    }

    /// Returns the `Set-Cookie` value that keeps `token` in the browser, also after it is
    /// closed.
    pub(crate) fn set_device(self, token: &DeviceToken) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!(
            "{}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={DEVICE_LIFETIME}{secure}",
            self.device_name(),
            token.as_str()
        )
    }

    /// Returns the `Set-Cookie` value for `id`. The browser deletes the cookie when it
    /// closes.
    pub(crate) fn set(self, id: &str) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{}={id}; HttpOnly; SameSite=Strict; Path=/{secure}", self.name())
    }
}

/// Returns a random id of 256 bits in hexadecimal.
pub(crate) fn random_id() -> Result<String, ErrorStack> {
    let mut bytes = [0; 32];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(bytes.iter().fold(String::with_capacity(64), |hex, byte| hex + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    const PLAIN: Cookie = Cookie { secure: false };

    #[test]
    fn the_cookie_is_matched_by_its_full_name() {
        let mut headers = HeaderMap::new();
        for line in ["a=b; xmatchbook_client=1", "matchbook_clients=2;matchbook_client=3; c=d"] {
            headers.append(COOKIE, HeaderValue::from_static(line));
        }
        assert_eq!(PLAIN.values(&headers).collect::<Vec<_>>(), [b"3"]);
        assert_eq!(Cookie { secure: true }.values(&headers).count(), 0);
    }

    #[test]
    fn every_value_is_returned_even_beside_cookies_that_are_not_utf_8() {
        let mut headers = HeaderMap::new();
        let line = b"a=\xff\xfe; matchbook_client=1; matchbook_client=\xe4;matchbook_client=2=3";
        headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        assert_eq!(PLAIN.values(&headers).collect::<Vec<_>>(), [&b"1"[..], b"\xe4", b"2=3"]);
    }

    #[test]
    fn the_token_of_a_login_is_kept_in_a_cookie_of_its_own() {
        let token = DeviceToken::new("v1.token").unwrap();
        let set = PLAIN.set_device(&token);
        let attributes = "HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000";
        assert_eq!(set, format!("matchbook_client_device=v1.token; {attributes}"));
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("matchbook_client_device=a\"b"));
        assert_eq!(PLAIN.device(&headers), None);
        headers.append(COOKIE, HeaderValue::from_static("matchbook_client_device=v1.token; a=b"));
        assert_eq!(PLAIN.device(&headers), Some(token));
        assert_eq!(PLAIN.values(&headers).count(), 0);
    }

    #[test]
    fn a_secure_cookie_has_the_host_prefix_and_the_secure_attribute() {
        assert_eq!(
            Cookie { secure: true }.set("7f"),
            "__Host-matchbook_client=7f; HttpOnly; SameSite=Strict; Path=/; Secure"
        );
    }

    #[test]
    fn ids_are_64_hexadecimal_digits_and_differ() {
        let first = random_id().unwrap();
        let second = random_id().unwrap();
        assert!(first.len() == 64 && first.chars().all(|c| c.is_ascii_hexdigit()), "{first}");
        assert_ne!(first, second);
    }
}
