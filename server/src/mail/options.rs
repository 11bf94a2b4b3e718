//! The settings of mail.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// The port of submission with STARTTLS (RFC 6409).
const SUBMISSION_PORT: u16 = 587;
/// The port of submission over TLS (RFC 8314 §3.3).
const SUBMISSIONS_PORT: u16 = 465;
/// The port of a relay on the same machine.
const RELAY_PORT: u16 = 25;

/// How the connection to the SMTP server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, without which nothing is sent.
    StartTls,
    None,
}

/// The SMTP server, and the sender of the mails.
#[derive(Clone)]
pub struct Options {
    host: String,
    port: u16,
    encryption: Encryption,
    credentials: Option<Credentials>,
    /// A CA that is trusted beside those of the system.
    ca: Option<Certificate>,
    pub(super) from: Mailbox,
    /// The host name of this server, by which it presents itself.
    public_host: String,
}

/// Why settings are rejected. Completes the sentence "`smtp.url` …", and quotes no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    #[error("must be a URL, like `smtp://user:password@mail.example.com:587`")]
    Url,
    #[error("must begin with `smtp://` (STARTTLS) or `smtps://` (TLS)")]
    Scheme,
    #[error("must have a host")]
    Host,
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    #[error("must have a user name and a password, or neither")]
    UserInfo,
    #[error("must have no path and no fragment")]
    Path,
    #[error(
        "must have no parameter but `?tls=none` or `?tls=required`, which only `smtp://` may have"
    )]
    Parameter,
}

impl Options {
    /// Parses the URL of an SMTP server. Without TLS it must be on the same machine, or the
    /// URL must end with `?tls=none`.
    pub fn new(url: &str, from: Mailbox, public_host: &str) -> Result<Self, InvalidOptions> {
        let url = Url::parse(url).map_err(|_| InvalidOptions::Url)?;
        let is_smtps = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            _ => return Err(InvalidOptions::Scheme),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidOptions::Host)?;
        // The host of a URL with an unknown scheme is not checked by the parser.
        let host = Host::parse(host).map_err(|_| InvalidOptions::Host)?;
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(InvalidOptions::Path);
        }
        let mut encryption = match () {
            () if is_smtps => Encryption::Tls,
            () if is_loopback(&host) => Encryption::None,
            () => Encryption::StartTls,
        };
        for (name, value) in url.query_pairs() {
            encryption = match (name.as_ref(), value.as_ref()) {
                ("tls", "none") if !is_smtps => Encryption::None,
                ("tls", "required") if !is_smtps => Encryption::StartTls,
                _ => return Err(InvalidOptions::Parameter),
            };
        }
        let port = match (url.port(), encryption) {
            (Some(0), _) => return Err(InvalidOptions::Port),
            (Some(port), _) => port,
            (None, Encryption::Tls) => SUBMISSIONS_PORT,
            (None, Encryption::StartTls) => SUBMISSION_PORT,
            (None, Encryption::None) => RELAY_PORT,
        };
        Ok(Self {
            host: match host {
                Host::Ipv6(ip) => ip.to_string(),
                host => host.to_string(),
            },
            port,
            encryption,
            credentials: credentials(&url)?,
            ca: None,
            from,
            public_host: public_host.to_owned(),
        })
    }

    /// Trusts a CA as well, in PEM.
    pub fn with_ca(self, pem: &[u8]) -> Result<Self, SmtpError> {
        Ok(Self { ca: Some(Certificate::from_pem(pem)?), ..self })
    }

    /// Returns the domain of the sender.
    pub(super) fn domain(&self) -> &str {
        self.from.email.domain()
    }

    pub(super) fn transport(
        &self,
        timeout: Duration,
    ) -> Result<AsyncSmtpTransport<Tokio1Executor>, SmtpError> {
        let mut parameters = TlsParameters::builder(self.host.clone());
        if let Some(ca) = &self.ca {
            parameters = parameters.add_root_certificate(ca.clone());
        }
        let tls = match self.encryption {
            Encryption::Tls => Tls::Wrapper(parameters.build()?),
            Encryption::StartTls => Tls::Required(parameters.build()?),
            Encryption::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .tls(tls)
            .hello_name(hello_name(&self.public_host))
            .timeout(Some(timeout));
        if let Some(credentials) = &self.credentials {
            builder = builder.credentials(credentials.clone());
        }
        Ok(builder.build())
    }
}

/// Formats the server without its credentials, for the log.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, InvalidOptions> {
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(String::from).map_err(|_| InvalidOptions::UserInfo)
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) | (_, None) => Err(InvalidOptions::UserInfo),
        (user, Some(password)) => Ok(Some(Credentials::new(decode(user)?, decode(password)?))),
    }
}

fn hello_name(host: &str) -> ClientId {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => ClientId::Ipv4(ip),
        Ok(IpAddr::V6(ip)) => ClientId::Ipv6(ip),
        Err(_) => ClientId::Domain(host.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Options, InvalidOptions> {
        Options::new(url, "auth@example.com".parse().unwrap(), "auth.example.com")
    }

    #[test]
    fn only_a_server_on_the_same_machine_may_have_no_tls_by_default() {
        for (url, host, port, encryption) in [
            ("smtp://mail.example.com", "mail.example.com", 587, Encryption::StartTls),
            ("smtp://u:p@mail.example.com:2525", "mail.example.com", 2525, Encryption::StartTls),
            ("smtps://u:p@mail.example.com", "mail.example.com", 465, Encryption::Tls),
            ("smtp://localhost", "localhost", 25, Encryption::None),
            ("smtp://127.0.0.1:26", "127.0.0.1", 26, Encryption::None),
            ("smtp://[::1]", "::1", 25, Encryption::None),
            ("smtp://localhost:587?tls=required", "localhost", 587, Encryption::StartTls),
            ("smtp://relay:25?tls=none", "relay", 25, Encryption::None),
        ] {
            let Ok(options) = parse(url) else { panic!("{url}") };
            let parsed = (options.host.as_str(), options.port, options.encryption);
            assert_eq!(parsed, (host, port, encryption), "{url}");
        }
    }

    #[test]
    fn invalid_urls_are_rejected() {
        for (url, problem) in [
            ("mail.example.com", InvalidOptions::Url),
            ("mail.example.com:587", InvalidOptions::Scheme),
            ("http://mail.example.com", InvalidOptions::Scheme),
            ("smtp://", InvalidOptions::Host),
            ("smtp:mail.example.com", InvalidOptions::Host),
            ("smtp://mail.example.com:0", InvalidOptions::Port),
            ("smtp://mail.example.com:99999", InvalidOptions::Url),
            ("smtp://user@mail.example.com", InvalidOptions::UserInfo),
            ("smtp://:hush@mail.example.com", InvalidOptions::UserInfo),
            ("smtp://mail.example.com/path", InvalidOptions::Path),
            ("smtp://mail.example.com?tls=maybe", InvalidOptions::Parameter),
            ("smtps://mail.example.com?tls=none", InvalidOptions::Parameter),
            ("smtp://mail.example.com?starttls", InvalidOptions::Parameter),
        ] {
            assert_eq!(parse(url).err(), Some(problem), "{url}");
        }
    }

    #[test]
    fn credentials_are_percent_decoded() {
        let options = parse("smtp://ann%40example.com:p%2Fw%3A@mail.example.com").ok().unwrap();
        let expected = Credentials::new("ann@example.com".into(), "p/w:".into());
        assert_eq!(options.credentials, Some(expected));
        assert_eq!(options.to_string(), "mail.example.com:587");
    }
}
