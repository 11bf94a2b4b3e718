//! Certificates and keys from PEM files, and a sentence for what is wrong with
//! one: the error queue of OpenSSL means nothing to an operator.

use std::path::Path;

use matchbook_settings::is_open_to_others;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::SslAcceptorBuilder;
use openssl::x509::{X509, X509Ref};

use super::Error;

/// A certificate with its chain and its private key.
pub(super) struct Identity {
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl Identity {
    /// Reads the files that `tls.certificate` and `tls.key` name. Logs a
    /// certificate that is not valid at this time.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let chain = read_chain("tls.certificate", certificate)?;
        let private = read_key("tls.key", key)?;
        match chain.iter().position(|certificate| is_for(certificate, &private)) {
            Some(0) => {}
            Some(at) => {
                let problem = format!(
                    "holds another certificate first: the one of the key in {} is number {} in it; \
                     put that one first and its issuers after it",
                    key.display(),
                    at + 1
                );
                return Err(unusable("tls.certificate", certificate, &problem));
            }
            None => {
                let problem = format!(
                    "is not the key of the certificate in {}; give the two that belong together",
                    certificate.display()
                );
                return Err(unusable("tls.key", key, &problem));
            }
        }
        warn_of_dates(certificate, &chain);
        if std::fs::metadata(key).is_ok_and(|metadata| is_open_to_others(&metadata)) {
            let file = key.display();
            tracing::warn!(%file, "private key readable by other users, close it with chmod 600");
        }
        Ok(Self { chain, key: private })
    }

    /// Shows it to whoever connects.
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

/// Reads the certificates in a PEM file, of which there is at least one.
pub(super) fn read_chain(setting: &'static str, path: &Path) -> Result<Vec<X509>, Error> {
    let pem = read(setting, path)?;
    match X509::stack_from_pem(&pem) {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(unusable(setting, path, "holds no certificate in PEM")),
        Err(_) => Err(unusable(setting, path, "holds a certificate that cannot be parsed")),
    }
}

/// Reads the private key in a PEM file.
pub(super) fn read_key(setting: &'static str, path: &Path) -> Result<PKey<Private>, Error> {
    let pem = read(setting, path)?;
    // OpenSSL would ask the terminal for the passphrase.
    if pem.windows(9).any(|word| word == b"ENCRYPTED") {
        let problem = "holds a private key under a passphrase; decrypt it with `openssl pkey`";
        return Err(unusable(setting, path, problem));
    }
    PKey::private_key_from_pem(&pem).map_err(|_| {
        let begun = pem.windows(12).any(|word| word == b"PRIVATE KEY-");
        let problem = if begun {
            "holds a private key that cannot be parsed"
        } else {
            "holds no private key in PEM"
        };
        unusable(setting, path, problem)
    })
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .map_err(|error| unusable(setting, path, &format!("cannot be read: {error}")))
}

fn is_for(certificate: &X509Ref, key: &PKey<Private>) -> bool {
    certificate.public_key().is_ok_and(|public| public.public_eq(key))
}

/// Logs what clients will refuse: a certificate that has expired, or whose time
/// has not come. The server starts all the same, since a clock may be wrong.
pub(super) fn warn_of_dates(path: &Path, chain: &[X509]) {
    let Ok(now) = Asn1Time::days_from_now(0) else { return };
    for certificate in chain {
        let file = path.display();
        if *certificate.not_after() < *now {
            let since = certificate.not_after();
            tracing::error!(%file, %since, "certificate expired, clients refuse it; renew it");
        } else if *certificate.not_before() > *now {
            let from = certificate.not_before();
            tracing::error!(%file, %from, "certificate not valid yet, clients refuse it");
        }
    }
}

fn unusable(setting: &'static str, path: &Path, problem: &str) -> Error {
    Error::File { setting, path: path.display().to_string(), problem: problem.to_owned() }
}

/// The reason of the first error in the queue.
pub(super) fn reason(stack: &ErrorStack) -> String {
    let reason = stack.errors().first().and_then(openssl::error::Error::reason);
    reason.unwrap_or("OpenSSL gives no reason").to_owned()
}
