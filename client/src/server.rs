//! The token server as the client sees it: where it is, whom to trust, how it
//! is spoken to, and one exchange with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use awc::error::SendRequestError;
use awc::http::header::{RETRY_AFTER, USER_AGENT};
use awc::http::{Method, StatusCode, Uri};
use awc::{ClientRequest, Connector, SendClientRequest};
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use serde::de::DeserializeOwned;

use crate::protocol::Refusal;
use crate::{Error, Event, OAuth};

/// What it calls itself, which a list of sessions shows.
const NAME: &str = concat!("matchbook-client/", env!("CARGO_PKG_VERSION"));

/// The answer to a request, its body unread.
pub type Response = awc::ClientResponse;

/// Whose certificates to accept. Verification is never off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// Those under the CA in this PEM file, and no others.
    File(PathBuf),
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
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
    /// OpenSSL refused.
    #[error("TLS cannot be set up: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// The certificates in `path`, and no others.
fn only(path: &Path) -> Result<X509Store, TrustError> {
    let pem = std::fs::read(path)
        .map_err(|source| TrustError::Unreadable { path: path.to_owned(), source })?;
    let mut store = X509StoreBuilder::new()?;
    let certificates = X509::stack_from_pem(&pem)?;
    if certificates.is_empty() {
        return Err(TrustError::Empty { path: path.to_owned() });
    }
    for certificate in certificates {
        store.add_cert(certificate)?;
    }
    Ok(store.build())
}

/// Where the token server is and how to talk to it. Clones are cheap, and may
/// go to other threads.
#[derive(Clone)]
pub struct Server(Arc<Settings>);

#[derive(Clone)]
struct Settings {
    url: String,
    tls: SslConnector,
    timeout: Duration,
    oauth: Option<OAuth>,
    origins: Vec<String>,
}

impl Server {
    /// Takes the base URL of a token server, whom to trust there, and how long
    /// one exchange may take.
    ///
    /// # Errors
    /// When the CA file cannot be used.
    pub fn new(url: &str, trust: &Trust, timeout: Duration) -> Result<Self, TrustError> {
        // Chain and host name are verified: these are the defaults of OpenSSL.
        let mut tls = SslConnector::builder(SslMethod::tls_client())?;
        if let Trust::File(path) = trust {
            tls.set_cert_store(only(path)?);
        }
        Ok(Self(Arc::new(Settings {
            url: url.trim_end_matches('/').to_owned(),
            tls: tls.build(),
            timeout,
            oauth: None,
            origins: Vec::new(),
        })))
    }

    /// Speaks RFC 6749 to it in place of Matchbook's own endpoints.
    #[must_use]
    pub fn oauth(mut self, oauth: OAuth) -> Self {
        Arc::make_mut(&mut self.0).oauth = Some(oauth);
        self
    }

    /// Lets the access token go to another origin as well, like
    /// `https://api.example.com`. No other gets it.
    #[must_use]
    pub fn send_to(mut self, origin: &str) -> Self {
        Arc::make_mut(&mut self.0).origins.push(origin.to_owned());
        self
    }

    /// How RFC 6749 is spoken there, where it is.
    pub(crate) fn as_oauth(&self) -> Option<&OAuth> {
        self.0.oauth.as_ref()
    }

    /// The URL of `path`, which may lack its slash, but never changes the host.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/{}", self.0.url, path.strip_prefix('/').unwrap_or(path))
    }

    /// How long one exchange may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// The URL to send an access token to: a path on this server, or a whole URL
    /// of an origin that may see it.
    pub(crate) fn bearer_url(&self, target: &str) -> Result<String, Error> {
        if target.starts_with('/') {
            return Ok(self.at(target));
        }
        let bad = || Error::Invalid("a URL is `https://host/path`, or a path with a slash".into());
        let wanted = origin(target).ok_or_else(bad)?;
        let allowed = std::iter::once(&self.0.url).chain(&self.0.origins);
        if allowed.filter_map(|url| origin(url)).any(|origin| origin == wanted) {
            Ok(target.to_owned())
        } else {
            Err(Error::ForeignOrigin(wanted))
        }
    }

    /// An HTTP client for this thread. It follows no redirects: one would carry
    /// the bearer to another host.
    pub(crate) fn client(&self) -> awc::Client {
        awc::Client::builder()
            .connector(Connector::new().openssl(self.0.tls.clone()).timeout(self.0.timeout))
            .timeout(self.0.timeout)
            .disable_redirects()
            .add_default_header((USER_AGENT, NAME))
            .finish()
    }
}

