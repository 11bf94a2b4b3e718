//! Where a browser says that a request comes from.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN, REFERER, X_FORWARDED_HOST};

/// Fetch Metadata: browsers set it, and no script can.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A header that no form sends, and no other site without being asked first.
const FROM_PAGE: HeaderName = HeaderName::from_static("x-matchbook");

/// Whether another site, or another origin of this one, made a browser ask.
/// Old browsers, and others over plain HTTP, tell by the address they come from
/// alone. What says nothing about it is no browser, or one with an address that
/// was typed.
pub(crate) fn is_of_another_site(headers: &HeaderMap) -> bool {
    if headers.contains_key(SEC_FETCH_SITE) {
        return headers
            .get_all(SEC_FETCH_SITE)
            .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    }
    headers
        .get_all(ORIGIN)
        .chain(headers.get_all(REFERER))
        .any(|from| !from.to_str().is_ok_and(|from| is_own(from, headers)))
}

/// Whether a URL is of the origin that the request went to. A proxy may leave the
/// default port out of `Host` or add it, and may pass the browser's `Host` in
/// `X-Forwarded-Host` alone. A page of another site cannot set that header without a
/// preflight, which the app does not grant.
fn is_own(url: &str, headers: &HeaderMap) -> bool {
    let url = url.to_ascii_lowercase();
    let (rest, default_port) = match url.split_once("://") {
        Some(("http", rest)) => (rest, "80"),
        Some(("https", rest)) => (rest, "443"),
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let normal = |authority: &str| -> Option<(String, String)> {
        let authority = authority.trim().to_ascii_lowercase();
        let name = without_port(&authority)?;
        let port = authority[name.len()..].trim_start_matches(':');
        let name = without_final_dot(name);
        let port = if port.is_empty() { default_port } else { port };
        (!name.is_empty()).then(|| (name.to_owned(), port.to_owned()))
    };
    let from = normal(authority);
    from.is_some()
        && headers.get_all(HOST).chain(headers.get_all(X_FORWARDED_HOST)).any(|host| {
            host.to_str().is_ok_and(|hosts| hosts.split(',').any(|host| normal(host) == from))
        })
}

/// A name with a final dot is the same name, written in full.
fn without_final_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// The names that the app answers under.
pub(crate) struct Hosts {
    /// In small letters and without ports. `None`: all.
    names: Option<Vec<String>>,
}

impl Hosts {
    /// An app that listens on `address`, and is known as `others` too. One on
    /// loopback is for this machine; how others are reached, they have to say.
    pub(crate) fn new(address: IpAddr, others: &[String]) -> Self {
        let mut names = others.to_vec();
        if address.is_loopback() {
            names.extend(["localhost", "127.0.0.1", "[::1]"].map(String::from));
            names.push(written(address));
        }
        Self { names: (!names.is_empty()).then_some(names) }
    }

    /// Whether a request is for one of them.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(names) = &self.names else { return true };
        headers.contains_key(HOST)
            && headers.get_all(HOST).all(|host| {
                let name = host.to_str().ok().and_then(without_port);
                let name = name.map(without_final_dot);
                name.is_some_and(|name| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
            })
    }
}

/// The names in a list with commas between.
///
/// # Errors
/// The first that is none.
pub(crate) fn hosts(list: &str) -> Result<Vec<String>, String> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let name = |entry: &str| {
        let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']')).unwrap_or(entry);
        if let Ok(address) = bare.parse::<Ipv6Addr>() {
            return Ok(written(address.into()));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if entry.chars().all(is_name) {
            Ok(without_final_dot(entry).to_ascii_lowercase())
        } else {
            Err(entry.into())
        }
    };
    entries.map(name).collect()
}

