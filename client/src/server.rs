//! The token server as the client sees it: where it is, whom to trust, how it
//! is spoken to, and which origins may see the access token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use awc::http::header::{CONTENT_ENCODING, HeaderValue, RETRY_AFTER};
use awc::http::{StatusCode, Uri};
use matchbook_shared::{UrlError, base_url, web_url};
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use serde::de::DeserializeOwned;
use url::{Origin, Url};

use crate::protocol::{Refusal, from_elsewhere, is_from_server};
use crate::transport::{Http, Response, Target, is_json, redirected, warn_of_unused};
use crate::{Error, OAuth};

/// Whose certificates to accept. Verification is never off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCerts {
    /// Those that the system trusts.
    System,
    /// Those under the CA in this PEM file, and no others.
    File(PathBuf),
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootCertsError {
    /// The file cannot be read.
    #[error("the CA file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds no certificate.
    #[error("the CA file {} holds no certificate in PEM", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in the file cannot be parsed.
    #[error("the CA file {} holds a certificate that cannot be parsed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// OpenSSL refused.
    #[error("TLS cannot be set up: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// The certificates in `path`, and no others.
fn only(path: &Path) -> Result<X509Store, RootCertsError> {
    let pem = std::fs::read(path)
        .map_err(|source| RootCertsError::Unreadable { path: path.to_owned(), source })?;
    let mut store = X509StoreBuilder::new()?;
    let certificates = X509::stack_from_pem(&pem)
        .map_err(|_| RootCertsError::Malformed { path: path.to_owned() })?;
    if certificates.is_empty() {
        return Err(RootCertsError::Empty { path: path.to_owned() });
    }
    for certificate in certificates {
        store.add_cert(certificate)?;
    }
    Ok(store.build())
}

/// Why a server cannot be used as it is described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The URL is not that of a server.
    #[error("the server's URL {0}")]
    Url(#[from] UrlError),
    /// A further origin is none.
    #[error("the URL of a further origin {0}")]
    Origin(UrlError),
    /// A further origin has a path, but the access token could go anywhere on it.
    #[error("the URL of a further origin must have no path")]
    OriginWithPath,
    /// The path of an OAuth endpoint is not a path.
    #[error("the path of an OAuth endpoint: {0}")]
    Endpoint(Error),
    /// Nobody can be trusted.
    #[error(transparent)]
    RootCerts(#[from] RootCertsError),
}

/// Where the token server is and how to talk to it. Clones are cheap, and may
/// go to other threads.
#[derive(Clone)]
pub struct Server(Arc<Settings>);

#[derive(Clone)]
struct Settings {
    site: Site,
    /// What stands before each path, without a slash at its end.
    base_path: String,
    tls: SslConnector,
    timeout: Duration,
    oauth: Option<OAuth>,
    further: Vec<Site>,
}

/// An origin, and how awc is asked for it.
#[derive(Clone)]
struct Site {
    origin: Origin,
    /// `http://` with host and port.
    prefix: String,
    tls: bool,
    host: Option<HeaderValue>,
}

impl Site {
    fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        // awc leaves these ports out whatever the scheme.
        let is_odd = matches!(url.port(), Some(80 | 443));
        let header = is_odd.then(|| HeaderValue::from_str(&format!("{host}{port}")).ok());
        Self {
            origin: url.origin(),
            prefix: format!("http://{host}{port}"),
            tls: url.scheme() == "https",
            host: header.flatten(),
        }
    }

    fn warn_of_unused_proxy(&self) {
        if let Ok(target) = self.target("/") {
            warn_of_unused(target.tls, &target.uri);
        }
    }

    fn target(&self, rest: &str) -> Result<Target, Error> {
        let uri = Uri::try_from(format!("{}{rest}", self.prefix));
        let uri = uri.map_err(|error| Error::Invalid(format!("the URL: {error}")))?;
        Ok(Target { uri, tls: self.tls, host: self.host.clone() })
    }
}

impl Server {
    /// Takes the base URL of a token server, whom to trust there, and how long
    /// one exchange may take.
    ///
    /// Logs a warning where the environment names a proxy (`HTTPS_PROXY` and the
    /// like): none is used.
    ///
    /// # Errors
    /// When the URL is not that of a server, or the CA file cannot be used.
    pub fn new(url: &str, trust: &RootCerts, timeout: Duration) -> Result<Self, ServerError> {
        let url = base_url(url)?;
        // Chain and host name are verified: these are the defaults of OpenSSL.
        let mut tls =
            SslConnector::builder(SslMethod::tls_client()).map_err(RootCertsError::from)?;
        if let RootCerts::File(path) = trust {
            tls.set_cert_store(only(path)?);
        }
        let site = Site::of(&url);
        site.warn_of_unused_proxy();
        Ok(Self(Arc::new(Settings {
            site,
            base_path: url.path().trim_end_matches('/').to_owned(),
            tls: tls.build(),
            timeout,
            oauth: None,
            further: Vec::new(),
        })))
    }

    /// Speaks RFC 6749 to it in place of Matchbook's own endpoints.
    ///
    /// # Errors
    /// When the path of an endpoint is not a path.
    pub fn oauth(mut self, oauth: OAuth) -> Result<Self, ServerError> {
        for path in std::iter::once(&oauth.token_path).chain(&oauth.revocation_path) {
            self.at(path).map_err(ServerError::Endpoint)?;
        }
        Arc::make_mut(&mut self.0).oauth = Some(oauth);
        Ok(self)
    }

    /// Lets the access token go to another origin as well, like
    /// `https://api.example.com`. No other gets it.
    ///
    /// # Errors
    /// When it is not the URL of an origin.
    pub fn allow_origin(mut self, origin: &str) -> Result<Self, ServerError> {
        let url = base_url(origin).map_err(ServerError::Origin)?;
        if url.path() != "/" {
            return Err(ServerError::OriginWithPath);
        }
        let site = Site::of(&url);
        site.warn_of_unused_proxy();
        Arc::make_mut(&mut self.0).further.push(site);
        Ok(self)
    }

    /// How RFC 6749 is spoken there, where it is.
    pub(crate) fn as_oauth(&self) -> Option<&OAuth> {
        self.0.oauth.as_ref()
    }

    /// The place of `path`, which may lack its slash, but never changes the host.
    pub(crate) fn at(&self, path: &str) -> Result<Target, Error> {
        let path = path.strip_prefix('/').unwrap_or(path);
        // A URL without its scheme, a whole one, or what is read differently by
        // whoever is in between.
        let is_url = path.starts_with('/') || path.split('?').next().is_some_and(has_scheme);
        let odd = |c: char| matches!(c, '\\' | '#') || c.is_whitespace() || c.is_control();
        if is_url || path.contains(odd) {
            return Err(Error::Invalid(
                "a path begins with one slash, and has no backslash, space or fragment".into(),
            ));
        }
        let Settings { site, base_path, .. } = &*self.0;
        site.target(&format!("{base_path}/{path}"))
    }

    /// How long one exchange may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// The place to send an access token to: a path on this server, or a whole URL
    /// of an origin that may see it.
    pub(crate) fn bearer_target(&self, target: &str) -> Result<Target, Error> {
        if target.starts_with('/') {
            return self.at(target);
        }
        let url = web_url(target).map_err(|error| match error {
            UrlError::Scheme => {
                Error::Invalid("a URL is `https://host/path`, or a path with a slash".into())
            }
            error => Error::Invalid(format!("the URL {error}")),
        })?;
        let Settings { site, further, .. } = &*self.0;
        let site = std::iter::once(site).chain(further).find(|site| site.origin == url.origin());
        let foreign = || Error::OriginNotAllowed(url.origin().ascii_serialization());
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        site.ok_or_else(foreign)?.target(&format!("{}{query}", url.path()))
    }

    /// The connections of a thread.
    pub(crate) fn http(&self) -> Http {
        Http::new(self.0.tls.clone(), self.0.timeout)
    }
}

/// Whether a path is a whole URL in truth.
fn has_scheme(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('/'))
}

