//! `matchbook-server apply`: makes the users in the database those that a file declares.

use std::io;
use std::path::PathBuf;
use std::thread;

use clap::Args;
use serde::Serialize;

use super::PROPAGATION_TIME;
use super::format::to_json;
use crate::accounts::declared::{ApplyContext, DeclaredError, DeclaredUsers, apply};
use crate::config::Config;
use crate::store::{self, OpenError};

#[derive(Clone, Args)]
pub struct Arguments {
    /// The file that declares users; by default that of the setting `accounts.file`.
    file: Option<PathBuf>,
    /// Print the difference and change nothing. Fails if there is one.
    #[arg(long)]
    check: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// The reasons why the command fails, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("name a file, or set `accounts.file`")]
    NoFile,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    #[error("the database differs from the file")]
    Different,
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

#[derive(Serialize)]
struct Report {
    /// Whether the changes were carried out.
    applied: bool,
    changes: Vec<String>,
    /// How many sessions ended.
    ended: usize,
}

/// Carries out the command and prints the changes. Blocks.
pub fn run(config: &Config, arguments: &Arguments) -> Result<(), Error> {
    let file = arguments.file.as_ref().or(config.accounts.file.as_ref()).ok_or(Error::NoFile)?;
    let declared = DeclaredUsers::read(file)?;
    let mut conn = if arguments.check {
        store::connect(&config.database.url)?
    } else {
        store::connect_to_change(&config.database.url)?
    };
    let differences = declared.compare(&mut conn).map_err(DeclaredError::from)?;
    let changes: Vec<String> = differences.iter().map(ToString::to_string).collect();
    let mut report = Report { applied: !arguments.check, changes, ended: 0 };
    if !arguments.check {
        let context = ApplyContext {
            policy: &config.policy,
            password_min_length: config.accounts.password_min_length,
        };
        for difference in differences {
            report.ended += apply(&mut conn, difference, context)?;
        }
        if report.ended > 0 {
            thread::sleep(PROPAGATION_TIME);
        }
    }
    let output = if arguments.json {
        to_json(&report)
    } else if report.changes.is_empty() {
        "no change\n".to_owned()
    } else {
        report.changes.join("\n") + "\n"
    };
    super::print(&output)?;
    let is_different = arguments.check && !report.changes.is_empty();
    if is_different { Err(Error::Different) } else { Ok(()) }
}
