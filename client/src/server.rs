//! The token server as the client sees it: where it is, whom to trust, and one
//! exchange with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use awc::http::StatusCode;
use awc::http::header::RETRY_AFTER;
use awc::{ClientRequest, Connector};
use matchbook_shared::ErrorBody;
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use serde::de::DeserializeOwned;

use crate::Error;

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
pub struct Server {
    url: String,
    tls: SslConnector,
    timeout: Duration,
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
        Ok(Self { url: url.trim_end_matches('/').to_owned(), tls: tls.build(), timeout })
    }

    /// The URL of `path`, which begins with a slash.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// An HTTP client for this thread. It follows no redirects: one would carry
    /// the bearer to another host.
    pub(crate) fn client(&self) -> awc::Client {
        awc::Client::builder()
            .connector(Connector::new().openssl(self.tls.clone()).timeout(self.timeout))
            .timeout(self.timeout)
            .disable_redirects()
            .finish()
    }
}

/// Sends a request, with a form if there is one, and logs the exchange.
pub(crate) async fn exchange(
    request: ClientRequest,
    form: Option<&[(&str, &str)]>,
) -> Result<Response, Error> {
    let method = request.get_method().clone();
    // Without the query, which may hold a guest id.
    let path = request.get_uri().path().to_owned();
    let sent = match form {
        Some(form) => request.send_form(&form).await,
        None => request.send().await,
    };
    match sent {
        Ok(response) => {
            tracing::debug!("{method} {path} {}", response.status().as_u16());
            Ok(response)
        }
        Err(error) => {
            tracing::debug!("{method} {path} failed: {error}");
            let problem = format!("the token server does not answer: {error}");
            Err(Error::Transient { problem, retry_after: None })
        }
    }
}

/// Reads the JSON of a good answer; any other is an error of its own.
pub(crate) async fn read<T: DeserializeOwned>(mut response: Response) -> Result<T, Error> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(refusal(response).await);
    }
    response.json().await.map_err(|error| Error::Unexpected(error.to_string()))
}

/// What an answer other than `200` means, for a request without a bearer.
pub(crate) async fn refusal(mut response: Response) -> Error {
    let status = response.status();
    let retry_after = retry_after(&response);
    let said = match response.json::<ErrorBody>().await {
        Ok(body) => format!("{} ({})", status.as_u16(), body.message),
        Err(_) => status.as_u16().to_string(),
    };
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        let problem = format!("the token server answers {said}");
        Error::Transient { problem, retry_after }
    } else {
        Error::Unexpected(said)
    }
}

/// How long the server asks to wait (RFC 9110 §10.2.3, in seconds).
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
