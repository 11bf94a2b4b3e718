//! The commands of `matchbook-server`, a module for each.

pub mod apply;
pub mod backends;
pub mod backup;
pub mod check_config;
pub mod clients;
pub mod explain;
mod format;
pub mod health;
pub mod keys;
pub mod migrate;
mod propagation;
pub mod secret;
pub mod serve;
pub mod sessions;
pub mod users;

use std::io::{self, Write};

fn print(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}