/// The URL alone: the settings of OAuth hold a secret.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.0.url).finish_non_exhaustive()
    }
}

/// Scheme, host and port of a URL (RFC 6454 §4), in one spelling. None where
/// there is a user in it, which is no part of an origin and often a trick.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?);
    if authority.as_str().contains('@') {
        return None;
    }
    let port = match (authority.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, "http") => 80,
        _ => return None,
    };
    Some(format!("{scheme}://{}:{port}", authority.host().to_ascii_lowercase()))
}

/// A request that is about to be sent, as the log and the events tell of it.
pub(crate) struct Exchange {
    method: Method,
    url: Uri,
    began: Instant,
}

impl Exchange {
    /// Looks at a request just before it is sent.
    pub(crate) fn begin(request: &ClientRequest) -> Self {
        let (method, url) = (request.get_method().clone(), request.get_uri().clone());
        Self { method, url, began: Instant::now() }
    }

    /// When it was sent: what is granted in answer lives from here on at most.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Awaits the answer, and logs the exchange. `tell` gets what makes the event.
    pub(crate) async fn finish(
        self,
        sending: SendClientRequest,
        tell: impl FnOnce(&dyn Fn() -> Event),
    ) -> Result<Response, Error> {
        let sent: Result<Response, SendRequestError> = sending.await;
        let Self { method, url, began } = self;
        // Without the query, which may hold a guest id.
        let (path, took) = (url.path(), began.elapsed());
        let status = sent.as_ref().ok().map(|response| response.status().as_u16());
        match &sent {
            Ok(response) => tracing::debug!("{method} {path} {}", response.status().as_u16()),
            Err(error) => tracing::debug!("{method} {path} failed: {error}"),
        }
        tell(&|| {
            let (method, path) = (method.to_string(), path.to_owned());
            Event::Exchange { method, path, status, began, took }
        });
        sent.map_err(|error| Error::transient(format!("the token server does not answer: {error}")))
    }
}

/// Reads the JSON of a good answer; any other is an error of its own.
pub(crate) async fn read<T: DeserializeOwned>(mut response: Response) -> Result<T, Error> {
    if response.status() != StatusCode::OK {
        return Err(refusal(response).await);
    }
    // The parser's own words may quote a token.
    response
        .json()
        .await
        .map_err(|_| Error::Unexpected("not the JSON of a token server".to_owned()))
}

/// What an answer other than `200` means, for a request without a bearer.
pub(crate) async fn refusal(mut response: Response) -> Error {
    let status = response.status();
    let retry_after = retry_after(&response);
    let may_pass = status.is_server_error()
        || matches!(status.as_u16(), 408 | 425)
        || status == StatusCode::TOO_MANY_REQUESTS;
    let said = match response.json::<Refusal>().await {
        Ok(refusal) => format!("{} ({})", status.as_u16(), refusal.said()),
        Err(_) => status.as_u16().to_string(),
    };
    if may_pass {
        let problem = format!("the token server answers {said}");
        Error::Transient { problem, retry_after }
    } else {
        Error::Unexpected(said)
    }
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

    #[test]
    fn an_access_token_goes_to_the_server_and_to_origins_that_were_named_and_nowhere_else() {
        let server = Server::new("https://auth.example:8443/x", &Trust::System, Duration::ZERO);
        let server = server.unwrap().send_to("https://api.example");
        let url = |target| server.bearer_url(target);
        assert_eq!(url("/user").unwrap(), "https://auth.example:8443/x/user");
        assert_eq!(server.at("oauth/token"), "https://auth.example:8443/x/oauth/token");
        assert_eq!(url("//evil.example").unwrap(), "https://auth.example:8443/x//evil.example");
        for good in
            ["https://auth.example:8443/y", "https://API.example:443/", "HTTPS://api.example/"]
        {
            assert_eq!(url(good).unwrap(), good);
        }
        for (evil, named) in [
            ("http://api.example/", "http://api.example:80"),
            ("https://auth.example/", "https://auth.example:443"),
            ("https://api.example.evil/", "https://api.example.evil:443"),
        ] {
            assert_eq!(url(evil), Err(Error::ForeignOrigin(named.to_owned())));
        }
        for bad in ["https://api.example@evil.example/", "user", "", "file:///etc/passwd"] {
            assert!(matches!(url(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }
}
