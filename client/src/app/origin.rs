//! Where a browser says that a request comes from.

use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN};

/// Fetch Metadata: browsers set it, and no script can.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A header that no form sends, and no other site without being asked first.
const FROM_PAGE: HeaderName = HeaderName::from_static("x-matchbook");

/// Whether another site, or another origin of this one, made a browser ask.
/// What says nothing about it is no browser, or an old one.
pub(crate) fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get_all(SEC_FETCH_SITE).any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// Whether the app's own page asks, for what changes something.
pub(crate) fn is_of_the_page(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(|host| host.as_bytes().to_ascii_lowercase());
    let mut origins = headers.get_all(ORIGIN).map(|origin| origin.as_bytes().to_ascii_lowercase());
    headers.get(FROM_PAGE).is_some_and(|value| value.as_bytes() == b"page")
        && headers.get_all(SEC_FETCH_SITE).all(|site| site.as_bytes() == b"same-origin")
        && origins.all(|origin| {
            let rest = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
            rest.is_some() && rest == host.as_deref()
        })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn the_page_is_known_by_its_header_and_by_nothing_that_speaks_against_it() {
        let page = [("x-matchbook", "page"), ("host", "app.example:5002")];
        let of_the_page = |more: &[_]| is_of_the_page(&headers(&[&page, more].concat()));
        assert!(of_the_page(&[]));
        assert!(of_the_page(&[("sec-fetch-site", "same-origin")]));
        assert!(of_the_page(&[("origin", "http://APP.example:5002")]));
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "none"),
            ("origin", "null"),
            ("origin", ""),
            ("origin", "http://app.example"),
            ("origin", "http://app.example:50022"),
            ("origin", "http://evil.example"),
            ("origin", "app.example:5002"),
        ] {
            assert!(!of_the_page(&[(name, value)]), "{name}: {value}");
        }
        assert!(!is_of_the_page(&headers(&page[1..])), "without its header");
        assert!(!is_of_the_page(&headers(&[("x-matchbook", "page"), ("origin", "http://")])));
    }

    #[test]
    fn a_link_from_elsewhere_is_told_from_an_address_that_was_typed() {
        let other = |site| is_of_another_site(&headers(&[("sec-fetch-site", site)]));
        assert!(other("cross-site") && other("same-site") && other("what else"));
        assert!(!other("none") && !other("same-origin"));
        assert!(!is_of_another_site(&HeaderMap::new()));
    }
}
