//! The listeners: the sections `[server]` and `[metrics]`.

use std::net::SocketAddr;
use std::time::Duration;

use matchbook_settings::{
    AtLeastOne, BaseUrl, BindAddress, Optional, PositiveDuration, Threads, WholeSeconds,
};
use serde::Deserialize;

use crate::proxies::TrustedProxies;

#[derive(Deserialize)]
pub(super) struct Server {
    pub(super) address: BindAddress,
    pub(super) workers: Threads,
    max_connections: AtLeastOne,
    pub(super) keep_alive: KeepAlive,
    pub(super) drain: UpToAnHour,
    pub(super) shutdown_timeout: WholeSeconds,
    trusted_proxies: Optional<ProxyList>,
    pub(super) proxy_protocol: bool,
    pub(super) public_url: Optional<BaseUrl>,
}

impl Server {
    pub(super) fn max_connections(&self) -> usize {
        self.max_connections.0.get() as usize
    }

    pub(super) fn trusted_proxies(self) -> TrustedProxies {
        self.trusted_proxies.0.map_or_else(TrustedProxies::default, |ProxyList(proxies)| proxies)
    }
}

/// The maximum of `server.keep_alive`, `server.drain` and `redis.trusted_without_database`.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The time for which an idle connection stays open: at most an hour.
#[derive(Deserialize)]
#[serde(try_from = "PositiveDuration")]
pub(super) struct KeepAlive(pub(super) Duration);

impl TryFrom<PositiveDuration> for KeepAlive {
    type Error = &'static str;

    fn try_from(PositiveDuration(time): PositiveDuration) -> Result<Self, Self::Error> {
        if time <= MAX_WAIT { Ok(Self(time)) } else { Err("must be at most an hour") }
    }
}

/// A time up to an hour, which may be zero.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct UpToAnHour(pub(super) Duration);

impl TryFrom<String> for UpToAnHour {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match humantime::parse_duration(&text) {
            Ok(time) if time <= MAX_WAIT => Ok(Self(time)),
            Ok(_) => Err("must be at most an hour"),
            Err(_) => Err("must be a duration with a unit, like `15s`, or `0s`"),
        }
    }
}

/// Addresses and networks, separated by commas.
struct ProxyList(TrustedProxies);

impl TryFrom<String> for ProxyList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        TrustedProxies::parse(&text).map(Self).map_err(|entry| {
            format!("must be addresses or networks, separated by commas; `{entry}` is not one")
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Metrics {
    pub(super) address: MetricsAddress,
}

/// An address, or `None` for "off".
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct MetricsAddress(pub(super) Option<SocketAddr>);

impl TryFrom<String> for MetricsAddress {
    type Error = <BindAddress as TryFrom<String>>::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "off" {
            return Ok(Self(None));
        }
        BindAddress::try_from(text).map(|BindAddress(address)| Self(Some(address)))
    }
}
