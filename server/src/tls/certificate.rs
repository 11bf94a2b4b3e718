//! Certificates and private keys from PEM files, with an error message for every defect.
//! The error queue of OpenSSL does not help an operator.

use std::path::Path;

use matchbook_settings::is_open_to_others;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::SslAcceptorBuilder;
use openssl::x509::{X509, X509Ref};

use super::{Error, path_error};

/// A certificate with its chain and its private key.
pub(super) struct Identity {
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl Identity {
    /// Reads the files of `tls.certificate` and `tls.key`. Logs a certificate that is not
    /// valid at this time.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let chain = read_chain("tls.certificate", certificate)?;
        let private = read_key("tls.key", key)?;
        match chain.iter().position(|certificate| belongs_to(certificate, &private)) {
            Some(0) => {}
            Some(at) => {
                let problem = format!(
                    "does not begin with the certificate of the key in {}, which is number {} in \
                     it; put that one first and its issuers after it",
                    key.display(),
                    at + 1
                );
                return Err(path_error("tls.certificate", certificate, problem));
            }
            None => {
                let problem = format!(
                    "is not the key of the certificate in {}; set both settings to one pair",
                    certificate.display()
                );
                return Err(path_error("tls.key", key, problem));
            }
        }
        warn_of_dates(certificate, &chain);
        if std::fs::metadata(key).is_ok_and(|metadata| is_open_to_others(&metadata)) {
            let file = key.display();
            tracing::warn!(%file, "private key readable by other users, close it with chmod 600");
        }
        Ok(Self { chain, key: private })
    }

    /// Sets the certificate, its chain and the key for handshakes.
    pub(super) fn install(&self, acceptor: &mut SslAcceptorBuilder) -> Result<(), ErrorStack> {
        let mut chain = self.chain.iter();
        if let Some(certificate) = chain.next() {
            acceptor.set_certificate(certificate)?;
        }
        for issuer in chain {
            acceptor.add_extra_chain_cert(issuer.clone())?;
        }
        acceptor.set_private_key(&self.key)
    }
}

/// Reads the certificates in a PEM file: at least one.
pub(crate) fn read_chain(setting: &'static str, path: &Path) -> Result<Vec<X509>, Error> {
    let pem = read(setting, path)?;
    match X509::stack_from_pem(&pem) {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(path_error(setting, path, "holds no certificate in PEM")),
        Err(error) => {
            let problem = format!("holds a certificate that cannot be parsed: {}", reason(&error));
            Err(path_error(setting, path, problem))
        }
    }
}

/// Reads the private key in a PEM file.
pub(super) fn read_key(setting: &'static str, path: &Path) -> Result<PKey<Private>, Error> {
    let pem = read(setting, path)?;
    // OpenSSL would prompt for the passphrase on the terminal.
    if pem.windows(9).any(|word| word == b"ENCRYPTED") {
        let problem = "holds an encrypted private key; decrypt it with `openssl pkey`";
        return Err(path_error(setting, path, problem));
    }
    PKey::private_key_from_pem(&pem).map_err(|error| {
        let begun = pem.windows(12).any(|word| word == b"PRIVATE KEY-");
        let problem = if begun {
            format!("holds a private key that cannot be parsed: {}", reason(&error))
        } else {
            "holds no private key in PEM".to_owned()
        };
        path_error(setting, path, problem)
    })
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .map_err(|error| path_error(setting, path, format!("cannot be read: {error}")))
}

fn belongs_to(certificate: &X509Ref, key: &PKey<Private>) -> bool {
    certificate.public_key().is_ok_and(|public| public.public_eq(key))
}

/// Returns when a certificate expires, in Unix time.
pub(super) fn expires_at(certificate: &X509Ref) -> i64 {
    let epoch = Asn1Time::from_unix(0);
    // OpenSSL computes the difference of any two valid times.
    let since_epoch = epoch.and_then(|epoch| epoch.diff(certificate.not_after()));
    since_epoch.map_or(0, |time| i64::from(time.days) * 86_400 + i64::from(time.secs))
}

/// Logs each certificate that has expired or is not valid yet. The server starts all the
/// same, because the clock may be wrong.
pub(super) fn warn_of_dates(path: &Path, chain: &[X509]) {
    let Ok(now) = Asn1Time::days_from_now(0) else { return };
    for certificate in chain {
        let file = path.display();
        if *certificate.not_after() < *now {
            let since = certificate.not_after();
            tracing::error!(%file, %since, "certificate expired, clients reject it; renew it");
        } else if *certificate.not_before() > *now {
            let from = certificate.not_before();
            tracing::error!(%file, %from, "certificate not valid yet, clients reject it");
        }
    }
}

/// Returns the reason of the first error in the queue.
pub(super) fn reason(stack: &ErrorStack) -> String {
    let reason = stack.errors().first().and_then(openssl::error::Error::reason);
    reason.unwrap_or("OpenSSL gives no reason").to_owned()
}
