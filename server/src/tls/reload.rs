//! A certificate that is renewed on disk while the server runs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix_rt::task::spawn_blocking;
use openssl::sha::sha256;
use openssl::ssl::{ClientHelloResponse, SslAcceptor, SslAcceptorBuilder, SslContext, SslMethod};

use super::certificate::{Identity, reason};
use super::{Error, path_error};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The certificate of `tls.certificate` and `tls.key`, as they were read last.
pub struct Renewal {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<SslContext>,
}

impl Renewal {
    /// Reads both files.
    pub(super) fn open(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, Error> {
        let current = RwLock::new(context(&certificate, &key)?);
        Ok(Arc::new(Self { certificate, key, current }))
    }

    /// Has each handshake use the certificate that was read last.
    pub(super) fn install(self: &Arc<Self>, acceptor: &mut SslAcceptorBuilder) {
        let renewal = self.clone();
        acceptor.set_client_hello_callback(move |ssl, _| {
            let current = renewal.current.read().unwrap_or_else(PoisonError::into_inner).clone();
            ssl.set_ssl_context(&current)?;
            Ok(ClientHelloResponse::SUCCESS)
        });
    }

    /// Reads the files again when they have changed, until it is dropped. Looks each
    /// minute, and whenever `asked` says so.
    pub async fn run(self: Arc<Self>, asked: Arc<tokio::sync::Notify>) {
        let mut seen = self.fingerprint().await;
        loop {
            let _ = tokio::time::timeout(LOOK_EVERY, asked.notified()).await;
            let now = self.fingerprint().await;
            // Half of a pair that is being replaced is not there yet, or does not fit.
            if now != seen && self.reload().await {
                seen = now;
            }
        }
    }

    /// Digests of both files, if they can be read.
    async fn fingerprint(&self) -> [Option<[u8; 32]>; 2] {
        let files = [self.certificate.clone(), self.key.clone()];
        let digests = move || files.map(|file| std::fs::read(file).ok().map(|text| sha256(&text)));
        spawn_blocking(digests).await.unwrap_or_default()
    }

    /// Whether the files are good; the certificate in use stays where they are not.
    async fn reload(&self) -> bool {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        match spawn_blocking(move || context(&certificate, &key)).await {
            Ok(Ok(renewed)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
                tracing::info!(file = %self.certificate.display(), "certificate renewed");
                true
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "certificate not renewed, the one before stays in use");
                false
            }
            Err(_) => false,
        }
    }
}

/// What a handshake needs of a certificate and its key.
fn context(certificate: &std::path::Path, key: &std::path::Path) -> Result<SslContext, Error> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    // What is left for OpenSSL to refuse is a key that is too short.
    Identity::read(certificate, key)?.install(&mut acceptor).map_err(|error| {
        let problem = format!("is not good enough for TLS: {}", reason(&error));
        path_error("tls.certificate", certificate, problem)
    })?;
    Ok(acceptor.build().into_context())
}
