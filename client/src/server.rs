//! The settings of a token server: its URL, the certificates to accept, its protocol, and
//! the origins that may receive the access token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use awc::http::Uri;
use awc::http::header::HeaderValue;
use matchbook_shared::{UrlError, base_url, web_url};
use openssl::error::{Error as OpenSslError, ErrorStack};
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use url::{Origin, Url};

use crate::error::Error;
use crate::transport::{Http, Target, warn_of_unused};
use crate::user_agent::UserAgent;

/// The root certificates to accept. Certificates are always verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCerts {
    /// The root certificates of the system.
    System,
    /// The certificates in this PEM file, and no others.
    File(PathBuf),
}

/// Why [`RootCerts`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootCertsError {
    /// The file cannot be read.
    #[error("the CA file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file has no certificate.
    #[error("the CA file {} holds no certificate in PEM", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in the file cannot be parsed.
    #[error(
        "the CA file {} holds a certificate that cannot be parsed: {}",
        path.display(),
        reason(source)
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The error of OpenSSL.
        source: ErrorStack,
    },
    /// An error of OpenSSL.
    #[error("cannot set up TLS: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// Returns the reason of an error without its code and its place in OpenSSL.
fn reason(error: &ErrorStack) -> &str {
    error.errors().last().and_then(OpenSslError::reason).unwrap_or("unknown reason")
}

