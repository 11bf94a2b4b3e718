//! The client app's settings: defaults, then the file, then the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use matchbook_client::RootCerts;
use matchbook_settings::{ConfigSources, Logging, Settings, SettingsError};

const DEFAULTS: &str = include_str!("../default.toml");

/// The log level in `default.toml`, and the one that commands use instead: by default
/// a command prints its result and nothing else.
const APP_LOG_LEVEL: &str = "level = \"info,matchbook_client=debug\"";
const COMMAND_LOG_LEVEL: &str = "level = \"warn\"";

static COMMAND_DEFAULTS: LazyLock<String> =
    LazyLock::new(|| DEFAULTS.replace(APP_LOG_LEVEL, COMMAND_LOG_LEVEL));

/// The program that uses the settings. It decides the default log level.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The web app.
    App,
    /// A command for scripts.
    Command,
}

/// The validated settings. `default.toml` documents them.
pub(crate) struct Config {
    pub(crate) address: SocketAddr,
    /// Lower case.
    pub(crate) hosts: Vec<String>,
    pub(crate) workers: usize,
    pub(crate) demo: bool,
    /// Logins per minute from one address. `None`: no limit.
    pub(crate) logins: Option<NonZeroU32>,
    pub(crate) sessions: usize,
    pub(crate) cookie_secure: bool,
    pub(crate) server_url: String,
    pub(crate) trust: RootCerts,
    pub(crate) timeout: Duration,
    pub(crate) store: PathBuf,
    pub(crate) log: Logging,
}

/// Loads the settings from `file`, or from `matchbook-client.toml` if that exists.
///
/// # Errors
/// The first invalid setting.
pub(crate) fn load(
    file: Option<&Path>,
    purpose: Purpose,
) -> Result<(Config, Settings), SettingsError> {
    let sources = ConfigSources {
        defaults: match purpose {
            Purpose::App => DEFAULTS,
            Purpose::Command => &COMMAND_DEFAULTS,
        },
        file: "matchbook-client.toml",
        prefix: "MATCHBOOK_CLIENT",
        others: &["MATCHBOOK"],
        aliases: &[],
        secrets: &[],
    };
    let settings = sources.load(file)?;
    let sessions = settings.get::<u32>("client.sessions")?;
    if sessions == 0 {
        return Err(settings.invalid("client.sessions", "must be at least 1"));
    }
    let address = settings.address("client.address")?;
    let server_url = settings.base_url("server.url")?;
    let config = Config {
        address,
        hosts: hosts(&settings)?,
        workers: settings.threads("client.workers")?,
        demo: match settings.get::<String>("client.demo")?.as_str() {
            "auto" => address.ip().is_loopback(),
            "true" => true,
            "false" => false,
            _ => return Err(settings.invalid("client.demo", "must be true, false or \"auto\"")),
        },
        logins: NonZeroU32::new(settings.get("client.logins")?),
        sessions: sessions as usize,
        cookie_secure: settings.get("client.cookie_secure")?,
        trust: trust(&settings, &server_url)?,
        server_url,
        timeout: settings.duration("server.timeout")?,
        store: store(&settings)?,
        log: settings.logging()?,
    };
    Ok((config, settings))
}

/// The token file of earlier versions, relative to the working directory.
const LEGACY_STORE: &str = "data/client/tokens.json";

/// Returns the token file: the configured one, an existing legacy file, or the one in
/// the platform's state directory.
fn store(settings: &Settings) -> Result<PathBuf, SettingsError> {
    let path = settings.path("store.path")?;
    let path = path.ok_or_else(|| settings.invalid("store.path", "must name a file"))?;
    if path != Path::new("auto") {
        return Ok(path);
    }
    let legacy = Path::new(LEGACY_STORE);
    if legacy.exists() {
        return Ok(legacy.to_owned());
    }
    let directory = state_dir(|name| std::env::var_os(name));
    Ok(directory.map_or_else(|| legacy.to_owned(), |path| path.join("matchbook/tokens.json")))
}

/// Returns the directory for program state. Relative paths are invalid and ignored
/// (XDG Base Directory Specification).
fn state_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").filter(|home| home != Path::new("/"));
    if cfg!(target_os = "macos") {
        return home().map(|home| home.join("Library/Application Support"));
    }
    absolute("XDG_STATE_HOME").or_else(|| home().map(|home| home.join(".local/state")))
}

/// Returns the trusted CAs. Plain HTTP has no certificate, so it needs no CA.
fn trust(settings: &Settings, server_url: &str) -> Result<RootCerts, SettingsError> {
    if server_url.starts_with("http://") {
        return Ok(RootCerts::System);
    }
    Ok(settings.ca_file("server.ca_file")?.map_or(RootCerts::System, RootCerts::File))
}

fn hosts(settings: &Settings) -> Result<Vec<String>, SettingsError> {
    let key = "client.hosts";
    crate::csrf::parse_hosts(&settings.list(key)?).map_err(|entry| {
        let problem = format!(
            "must be host names or IP addresses without ports, separated by commas: `{entry}` is \
             neither"
        );
        settings.invalid(key, &problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_defaults_differ_from_app_defaults_only_in_the_log_level() {
        let lines = DEFAULTS.lines().zip(COMMAND_DEFAULTS.lines());
        let differing: Vec<_> = lines.filter(|(app, command)| app != command).collect();
        assert_eq!(differing, [(APP_LOG_LEVEL, COMMAND_LOG_LEVEL)]);
    }
}
