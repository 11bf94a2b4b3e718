//! Layered settings and logging for both binaries: compiled-in defaults, then a file, then
//! the environment. Each value keeps its origin for error messages.
//!
//! The defaults contain every setting. An unknown key is an error, so that a typo does not
//! silently fall back to a default.

mod environment;
mod file;
mod load;
mod logging;
mod redact;
mod types;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use config::{Config, ConfigError, Source, Value, ValueKind};
pub use file::is_open_to_others;
pub use load::ConfigSources;
pub use logging::Logging;
pub use redact::redact_password;
use serde::de::DeserializeOwned;
pub use types::{
    AtLeastOne, BaseUrl, BindAddress, ByteSize, CaFile, OneOf, Optional, PositiveDuration, Threads,
    WholeSeconds,
};

/// An error message for the operator: which setting is wrong, where it is set, and what
/// is valid. It never contains a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// The value that unsets a setting. Unlike an empty variable, it overrides the file and
/// the default.
const NONE: &str = "none";
/// The value for the CAs of the system.
const SYSTEM: &str = "system";
/// The effective settings.
pub struct Settings {
    config: Config,
    effective: BTreeMap<String, Value>,
    /// The settings file, and the line of each value in it.
    file: Option<(String, BTreeMap<String, usize>)>,
    warnings: Vec<String>,
    secrets: &'static [&'static str],
}

fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

impl Settings {
    /// Reads the settings of a section that are fields of `T`. The section "" is the top level.
    /// Settings that are only used together have a type of their own, because a setting that
    /// is not used is not checked.
    ///
    /// # Errors
    /// The first invalid setting, in the order of the defaults.
    pub fn section<T: DeserializeOwned>(&self, section: &str) -> Result<T, SettingsError> {
        let table = match section {
            "" => self.config.collect(),
            section => self.config.get_table(section),
        };
        let read = table.and_then(|table| T::deserialize(Value::new(None, table)));
        read.map_err(|error| {
            let (field, problem) = match error {
                ConfigError::Type { expected, key: Some(field), .. } => {
                    (field, format!("expected {expected}"))
                }
                ConfigError::At { error, key: Some(field), .. } => (field, error.to_string()),
                other => {
                    return SettingsError(sentence(&format!("The section [{section}]: {other}")));
                }
            };
            match section {
                "" => self.invalid(&field, &problem),
                section => self.invalid(&format!("{section}.{field}"), &problem),
            }
        })
    }

    /// Returns warnings about values that have no effect or are readable by others.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Creates the error for an invalid value, with its key and origin.
    #[must_use]
    pub fn invalid(&self, key: &str, problem: &str) -> SettingsError {
        debug_assert!(self.effective.contains_key(key), "{key} is not a setting");
        // The part before an `@` may be a password.
        let may_be_shown = |text: &String| !self.secrets.contains(&key) && !text.contains('@');
        let shown = self.effective.get(key).map(toml).filter(may_be_shown);
        let shown = shown.map(|text| format!(" = {text}")).unwrap_or_default();
        let origin = self.origin(key);
        let line = self.file.as_ref().filter(|(name, _)| *name == origin);
        let line = line.and_then(|(_, lines)| lines.get(key));
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        SettingsError(sentence(&format!("`{key}`{shown} ({origin}{line}): {problem}")))
    }

    /// Returns the source of the value of `key`.
    fn origin(&self, key: &str) -> String {
        match self.effective.get(key).and_then(Value::origin) {
            Some(origin) => origin.to_owned(),
            None => "default".to_owned(),
        }
    }

    /// Writes the effective settings with their origins. Secrets are masked.
    ///
    /// # Errors
    /// When writing fails.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (key, value) in &self.effective {
            let value = match &value.kind {
                ValueKind::String(text) if text.is_empty() || text == NONE => toml(value),
                ValueKind::String(text) if key.ends_with("url") => {
                    format!("{:?}", redact_password(text))
                }
                _ if self.secrets.contains(&key.as_str()) => "\"********\"".to_owned(),
                _ => toml(value),
            };
            writeln!(out, "{:<56} # {}", format!("{key} = {value}"), self.origin(key))?;
        }
        Ok(())
    }
}

