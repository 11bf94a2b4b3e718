//! The development CA: a certificate authority for one data folder, so that HTTPS works
//! without a public certificate and clients never need to skip verification.
//!
//! Name constraints (RFC 5280 §4.2.1.10) limit the CA to localhost, the loopback addresses,
//! `tls.names` and the address that the server listens on. A client that trusts the CA
//! trusts it for no other name, even if its private key leaks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509StoreContext, X509StoreContextRef};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256,
};

use super::Error;
use super::certificate::{read_chain, read_key, warn_of_dates};
use crate::clock;
use crate::data_dir::DataDir;

/// The private key and the certificate of the CA, in the data folder.
const AUTHORITY_FILE: &str = "development-ca.pem";
/// The certificate of the CA, for clients to trust, in the data folder.
pub(crate) const CERTIFICATE_FILE: &str = "tls/ca.pem";

const AUTHORITY_NAME: &str = "Matchbook development CA";
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clients accept at most 398 days in a server's certificate.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(397 * 24 * 3600);

/// A name that no server has, to check that the CA is constrained at all.
const FOREIGN_NAME: &str = "foreign.invalid";

/// A certificate with its private key.
pub(super) type Identity = (X509, PKey<Private>);

struct Authority {
    certificate: X509,
    issuer: Issuer<'static, KeyPair>,
}

/// Issues a certificate for a server with these names, and publishes the CA's certificate
/// for clients.
///
/// A CA whose constraints do not permit all `names` is replaced, as is one without
/// constraints. Clients then have to read the published certificate again.
pub(super) fn issue(data_dir: &DataDir, names: &[String]) -> Result<Identity, Error> {
    // Servers that start at the same time must agree on one CA.
    let _lock = data_dir.lock()?;
    let mut authority = Authority::open(data_dir, names)?;
    if !authority.permits(names)? || authority.permits(&[FOREIGN_NAME.to_owned()])? {
        data_dir.replace(AUTHORITY_FILE, &create(names)?, 0o600)?;
        authority = Authority::open(data_dir, names)?;
        let file = data_dir.path(CERTIFICATE_FILE);
        tracing::warn!(file = %file.display(), "development CA replaced, the one before is not limited to this server's names; clients must trust the new certificate");
    }
    let pem = authority.certificate.to_pem()?;
    data_dir.write_public(CERTIFICATE_FILE, &String::from_utf8_lossy(&pem))?;
    authority.issue(names)
}

impl Authority {
    /// Reads the CA from the data folder. The first start creates it.
    fn open(data_dir: &DataDir, names: &[String]) -> Result<Self, Error> {
        data_dir.get_or_create(AUTHORITY_FILE, || create(names))?;
        let path = data_dir.path(AUTHORITY_FILE);
        let mut certificates = read_chain("data_dir", &path)?;
        let key = read_key("data_dir", &path)?;
        data_dir.check_private(AUTHORITY_FILE)?;
        warn_of_dates(&path, &certificates);
        let certificate = certificates.swap_remove(0);
        let key = KeyPair::try_from(key.private_key_to_pkcs8()?)?;
        Ok(Self { certificate, issuer: Issuer::new(authority_params(&[])?, key) })
    }

    /// Issues a certificate with a new private key.
    fn issue(&self, names: &[String]) -> Result<Identity, Error> {
        let mut params = CertificateParams::new(names)?;
        set_lifetime(&mut params, CERTIFICATE_LIFETIME);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Matchbook");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let certificate = X509::from_der(certificate.der())?;
        Ok((certificate, PKey::private_key_from_der(key.serialized_der())?))
    }

    /// Returns whether a certificate of this CA for these names is valid. Dates are ignored,
    /// because the clock may be wrong.
    fn permits(&self, names: &[String]) -> Result<bool, Error> {
        let (certificate, _) = self.issue(names)?;
        let mut trusted = X509StoreBuilder::new()?;
        trusted.add_cert(self.certificate.clone())?;
        trusted.set_flags(X509VerifyFlags::NO_CHECK_TIME)?;
        let trusted = trusted.build();
        let chain = Stack::new()?;
        let mut context = X509StoreContext::new()?;
        Ok(context.init(&trusted, &certificate, &chain, X509StoreContextRef::verify_cert)?)
    }
}

/// Creates a CA for these names. Returns its private key and certificate (PEM).
fn create(names: &[String]) -> Result<String, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority_params(names)?.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

fn authority_params(names: &[String]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    set_lifetime(&mut params, AUTHORITY_LIFETIME);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // OpenSSL and browsers apply the usages of a CA to the certificates that it issues.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted_subtrees(names),
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

fn permitted_subtrees(names: &[String]) -> Vec<GeneralSubtree> {
    let mut subtrees = vec![
        GeneralSubtree::DnsName("localhost".to_owned()),
        GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
        GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(Ipv6Addr::LOCALHOST.octets(), 128)),
    ];
    for name in names {
        let subtree = match name.parse() {
            Ok(address @ IpAddr::V4(_)) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, 32))
            }
            Ok(address @ IpAddr::V6(_)) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, 128))
            }
            // A constraint always includes the subdomains.
            Err(_) => GeneralSubtree::DnsName(name.strip_prefix("*.").unwrap_or(name).to_owned()),
        };
        if !subtrees.contains(&subtree) {
            subtrees.push(subtree);
        }
    }
    subtrees
}

