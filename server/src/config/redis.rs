//! The section `[redis]`.

use matchbook_settings::{CaFile, Optional, PositiveDuration, Settings, SettingsError};
use serde::Deserialize;

use super::ca_file;
use super::server::UpToAnHour;
use crate::token_status::Options;

#[derive(Deserialize)]
struct Redis {
    url: Optional<String>,
}

/// What a server without Redis needs to know about the others.
#[derive(Deserialize)]
pub(super) struct Trust {
    pub(super) trusted_without_database: UpToAnHour,
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
            let pem = ca_file::read(&path);
            Some(pem.map_err(|problem| settings.invalid("redis.ca_file", &problem))?)
        }
        _ => None,
    };
    Options::new(&url, ca, connection.timeout.0)
        .map(Some)
        .map_err(|problem| settings.invalid("redis.url", &problem.to_string()))
}
