//! HTTPS: the server's certificate, from files or from the development CA.

pub(crate) mod certificate;
pub(crate) mod development_ca;
mod reload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslMethod};

use certificate::reason;

pub use reload::Renewal;

use crate::data_dir::{self, DataDir};

/// The protection of connections to the server (`tls.mode`).
pub enum Mode {
    /// A certificate of the server's own development CA.
    SelfSigned {
        /// Names of the server beside localhost and its address.
        names: Vec<String>,
    },
    /// A certificate from files.
    Files {
        /// The certificate and its chain (PEM).
        certificate: PathBuf,
        /// The private key (PEM).
        key: PathBuf,
    },
    /// Plain HTTP.
    Off,
}

/// The reasons why the server has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot set up TLS: {}", reason(.0))]
    OpenSsl(#[from] ErrorStack),
    #[error("cannot create a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("`{setting}`: {path} {problem}")]
    File {
        /// The setting that names the file.
        setting: &'static str,
        path: String,
        problem: String,
    },
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
}

/// The TLS side of the server.
pub struct Acceptor {
    /// The settings for handshakes, with the certificate.
    pub builder: SslAcceptorBuilder,
    /// Reads the certificate again when its files change; `None` for the development CA.
    pub renewal: Option<Arc<Renewal>>,
    /// When the certificate expires, in Unix time.
    pub expires_at: i64,
}

/// Prepares the acceptor of TLS connections; `None` if TLS is off.
pub fn acceptor(
    mode: &Mode,
    data_dir: &DataDir,
    address: SocketAddr,
) -> Result<Option<Acceptor>, Error> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    let mut renewal = None;
    let expires_at = match mode {
        Mode::Off => return Ok(None),
        Mode::Files { certificate, key } => {
            let files = Renewal::open(certificate.clone(), key.clone())?;
            files.install(&mut builder);
            let expires_at = files.expires_at();
            renewal = Some(files);
            expires_at
        }
        Mode::SelfSigned { names } => {
            let mut names = names.clone();
            names.extend(development_ca::local_names());
            if !address.ip().is_unspecified() {
                names.push(address.ip().to_string());
            }
            let (certificate, key) = development_ca::issue(data_dir, &names)?;
            builder.set_certificate(&certificate)?;
            builder.set_private_key(&key)?;
            certificate::expires_at(&certificate)
        }
    };
    Ok(Some(Acceptor { builder, renewal, expires_at }))
}

fn path_error(setting: &'static str, path: &Path, problem: impl Into<String>) -> Error {
    Error::File { setting, path: path.display().to_string(), problem: problem.into() }
}