fn set_lifetime(params: &mut CertificateParams, lifetime: Duration) {
    let now = clock::now();
    params.not_before = now.to_date_time();
    params.not_after = now.after(lifetime).to_date_time();
}

/// Returns the names that every server has.
pub(super) fn local_names() -> [String; 3] {
    let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let [v4, v6] = addresses.map(|address| address.to_string());
    ["localhost".to_owned(), v4, v6]
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;

    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::ssl::{SslAcceptor, SslConnector, SslMethod};
    use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectKeyIdentifier};
    use openssl::x509::{X509Builder, X509NameBuilder};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("ca-{}", uuid::Uuid::new_v4())))
        }

        fn data_dir(&self) -> DataDir {
            DataDir::at(&self.0)
        }

        fn published(&self) -> String {
            std::fs::read_to_string(self.0.join(CERTIFICATE_FILE)).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(more: &[&str]) -> Vec<String> {
        local_names().into_iter().chain(more.iter().map(|name| (*name).to_owned())).collect()
    }

    /// Connects by TLS to a server with this certificate, and verifies it as `name`.
    fn connect(server: &Identity, trusted: &str, name: &str) -> Result<(), String> {
        let (certificate, key) = server.clone();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
            acceptor.set_certificate(&certificate).unwrap();
            acceptor.set_private_key(&key).unwrap();
            let _ = acceptor.build().accept(listener.accept().unwrap().0);
        });
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(X509::from_pem(trusted.as_bytes()).unwrap()).unwrap();
        let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
        connector.set_cert_store(store.build());
        let stream = TcpStream::connect(address).unwrap();
        let result = connector.build().connect(name, stream);
        let result = result.map(drop).map_err(|error| error.to_string());
        server.join().unwrap();
        result
    }

    #[test]
    fn clients_accept_the_certificate_for_every_name_of_the_server() {
        let folder = Folder::new();
        let names = names(&["auth.example.com", "*.wild.example", "192.0.2.7", "2001:db8::1"]);
        let server = issue(&folder.data_dir(), &names).unwrap();
        let trusted = folder.published();
        for name in names.iter().map(|name| name.replace('*', "any")) {
            assert_eq!(connect(&server, &trusted, &name), Ok(()), "{name}");
        }
        let error = connect(&server, &trusted, "other.example.com").unwrap_err();
        assert!(error.contains("hostname mismatch"), "{error}");
    }

    #[test]
    fn clients_reject_a_certificate_of_the_ca_for_another_name() {
        let folder = Folder::new();
        let own = names(&["auth.example.com", "192.0.2.7"]);
        issue(&folder.data_dir(), &own).unwrap();
        let authority = Authority::open(&folder.data_dir(), &own).unwrap();
        for other in ["example.com", "bank.example", "localhost.example", "192.0.2.8", "::2"] {
            let server = authority.issue(&[other.to_owned()]).unwrap();
            let error = connect(&server, &folder.published(), other).unwrap_err();
            assert!(error.contains("permitted subtree violation"), "{other}: {error}");
        }
    }

    #[test]
    fn the_ca_is_kept_until_a_name_is_added() {
        let folder = Folder::new();
        let issue = |more: &[&str]| issue(&folder.data_dir(), &names(more)).unwrap();
        issue(&["a.example", "b.example"]);
        let first = folder.published();
        issue(&["a.example"]);
        issue(&["b.example", "sub.a.example", "127.8.8.8"]);
        assert_eq!(folder.published(), first);
        let server = issue(&["c.example"]);
        assert_ne!(folder.published(), first);
        assert_eq!(connect(&server, &folder.published(), "c.example"), Ok(()));
    }

    /// Creates a CA as version 0.1 did before it had name constraints.
    fn unconstrained_authority() -> String {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", AUTHORITY_NAME).unwrap();
        let name = name.build();
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(3650).unwrap()).unwrap();
        let is_ca = BasicConstraints::new().critical().ca().pathlen(0).build().unwrap();
        builder.append_extension(is_ca).unwrap();
        let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap();
        builder.append_extension(usage).unwrap();
        let id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(id).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let mut pem = key.private_key_to_pem_pkcs8().unwrap();
        pem.extend(builder.build().to_pem().unwrap());
        String::from_utf8(pem).unwrap()
    }

    #[test]
    fn a_ca_without_constraints_is_replaced() {
        let folder = Folder::new();
        let old = unconstrained_authority();
        folder.data_dir().replace(AUTHORITY_FILE, &old, 0o600).unwrap();
        let server = issue(&folder.data_dir(), &names(&[])).unwrap();
        let now = folder.data_dir().read(AUTHORITY_FILE).unwrap();
        assert_ne!(now, old);
        assert_eq!(connect(&server, &folder.published(), "localhost"), Ok(()));
    }

    #[test]
    fn servers_that_start_at_the_same_time_use_one_ca() {
        let folder = Folder::new();
        folder.data_dir().replace(AUTHORITY_FILE, &unconstrained_authority(), 0o600).unwrap();
        let start = || issue(&folder.data_dir(), &names(&[])).unwrap();
        let servers: Vec<Identity> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for server in &servers {
            assert_eq!(connect(server, &folder.published(), "localhost"), Ok(()));
        }
    }
}
