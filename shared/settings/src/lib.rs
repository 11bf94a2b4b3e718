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

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, ConfigError, Value, ValueKind};
pub use file::is_open_to_others;
pub use load::ConfigSources;
pub use logging::Logging;
pub use redact::redact_password;
use serde::de::DeserializeOwned;

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
/// Minimum of a duration.
const MIN_DURATION: Duration = Duration::from_millis(1);
/// Maximum of a duration. Longer ones would overflow stored timestamps.
const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

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
    /// Returns the value of `key`.
    ///
    /// # Errors
    /// When the value has another type or is out of range.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, SettingsError> {
        self.config.get(key).map_err(|error| {
            let problem = match error {
                ConfigError::Type { expected, .. } => format!("expected {expected}"),
                other => other.to_string(),
            };
            self.invalid(key, &problem)
        })
    }

    /// Parses the value of `key`. `expected` completes the error "must be …".
    ///
    /// # Errors
    /// When the text is invalid.
    pub fn parse<T: FromStr>(&self, key: &str, expected: &str) -> Result<T, SettingsError> {
        self.get::<String>(key)?
            .parse()
            .map_err(|_| self.invalid(key, &format!("must be {expected}")))
    }

    /// Returns warnings about values that have no effect or are readable by others.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the value of `key`. `None` if it is "none" or empty.
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn optional(&self, key: &str) -> Result<Option<String>, SettingsError> {
        Ok(Some(self.get::<String>(key)?).filter(|text| !text.is_empty() && text != NONE))
    }

    /// Returns the text of a list. It is empty for "none".
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn list(&self, key: &str) -> Result<String, SettingsError> {
        Ok(self.optional(key)?.unwrap_or_default())
    }

    /// Returns the meaning of the word that `key` is set to.
    ///
    /// # Errors
    /// When the value is not in `words`.
    pub fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T, SettingsError> {
        let value = self.get::<String>(key)?;
        let chosen = words.iter().find(|(word, _)| *word == value);
        chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.invalid(key, &format!("must be {}", words.join(" or ")))
        })
    }

    /// Returns a duration, written like `15m`, `30d` or `1h 30m`.
    ///
    /// # Errors
    /// When it is invalid, below a millisecond, or above a hundred years.
    pub fn duration(&self, key: &str) -> Result<Duration, SettingsError> {
        let example = "must be a duration with a unit, like `90s`, `15m` or `30d`";
        match humantime::parse_duration(&self.get::<String>(key)?) {
            Ok(duration) if (MIN_DURATION..MAX_DURATION).contains(&duration) => Ok(duration),
            Ok(_) => Err(self.invalid(key, "must be between 1 ms and 100 years")),
            Err(_) => Err(self.invalid(key, example)),
        }
    }

    /// Like [`Settings::duration`], in whole seconds.
    ///
    /// # Errors
    /// When it is invalid or has fractions of a second.
    pub fn whole_seconds(&self, key: &str) -> Result<Duration, SettingsError> {
        let duration = self.duration(key)?;
        if duration.subsec_nanos() == 0 {
            Ok(duration)
        } else {
            Err(self.invalid(key, "must be in whole seconds"))
        }
    }

    /// Returns a path. `None` if it is "none" or empty.
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn path(&self, key: &str) -> Result<Option<PathBuf>, SettingsError> {
        Ok(self.optional(key)?.map(PathBuf::from))
    }

    /// Returns a file with CAs. `None` means the CAs of the system: "system" or empty.
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn ca_file(&self, key: &str) -> Result<Option<PathBuf>, SettingsError> {
        let text = self.get::<String>(key)?;
        Ok(Some(text).filter(|text| !text.is_empty() && text != SYSTEM).map(PathBuf::from))
    }

    /// Returns a number of threads. 0 means the number of CPUs.
    ///
    /// # Errors
    /// When the value is not a number from 0 to 65535.
    pub fn threads(&self, key: &str) -> Result<usize, SettingsError> {
        Ok(match self.get::<u16>(key)? {
            0 => available_cpus(),
            threads => threads.into(),
        })
    }

    /// Returns an address to bind to.
    ///
    /// # Errors
    /// When the value is invalid.
    pub fn address(&self, key: &str) -> Result<SocketAddr, SettingsError> {
        self.parse(key, "an IP address and a port, like `127.0.0.1:5001` or `[::1]:5001`")
    }

    /// Returns a base URL: `https` or `http`, with a host, without query or fragment (as
    /// required for an issuer by RFC 8414 §2).
    ///
    /// # Errors
    /// When the value is invalid.
    pub fn base_url(&self, key: &str) -> Result<String, SettingsError> {
        let text = self.get::<String>(key)?;
        let Err(error) = matchbook_shared::base_url(&text) else { return Ok(text) };
        let problem = format!("{error}; write it like `https://auth.example.com`");
        // The part before an `@` may be a password.
        if text.contains('@') {
            let origin = self.origin(key);
            return Err(SettingsError(sentence(&format!("`{key}` ({origin}): {problem}"))));
        }
        Err(self.invalid(key, &problem))
    }

    /// Creates the error for an invalid value, with its key and origin.
    #[must_use]
    pub fn invalid(&self, key: &str, problem: &str) -> SettingsError {
        let shown = if self.secrets.contains(&key) {
            String::new()
        } else {
            self.effective.get(key).map(|value| format!(" = {}", toml(value))).unwrap_or_default()
        };
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

    #[test]
    fn an_unknown_key_is_rejected_with_the_most_similar_one() {
        let message = error(load("[server]\nadress = '127.0.0.1:1'"));
        assert!(message.contains("`server.adress`"), "{message}");
        assert!(message.contains("did you mean `server.address`?"), "{message}");
    }

    #[test]
    fn the_error_for_a_wrong_type_names_the_setting() {
        let message =
            error(load("[server]\nworkers = 'many'").unwrap().get::<u16>("server.workers"));
        assert!(message.starts_with("`server.workers` = \"many\""), "{message}");
    }

    #[test]
    fn the_error_for_a_number_out_of_range_names_the_setting() {
        let message =
            error(load("[server]\nworkers = 70000").unwrap().get::<u16>("server.workers"));
        assert!(message.starts_with("`server.workers` = 70000"), "{message}");
    }

    #[test]
    fn a_duration_needs_a_unit_and_must_be_in_range() {
        let settings = load("[tokens]\naccess_lifetime = '15'").unwrap();
        let message = error(settings.duration("tokens.access_lifetime"));
        assert!(message.contains("like `90s`"), "{message}");
        let settings = load("[tokens]\naccess_lifetime = '0s'").unwrap();
        assert!(error(settings.duration("tokens.access_lifetime")).contains("between 1 ms"));
    }

    #[test]
    fn an_error_in_the_file_has_its_line() {
        let message = error(load("[server]\nadress = '127.0.0.1:1'"));
        assert!(message.contains(".toml, line 2 is not a setting"), "{message}");
        let settings = load("[server]\n# Many.\nworkers = 'many'").unwrap();
        let message = error(settings.get::<u16>("server.workers"));
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
        assert_eq!(settings.get::<String>("secret").unwrap(), "0012e5");
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
