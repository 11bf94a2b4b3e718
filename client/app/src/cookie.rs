//! The cookie that tells browsers apart.

use actix_web::http::header::{COOKIE, HeaderMap};
use openssl::error::ErrorStack;

/// How the cookie is spelled.
#[derive(Clone, Copy)]
pub(crate) struct Cookie {
    /// Whether it goes over HTTPS alone.
    pub(crate) secure: bool,
}

impl Cookie {
    /// Browsers hold a name that begins with `__Host-` to what it promises.
    fn name(self) -> &'static str {
        if self.secure { "__Host-matchbook_client" } else { "matchbook_client" }
    }

    /// The values that a browser sent: more than one where somebody planted
    /// another. Cookies of other apps on this host need not be text.
    pub(crate) fn of(self, headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
        let pairs = headers.get_all(COOKIE).flat_map(|line| line.as_bytes().split(|b| *b == b';'));
        pairs.filter_map(move |pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
            (name == self.name().as_bytes()).then_some(value)
        })
    }

    /// The header that has a browser keep `id` until it closes.
    pub(crate) fn set(self, id: &str) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{}={id}; HttpOnly; SameSite=Strict; Path=/{secure}", self.name())
    }
}

/// An id that nobody guesses.
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
    fn the_cookie_is_found_among_others_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        for line in ["a=b; xmatchbook_client=1", "matchbook_clients=2;matchbook_client=3; c=d"] {
            headers.append(COOKIE, HeaderValue::from_static(line));
        }
        assert_eq!(PLAIN.of(&headers).collect::<Vec<_>>(), [b"3"]);
        assert_eq!(Cookie { secure: true }.of(&headers).count(), 0);
    }

    #[test]
    fn every_value_is_seen_and_a_cookie_that_is_no_text_hides_none() {
        let mut headers = HeaderMap::new();
        let line = b"a=\xff\xfe; matchbook_client=1; matchbook_client=\xe4;matchbook_client=2=3";
        headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        assert_eq!(PLAIN.of(&headers).collect::<Vec<_>>(), [&b"1"[..], b"\xe4", b"2=3"]);
    }

    #[test]
    fn over_https_the_cookie_says_so_in_its_name_and_its_attributes() {
        assert_eq!(
            Cookie { secure: true }.set("7f"),
            "__Host-matchbook_client=7f; HttpOnly; SameSite=Strict; Path=/; Secure"
        );
    }

    #[test]
    fn ids_are_64_hexadecimal_digits_and_differ() {
        let (first, second) = (random_id().unwrap(), random_id().unwrap());
        assert!(first.len() == 64 && first.chars().all(|c| c.is_ascii_hexdigit()), "{first}");
        assert_ne!(first, second);
    }
}
