//! HTTPS: the certificate that the server shows, and the development CA that
//! it makes itself, so that nothing ever has reason to skip verification.

mod certificate;
mod reload;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslConnector, SslConnectorBuilder, SslMethod};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Builder, X509NameBuilder, X509Ref};

use certificate::{read_chain, read_key, reason, warn_of_dates};

pub use reload::Renewal;

use crate::config::Tls;
use crate::data_dir::{self, DataDir};

/// The development CA's key and certificate, in the data folder.
const AUTHORITY: &str = "development-ca.pem";
/// Its certificate alone, for clients to trust.
const PUBLIC: &str = "tls/ca.pem";

const AUTHORITY_DAYS: u32 = 10 * 365;
/// The longest that today's clients accept in a server's certificate is 398.
const CERTIFICATE_DAYS: u32 = 397;

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OpenSSL refused.
    #[error("TLS cannot be set up: {}", reason(.0))]
    OpenSsl(#[from] ErrorStack),
    /// A configured file is not what it should be.
    #[error("`{setting}`: {path} {problem}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The development CA could not be kept.
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
}

/// What accepts connections over TLS.
pub struct Acceptor {
    /// With the certificate that is shown.
    pub builder: SslAcceptorBuilder,
    /// Reads the certificate again, where it is from files.
    pub renewal: Option<Arc<Renewal>>,
}

/// What accepts connections; `None` where TLS is off.
///
/// # Errors
/// When there is no usable certificate.
pub fn acceptor(
    tls: &Tls,
    data_dir: &DataDir,
    address: SocketAddr,
) -> Result<Option<Acceptor>, Error> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    match tls {
        Tls::Off => return Ok(None),
        Tls::Files { certificate, key } => {
            let renewal = Renewal::open(certificate.clone(), key.clone())?;
            renewal.install(&mut acceptor);
            return Ok(Some(Acceptor { builder: acceptor, renewal: Some(renewal) }));
        }
        Tls::SelfSigned { names } => {
            let authority = Authority::open(data_dir)?;
            let mut names = names.clone();
            names.extend(["localhost".into(), "127.0.0.1".into(), "::1".into()]);
            if !address.ip().is_unspecified() {
                names.push(address.ip().to_string());
            }
            let (certificate, key) = authority.issue(&names)?;
            acceptor.set_certificate(&certificate)?;
            acceptor.set_private_key(&key)?;
        }
    }
    Ok(Some(Acceptor { builder: acceptor, renewal: None }))
}

fn path_error(setting: &'static str, path: &Path, problem: String) -> Error {
    Error::File { setting, path: path.display().to_string(), problem }
}

/// What connects to a server of these settings on this machine, and the name
/// to call it by; `None` where TLS is off. Trusts nothing but the server's own
/// certificate.
///
/// # Errors
/// When the certificate cannot be read.
pub fn connector(
    tls: &Tls,
    data_dir: &Path,
) -> Result<Option<(SslConnectorBuilder, String)>, Error> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    let name = match tls {
        Tls::Off => return Ok(None),
        Tls::SelfSigned { .. } => {
            connector.set_cert_store(trusted(read_chain("data_dir", &data_dir.join(PUBLIC))?)?);
            "localhost".to_owned()
        }
        Tls::Files { certificate, .. } => {
            let chain = read_chain("tls.certificate", certificate)?;
            let name = chain.first().and_then(|certificate| first_name(certificate));
            connector.set_cert_store(trusted(chain)?);
            connector.verify_param_mut().set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
            name.unwrap_or_else(|| "localhost".to_owned())
        }
    };
    Ok(Some((connector, name)))
}

fn first_name(certificate: &X509Ref) -> Option<String> {
    let names = certificate.subject_alt_names()?;
    if let Some(name) = names.iter().find_map(|name| name.dnsname()) {
        return Some(name.replacen('*', "health", 1));
    }
    // An address: 4 bytes or 16.
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

/// A certificate authority for this data folder alone.
struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    /// Takes the one in the data folder, made on the first start, and publishes
    /// its certificate for clients.
    fn open(data_dir: &DataDir) -> Result<Self, Error> {
        data_dir.once(AUTHORITY, || Self::make()?.to_pem())?;
        let path = data_dir.path(AUTHORITY);
        let mut certificates = read_chain("data_dir", &path)?;
        let key = read_key("data_dir", &path)?;
        data_dir.check_private(AUTHORITY)?;
        warn_of_dates(&path, &certificates);
        let authority = Self { certificate: certificates.swap_remove(0), key };
        let public = authority.certificate.to_pem()?;
        data_dir.publish(PUBLIC, &String::from_utf8_lossy(&public))?;
        Ok(authority)
    }

    fn make() -> Result<Self, Error> {
        let key = new_key()?;
        let mut builder = certificate("Matchbook development CA", &key, AUTHORITY_DAYS)?;
        let name = builder_name("Matchbook development CA")?;
        builder.set_issuer_name(&name)?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        let subject_key = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(subject_key)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: builder.build(), key })
    }

    fn to_pem(&self) -> Result<String, Error> {
        let mut pem = self.key.private_key_to_pem_pkcs8()?;
        pem.extend(self.certificate.to_pem()?);
        Ok(String::from_utf8_lossy(&pem).into_owned())
    }

    /// A certificate for a server that is called by `names`, with a new key.
    fn issue(&self, names: &[String]) -> Result<(X509, PKey<Private>), Error> {
        let key = new_key()?;
        let mut builder = certificate("Matchbook", &key, CERTIFICATE_DAYS)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
        let mut alternatives = SubjectAlternativeName::new();
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(address) => alternatives.ip(&address.to_string()),
                Err(_) => alternatives.dns(name),
            };
        }
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let extensions = [
            alternatives.build(&context)?,
            SubjectKeyIdentifier::new().build(&context)?,
            AuthorityKeyIdentifier::new().keyid(true).build(&context)?,
        ];
        for extension in extensions {
            builder.append_extension(extension)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok((builder.build(), key))
    }
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

fn builder_name(common_name: &str) -> Result<openssl::x509::X509Name, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", common_name)?;
    Ok(name.build())
}

/// What every certificate has: version 3, a random serial number, a subject,
/// a key, and a time to live.
fn certificate(
    common_name: &str,
    key: &PKeyRef<Private>,
    days: u32,
) -> Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&serial)?;
    let name = builder_name(common_name)?;
    builder.set_subject_name(&name)?;
    builder.set_pubkey(key)?;
    let (start, end) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(days)?);
    builder.set_not_before(&start)?;
    builder.set_not_after(&end)?;
    Ok(builder)
}
