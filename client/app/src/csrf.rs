//! Protection against cross-site requests (CSRF) and DNS rebinding.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN, REFERER, X_FORWARDED_HOST};

/// Fetch Metadata. Browsers set this header, and scripts cannot change it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The page sends this header. Forms cannot send it, and other sites would need a CORS
/// preflight, which the app does not grant.
const PAGE_HEADER: HeaderName = HeaderName::from_static("x-matchbook");

/// Returns whether the request is cross-site: by `Sec-Fetch-Site`, else by `Origin` and
/// `Referer`. Requests without these headers come from other clients or from the
/// address bar, and are not cross-site. `https`: browsers reach the app only over HTTPS.
pub(crate) fn is_cross_site(headers: &HeaderMap, https: bool) -> bool {
    if headers.contains_key(SEC_FETCH_SITE) {
        return headers
            .get_all(SEC_FETCH_SITE)
            .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    }
    headers
        .get_all(ORIGIN)
        .chain(headers.get_all(REFERER))
        .any(|url| !url.to_str().is_ok_and(|url| is_same_origin(url, headers, https)))
}

/// Returns whether the page may have sent a request that changes something. Requires
/// the page's header, and then `Sec-Fetch-Site`, else `Origin`, to be of the same origin.
///
/// `Sec-Fetch-Site` comes first because it does not depend on the `Host` that a proxy
/// sends. Browsers send it over HTTPS and to localhost. `https`: browsers reach the app
/// only over HTTPS.
pub(crate) fn passes_csrf_check(headers: &HeaderMap, https: bool) -> bool {
    if headers.get(PAGE_HEADER).is_none_or(|value| value.as_bytes() != b"page") {
        return false;
    }
    if headers.contains_key(SEC_FETCH_SITE) {
        return headers.get_all(SEC_FETCH_SITE).all(|site| site.as_bytes() == b"same-origin");
    }
    let is_same_origin = |origin| is_same_origin(origin, headers, https);
    headers.get_all(ORIGIN).all(|origin| origin.to_str().is_ok_and(is_same_origin))
}

/// Returns whether a URL has the origin that the request was sent to.
///
/// A proxy may add or remove the default port in `Host`, and may pass the browser's
/// `Host` only in `X-Forwarded-Host`. Another site cannot set that header without a CORS
/// preflight. With `https`, a page served over plain HTTP under the same name is another
/// origin: an attacker in the network can serve it.
fn is_same_origin(url: &str, headers: &HeaderMap, https: bool) -> bool {
    let url = url.to_ascii_lowercase();
    let (rest, default_port) = match url.split_once("://") {
        Some(("http", rest)) if !https => (rest, "80"),
        Some(("https", rest)) => (rest, "443"),
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let normalize = |authority: &str| -> Option<(String, String)> {
        let authority = authority.trim().to_ascii_lowercase();
        let name = without_port(&authority)?;
        let port = authority[name.len()..].trim_start_matches(':');
        let name = without_trailing_dot(name);
        let port = if port.is_empty() { default_port } else { port };
        (!name.is_empty()).then(|| (name.to_owned(), port.to_owned()))
    };
    let origin = normalize(authority);
    origin.is_some()
        && headers.get_all(HOST).chain(headers.get_all(X_FORWARDED_HOST)).any(|host| {
            host.to_str().is_ok_and(|hosts| hosts.split(',').any(|host| normalize(host) == origin))
        })
}

/// A name with a trailing dot is the fully qualified form of the same name.
fn without_trailing_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// The allowed `Host` names. They prevent DNS rebinding: a site that makes its own name
/// resolve to this app would otherwise have the app's origin.
pub(crate) struct AllowedHosts {
    /// Lower case, without ports. `None`: all names.
    names: Option<Vec<String>>,
}

impl AllowedHosts {
    /// Allows `names`, and on a loopback `address` the usual names of this machine too.
    /// Without names, any name is allowed on other addresses.
    pub(crate) fn new(address: IpAddr, names: &[String]) -> Self {
        let mut names = names.to_vec();
        if address.is_loopback() {
            names.extend(["localhost", "127.0.0.1", "[::1]"].map(String::from));
            names.push(url_host(address));
        }
        Self { names: (!names.is_empty()).then_some(names) }
    }

    /// Returns whether every `Host` header of a request is allowed.
    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(names) = &self.names else { return true };
        headers.contains_key(HOST)
            && headers.get_all(HOST).all(|host| {
                let name = host.to_str().ok().and_then(without_port);
                let name = name.map(without_trailing_dot);
                name.is_some_and(|name| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
            })
    }
}

/// Parses a comma-separated list of host names and IP addresses.
///
/// # Errors
/// The first invalid entry.
pub(crate) fn parse_hosts(list: &str) -> Result<Vec<String>, String> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let parse = |entry: &str| {
        let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']')).unwrap_or(entry);
        if let Ok(address) = bare.parse::<Ipv6Addr>() {
            return Ok(url_host(address.into()));
        }
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if entry.chars().all(is_allowed) {
            Ok(without_trailing_dot(entry).to_ascii_lowercase())
        } else {
            Err(entry.into())
        }
    };
    entries.map(parse).collect()
}

