//! The client app's settings: defaults, then the file, then the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use matchbook_client::RootCerts;
use matchbook_settings::{
    AtLeastOne, BaseUrl, BindAddress, CaFile, ConfigSources, Logging, Optional, PositiveDuration,
    Settings, SettingsError, Threads,
};
use serde::Deserialize;

use crate::csrf::parse_hosts;

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
    /// The token file of the commands.
    pub(crate) store: PathBuf,
    /// The folder of the app's browser sessions. `None`: in memory only.
    pub(crate) browsers: Option<PathBuf>,
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
    let client: Client = settings.section("client")?;
    let server: Server = settings.section("server")?;
    let Store { path: Optional(path), browsers: Optional(browsers) } = settings.section("store")?;
    let path = path.ok_or_else(|| settings.invalid("store.path", "must name a file"))?;
    let address = client.address.0;
    let config = Config {
        address,
        hosts: client.hosts.0.map_or_else(Vec::new, |Hosts(hosts)| hosts),
        workers: client.workers.0,
        demo: match client.demo {
            Demo::On => true,
            Demo::Off => false,
            Demo::Auto => address.ip().is_loopback(),
        },
        logins: NonZeroU32::new(client.logins),
        sessions: client.sessions.0.get() as usize,
        cookie_secure: client.cookie_secure,
        trust: server.trust(),
        server_url: server.url.0,
        timeout: server.timeout.0,
        store: token_file(path),
        browsers: browsers.map(browser_folder),
        log: settings.section("log")?,
    };
    Ok((config, settings))
}

/// The section `[client]`.
#[derive(Deserialize)]
struct Client {
    address: BindAddress,
    hosts: Optional<Hosts>,
    workers: Threads,
    demo: Demo,
    logins: u32,
    sessions: AtLeastOne,
    cookie_secure: bool,
}

/// Host names, separated by commas.
struct Hosts(Vec<String>);

impl TryFrom<String> for Hosts {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_hosts(&text).map(Self).map_err(|entry| {
            format!(
                "must be host names or IP addresses without ports, separated by commas: `{entry}` \
                 is neither"
            )
        })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
enum Demo {
    On,
    Off,
    /// On, if the app listens on a loopback address.
    Auto,
}

impl TryFrom<String> for Demo {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "true" => Ok(Self::On),
            "false" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            _ => Err("must be true, false or \"auto\""),
        }
    }
}

/// The section `[server]`.
#[derive(Deserialize)]
struct Server {
    url: BaseUrl,
    ca_file: CaFile,
    timeout: PositiveDuration,
}

impl Server {
    /// Returns the trusted CAs. Plain HTTP has no certificate, so it needs no CA.
    fn trust(&self) -> RootCerts {
        match &self.ca_file.0 {
            Some(path) if !self.url.0.starts_with("http://") => RootCerts::File(path.clone()),
            _ => RootCerts::System,
        }
    }
}

/// The section `[store]`.
#[derive(Deserialize)]
struct Store {
    path: Optional<PathBuf>,
    browsers: Optional<PathBuf>,
}

/// The token file of earlier versions, relative to the working directory.
const LEGACY_STORE: &str = "data/client/tokens.json";

/// Returns the token file that `store.path` selects. "auto" is an existing legacy file, or
/// the one in the platform's state directory.
fn token_file(path: PathBuf) -> PathBuf {
    if path != Path::new("auto") {
        return path;
    }
    let legacy = Path::new(LEGACY_STORE);
    if legacy.exists() {
        return legacy.to_owned();
    }
    in_state_dir("tokens.json", legacy)
}

/// Returns the folder that `store.browsers` selects. "auto" is one in the platform's state
/// directory, or in the working directory.
fn browser_folder(path: PathBuf) -> PathBuf {
    if path != Path::new("auto") {
        return path;
    }
    in_state_dir("browsers", Path::new("data/client/browsers"))
}

/// Returns the path of `name` in the platform's state directory, or `fallback` if there is
/// none.
fn in_state_dir(name: &str, fallback: &Path) -> PathBuf {
    let directory = state_dir(|variable| std::env::var_os(variable));
    directory.map_or_else(|| fallback.to_owned(), |path| path.join("matchbook").join(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_defaults_differ_from_app_defaults_only_in_the_log_level() {
        let lines = DEFAULTS.lines().zip(COMMAND_DEFAULTS.lines());
        let differing: Vec<_> = lines.filter(|(app, command)| app != command).collect();
        assert_eq!(differing, [(APP_LOG_LEVEL, COMMAND_LOG_LEVEL)]);
    }

    #[test]
    fn every_setting_of_the_defaults_is_read() {
        let (_, settings) = load(None, Purpose::App).unwrap();
        let mut printed = Vec::new();
        settings.print(&mut printed).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for key in printed.lines().map(|line| line.split_once(" = ").unwrap().0) {
            let (section, name) = key.split_once('.').unwrap();
            std::fs::write(file.path(), format!("[{section}]\n{name} = []")).unwrap();
            let error = load(Some(file.path()), Purpose::App).err().expect("it is rejected");
            assert!(error.to_string().starts_with(&format!("`{key}`")), "{key}: {error}");
        }
    }
}
