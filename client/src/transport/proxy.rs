//! The environment variables that name a proxy. Proxies are not supported, so a warning names
//! the variable.

use std::net::IpAddr;

use awc::http::Uri;

/// Logs a warning if the environment names a proxy for a server.
pub(crate) fn warn_of_unused(tls: bool, uri: &Uri) {
    if let Some(variable) = unused(tls, uri) {
        tracing::warn!("{variable} is set, but this client connects without a proxy");
    }
}

/// Returns the variable that names a proxy for a server.
pub(super) fn unused(tls: bool, uri: &Uri) -> Option<&'static str> {
    let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    unused_in(read, tls, uri)
}

fn unused_in(read: impl Fn(&str) -> Option<String>, tls: bool, uri: &Uri) -> Option<&'static str> {
    const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    const HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    let host = uri.host()?.trim_matches(['[', ']']).trim_end_matches('.');
    let address = host.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return None;
    }
    let variables = if tls { HTTPS } else { HTTP };
    let variable = variables.into_iter().find(|variable| read(variable).is_some())?;
    let direct = read("no_proxy").or_else(|| read("NO_PROXY")).unwrap_or_default();
    let is_direct = direct.split([',', ' ']).any(|entry| covers(entry, host, address));
    (!is_direct).then_some(variable)
}

/// Returns whether an entry of `NO_PROXY` covers a host: by its domain or by its network.
fn covers(entry: &str, host: &str, address: Option<IpAddr>) -> bool {
    if entry.is_empty() {
        return false;
    }
    let entry = entry.trim_matches(['[', ']']);
    if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
        return network
            .parse()
            .is_ok_and(|network| bits.parse().is_ok_and(|bits| is_within(address, network, bits)));
    }
    let name = entry.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
    let name = match name.rsplit_once(':') {
        Some((name, port)) if address.is_none() && port.parse::<u16>().is_ok() => name.to_owned(),
        _ => name,
    };
    let below = host.strip_suffix(&name);
    entry == "*" || !name.is_empty() && below.is_some_and(|b| b.is_empty() || b.ends_with('.'))
}

/// Returns whether the first `bits` of two addresses are equal.
fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differing = u32::from(address) ^ u32::from(network);
            bits <= 32 && differing.leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differing = u128::from(address) ^ u128::from(network);
            bits <= 128 && differing.leading_zeros() >= bits
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused_with(variables: &[(&str, &str)], url: &'static str) -> Option<&'static str> {
        let read = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let tls = url.starts_with("https");
        unused_in(read, tls, &Uri::from_static(url))
    }

    #[test]
    fn the_variable_of_the_scheme_or_all_proxy_names_the_proxy() {
        let url = "https://auth.example.com";
        for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            assert_eq!(unused_with(&[(variable, "http://proxy:3128")], url), Some(variable));
        }
        assert_eq!(unused_with(&[("HTTP_PROXY", "http://proxy")], url), None);
        let plain = "http://auth.example.com";
        assert_eq!(unused_with(&[("HTTP_PROXY", "http://proxy")], plain), Some("HTTP_PROXY"));
        assert_eq!(unused_with(&[("HTTPS_PROXY", "http://proxy")], plain), None);
        assert_eq!(unused_with(&[], url), None);
    }

    #[test]
    fn no_proxy_and_loopback_need_no_proxy() {
        let with = |direct, url| unused_with(&[("ALL_PROXY", "p"), ("NO_PROXY", direct)], url);
        for (direct, url) in [
            ("*", "https://auth.example.com"),
            ("a.example, .example.com", "https://auth.example.com"),
            ("example.com", "https://auth.example.com"),
            ("auth.example.com:443", "https://auth.example.com"),
            ("Example.com", "https://example.com."),
            ("10.0.0.0/8", "https://10.1.2.3"),
            ("192.168.1.7", "https://192.168.1.7:5001"),
            ("fd00::/8", "https://[fd12::1]"),
            ("", "https://localhost:5001"),
            ("", "https://127.0.0.1:5001"),
            ("", "https://[::1]:5001"),
        ] {
            assert_eq!(with(direct, url), None, "{direct}: {url}");
        }
        for (direct, url) in [
            ("", "https://auth.example.com"),
            ("ample.com", "https://auth.example.com"),
            (".", "https://auth.example.com"),
            ("10.0.0.0/8", "https://11.1.2.3"),
            ("10.0.0.0/99", "https://10.1.2.3"),
            ("10.0.0.0/8", "https://auth.example.com"),
        ] {
            assert_eq!(with(direct, url), Some("ALL_PROXY"), "{direct}: {url}");
        }
    }
}
