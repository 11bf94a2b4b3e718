//! Subcommands that work on the database and the data folder, beside a running server.

pub mod explain;
pub mod keys;
pub mod secret;
pub mod sessions;
