//! The section `[redis]`.

use matchbook_settings::{CaFile, Optional, PositiveDuration, Settings, SettingsError};
use openssl::x509::X509;
use serde::Deserialize;

use crate::token_status::Options;

#[derive(Deserialize)]
struct Redis {
    url: Optional<String>,
}

/// The rest of the section, which is used only if there is a URL.
#[derive(Deserialize)]
struct Connection {
    ca_file: CaFile,
    timeout: PositiveDuration,
}

/// Returns `None` if Redis is not used.
pub(super) fn read(settings: &Settings) -> Result<Option<Options>, SettingsError> {
    let Redis { url: Optional(Some(url)) } = settings.section("redis")? else { return Ok(None) };
    let connection: Connection = settings.section("redis")?;
    let ca = match connection.ca_file {
        CaFile(Some(path)) if url.starts_with("rediss") => {
            let pem = std::fs::read(&path)
                .map_err(|error| format!("names a file that cannot be read: {error}"))
                .and_then(with_certificate);
            Some(pem.map_err(|problem| settings.invalid("redis.ca_file", &problem))?)
        }
        _ => None,
    };
    Options::new(&url, ca, connection.timeout.0)
        .map(Some)
        .map_err(|problem| settings.invalid("redis.url", &problem.to_string()))
}

fn with_certificate(pem: Vec<u8>) -> Result<Vec<u8>, String> {
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(pem),
        _ => Err("names a file without a certificate in PEM".to_owned()),
    }
}
