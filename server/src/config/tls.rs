//! The section `[tls]`.

use std::net::IpAddr;
use std::path::PathBuf;

use matchbook_settings::{OneOf, Optional, Settings, SettingsError};
use serde::Deserialize;

use crate::tls;

#[derive(Deserialize)]
struct Tls {
    mode: OneOf<Mode>,
    certificate: Optional<PathBuf>,
    key: Optional<PathBuf>,
    names: Optional<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    SelfSigned,
    Files,
    Off,
}

pub(super) fn read(settings: &Settings) -> Result<tls::Mode, SettingsError> {
    let section: Tls = settings.section("tls")?;
    let required = |key, Optional(path): Optional<PathBuf>| {
        path.ok_or_else(|| settings.invalid(key, "must name a file when `tls.mode` is \"files\""))
    };
    Ok(match section.mode.0 {
        Mode::SelfSigned => {
            let names = section.names.0.unwrap_or_default();
            let names =
                parse_names(&names).map_err(|problem| settings.invalid("tls.names", &problem))?;
            tls::Mode::SelfSigned { names }
        }
        Mode::Files => tls::Mode::Files {
            certificate: required("tls.certificate", section.certificate)?,
            key: required("tls.key", section.key)?,
        },
        Mode::Off => tls::Mode::Off,
    })
}

fn parse_names(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let parse = |name: &str| {
        is_host(name).then(|| name.to_owned()).ok_or_else(|| {
            format!("must be host names or IP addresses, separated by commas; `{name}` is not one")
        })
    };
    names.map(parse).collect()
}

/// Returns whether a certificate can contain the name: an IP address, or a host name in ASCII
/// whose first label may be `*` (RFC 6125 §6.4.3).
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(fits)
    };
    let host = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && host.split('.').all(is_label))
}