/// Returns the number of CPUs available to this process.
#[must_use]
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Returns the address that reaches a program bound to `address` from the same machine.
#[must_use]
pub fn loopback_if_unspecified(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn toml(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: ConfigSources = ConfigSources {
        defaults: "secret = ''\n[server]\naddress = '127.0.0.1:5001'\nworkers = 0\n\
                   [tokens]\naccess_lifetime = '15m'\n[database]\nurl = ''",
        file: "settings-test.toml",
        prefix: "SETTINGS_TEST",
        others: &[],
        aliases: &[],
        secrets: &["secret", "database.url"],
    };

    fn load(text: &str) -> Result<Settings, SettingsError> {
        let path = std::env::temp_dir().join(format!("settings-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).unwrap();
        let loaded = SOURCES.load(Some(&path));
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    fn error<T>(result: Result<T, SettingsError>) -> String {
        result.err().expect("it is invalid").to_string()
    }

    #[derive(serde::Deserialize)]
    struct Server {
        #[expect(dead_code, reason = "the tests read errors only")]
        workers: u16,
    }

    #[derive(serde::Deserialize)]
    struct Tokens {
        #[expect(dead_code, reason = "the tests read errors only")]
        access_lifetime: PositiveDuration,
    }

    #[derive(serde::Deserialize)]
    struct Secret {
        secret: String,
    }

    #[test]
    fn an_unknown_key_is_rejected_with_the_most_similar_one() {
        let message = error(load("[server]\nadress = '127.0.0.1:1'"));
        assert!(message.contains("`server.adress`"), "{message}");
        assert!(message.contains("did you mean `server.address`?"), "{message}");
    }

    #[test]
    fn the_error_for_a_wrong_type_names_the_setting() {
        let message =
            error(load("[server]\nworkers = 'many'").unwrap().section::<Server>("server"));
        assert!(message.starts_with("`server.workers` = \"many\""), "{message}");
    }

    #[test]
    fn the_error_for_a_number_out_of_range_names_the_setting() {
        let message = error(load("[server]\nworkers = 70000").unwrap().section::<Server>("server"));
        assert!(message.starts_with("`server.workers` = 70000"), "{message}");
    }

    #[test]
    fn a_duration_needs_a_unit_and_must_be_in_range() {
        let settings = load("[tokens]\naccess_lifetime = '15'").unwrap();
        let message = error(settings.section::<Tokens>("tokens"));
        assert!(message.contains("like `90s`"), "{message}");
        let settings = load("[tokens]\naccess_lifetime = '0s'").unwrap();
        assert!(error(settings.section::<Tokens>("tokens")).contains("between 1 ms"));
    }

    #[test]
    fn an_error_in_the_file_has_its_line() {
        let message = error(load("[server]\nadress = '127.0.0.1:1'"));
        assert!(message.contains(".toml, line 2 is not a setting"), "{message}");
        let settings = load("[server]\n# Many.\nworkers = 'many'").unwrap();
        let message = error(settings.section::<Server>("server"));
        assert!(message.contains(".toml, line 3): "), "{message}");
    }

    #[test]
    fn a_readable_file_with_a_secret_is_reported() {
        use std::os::unix::fs::PermissionsExt;
        let warnings = |text: &str, mode: u32| {
            let path = std::env::temp_dir().join(format!("open-{}.toml", uuid::Uuid::new_v4()));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let settings = SOURCES.load(Some(&path)).unwrap();
            std::fs::remove_file(&path).unwrap();
            settings.warnings().to_vec()
        };
        for (text, key) in [
            ("secret = 'hush'", "`secret`"),
            ("[database]\nurl = 'postgres://me:hush@db/x'", "`database.url`"),
            ("[database]\nurl = 'postgres://db/x?password=hush'", "`database.url`"),
        ] {
            assert!(warnings(text, 0o640)[0].starts_with(key), "{text}");
            assert!(warnings(text, 0o604)[0].contains("chmod 600"), "{text}");
            assert!(warnings(text, 0o600).is_empty(), "{text}");
        }
        assert!(
            warnings("secret = 'none'\n[database]\nurl = 'postgres://me@db/x'", 0o644).is_empty()
        );
    }

    #[test]
    fn a_secret_that_looks_like_a_number_stays_text() {
        let settings = load("secret = '0012e5'").unwrap();
        assert_eq!(settings.section::<Secret>("").unwrap().secret, "0012e5");
    }

    #[test]
    fn secrets_are_masked() {
        let settings = load(
            "secret = 'hush'\n[database]\nurl = 'postgres://me:hush@db/x?sslmode=require&password=hush'",
        )
        .unwrap();
        let mut output = Vec::new();
        settings.print(&mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        assert!(!output.contains("hush"), "{output}");
        assert!(output.contains("postgres://me:********@db/x?sslmode=require"), "{output}");
        assert!(!settings.invalid("secret", "is too short").to_string().contains("hush"));
    }
}
