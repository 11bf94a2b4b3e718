//! `matchbook-server migrate`: creates or upgrades the tables in the database.

use std::fmt::Write;
use std::io;

use crate::app;
use crate::config::Config;
use crate::store::{self, OpenError};

/// The reasons why the command fails, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    DataDir(#[from] app::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the pending migrations and prints their versions. Blocks.
pub fn run(config: &Config) -> Result<(), Error> {
    app::prepare_data_dir(config)?;
    let url = &config.database.url;
    let versions = store::migrate(url)?;
    let mut output = String::new();
    for version in &versions {
        let _ = writeln!(output, "migrated to {version}");
    }
    if versions.is_empty() {
        let _ = writeln!(output, "nothing to migrate");
    }
    Ok(super::print(&output)?)
}
