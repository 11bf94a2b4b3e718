//! Layered settings for both binaries: compiled-in defaults, then a file, then
//! the environment; each value remembers where it came from.
//!
//! The defaults name every setting there is, so anything else is a mistake and
//! stops the start: a typo must not fall back to a default unseen.

mod environment;
mod file;
mod load;
mod log;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, ConfigError, Value, ValueKind};
pub use file::is_open_to_others;
pub use load::ConfigSources;
pub use log::Log;
use serde::de::DeserializeOwned;

/// A sentence for the person who starts the program: which setting is wrong,
/// where it was set, and what would be right. Never shows a secret's value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// The word for a setting that is not set. In the environment it empties what
/// the file or a default fills, which an empty variable does not.
const NONE: &str = "none";
/// The word for the certificate authorities that the system trusts.
const SYSTEM: &str = "system";
/// Shorter than this, a length of time is a mistake.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longer, and dates no longer fit into what is stored.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// The settings in force.
pub struct Settings {
    config: Config,
    in_force: BTreeMap<String, Value>,
    /// The settings file, and the line of each value that is in force from it.
    file: Option<(String, BTreeMap<String, usize>)>,
    warnings: Vec<String>,
    secrets: &'static [&'static str],
}

fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

impl Settings {
    /// The value of `key`, of the type that the caller wants.
    ///
    /// # Errors
    /// When the value is of another type or out of that type's range.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, SettingsError> {
        self.config.get(key).map_err(|error| {
            let problem = match error {
                ConfigError::Type { expected, .. } => format!("expected {expected}"),
                other => other.to_string(),
            };
            self.invalid(key, &problem)
        })
    }

    /// The value of `key`, parsed; `expected` completes "must be …".
    ///
    /// # Errors
    /// When the text does not parse.
    pub fn parse<T: FromStr>(&self, key: &str, expected: &str) -> Result<T, SettingsError> {
        self.get::<String>(key)?
            .parse()
            .map_err(|_| self.invalid(key, &format!("must be {expected}")))
    }

    /// What was found that changes nothing although it looks as if it did.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The value of `key`, or `None` where it is "none" or empty.
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn optional(&self, key: &str) -> Result<Option<String>, SettingsError> {
        Ok(Some(self.get::<String>(key)?).filter(|text| !text.is_empty() && text != NONE))
    }

    /// The text of a list, which is empty where it is "none".
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn list(&self, key: &str) -> Result<String, SettingsError> {
        Ok(self.optional(key)?.unwrap_or_default())
    }

    /// What the word that `key` is set to stands for.
    ///
    /// # Errors
    /// When it is none of `words`.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T, SettingsError> {
        let value = self.get::<String>(key)?;
        let chosen = words.iter().find(|(word, _)| *word == value);
        chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.invalid(key, &format!("must be {}", words.join(" or ")))
        })
    }

    /// A length of time written like `15m`, `30d` or `1h 30m`.
    ///
    /// # Errors
    /// When it does not parse, or is out of all reason.
    pub fn duration(&self, key: &str) -> Result<Duration, SettingsError> {
        let example = "must be a length of time with its unit, like `90s`, `15m` or `30d`";
        match humantime::parse_duration(&self.get::<String>(key)?) {
            Ok(duration) if (SHORTEST..LONGEST).contains(&duration) => Ok(duration),
            Ok(_) => Err(self.invalid(key, "must be from a millisecond to a hundred years")),
            Err(_) => Err(self.invalid(key, example)),
        }
    }

    /// Like [`Settings::duration`], in whole seconds.
    ///
    /// # Errors
    /// When it is not whole seconds either.
    pub fn seconds(&self, key: &str) -> Result<Duration, SettingsError> {
        let duration = self.duration(key)?;
        if duration.subsec_nanos() == 0 {
            Ok(duration)
        } else {
            Err(self.invalid(key, "must be whole seconds"))
        }
    }

    /// A path, or `None` where it is "none" or empty.
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn path(&self, key: &str) -> Result<Option<PathBuf>, SettingsError> {
        Ok(self.optional(key)?.map(PathBuf::from))
    }

    /// A file with certificate authorities, or `None` where it is "system" or
    /// empty: those that the system trusts.
    ///
    /// # Errors
    /// When the value is not a string.
    pub fn ca_file(&self, key: &str) -> Result<Option<PathBuf>, SettingsError> {
        let text = self.get::<String>(key)?;
        Ok(Some(text).filter(|text| !text.is_empty() && text != SYSTEM).map(PathBuf::from))
    }

    /// A number of threads, where 0 stands for the number of cores.
    ///
    /// # Errors
    /// When the value is not a number, or not a sensible one.
    pub fn threads(&self, key: &str) -> Result<usize, SettingsError> {
        Ok(match self.get::<u16>(key)? {
            0 => available_cpus(),
            threads => threads.into(),
        })
    }

    /// An address to listen on.
    ///
    /// # Errors
    /// When the value is none.
    pub fn address(&self, key: &str) -> Result<SocketAddr, SettingsError> {
        self.parse(key, "an IP address and a port, like `127.0.0.1:5001` or `[::1]:5001`")
    }

    /// A URL to put paths after: `https` or `http`, with a host, without query
    /// or fragment (as RFC 8414 §2 wants of an issuer).
    ///
    /// # Errors
    /// When the value is none.
    pub fn base_url(&self, key: &str) -> Result<String, SettingsError> {
        let text = self.get::<String>(key)?;
        let Err(error) = matchbook_shared::base_url(&text) else { return Ok(text) };
        let problem = format!("{error}; write it like `https://auth.example.com`");
        // What stands before an `@` may be a password.
        if text.contains('@') {
            let origin = self.origin(key);
            return Err(SettingsError(sentence(&format!("`{key}` ({origin}): {problem}"))));
        }
        Err(self.invalid(key, &problem))
    }

    /// The refusal of a value, with its name and where it was set.
    #[must_use]
    pub fn invalid(&self, key: &str, problem: &str) -> SettingsError {
        let shown = if self.secrets.contains(&key) {
            String::new()
        } else {
            self.in_force.get(key).map(|value| format!(" = {}", toml(value))).unwrap_or_default()
        };
        let origin = self.origin(key);
        let line = self.file.as_ref().filter(|(name, _)| *name == origin);
        let line = line.and_then(|(_, lines)| lines.get(key));
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        SettingsError(sentence(&format!("`{key}`{shown} ({origin}{line}): {problem}")))
    }

    /// Where the value of `key` was set.
    fn origin(&self, key: &str) -> String {
        match self.in_force.get(key).and_then(Value::origin) {
            Some(origin) => origin.to_owned(),
            None => "default".to_owned(),
        }
    }

    /// Writes every setting in force, secrets masked, with its origin.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (key, value) in &self.in_force {
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

