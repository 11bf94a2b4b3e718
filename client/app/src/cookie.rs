//! The cookie that identifies a browser.

use actix_web::http::header::{COOKIE, HeaderMap};
use openssl::error::ErrorStack;

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
        let pairs = headers.get_all(COOKIE).flat_map(|line| line.as_bytes().split(|b| *b == b';'));
        pairs.filter_map(move |pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let name = pair[..equals].trim_ascii();
            let value = pair[equals + 1..].trim_ascii();
            (name == self.name().as_bytes()).then_some(value)
        })
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
