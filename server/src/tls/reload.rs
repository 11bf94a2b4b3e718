//! Reads a certificate again when its files change while the server runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use actix_rt::task::spawn_blocking;
use openssl::ssl::{ClientHelloResponse, SslAcceptor, SslAcceptorBuilder, SslContext, SslMethod};

use super::certificate::{self, Identity, reason};
use super::{Error, path_error};
use crate::crypto::Digest;
use crate::metrics::Metrics;

/// The interval at which the files are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The certificate of `tls.certificate` and `tls.key` that was read last.
pub struct Renewal {
    certificate: PathBuf,
    key: PathBuf,
    /// A `std` lock: handshakes only clone the context, which is reference-counted.
    current: RwLock<SslContext>,
    /// What the files contained just before they were read for `current`.
    seen: Mutex<[Option<Digest>; 2]>,
}

impl Renewal {
    /// Reads both files.
    pub(super) fn open(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, Error> {
        let seen = Mutex::new(fingerprint([&certificate, &key]));
        let current = RwLock::new(context(&certificate, &key)?);
        Ok(Arc::new(Self { certificate, key, current, seen }))
    }

    /// Makes each handshake use the certificate that was read last.
    pub(super) fn install(self: &Arc<Self>, acceptor: &mut SslAcceptorBuilder) {
        let renewal = self.clone();
        acceptor.set_client_hello_callback(move |ssl, _| {
            let current = renewal.current.read().unwrap_or_else(PoisonError::into_inner).clone();
            ssl.set_ssl_context(&current)?;
            Ok(ClientHelloResponse::SUCCESS)
        });
    }

    /// Reads the files again when they have changed: checks each minute, and at each
    /// notification of `hangups`. Never returns.
    pub async fn run(self: Arc<Self>, hangups: Arc<tokio::sync::Notify>, metrics: Arc<Metrics>) {
        loop {
            let _ = tokio::time::timeout(CHECK_INTERVAL, hangups.notified()).await;
            let renewal = self.clone();
            let _ = spawn_blocking(move || renewal.reload_if_changed()).await;
            metrics.set_certificate_expiry(self.expires_at());
        }
    }

    /// Returns when the current certificate expires, in Unix time.
    pub(super) fn expires_at(&self) -> i64 {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.certificate().map_or(0, certificate::expires_at)
    }

    /// Blocks: reads both files again if they have changed. If they cannot be used, the current
    /// certificate stays in use.
    fn reload_if_changed(&self) {
        let now = fingerprint([&self.certificate, &self.key]);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now == *seen {
            return;
        }
        match context(&self.certificate, &self.key) {
            Ok(renewed) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
                *seen = now;
                tracing::info!(file = %self.certificate.display(), "certificate renewed");
            }
            // While a pair is being replaced, one half may be missing or not match.
            Err(error) => {
                tracing::error!(%error, "certificate not renewed, the current one stays in use");
            }
        }
    }
}

/// Returns the digest of each file, if it can be read.
fn fingerprint(files: [&Path; 2]) -> [Option<Digest>; 2] {
    files.map(|file| std::fs::read(file).ok().map(|content| Digest::of(&[&content])))
}

/// Returns the context of handshakes with a certificate and its key.
fn context(certificate: &Path, key: &Path) -> Result<SslContext, Error> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    // `Identity` has checked all but the strength of the key.
    Identity::read(certificate, key)?.install(&mut acceptor).map_err(|error| {
        let problem = format!("is too weak for TLS: {}", reason(&error));
        path_error("tls.certificate", certificate, problem)
    })?;
    Ok(acceptor.build().into_context())
}
