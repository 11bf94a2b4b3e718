//! What can be registered as a client.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use url::Url;
use uuid::Uuid;

use super::{Client, GracePeriod, InvalidRedirectUri, check_redirect_uri};
use crate::crypto::{RngError, random};
use crate::ids::ClientId;
use crate::sessions::MAX_GRACE_PERIOD;
use crate::tokens::{Claims, new_client_secret};

/// The maximum length of an id, in bytes.
pub(super) const MAX_ID_LEN: usize = 100;

/// The maximum number of redirect URIs or audiences.
const MAX_URIS: usize = 50;

/// Why a client cannot be registered: a sentence for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClient {
    #[error("the id of a client has 1 to {MAX_ID_LEN} letters, digits and `.`, `_`, `-`, `~`")]
    Id,
    #[error("the id of a client must not be a UUID: the ids of users are UUIDs")]
    IdIsUuid,
    #[error("the id `{}` is that of the native endpoints", Claims::NATIVE_CLIENT)]
    IdIsReserved,
    #[error("the name of a client has 1 to 100 characters, and no control characters")]
    Name,
    #[error("a public client cannot be a machine: it has no secret to authenticate with")]
    PublicMachine,
    #[error("a public client needs PKCE")]
    PublicWithoutPkce,
    #[error(
        "add a redirect URI, or make the client a machine, which logs no users in, or a device, \
         which logs them in elsewhere"
    )]
    NoRedirectUri,
    #[error("a client has at most {MAX_URIS} URIs of each kind")]
    TooManyUris,
    #[error("the redirect URI {uri:?} {problem}")]
    RedirectUri { uri: String, problem: InvalidRedirectUri },
    #[error(
        "the back-channel logout URI {0:?} is not an absolute URL of `https`, or of `http` on a \
         loopback address, without a fragment"
    )]
    BackchannelLogoutUri(String),
    #[error("{0:?} is listed twice")]
    Repeated(String),
    #[error("the audience {0:?} is not an absolute URI without a fragment")]
    Audience(String),
}

/// Why a text is not a grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the grace period is `default`, `strict`, or a duration from 1s to 10m in whole seconds, like \
     `120s`"
)]
pub struct InvalidGracePeriod;

/// Returns a new id.
pub fn new_id() -> Result<ClientId, RngError> {
    Ok(format!("cl_{}", URL_SAFE_NO_PAD.encode(random::<12>()?)).into())
}

/// Returns a new secret of 256 bits.
pub fn new_secret() -> Result<SecretString, RngError> {
    new_client_secret("mb_cs_")
}

/// Parses the grace period of a client.
pub fn parse_grace_period(text: &str) -> Result<GracePeriod, InvalidGracePeriod> {
    match text {
        "default" => Ok(GracePeriod::Default),
        "strict" => Ok(GracePeriod::Strict),
        _ => {
            let period = humantime::parse_duration(text).map_err(|_| InvalidGracePeriod)?;
            let is_valid = period.subsec_nanos() == 0
                && (Duration::from_secs(1)..=MAX_GRACE_PERIOD).contains(&period);
            is_valid.then_some(GracePeriod::For(period)).ok_or(InvalidGracePeriod)
        }
    }
}

/// Returns the text that [`parse_grace_period`] parses.
#[must_use]
pub fn describe_grace_period(period: GracePeriod) -> String {
    match period {
        GracePeriod::Default => "default".to_owned(),
        GracePeriod::Strict => "strict".to_owned(),
        GracePeriod::For(period) => format!("{}s", period.as_secs()),
    }
}

/// Checks that a client can be registered.
pub fn check(client: &Client, allow_localhost: bool) -> Result<(), InvalidClient> {
    check_id(client.id.as_str())?;
    let name = &client.name;
    if !(1..=100).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(InvalidClient::Name);
    }
    if client.is_public() && client.is_machine {
        return Err(InvalidClient::PublicMachine);
    }
    if client.is_public() && !client.require_pkce {
        return Err(InvalidClient::PublicWithoutPkce);
    }
    if client.redirect_uris.is_empty() && !client.is_machine && !client.is_device {
        return Err(InvalidClient::NoRedirectUri);
    }
    let check_redirect = |uri: &str| {
        check_redirect_uri(uri, allow_localhost)
            .map_err(|problem| InvalidClient::RedirectUri { uri: uri.to_owned(), problem })
    };
    check_uris(&client.redirect_uris, check_redirect)?;
    check_uris(&client.logout.redirect_uris, check_redirect)?;
    if let Some(uri) = &client.logout.backchannel_uri
        && !is_backchannel_uri(uri)
    {
        return Err(InvalidClient::BackchannelLogoutUri(uri.clone()));
    }
    check_uris(&client.audiences, |audience| {
        is_audience(audience)
            .then_some(())
            .ok_or_else(|| InvalidClient::Audience(audience.to_owned()))
    })
}

