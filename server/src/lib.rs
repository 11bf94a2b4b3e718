//! Matchbook's server: short-lived access tokens, long-lived rotated refresh
//! tokens.
//!
//! The modules in reading order. Each uses only those that come after it:
//! `app → http → error → state → config → sessions → keys, active → store →
//! token → clock`, and `tls` and `data_dir` serve `app`.

pub mod app;
pub mod tls;

pub mod http;

pub mod error;
pub mod state;

pub mod config;

pub mod sessions;

pub mod active;
pub mod keys;

pub mod data_dir;
pub mod store;

pub mod token;

pub mod clock;