/// Formats an address as the host of a URL.
fn url_host(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// Removes the port. Returns `None` if the port is not a number.
fn without_port(host: &str) -> Option<&str> {
    let end = host.find(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = host[end..].find(':') else { return Some(host) };
    let (name, port) = host.split_at(end + colon);
    port[1..].bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
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
    fn the_csrf_check_needs_the_page_header_and_the_same_origin() {
        let page = [("x-matchbook", "page"), ("host", "app.example:5002")];
        let passes = |more: &[_]| passes_csrf_check(&headers(&[&page, more].concat()), false);
        assert!(passes(&[]));
        assert!(passes(&[("sec-fetch-site", "same-origin")]));
        assert!(passes(&[("origin", "http://APP.example:5002")]));
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
            assert!(!passes(&[(name, value)]), "{name}: {value}");
        }
        assert!(!passes_csrf_check(&headers(&page[1..]), false), "without the page header");
        assert!(!passes_csrf_check(
            &headers(&[("x-matchbook", "page"), ("origin", "http://")]),
            false
        ));
    }

    #[test]
    fn the_csrf_check_passes_behind_a_tls_proxy_for_every_form_of_the_host() {
        let origin = ("origin", "https://app.example");
        let passes = |more: &[_]| {
            passes_csrf_check(&headers(&[&[("x-matchbook", "page")], more].concat()), true)
        };
        for host in
            ["app.example", "app.example:443", "APP.example", "app.example.", "App.Example.:443"]
        {
            assert!(passes(&[origin, ("host", host)]), "{host}");
            assert!(!is_cross_site(&headers(&[origin, ("host", host)]), true), "{host}");
        }
        let forwarded = [("host", "127.0.0.1:5002"), ("x-forwarded-host", "app.example")];
        assert!(passes(&[&forwarded[..], &[origin]].concat()));
        let metadata = ("sec-fetch-site", "same-origin");
        assert!(passes(&[("host", "127.0.0.1:5002"), origin, metadata]));
        for host in ["app.example:80", "app.example:5002", "evil.example", "app.example..", ""] {
            assert!(!passes(&[origin, ("host", host)]), "{host}");
        }
        assert!(!passes(&[("host", "app.example:443"), ("origin", "http://app.example")]));
        let other = ("sec-fetch-site", "same-site");
        assert!(!passes(&[("host", "app.example"), origin, other]), "it takes precedence");
    }

    #[test]
    fn behind_tls_a_plain_http_page_of_the_same_name_is_another_origin() {
        for (host, url) in [
            ("app.example:80", "http://app.example"),
            ("app.example", "HTTP://APP.example:80"),
            ("app.example:5002", "http://app.example:5002"),
        ] {
            for name in ["origin", "referer"] {
                let from = headers(&[("host", host), (name, url)]);
                assert!(!is_cross_site(&from, false), "{host}: {name}: {url}");
                assert!(is_cross_site(&from, true), "{host}: {name}: {url}");
            }
            let page = headers(&[("x-matchbook", "page"), ("host", host), ("origin", url)]);
            assert!(passes_csrf_check(&page, false), "{host}: {url}");
            assert!(!passes_csrf_check(&page, true), "{host}: {url}");
        }
        // Fetch Metadata takes precedence over the origin.
        let modern = [("x-matchbook", "page"), ("sec-fetch-site", "same-origin")];
        let headers = headers(&[&modern[..], &[("origin", "http://app.example")]].concat());
        assert!(passes_csrf_check(&headers, true) && !is_cross_site(&headers, true));
    }

    #[test]
    fn fetch_metadata_distinguishes_links_from_typed_addresses() {
        let cross_site = |site| is_cross_site(&headers(&[("sec-fetch-site", site)]), false);
        assert!(cross_site("cross-site") && cross_site("same-site") && cross_site("new value"));
        assert!(!cross_site("none") && !cross_site("same-origin"));
        assert!(!is_cross_site(&HeaderMap::new(), false));
    }

    #[test]
    fn without_fetch_metadata_origin_and_referer_decide() {
        let cross_site = |name, value| {
            is_cross_site(&headers(&[("host", "app.example:5002"), (name, value)]), false)
        };
        for url in ["http://evil.example", "http://app.example", "http://app.example:50022"] {
            assert!(cross_site("origin", url) && cross_site("referer", url), "{url}");
        }
        assert!(
            cross_site("origin", "null")
                && cross_site("referer", "http://evil.example/app.example:5002")
        );
        assert!(!cross_site("origin", "http://app.example:5002"));
        assert!(!cross_site("referer", "http://APP.example:5002/some?thing"));
        let modern = [("sec-fetch-site", "none"), ("host", "a"), ("referer", "http://b/")];
        assert!(!is_cross_site(&headers(&modern), false), "Fetch Metadata takes precedence");
    }

    #[test]
    fn on_loopback_only_local_and_configured_host_names_are_allowed() {
        let allows = |address: &str, list: &str, host| {
            let hosts = AllowedHosts::new(address.parse().unwrap(), &parse_hosts(list).unwrap());
            hosts.allows(&headers(&[("host", host)]))
        };
        for host in ["localhost", "LOCALHOST:5002", "127.0.0.1:1", "[::1]:5002", "[::1]"] {
            assert!(allows("127.0.0.1", "", host) && allows("::1", "", host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:5002", "", ":5002", "localhost:a", "["]
        {
            assert!(!allows("127.0.0.1", "app.example", host), "{host}");
            assert!(allows("0.0.0.0", "", host), "{host}");
            assert!(!allows("0.0.0.0", "localhost", host), "{host}");
        }
        assert!(allows("127.0.0.1", "a, App.example", "app.example:80"));
        assert!(allows("127.0.0.1", "app.example.", "APP.example.:443"));
        assert!(allows("0.0.0.0", "FE80::1,b", "[fe80::1]:5002"));
        assert!(!allows("0.0.0.0", "app.example", "localhost"));
        assert!(!AllowedHosts::new(IpAddr::from([127, 0, 0, 1]), &[]).allows(&HeaderMap::new()));
    }

    #[test]
    fn an_invalid_host_in_the_list_is_returned_as_the_error() {
        for list in ["a b", "http://a", "a:5002", "*"] {
            assert_eq!(parse_hosts(list), Err(list.to_owned()));
        }
    }
}
