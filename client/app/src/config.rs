//! The client app's settings: defaults < file < environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use matchbook_client::RootCerts;
use matchbook_settings::{ConfigSources, Log, Settings, SettingsError};

const DEFAULTS: &str = include_str!("../default.toml");

/// The level of the app's log, and of the log of a command in a script: unless
/// somebody wants to see more, it writes its result and nothing else.
const LEVELS: [&str; 2] = ["level = \"info,matchbook_client=debug\"", "level = \"warn\""];

static DEFAULTS_OF_COMMANDS: LazyLock<String> =
    LazyLock::new(|| DEFAULTS.replace(LEVELS[0], LEVELS[1]));

/// What is to be run with the settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The app.
    App,
    /// A command of a script's.
    Command,
}

/// Everything that can be set, checked. `default.toml` says what each means.
pub(crate) struct Config {
    pub(crate) address: SocketAddr,
    /// In small letters.
    pub(crate) hosts: Vec<String>,
    pub(crate) workers: usize,
    pub(crate) demo: bool,
    /// Log-ins a minute from one address. `None`: any number.
    pub(crate) logins: Option<NonZeroU32>,
    pub(crate) sessions: usize,
    pub(crate) cookie_secure: bool,
    pub(crate) server_url: String,
    pub(crate) trust: RootCerts,
    pub(crate) timeout: Duration,
    pub(crate) store: PathBuf,
    pub(crate) log: Log,
}

/// Reads the settings: `file`, or `matchbook-client.toml` where that exists.
///
/// # Errors
/// The first thing that is wrong, as a sentence.
pub(crate) fn load(
    file: Option<&Path>,
    purpose: Purpose,
) -> Result<(Config, Settings), SettingsError> {
    let layers = ConfigSources {
        defaults: match purpose {
            Purpose::App => DEFAULTS,
            Purpose::Command => &DEFAULTS_OF_COMMANDS,
        },
        file: "matchbook-client.toml",
        prefix: "MATCHBOOK_CLIENT",
        others: &["MATCHBOOK"],
        aliases: &[],
        secrets: &[],
    };
    let settings = layers.load(file)?;
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
        log: settings.log()?,
    };
    Ok((config, settings))
}

/// Where tokens were kept before there was a default for each platform.
const OLD_STORE: &str = "data/client/tokens.json";

/// The file of the tokens: the one that is set, one that an earlier version left in
/// this folder, or the one in the platform's folder for state.
fn store(settings: &Settings) -> Result<PathBuf, SettingsError> {
    let path = settings.path("store.path")?;
    let path = path.ok_or_else(|| settings.invalid("store.path", "must name a file"))?;
    if path != Path::new("auto") {
        return Ok(path);
    }
    let old = Path::new(OLD_STORE);
    let state = if old.exists() { None } else { state_folder(|name| std::env::var_os(name)) };
    Ok(state.map_or_else(|| old.to_owned(), |folder| folder.join("matchbook/tokens.json")))
}

/// The folder for the state of programs. A relative one is invalid (XDG Base
/// Directory Specification).
fn state_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || folder("HOME").filter(|home| home != Path::new("/"));
    if cfg!(target_os = "macos") {
        return home().map(|home| home.join("Library/Application Support"));
    }
    folder("XDG_STATE_HOME").or_else(|| home().map(|home| home.join(".local/state")))
}

/// Whom to trust. Plain HTTP shows no certificate, so it needs no CA.
fn trust(settings: &Settings, server_url: &str) -> Result<RootCerts, SettingsError> {
    if server_url.starts_with("http://") {
        return Ok(RootCerts::System);
    }
    Ok(settings.ca_file("server.ca_file")?.map_or(RootCerts::System, RootCerts::File))
}

fn hosts(settings: &Settings) -> Result<Vec<String>, SettingsError> {
    let key = "client.hosts";
    crate::csrf::hosts(&settings.list(key)?).map_err(|entry| {
        let problem =
            format!("must be names or addresses with commas between, no ports; `{entry}` is none");
        settings.invalid(key, &problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_command_differs_from_that_of_the_app_in_its_level_alone() {
        let lines = DEFAULTS.lines().zip(DEFAULTS_OF_COMMANDS.lines());
        let differing: Vec<_> = lines.filter(|(app, command)| app != command).collect();
        assert_eq!(differing, [(LEVELS[0], LEVELS[1])]);
    }
}
