//! The client app's settings: defaults < file < environment.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use matchbook_client::Trust;
use matchbook_shared::settings::{Invalid, Layers, Log, Settings};

const LAYERS: Layers = Layers {
    defaults: include_str!("../default.toml"),
    file: "matchbook-client.toml",
    prefix: "MATCHBOOK_CLIENT",
    aliases: &[],
    secrets: &[],
};

/// Everything that can be set, checked. `default.toml` says what each means.
pub(crate) struct Config {
    pub(crate) address: SocketAddr,
    pub(crate) workers: usize,
    pub(crate) server_url: String,
    pub(crate) trust: Trust,
    pub(crate) timeout: Duration,
    pub(crate) log: Log,
}

/// Reads the settings: `file`, or `matchbook-client.toml` where that exists.
///
/// # Errors
/// The first thing that is wrong, as a sentence.
pub(crate) fn load(file: Option<&Path>) -> Result<(Config, Settings), Invalid> {
    let settings = LAYERS.load(file)?;
    let config = Config {
        address: settings.address("client.address")?,
        workers: settings.threads("client.workers")?,
        server_url: settings.base_url("server.url")?,
        trust: settings.path("server.ca_file")?.map_or(Trust::System, Trust::File),
        timeout: settings.duration("server.timeout")?,
        log: settings.log()?,
    };
    Ok((config, settings))
}
