//! `matchbook-server sessions …`: ends sessions, for example after a restored backup.

use std::io;
use std::time::SystemTime;

use clap::{ArgGroup, Subcommand};
use humantime::parse_rfc3339;
use uuid::Uuid;

use super::propagation::await_servers;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::crypto::RngError;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context, end_selected};
use crate::store::sessions::Selection;
use crate::store::{self, OpenError};

#[derive(Clone, Subcommand)]
pub enum Command {
    /// End sessions at every server. The audit log records them as logged out.
    #[command(group = ArgGroup::new("which").required(true).args(["before", "user", "all"]))]
    End {
        /// Sessions that were opened before this time, like 2026-11-27T08:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = parse_rfc3339)]
        before: Option<SystemTime>,
        /// Sessions of the user with this id.
        #[arg(long, value_name = "ID")]
        user: Option<Uuid>,
        /// All sessions.
        #[arg(long)]
        all: bool,
    },
}

/// The reasons why the sessions are not ended, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed: {0}; some sessions may have ended: run this command again")]
    Query(#[from] diesel::result::Error),
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Carries out a command and prints its result. Blocks.
pub fn run(config: &Config, command: &Command) -> Result<(), Error> {
    let Command::End { before, user, .. } = *command;
    let selection = Selection {
        user: user.map(UserId),
        opened_before: before.map(Timestamp::from),
        client: None,
    };
    Ok(super::print(&end(config, &selection)?)?)
}

/// Ends the selected sessions, and waits until every server rejects their access tokens. Can be
/// run again after a failure.
fn end(config: &Config, selection: &Selection) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let now = clock::now();
    let event = EventId::new(now)?;
    let client = ClientInfo::command_line();
    let cx = Context { policy: &config.policy, client: &client, event, now };
    let ended = end_selected(&mut conn, selection, &cx)?;
    // Also if none has: an earlier command may have been interrupted after its commit.
    await_servers(&mut conn, config);
    let sessions = if ended == 1 { "session has" } else { "sessions have" };
    Ok(format!("{ended} {sessions} ended\n"))
}