fn check_id(id: &str) -> Result<(), InvalidClient> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
    if !(1..=MAX_ID_LEN).contains(&id.len()) || !id.bytes().all(is_allowed) {
        return Err(InvalidClient::Id);
    }
    // The access tokens of a machine have its id as their subject, where others have a user.
    if Uuid::try_parse(id).is_ok() {
        return Err(InvalidClient::IdIsUuid);
    }
    // Tokens with this id permit everything.
    if id == Claims::NATIVE_CLIENT {
        return Err(InvalidClient::IdIsReserved);
    }
    Ok(())
}

fn check_uris(
    uris: &[String],
    check: impl Fn(&str) -> Result<(), InvalidClient>,
) -> Result<(), InvalidClient> {
    if uris.len() > MAX_URIS {
        return Err(InvalidClient::TooManyUris);
    }
    let mut seen = HashSet::new();
    for uri in uris {
        if !seen.insert(uri) {
            return Err(InvalidClient::Repeated(uri.clone()));
        }
        check(uri)?;
    }
    Ok(())
}

/// Returns whether a URI without a fragment can have the byte (RFC 3986 §2).
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte)
}

/// Returns whether the text is an absolute URI without a fragment (RFC 8707 §2).
fn is_audience(text: &str) -> bool {
    text.len() <= 500 && text.bytes().all(is_uri_byte) && Url::parse(text).is_ok()
}