/// An address as it stands in a URL.
fn written(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

fn without_port(host: &str) -> Option<&str> {
    let end = host.find(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = host[end..].find(':') else { return Some(host) };
    let (name, port) = host.split_at(end + colon);
    port[1..].bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// Whether the app's own page asks, for what changes something. Fetch Metadata
/// decides where it is there: browsers send it over HTTPS and to localhost, whatever
/// `Host` a proxy puts in place of theirs.
pub(crate) fn is_of_the_page(headers: &HeaderMap) -> bool {
    if headers.get(FROM_PAGE).is_none_or(|value| value.as_bytes() != b"page") {
        return false;
    }
    if headers.contains_key(SEC_FETCH_SITE) {
        return headers.get_all(SEC_FETCH_SITE).all(|site| site.as_bytes() == b"same-origin");
    }
    headers.get_all(ORIGIN).all(|origin| origin.to_str().is_ok_and(|from| is_own(from, headers)))
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
    fn the_page_behind_a_tls_proxy_is_known_under_every_form_of_its_host() {
        let origin = ("origin", "https://app.example");
        let page =
            |more: &[_]| is_of_the_page(&headers(&[&[("x-matchbook", "page")], more].concat()));
        for host in
            ["app.example", "app.example:443", "APP.example", "app.example.", "App.Example.:443"]
        {
            assert!(page(&[origin, ("host", host)]), "{host}");
            assert!(!is_of_another_site(&headers(&[origin, ("host", host)])), "{host}");
        }
        let forwarded = [("host", "127.0.0.1:5002"), ("x-forwarded-host", "app.example")];
        assert!(page(&[&forwarded[..], &[origin]].concat()));
        let metadata = ("sec-fetch-site", "same-origin");
        assert!(page(&[("host", "127.0.0.1:5002"), origin, metadata]));
        for host in ["app.example:80", "app.example:5002", "evil.example", "app.example..", ""] {
            assert!(!page(&[origin, ("host", host)]), "{host}");
        }
        assert!(!page(&[("host", "app.example:443"), ("origin", "http://app.example")]));
        let other = ("sec-fetch-site", "same-site");
        assert!(!page(&[("host", "app.example"), origin, other]), "which says more");
    }

    #[test]
    fn a_link_from_elsewhere_is_told_from_an_address_that_was_typed() {
        let other = |site| is_of_another_site(&headers(&[("sec-fetch-site", site)]));
        assert!(other("cross-site") && other("same-site") && other("what else"));
        assert!(!other("none") && !other("same-origin"));
        assert!(!is_of_another_site(&HeaderMap::new()));
    }

    #[test]
    fn a_browser_without_fetch_metadata_is_told_by_the_address_it_comes_from() {
        let other = |name, value| {
            is_of_another_site(&headers(&[("host", "app.example:5002"), (name, value)]))
        };
        for from in ["http://evil.example", "http://app.example", "http://app.example:50022"] {
            assert!(other("origin", from) && other("referer", from), "{from}");
        }
        assert!(
            other("origin", "null") && other("referer", "http://evil.example/app.example:5002")
        );
        assert!(!other("origin", "http://app.example:5002"));
        assert!(!other("referer", "http://APP.example:5002/some?thing"));
        let modern = [("sec-fetch-site", "none"), ("host", "a"), ("referer", "http://b/")];
        assert!(!is_of_another_site(&headers(&modern)), "which says more");
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_answered_and_those_that_are_set() {
        let admits = |address: &str, list: &str, host| {
            let hosts = Hosts::new(address.parse().unwrap(), &hosts(list).unwrap());
            hosts.admit(&headers(&[("host", host)]))
        };
        for host in ["localhost", "LOCALHOST:5002", "127.0.0.1:1", "[::1]:5002", "[::1]"] {
            assert!(admits("127.0.0.1", "", host) && admits("::1", "", host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:5002", "", ":5002", "localhost:a", "["]
        {
            assert!(!admits("127.0.0.1", "app.example", host), "{host}");
            assert!(admits("0.0.0.0", "", host), "{host}");
            assert!(!admits("0.0.0.0", "localhost", host), "{host}");
        }
        assert!(admits("127.0.0.1", "a, App.example", "app.example:80"));
        assert!(admits("127.0.0.1", "app.example.", "APP.example.:443"));
        assert!(admits("0.0.0.0", "FE80::1,b", "[fe80::1]:5002"));
        assert!(!admits("0.0.0.0", "app.example", "localhost"));
        assert!(!Hosts::new(IpAddr::from([127, 0, 0, 1]), &[]).admit(&HeaderMap::new()));
        for list in ["a b", "http://a", "a:5002", "*"] {
            assert_eq!(hosts(list), Err(list.to_owned()));
        }
    }
}