/// The URL alone: the settings of OAuth hold a secret.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.0.site.origin.ascii_serialization();
        let url = format!("{origin}{}", self.0.base_path);
        f.debug_struct("Server").field("url", &url).finish_non_exhaustive()
    }
}

/// Reads the JSON of a good answer; any other is an error of its own, without
/// `secrets`.
pub(crate) async fn read<T: DeserializeOwned>(
    server: &Server,
    mut response: Response,
    secrets: &[&str],
) -> Result<T, Error> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(refusal(server, response, secrets).await);
    }
    if let Some(error) = compressed(&response) {
        return Err(error);
    }
    let is_ours = is_from_server(server, &response);
    // The parser's own words may quote a token.
    response.json().await.map_err(|_| {
        if is_ours {
            Error::UnexpectedResponse("not the JSON of a token server".to_owned())
        } else {
            from_elsewhere(status, None)
        }
    })
}

/// What an answer other than a good one means. `secrets` are not shown, should it
/// quote them.
pub(crate) async fn refusal(server: &Server, mut response: Response, secrets: &[&str]) -> Error {
    if let Some(error) = redirected(&response) {
        return error;
    }
    let compressed = compressed(&response);
    let status = response.status();
    let retry_after = retry_after(&response);
    let may_pass = status.is_server_error()
        || matches!(status.as_u16(), 408 | 425)
        || status == StatusCode::TOO_MANY_REQUESTS;
    if !may_pass && !is_from_server(server, &response) {
        return compressed.unwrap_or_else(|| from_elsewhere(status, retry_after));
    }
    let said = match response.json::<Refusal>().await {
        Ok(refusal) => format!("{} ({})", status.as_u16(), refusal.said(secrets)),
        Err(_) => status.as_u16().to_string(),
    };
    if may_pass {
        let problem = format!("the token server answers {said}");
        Error::Transient { problem, retry_after }
    } else {
        compressed.unwrap_or(Error::UnexpectedResponse(said))
    }
}

