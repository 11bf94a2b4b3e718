//! One request with a logout token (Back-Channel Logout 1.0 §2.5).

use std::time::Duration;

use awc::http::StatusCode;
use awc::http::header::USER_AGENT;
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use url::Url;

/// The timeout of a request with its response.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How much of the body of a response is read, so that the connection can be used again.
const MAX_BODY_LEN: usize = 16 * 1024;

/// The outcome of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    /// The client does not accept the logout token (§2.8).
    Rejected,
    /// Why the attempt failed, for the log.
    Failed(String),
}

/// Returns a connector that trusts the CAs of the system, and those in `ca`.
pub(super) fn connector(ca: Option<&[u8]>) -> Result<SslConnector, ErrorStack> {
    // By default OpenSSL verifies the certificate chain and the host name.
    let mut tls = SslConnector::builder(SslMethod::tls_client())?;
    for certificate in X509::stack_from_pem(ca.unwrap_or_default())? {
        tls.cert_store_mut().add_cert(certificate)?;
    }
    Ok(tls.build())
}

/// Sends logout tokens.
pub(super) struct Sender(awc::Client);

impl Sender {
    pub(super) fn new(tls: SslConnector) -> Self {
        let connector = awc::Connector::new().openssl(tls).timeout(TIMEOUT);
        let agent = concat!("matchbook-server/", env!("CARGO_PKG_VERSION"));
        let client = awc::Client::builder()
            .connector(connector)
            // A redirect would send the token to a URL that was not registered.
            .disable_redirects()
            .timeout(TIMEOUT)
            .add_default_header((USER_AGENT, agent));
        Self(client.finish())
    }

    /// Sends a logout token, once.
    pub(super) async fn send(&self, uri: &str, token: &str) -> Outcome {
        match tokio::time::timeout(TIMEOUT, self.post(uri, token)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed("the client does not respond in time".to_owned()),
        }
    }

    async fn post(&self, uri: &str, token: &str) -> Outcome {
        // Encodes what a URI must encode.
        let url = match Url::parse(uri) {
            Ok(url) => url,
            Err(error) => return Outcome::Failed(format!("the URI is not valid: {error}")),
        };
        let request = self.0.post(url.as_str()).send_form(&[("logout_token", token)]);
        let mut response = match request.await {
            Ok(response) => response,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let status = response.status();
        // The body says nothing that matters. One that is too long closes the connection.
        let _ = response.body().limit(MAX_BODY_LEN).await;
        match status {
            status if status.is_success() => Outcome::Delivered,
            StatusCode::BAD_REQUEST => Outcome::Rejected,
            status => Outcome::Failed(format!("the client responds with {status}")),
        }
    }
}