/// Returns whether logout tokens can be sent to the URI (Back-Channel Logout 1.0 §2.2).
fn is_backchannel_uri(text: &str) -> bool {
    // The notice goes to this very string.
    if !text.contains("://") || !text.bytes().all(is_uri_byte) {
        return false;
    }
    let Ok(url) = Url::parse(text) else { return false };
    let is_loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => return false,
    };
    let is_permitted = url.scheme() == "https" || (url.scheme() == "http" && is_loopback);
    let has_no_extra = url.fragment().is_none() && url.username().is_empty();
    is_permitted && has_no_extra && url.password().is_none() && text.len() <= 500
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::crypto::Digest;
    use crate::store::clients::{ClientKind, LogoutSettings};
    use crate::tokens::{Scope, SecretDigests};

    fn public() -> Client {
        Client {
            id: "web".into(),
            name: "Web".to_owned(),
            kind: ClientKind::Public,
            redirect_uris: vec!["https://app.example.com/cb".to_owned()],
            scope: Scope::default(),
            audiences: Vec::new(),
            is_first_party: false,
            require_pkce: true,
            is_machine: false,
            is_device: false,
            logout: LogoutSettings::default(),
            grace_period: GracePeriod::Default,
            created_at: Timestamp::from_secs(0),
        }
    }

    fn confidential() -> Client {
        let secrets = SecretDigests { current: Digest::of(&[b"secret"]), previous: None };
        Client { kind: ClientKind::Confidential(secrets), ..public() }
    }

    #[test]
    fn useful_clients_can_be_registered() {
        let machine = Client { is_machine: true, redirect_uris: Vec::new(), ..confidential() };
        let legacy = Client { require_pkce: false, ..confidential() };
        let audiences = vec!["https://api.example.com/v1".to_owned(), "urn:example:api".to_owned()];
        let with_audiences = Client { audiences, ..public() };
        let device = Client { is_device: true, redirect_uris: Vec::new(), ..public() };
        let logout = LogoutSettings {
            redirect_uris: vec!["https://app.example.com/bye?from=matchbook".to_owned()],
            backchannel_uri: Some("https://app.example.com/logout".to_owned()),
            keeps_offline_access: true,
        };
        let with_logout = Client { logout, ..public() };
        let others = [machine, legacy, with_audiences, device, with_logout];
        for client in [public(), confidential()].into_iter().chain(others) {
            assert_eq!(check(&client, false), Ok(()));
        }
        let new = Client { id: new_id().unwrap(), ..public() };
        assert_eq!(check(&new, false), Ok(()));
    }

    #[test]
    fn contradictory_clients_cannot_be_registered() {
        let uris = |uris: &[&str]| uris.iter().map(|&uri| uri.to_owned()).collect::<Vec<_>>();
        let uri = "https://app.example.com/cb";
        let localhost = uris(&["http://localhost/cb"]);
        for (client, problem) in [
            (Client { id: "".into(), ..public() }, InvalidClient::Id),
            (Client { id: "a b".into(), ..public() }, InvalidClient::Id),
            (Client { id: "a:b".into(), ..public() }, InvalidClient::Id),
            (Client { id: "a".repeat(101).into(), ..public() }, InvalidClient::Id),
            (Client { id: UUID.into(), ..public() }, InvalidClient::IdIsUuid),
            (Client { id: UUID.replace('-', "").into(), ..public() }, InvalidClient::IdIsUuid),
            (Client { name: String::new(), ..public() }, InvalidClient::Name),
            (Client { name: "a\u{1b}".to_owned(), ..public() }, InvalidClient::Name),
            (Client { is_machine: true, ..public() }, InvalidClient::PublicMachine),
            (Client { require_pkce: false, ..public() }, InvalidClient::PublicWithoutPkce),
            (Client { redirect_uris: Vec::new(), ..public() }, InvalidClient::NoRedirectUri),
            (Client { redirect_uris: Vec::new(), ..confidential() }, InvalidClient::NoRedirectUri),
            (
                Client { redirect_uris: uris(&[uri, uri]), ..public() },
                InvalidClient::Repeated(uri.to_owned()),
            ),
            (
                Client {
                    redirect_uris: (0..51).map(|n| format!("{uri}/{n}")).collect(),
                    ..public()
                },
                InvalidClient::TooManyUris,
            ),
            (
                Client { redirect_uris: localhost.clone(), ..public() },
                InvalidClient::RedirectUri {
                    uri: localhost[0].clone(),
                    problem: InvalidRedirectUri::Http,
                },
            ),
        ] {
            assert_eq!(check(&client, false), Err(problem));
        }
        assert_eq!(check(&Client { redirect_uris: localhost, ..public() }, true), Ok(()));
        for audience in
            ["", "api", "/api", "https://a.example/#", "https://a.example/ b", "https://ä"]
        {
            let client = Client { audiences: uris(&[audience]), ..public() };
            let problem = InvalidClient::Audience(audience.to_owned());
            assert_eq!(check(&client, false), Err(problem));
        }
    }

    const UUID: &str = "0190f1de-8f2c-7c3a-9b1a-3f3a4b5c6d7e";

    #[test]
    fn grace_period_is_default_strict_or_up_to_ten_minutes() {
        let seconds = |seconds| Ok(GracePeriod::For(Duration::from_secs(seconds)));
        assert_eq!(parse_grace_period("default"), Ok(GracePeriod::Default));
        assert_eq!(parse_grace_period("strict"), Ok(GracePeriod::Strict));
        assert_eq!(parse_grace_period("120s"), seconds(120));
        assert_eq!(parse_grace_period("10m"), seconds(600));
        for text in ["", "0s", "120", "601s", "500ms", "1s 1ms", "-1s", "never"] {
            assert_eq!(parse_grace_period(text), Err(InvalidGracePeriod), "{text}");
        }
        for text in ["default", "strict", "90s"] {
            assert_eq!(describe_grace_period(parse_grace_period(text).unwrap()), text);
        }
    }

    #[test]
    fn logout_uris_are_checked() {
        let with = |logout| check(&Client { logout, ..public() }, false);
        for uri in [
            "http://app.example.com/",
            "https://app.example.com/#here",
            "https://user@app.example.com/",
            "/logout",
            "https://",
            "ftp://127.0.0.1/",
            "https:a.example",
            "https:\\\\a.example\\x",
            " https://a.example/",
            "https://a.example/\nx",
        ] {
            let backchannel_uri = Some(uri.to_owned());
            let logout = LogoutSettings { backchannel_uri, ..LogoutSettings::default() };
            assert_eq!(with(logout), Err(InvalidClient::BackchannelLogoutUri(uri.to_owned())));
        }
        let backchannel_uri = Some("http://127.0.0.1:8080/logout".to_owned());
        assert_eq!(with(LogoutSettings { backchannel_uri, ..LogoutSettings::default() }), Ok(()));
        let redirect_uris = vec!["http://app.example.com/".to_owned()];
        let logout = LogoutSettings { redirect_uris, ..LogoutSettings::default() };
        assert!(matches!(with(logout), Err(InvalidClient::RedirectUri { .. })));
    }
}
