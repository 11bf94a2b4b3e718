//! Matchbook's server: short-lived access tokens and rotated refresh tokens.
//!
//! The modules in reading order. Each uses only modules that come after it.

pub mod cli;

pub mod app;

pub mod http;

pub mod issuer;

pub mod config;

pub mod tls;

pub mod sweeper;

pub mod sessions;

pub mod keys;
pub mod token_status;

pub mod connections;

pub mod limits;
pub mod metrics;
pub mod proxies;

pub mod data_dir;
pub mod secrets;
pub mod store;

pub mod tokens;

pub mod ids;

pub mod crypto;

pub mod clock;