fn load_ca_file(path: &Path) -> Result<X509Store, RootCertsError> {
    let pem = std::fs::read(path)
        .map_err(|source| RootCertsError::Unreadable { path: path.to_owned(), source })?;
    let mut store = X509StoreBuilder::new()?;
    let certificates = X509::stack_from_pem(&pem)
        .map_err(|source| RootCertsError::Malformed { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(RootCertsError::Empty { path: path.to_owned() });
    }
    for certificate in certificates {
        store.add_cert(certificate)?;
    }
    Ok(store.build())
}

/// Why the settings of a [`Server`] are invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The URL of the server is invalid.
    #[error("the server's URL {0}")]
    Url(#[from] UrlError),
    /// The URL of an additional origin is invalid.
    #[error("the URL of an additional origin {0}")]
    Origin(UrlError),
    /// The URL of an additional origin has a path. The access token can be sent to any path
    /// of an origin, so a path would restrict nothing.
    #[error("the URL of an additional origin must have no path")]
    OriginWithPath,
    /// The path of an OAuth endpoint is invalid.
    #[error("the path of an OAuth endpoint: {0}")]
    Endpoint(Error),
    /// The root certificates cannot be used.
    #[error(transparent)]
    RootCerts(#[from] RootCertsError),
}

/// The endpoints of an OAuth 2.0 token server (RFC 6749). Its access tokens are usually for
/// an API of another origin, which [`Server::allow_origin`] allows.
#[derive(Clone)]
pub struct OAuth {
    /// The path of the token endpoint (RFC 6749 §3.2), below the server's URL.
    pub token_path: String,
    /// The path of the revocation endpoint (RFC 7009). Without one, a logout only erases the
    /// tokens.
    pub revocation_path: Option<String>,
    /// The client identifier (RFC 6749 §2.2).
    pub client_id: String,
    /// The client secret, sent by HTTP Basic authentication (RFC 6749 §2.3.1).
    pub client_secret: Option<String>,
    /// The scope to request (RFC 6749 §6). Without one, the scope of the login stays.
    pub scope: Option<String>,
}

/// Shows no secret.
impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth")
            .field("token_path", &self.token_path)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// The settings of a token server. Clones are cheap, and can be sent to other threads.
#[derive(Clone)]
pub struct Server(Arc<Settings>);

#[derive(Clone)]
struct Settings {
    site: Site,
    /// The path of the base URL, without a slash at its end.
    base_path: String,
    tls: SslConnector,
    timeout: Duration,
    user_agent: UserAgent,
    oauth: Option<OAuth>,
    additional: Vec<Site>,
}

/// An origin, and the parts of a request to it.
#[derive(Clone)]
struct Site {
    origin: Origin,
    /// `http://` with host and port: the transport speaks TLS itself.
    prefix: String,
    tls: bool,
    host: Option<HeaderValue>,
}

impl Site {
    fn new(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        // awc omits these ports from `Host` for either scheme.
        let is_omitted = matches!(url.port(), Some(80 | 443));
        let header = is_omitted.then(|| HeaderValue::from_str(&format!("{host}{port}")).ok());
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

    fn target(&self, path_and_query: &str) -> Result<Target, Error> {
        let uri = Uri::try_from(format!("{}{path_and_query}", self.prefix));
        let uri = uri.map_err(|error| Error::Invalid(format!("the URL: {error}")))?;
        Ok(Target { uri, tls: self.tls, host: self.host.clone() })
    }
}

impl Server {
    /// Creates a server from its base URL, such as `https://auth.example.com`, its root
    /// certificates, and the timeout of one exchange.
    ///
    /// Logs a warning if the environment names a proxy (such as `HTTPS_PROXY`), because
    /// proxies are not supported.
    ///
    /// # Errors
    /// [`ServerError::Url`] if the URL is invalid, [`ServerError::RootCerts`] if the CA file
    /// cannot be used.
    pub fn new(url: &str, roots: &RootCerts, timeout: Duration) -> Result<Self, ServerError> {
        let url = base_url(url)?;
        // By default OpenSSL verifies the certificate chain and the host name.
        let mut tls =
            SslConnector::builder(SslMethod::tls_client()).map_err(RootCertsError::from)?;
        if let RootCerts::File(path) = roots {
            tls.set_cert_store(load_ca_file(path)?);
        }
        let site = Site::new(&url);
        site.warn_of_unused_proxy();
        Ok(Self(Arc::new(Settings {
            site,
            base_path: url.path().trim_end_matches('/').to_owned(),
            tls: tls.build(),
            timeout,
            user_agent: UserAgent::default(),
            oauth: None,
            additional: Vec::new(),
        })))
    }

    /// Uses the endpoints of RFC 6749 in place of Matchbook's own.
    ///
    /// # Errors
    /// [`ServerError::Endpoint`] if the path of an endpoint is invalid.
    pub fn oauth(mut self, oauth: OAuth) -> Result<Self, ServerError> {
        for path in std::iter::once(&oauth.token_path).chain(&oauth.revocation_path) {
            self.target(path).map_err(ServerError::Endpoint)?;
        }
        Arc::make_mut(&mut self.0).oauth = Some(oauth);
        Ok(self)
    }

    /// Sets the `User-Agent` of all clients. The default names this library.
    #[must_use]
    pub fn user_agent(mut self, user_agent: UserAgent) -> Self {
        Arc::make_mut(&mut self.0).user_agent = user_agent;
        self
    }

    /// Allows requests with the access token to an additional origin, such as
    /// `https://api.example.com`.
    ///
    /// # Errors
    /// [`ServerError::Origin`] or [`ServerError::OriginWithPath`] if it is not the URL of an
    /// origin.
    pub fn allow_origin(mut self, origin: &str) -> Result<Self, ServerError> {
        let url = base_url(origin).map_err(ServerError::Origin)?;
        if url.path() != "/" {
            return Err(ServerError::OriginWithPath);
        }
        let site = Site::new(&url);
        site.warn_of_unused_proxy();
        Arc::make_mut(&mut self.0).additional.push(site);
        Ok(self)
    }

    /// Returns the OAuth settings, unless Matchbook's own endpoints are used.
    pub(crate) fn as_oauth(&self) -> Option<&OAuth> {
        self.0.oauth.as_ref()
    }

    /// Returns the timeout of one exchange.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Returns the target of `path` below the base URL. A path cannot change the host; its
    /// first slash may be missing.
    pub(crate) fn target(&self, path: &str) -> Result<Target, Error> {
        let path = path.strip_prefix('/').unwrap_or(path);
        // Rejects URLs, and characters that proxies and servers interpret differently.
        let is_url = path.starts_with('/') || path.split('?').next().is_some_and(has_scheme);
        let is_ambiguous = |c: char| matches!(c, '\\' | '#') || c.is_whitespace() || c.is_control();
        if is_url || path.contains(is_ambiguous) {
            return Err(Error::Invalid(
                "a path begins with one slash, and has no backslash, space or fragment".into(),
            ));
        }
        let Settings { site, base_path, .. } = &*self.0;
        site.target(&format!("{base_path}/{path}"))
    }

    /// Returns the target of a request with the access token: a path below the base URL, or
    /// a URL of an allowed origin.
    pub(crate) fn bearer_target(&self, target: &str) -> Result<Target, Error> {
        if target.starts_with('/') {
            return self.target(target);
        }
        let url = web_url(target).map_err(|error| match error {
            UrlError::Scheme => {
                Error::Invalid("a URL is `https://host/path`, or a path with a slash".into())
            }
            error => Error::Invalid(format!("the URL {error}")),
        })?;
        let Settings { site, additional, .. } = &*self.0;
        let mut sites = std::iter::once(site).chain(additional);
        let site = sites.find(|site| site.origin == url.origin());
        let not_allowed = || Error::OriginNotAllowed(url.origin().ascii_serialization());
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        site.ok_or_else(not_allowed)?.target(&format!("{}{query}", url.path()))
    }

    /// Creates the connections of a thread.
    pub(crate) fn http(&self) -> Http {
        Http::new(self.0.tls.clone(), self.0.timeout).with_user_agent(self.0.user_agent.clone())
    }
}

/// Returns whether `path` begins with a scheme, so that it is a URL.
fn has_scheme(path: &str) -> bool {
    path.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('/'))
}

/// Shows the URL only, because the OAuth settings have a secret.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.0.site.origin.ascii_serialization();
        let url = format!("{origin}{}", self.0.base_path);
        f.debug_struct("Server").field("url", &url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
