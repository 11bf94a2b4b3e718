//! Matchbook's server: short-lived access tokens, long-lived rotated refresh
//! tokens.
//!
//! The modules in reading order. Each uses only those that come after it:
//! `app → http → error → state → config → sweeper → sessions → keys, active →
//! metrics, limits, proxies → store → token → clock`; `explain`, `key_commands`, `secret_commands` and
//! `session_commands` stand beside `app`, and `tls`, `secret` and `data_dir` serve it.

pub mod app;
pub mod explain;
pub mod key_commands;
pub mod secret_commands;
pub mod session_commands;
pub mod tls;

pub mod http;

pub mod error;
pub mod state;

pub mod config;

pub mod sweeper;

pub mod sessions;

pub mod active;
pub mod keys;

pub mod limits;
pub mod metrics;
pub mod proxies;

pub mod connections;
pub mod data_dir;
pub mod secret;
pub mod store;

pub mod token;

pub mod clock;
