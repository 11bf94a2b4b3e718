//! The settings: defaults, overridden by the file, overridden by the environment. An invalid
//! setting stops the start.
//!
//! Each module reads one section, or sections that belong together.

mod accounts;
mod ca_file;
mod check;
mod database;
pub mod forward_auth;
mod general;
mod limits;
mod mail;
mod oauth;
pub mod pages;
mod redis;
mod server;
mod sessions;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matchbook_settings::{ConfigSources, Logging, Settings, SettingsError};
use secrecy::SecretString;

use self::general::General;
use self::server::{Metrics, Server};
use self::sessions::Events;
use crate::proxies::TrustedProxies;
use crate::sessions::Policy;
use crate::{keys, store, token_status};

const SOURCES: ConfigSources = ConfigSources {
    defaults: include_str!("../default.toml"),
    file: "matchbook.toml",
    prefix: "MATCHBOOK",
    others: &["MATCHBOOK_CLIENT"],
    aliases: &[("DATABASE_URL", "database.url"), ("REDIS_URL", "redis.url")],
    secrets: &["secret", "old_secrets", "database.url", "redis.url", "smtp.url"],
};

/// All settings, checked. `default.toml` documents them.
pub struct Config {
    pub data_dir: PathBuf,
    /// The configured secret; `None` if the server generates one.
    pub secret: Option<SecretString>,
    pub old_secrets: Vec<SecretString>,
    pub address: SocketAddr,
    /// The number of threads that handle requests.
    pub workers: usize,
    /// The time for which an idle connection stays open.
    pub keep_alive: Duration,
    /// The time for which the server goes on to serve after SIGTERM, while its health checks
    /// fail.
    pub drain: Duration,
    /// The time for which a stopping server waits for requests.
    pub shutdown_timeout: Duration,
    /// The maximum number of open connections.
    pub max_connections: usize,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub proxies: TrustedProxies,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// The rate limits; `None` if they are disabled.
    pub limits: Option<crate::limits::Options>,
    /// The address of the metrics, if they are enabled.
    pub metrics: Option<SocketAddr>,
    pub database: store::Options,
    pub redis: Option<token_status::Options>,
    /// How long a server trusts Redis while it cannot reach the database.
    pub trusted_without_database: Duration,
    pub tls: crate::tls::Mode,
    /// The signing keys and the claims of access tokens.
    pub keys: keys::Options,
    /// The lifetimes of tokens and sessions, and the rules of rotation.
    pub policy: Policy,
    /// The time for which entries of the audit log are kept.
    pub event_retention: Duration,
    /// The rules for accounts.
    pub accounts: crate::accounts::Options,
    /// The rules for OAuth clients.
    pub oauth: crate::clients::Options,
    /// How the pages look.
    pub pages: pages::Options,
    /// The URL by which users reach the server, for links.
    pub public_url: String,
    /// The applications that a proxy protects, if there are any.
    pub forward_auth: Option<forward_auth::Options>,
    /// How mail is sent; `None` if none is.
    pub mail: Option<crate::mail::Options>,
    pub log: Logging,
}

/// Reads the settings from `file`, or from `matchbook.toml` if it exists. The error describes
/// the first invalid setting.
pub fn load(file: Option<&Path>) -> Result<(Config, Settings), SettingsError> {
    let settings = SOURCES.load(file)?;
    let config = read(&settings)?;
    check::check(&settings, &config)?;
    Ok((config, settings))
}

fn read(settings: &Settings) -> Result<Config, SettingsError> {
    let general = General::read(settings)?;
    let server: Server = settings.section("server")?;
    let metrics: Metrics = settings.section("metrics")?;
    let events: Events = settings.section("events")?;
    let redis_trust: redis::Trust = settings.section("redis")?;
    let keys = tokens::read(settings)?;
    let public_url = mail::public_url(&server, &keys.issuer);
    let accounts = accounts::read(settings, server.address.0, &public_url)?;
    Ok(Config {
        secret: general.secret,
        old_secrets: general.old_secrets,
        address: server.address.0,
        workers: server.workers.0,
        keep_alive: server.keep_alive.0,
        drain: server.drain.0,
        shutdown_timeout: server.shutdown_timeout.0,
        max_connections: server.max_connections(),
        proxy_protocol: server.proxy_protocol,
        proxies: server.trusted_proxies(),
        accounts,
        pages: pages::read(settings)?,
        limits: limits::read(settings)?,
        metrics: metrics.address.0,
        database: database::read(settings, &general.data_dir)?,
        redis: redis::read(settings)?,
        trusted_without_database: redis_trust.trusted_without_database.0,
        tls: tls::read(settings)?,
        policy: sessions::read(settings, keys.access_lifetime)?,
        keys,
        event_retention: events.retention.0,
        oauth: oauth::read(settings)?,
        forward_auth: forward_auth::read(settings, &public_url)?,
        mail: mail::read(settings, &public_url)?,
        public_url,
        log: settings.section("log")?,
        data_dir: general.data_dir,
    })
}
