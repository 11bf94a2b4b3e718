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
pub mod secret;
pub mod serve;
pub mod sessions;
pub mod users;

use std::io::{self, Write};
use std::time::Duration;

/// The time after which every running server has read a change in the database.
const PROPAGATION_TIME: Duration = Duration::from_secs(3);

fn print(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}