/// The error that JSON is when it is compressed. Every request refuses that, so a
/// proxy in between has done it.
pub(crate) fn compressed(response: &Response) -> Option<Error> {
    let encoding = response.headers().get(CONTENT_ENCODING)?.to_str().unwrap_or("unknown");
    (is_json(response) && !encoding.eq_ignore_ascii_case("identity")).then(|| {
        Error::Misconfigured(format!(
            "the response is compressed ({encoding}), although the request refuses that: turn \
             compression off in the proxy before the server"
        ))
    })
}

/// How long the server asks to wait, in seconds (RFC 9110 §10.2.3). Its other
/// form, a date, is passed over: it is of a clock that may not be ours.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server, ServerError> {
        Server::new(url, &RootCerts::System, Duration::ZERO)
    }

    /// Where a target leads, as a URL with the scheme that is spoken.
    fn url(target: Result<Target, Error>) -> Result<String, Error> {
        let target = target?;
        let url = target.uri.to_string();
        Ok(if target.tls { url.replacen("http", "https", 1) } else { url })
    }

    #[test]
    fn an_access_token_goes_to_the_server_and_to_origins_that_were_named_and_nowhere_else() {
        let server = server("https://auth.example:8443/x").unwrap();
        let server = server.allow_origin("https://api.example").unwrap();
        let at = |target| url(server.bearer_target(target));
        assert_eq!(at("/user").unwrap(), "https://auth.example:8443/x/user");
        let endpoint = url(server.at("oauth/token")).unwrap();
        assert_eq!(endpoint, "https://auth.example:8443/x/oauth/token");
        assert_eq!(
            at("/a?to=https://b/c").unwrap(),
            "https://auth.example:8443/x/a?to=https://b/c"
        );
        for (good, leads_to) in [
            ("https://auth.example:8443/y", "https://auth.example:8443/y"),
            ("https://API.example:443/", "https://api.example/"),
            ("HTTPS://api.example/?q=1", "https://api.example/?q=1"),
            ("https://api.example", "https://api.example/"),
        ] {
            assert_eq!(at(good).unwrap(), leads_to);
        }
        for (evil, named) in [
            ("http://api.example/", "http://api.example"),
            ("https://auth.example/", "https://auth.example"),
            ("https://api.example.evil/", "https://api.example.evil"),
            ("https://api.example:444/", "https://api.example:444"),
        ] {
            assert_eq!(at(evil), Err(Error::OriginNotAllowed(named.to_owned())));
        }
        for bad in [
            "https://api.example@evil.example/",
            "https://api.example\\@evil.example/",
            "https://api.example:99999/",
            "https://api.example:500l/",
            "https://api.example:/",
            "https://[::1/",
            "https://[fe80::1%25eth0]/",
            "https://xn--a/",
            "https://api.example/#a",
            "user",
            "",
            "file:///etc/passwd",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "/user#part",
            "/user name",
            "/user\r\nhost: evil.example",
            "/https://evil.example/",
        ] {
            assert!(matches!(at(bad), Err(Error::Invalid(_))), "{bad}: {:?}", at(bad));
        }
    }

    #[test]
    fn a_url_that_is_none_is_an_error_before_anything_is_sent() {
        for bad in [
            "https://h:99999",
            "https://h:500l",
            "https://h:",
            "https://h:0",
            "h:5001",
            "https://[::1",
            "https://[fe80::1%25eth0]:5001",
            "https://[fe80::1%eth0]",
            "https://xn--a",
        ] {
            assert!(matches!(server(bad), Err(ServerError::Url(_))), "{bad}");
            let further = server("https://h").unwrap().allow_origin(bad);
            assert!(matches!(further, Err(ServerError::Origin(_))), "{bad}");
        }
        let with_path = server("https://h").unwrap().allow_origin("https://api.example/only/here");
        assert!(matches!(with_path, Err(ServerError::OriginWithPath)));
        for bad in ["https://h/token", "//h/token", "/token#", "a b"] {
            for (token_path, revocation_path) in [(bad, None), ("/token", Some(bad.to_owned()))] {
                let oauth = OAuth {
                    token_path: token_path.to_owned(),
                    revocation_path,
                    client_id: "app".to_owned(),
                    client_secret: None,
                    scope: None,
                };
                let outcome = server("https://h").unwrap().oauth(oauth);
                assert!(matches!(outcome, Err(ServerError::Endpoint(_))), "{bad}");
            }
        }
    }

    #[test]
    fn an_international_host_name_is_the_same_host_in_each_of_its_forms() {
        let forms =
            ["https://bücher.example", "https://BÜCHER.example", "https://xn--bcher-kva.example"];
        for text in forms {
            let server =
                server(text).unwrap().allow_origin(&text.replace("https", "http")).unwrap();
            let at = |target: &str| url(server.bearer_target(target)).unwrap();
            assert_eq!(at("/user"), "https://xn--bcher-kva.example/user");
            for form in forms {
                assert_eq!(at(&format!("{form}/user")), "https://xn--bcher-kva.example/user");
                let plain = form.replace("https", "http");
                assert_eq!(at(&format!("{plain}/user")), "http://xn--bcher-kva.example/user");
            }
        }
    }

    #[test]
    fn the_port_of_another_scheme_is_in_the_host_header() {
        for (text, header) in [
            ("https://h:80", Some("h:80")),
            ("http://h:443", Some("h:443")),
            ("https://h:443", None),
            ("http://h:80", None),
            ("https://h", None),
            ("http://[::1]:5001", None),
        ] {
            let host = server(text).unwrap().at("/").unwrap().host;
            assert_eq!(host.as_ref().map(|host| host.to_str().unwrap()), header, "{text}");
        }
    }
}
