//! The section `[forward_auth]`.

use matchbook_settings::{Optional, Settings, SettingsError};
use serde::Deserialize;
use url::{Host, Url};

/// The applications that a proxy protects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Their authorities, in lower case: a host, with a port unless it is 443.
    pub hosts: Vec<String>,
    /// The domain of their cookie.
    pub cookie_domain: String,
}

#[derive(Deserialize)]
struct ForwardAuth {
    hosts: Optional<HostList>,
}

/// The part that is used only if there are hosts.
#[derive(Deserialize)]
struct Cookie {
    cookie_domain: Optional<Domain>,
}

/// Hosts, separated by commas.
struct HostList(Vec<String>);

impl TryFrom<String> for HostList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let hosts = entries.map(|entry| {
            let host = entry.to_ascii_lowercase();
            let url = Url::parse(&format!("https://{host}/")).ok();
            let same = url.as_ref().and_then(authority).is_some_and(|authority| authority == host);
            (same && host.bytes().all(is_in_host)).then_some(host).ok_or_else(|| {
                format!(
                    "must be hosts like `app.example.com` or `app.example.com:8443`, separated by \
                     commas; `{entry}` is not one"
                )
            })
        });
        let hosts: Vec<String> = hosts.collect::<Result<_, _>>()?;
        if hosts.is_empty() {
            return Err("must name a host, or be `none`".to_owned());
        }
        Ok(Self(hosts))
    }
}

/// A domain name with two labels at least.
struct Domain(String);

impl TryFrom<String> for Domain {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let domain = text.to_ascii_lowercase();
        let url = Url::parse(&format!("https://{domain}/")).ok();
        let is_name = url.is_some_and(|url| {
            matches!(url.host(), Some(Host::Domain(name)) if name == domain) && url.port().is_none()
        });
        let has_labels = domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
        (is_name && has_labels && domain.bytes().all(is_in_host))
            .then_some(Self(domain))
            .ok_or("must be a domain like `example.com`")
    }
}

/// Returns the host of an `https` URL, with its port unless that is 443.
#[must_use]
pub fn authority(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|_| url.scheme() == "https")?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    (!has_user).then_some(authority)
}

/// Returns `None` if forward authentication is off.
pub(super) fn read(
    settings: &Settings,
    public_url: &str,
) -> Result<Option<Options>, SettingsError> {
    let ForwardAuth { hosts: Optional(Some(HostList(hosts))) } =
        settings.section("forward_auth")?
    else {
        return Ok(None);
    };
    let Cookie { cookie_domain: Optional(domain) } = settings.section("forward_auth")?;
    let invalid = |problem: &str| settings.invalid("forward_auth.cookie_domain", problem);
    let Domain(cookie_domain) = domain.ok_or_else(|| {
        invalid("must be set: the applications of `forward_auth.hosts` need a cookie")
    })?;
    let server = matchbook_shared::base_url(public_url).ok();
    let server = server.filter(|url| url.scheme() == "https").ok_or_else(|| {
        let problem = "needs an `https` URL in `server.public_url` or `tokens.issuer`: browsers \
                       send the cookie only over HTTPS";
        settings.invalid("forward_auth.hosts", problem)
    })?;
    let own = server.host_str().unwrap_or_default();
    if !is_within(own, &cookie_domain) {
        let problem = format!(
            "must be the host of the server, `{own}`, or a domain above it: browsers accept no \
             other domain"
        );
        return Err(invalid(&problem));
    }
    let host_of = |authority: &String| authority.split(':').next().unwrap_or_default().to_owned();
    if let Some(host) = hosts.iter().find(|host| !is_within(&host_of(host), &cookie_domain)) {
        let problem = format!(
            "must be hosts in `forward_auth.cookie_domain`; `{host}` is not, and would not get the \
             cookie"
        );
        return Err(settings.invalid("forward_auth.hosts", &problem));
    }
    Ok(Some(Options { hosts, cookie_domain }))
}

/// Returns whether a host with a port may contain the byte. There are no wildcards.
fn is_in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':')
}

/// Returns whether a host is a domain or below it.
fn is_within(host: &str, domain: &str) -> bool {
    let rest = host.strip_suffix(domain);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_within_its_own_domain_and_those_above_it() {
        for (host, expected) in [
            ("example.com", true),
            ("app.example.com", true),
            ("a.b.example.com", true),
            ("example.com.evil.example", false),
            ("badexample.com", false),
            ("com", false),
            ("", false),
        ] {
            assert_eq!(is_within(host, "example.com"), expected, "{host}");
        }
    }

    #[test]
    fn hosts_are_names_with_ports_and_nothing_else() {
        let parsed = |text: &str| HostList::try_from(text.to_owned()).map(|HostList(hosts)| hosts);
        assert_eq!(
            parsed("App.example.com, wiki.example.com:8443,").unwrap(),
            ["app.example.com", "wiki.example.com:8443"]
        );
        for text in [
            "",
            ",",
            "https://app.example.com",
            "app.example.com/x",
            "app.example.com:443",
            "*.example.com",
            "ann@app.example.com",
            "app example.com",
            "app.example.com?x",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn domain_is_a_name_with_two_labels() {
        assert!(Domain::try_from("Example.com".to_owned()).is_ok());
        for text in
            ["com", ".example.com", "example.com.", "192.0.2.1", "a..b", "example.com:8", "é"]
        {
            assert!(Domain::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
