//! The sections `[oauth]` and `[clients]`.

use std::path::PathBuf;
use std::time::Duration;

use matchbook_settings::{CaFile, Optional, PositiveDuration, Settings, SettingsError};
use serde::Deserialize;

use super::ca_file;
use crate::clients::Options;
use crate::sessions::MAX_GRACE_PERIOD;

#[derive(Deserialize)]
struct OAuth {
    grace_period: Optional<PositiveDuration>,
    code_retry: Optional<PositiveDuration>,
    code_lifetime: PositiveDuration,
    device_code_lifetime: PositiveDuration,
    allow_localhost: bool,
    backchannel_ca_file: CaFile,
}

#[derive(Deserialize)]
struct Clients {
    file: Optional<PathBuf>,
}

/// The maximum lifetime of a code (OAuth 2.1, RFC 9700 §4.2): longer ones can be stolen from
/// logs and histories.
const MAX_CODE_LIFETIME: Duration = Duration::from_secs(60);

/// The maximum lifetime of a device code: the longer it is, the easier a user code is guessed.
const MAX_DEVICE_CODE_LIFETIME: Duration = Duration::from_secs(60 * 60);

pub(super) fn read(settings: &Settings) -> Result<Options, SettingsError> {
    let oauth: OAuth = settings.section("oauth")?;
    let clients: Clients = settings.section("clients")?;
    let backchannel_ca = oauth.backchannel_ca_file.0.map(|path| ca_file::read(&path)).transpose();
    let invalid = |problem: &str| settings.invalid("oauth.backchannel_ca_file", problem);
    let options = Options {
        grace_period: oauth.grace_period.0.map(|period| period.0),
        code_retry: oauth.code_retry.0.map(|period| period.0),
        code_lifetime: oauth.code_lifetime.0,
        device_code_lifetime: oauth.device_code_lifetime.0,
        allow_localhost: oauth.allow_localhost,
        backchannel_ca: backchannel_ca.map_err(|problem| invalid(&problem))?,
        file: clients.file.0,
    };
    if options.grace_period > Some(MAX_GRACE_PERIOD) {
        return Err(settings.invalid("oauth.grace_period", "must be at most 10m"));
    }
    if options.code_retry > Some(MAX_CODE_LIFETIME) {
        return Err(settings.invalid("oauth.code_retry", "must be at most 60s"));
    }
    if options.code_lifetime > MAX_CODE_LIFETIME {
        return Err(settings.invalid("oauth.code_lifetime", "must be at most 60s"));
    }
    if options.device_code_lifetime > MAX_DEVICE_CODE_LIFETIME {
        return Err(settings.invalid("oauth.device_code_lifetime", "must be at most 1h"));
    }
    Ok(options)
}
