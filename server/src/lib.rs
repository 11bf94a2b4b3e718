//! Matchbook's server: short-lived access tokens and rotated refresh tokens.
//!
//! The modules are in reading order: each imports only from modules after it. The test
//! `module_order` compares this list with the imports. In short: the command line starts
//! the application, which serves HTTP, and handlers call the issuer. The issuer applies
//! the rules of `sessions` to the `store`, with `keys` and `token_status`.

pub mod cli;

pub mod app;

pub mod http;

pub mod config;

pub mod grants;

pub mod accounts;

pub mod clients;

pub mod issuer;

pub mod tls;

pub mod backchannel;
pub mod sweeper;

pub mod sessions;

pub mod keys;
pub mod token_status;

pub mod connections;
pub mod proxy_protocol;

pub mod metrics;

pub mod draining;
pub mod limits;
pub mod proxies;

pub mod mail;

pub mod secrets;

pub mod data_dir;
pub mod store;

pub mod tokens;

pub mod ids;

pub mod crypto;

pub mod clock;