/// How many cores this process may use.
#[must_use]
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Where a program that listens on `address` is reached from its own machine.
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

/// What stands in the place of a password.
const HIDDEN: &str = "********";

/// A connection URL fit for a log: the password, in the authority or as a
/// parameter, replaced by asterisks.
#[must_use]
pub fn redact_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // `host=… password=…`, or a mistake.
        return if url.contains(['=', '@']) { HIDDEN.to_owned() } else { url.to_owned() };
    };
    // What follows the last `@` is no password, whatever is in front of it.
    let (credentials, rest) =
        rest.rsplit_once('@').map_or((None, rest), |(before, after)| (Some(before), after));
    let mut shown = format!("{scheme}://");
    if let Some(credentials) = credentials {
        let user = credentials.split(':').next().unwrap_or_default();
        if user.contains(['/', '?', '#']) {
            // An `@` in a parameter, which may be the password.
            return shown + HIDDEN;
        }
        for part in [user, ":", HIDDEN, "@"] {
            shown.push_str(part);
        }
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let end = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(end);
    match authority.split_once(':') {
        // `user:password` with its host forgotten.
        Some((user, port)) if credentials.is_none() && port.contains(char::is_alphabetic) => {
            let is_address = authority.starts_with('[') || authority.contains(',');
            shown.push_str(if is_address { authority } else { user });
            shown.push_str(if is_address { "" } else { ":********" });
        }
        _ => shown.push_str(authority),
    }
    shown.push_str(path);
    for (i, parameter) in query.split('&').enumerate().filter(|_| rest.contains('?')) {
        shown.push(if i == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, _)) if name.contains("password") || name.contains('%') => {
                shown.push_str("password=********");
            }
            Some(_) => shown.push_str(parameter),
            None if parameter.is_empty() => {}
            // The rest of a password with an `&`.
            None => shown.push_str(HIDDEN),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: ConfigSources = ConfigSources {
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
        let loaded = LAYERS.load(Some(&path));
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    fn refusal<T>(result: Result<T, SettingsError>) -> String {
        result.err().expect("it is refused").to_string()
    }

    #[test]
    fn a_typo_is_refused_with_the_nearest_name() {
        let said = refusal(load("[server]\nadress = '127.0.0.1:1'"));
        assert!(said.contains("`server.adress`"), "{said}");
        assert!(said.contains("did you mean `server.address`?"), "{said}");
    }

    #[test]
    fn a_value_of_the_wrong_type_names_the_setting() {
        let said =
            refusal(load("[server]\nworkers = 'many'").unwrap().get::<u16>("server.workers"));
        assert!(said.starts_with("`server.workers` = \"many\""), "{said}");
    }

    #[test]
    fn a_number_out_of_range_names_the_setting() {
        let said = refusal(load("[server]\nworkers = 70000").unwrap().get::<u16>("server.workers"));
        assert!(said.starts_with("`server.workers` = 70000"), "{said}");
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        let settings = load("[tokens]\naccess_lifetime = '15'").unwrap();
        let said = refusal(settings.duration("tokens.access_lifetime"));
        assert!(said.contains("like `90s`"), "{said}");
        let settings = load("[tokens]\naccess_lifetime = '0s'").unwrap();
        assert!(
            refusal(settings.duration("tokens.access_lifetime")).contains("from a millisecond")
        );
    }

    #[test]
    fn a_mistake_in_the_file_has_its_line() {
        let said = refusal(load("[server]\nadress = '127.0.0.1:1'"));
        assert!(said.contains(".toml, line 2 is not a setting"), "{said}");
        let settings = load("[server]\n# Many.\nworkers = 'many'").unwrap();
        let said = refusal(settings.get::<u16>("server.workers"));
        assert!(said.contains(".toml, line 3): "), "{said}");
    }

    #[test]
    fn a_file_with_a_secret_that_others_can_read_is_reported() {
        use std::os::unix::fs::PermissionsExt;
        let warnings = |text: &str, mode: u32| {
            let path = std::env::temp_dir().join(format!("open-{}.toml", uuid::Uuid::new_v4()));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let settings = LAYERS.load(Some(&path)).unwrap();
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
        let mut shown = Vec::new();
        settings.print(&mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("postgres://me:********@db/x?sslmode=require"), "{shown}");
        assert_eq!(redact_password("postgres://me:hu?sh@db/x"), "postgres://me:********@db/x");
        assert_eq!(redact_password("postgres://db/x?a=b"), "postgres://db/x?a=b");
        for odd in [
            "postgres://db/x?password=hu@sh",
            "postgres://me@db/x?password=hu&sh",
            "postgres://me@db/x?p%61ssword=hush",
            "postgres://me@db/x?sslpassword=hush",
            "postgres://me:hush/x",
            "postgres://me:a:hush@b@db/x",
            "host=db password=hush",
        ] {
            let shown = redact_password(odd);
            assert!(!shown.contains("hu") && !shown.contains("sh"), "{odd}: {shown}");
        }
        for plain in ["redis://localhost:6379/0", "https://[::1]:5001", "https://x/?", "none"] {
            assert_eq!(redact_password(plain), plain);
        }
        assert!(!settings.invalid("secret", "is too short").to_string().contains("hush"));
    }
}
