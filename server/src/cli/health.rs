//! `matchbook-server health`: checks a running server.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use actix_service::{Service, fn_service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, Connector};
use actix_web::rt::net::TcpStream;
use awc::http::Uri;
use matchbook_settings::loopback_if_unspecified;
use matchbook_shared::Readiness;
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Ref};
use tokio::io::AsyncWriteExt;

use crate::config::Config;
use crate::proxy_protocol::LOCAL_HEADER;
use crate::tls::certificate::read_chain;
use crate::tls::{self, development_ca};

/// The reasons why a server is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The certificate of the server cannot be read.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("{url} does not respond: {problem}")]
    NoResponse { url: String, problem: String },
    #[error("{url} responds with {status}: {}", problems.join(" "))]
    NotReady {
        url: String,
        status: u16,
        /// The sentences of the response.
        problems: Vec<String>,
    },
}

/// Checks whether the server with these settings, on this machine, is ready.
pub async fn run(config: &Config) -> Result<(), HealthError> {
    let address = loopback_if_unspecified(config.address);
    let (scheme, name, connector) = match connector(&config.tls, &config.data_dir)? {
        None => ("http", "localhost".to_owned(), awc::Connector::new()),
        Some((tls, name)) => ("https", name, awc::Connector::new().openssl(tls.build())),
    };
    let header = if config.proxy_protocol { LOCAL_HEADER } else { &[] };
    let connector = connector.connector(tcp(header));
    let url = format!("{scheme}://{name}:{}/health/ready", address.port());
    let http = awc::Client::builder().connector(connector).finish();
    match http.get(&url).address(address).send().await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(mut response) => {
            let problems = match response.json::<Readiness>().await {
                Ok(readiness) => readiness.problems,
                Err(error) => vec![format!("its response cannot be read: {error}")],
            };
            Err(HealthError::NotReady { url, status: response.status().as_u16(), problems })
        }
        Err(error) => Err(HealthError::NoResponse { url, problem: error.to_string() }),
    }
}

/// Returns the service that opens TCP connections and sends `header` first.
fn tcp(
    header: &'static [u8],
) -> impl Service<
    ConnectInfo<Uri>,
    Response = Connection<Uri, TcpStream>,
    Error = ConnectError,
    Future = impl Future<Output = Result<Connection<Uri, TcpStream>, ConnectError>> + 'static,
> + Clone
+ 'static {
    let connector = Connector::default().service();
    fn_service(move |info: ConnectInfo<Uri>| {
        let connecting = connector.call(info);
        async move {
            let mut connection = connecting.await?;
            connection.io_mut().write_all(header).await.map_err(ConnectError::Io)?;
            Ok(connection)
        }
    })
}

/// Returns a TLS connector that trusts only the server's own certificate, and the name to
/// verify; `None` if TLS is off.
fn connector(
    mode: &tls::Mode,
    data_dir: &Path,
) -> Result<Option<(SslConnectorBuilder, String)>, tls::Error> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    let name = match mode {
        tls::Mode::Off => return Ok(None),
        tls::Mode::SelfSigned { .. } => {
            let file = data_dir.join(development_ca::CERTIFICATE_FILE);
            connector.set_cert_store(trusted(read_chain("data_dir", &file)?)?);
            "localhost".to_owned()
        }
        tls::Mode::Files { certificate, .. } => {
            let chain = read_chain("tls.certificate", certificate)?;
            let name = chain.first().and_then(|certificate| first_name(certificate));
            connector.set_cert_store(trusted(chain)?);
            connector.verify_param_mut().set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
            name.unwrap_or_else(|| "localhost".to_owned())
        }
    };
    Ok(Some((connector, name)))
}

/// Returns a name that the certificate is valid for.
fn first_name(certificate: &X509Ref) -> Option<String> {
    let names = certificate.subject_alt_names()?;
    if let Some(name) = names.iter().find_map(|name| name.dnsname()) {
        return Some(name.replacen('*', "health", 1));
    }
    // An address has 4 or 16 bytes.
    let bytes = names.iter().find_map(|name| name.ipaddress())?;
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => Some(Ipv4Addr::from(v4).to_string()),
        (_, Ok(v6)) => Some(format!("[{}]", Ipv6Addr::from(v6))),
        _ => None,
    }
}

fn trusted(certificates: Vec<X509>) -> Result<X509Store, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for certificate in certificates {
        store.add_cert(certificate)?;
    }
    Ok(store.build())
}
