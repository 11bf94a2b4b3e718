//! `matchbook-server apply`: makes the users and OAuth clients in the database those that
//! files declare.

use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::format::to_json;
use super::propagation::{PROPAGATION_TIME, await_servers};
use crate::accounts::declared::{self as users, DeclaredUsers};
use crate::clients::declared::{self as clients, DeclaredClients};
use crate::config::Config;
use crate::store::{self, Conn, OpenError};

#[derive(Clone, Args)]
pub struct Arguments {
    /// A file that declares users or OAuth clients; by default those of the settings
    /// `accounts.file` and `clients.file`.
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
    #[error("name a file, or set `accounts.file` or `clients.file`")]
    NoFile,
    #[error("{} declares neither `[[users]]` nor `[[clients]]`", .0.display())]
    Empty(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Users(#[from] users::DeclaredError),
    #[error(transparent)]
    Clients(#[from] clients::DeclaredError),
    #[error("the database differs from the file")]
    Different,
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The content of a file.
enum Declared {
    Users(DeclaredUsers),
    Clients(DeclaredClients),
}

enum Difference {
    User(users::Difference),
    Client(clients::Difference),
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
    let declared = read(config, arguments.file.as_deref())?;
    let mut conn = if arguments.check {
        store::connect(&config.database.url)?
    } else {
        store::connect_to_change(&config.database.url)?
    };
    let mut report = Report { applied: !arguments.check, changes: Vec::new(), ended: 0 };
    for declared in declared {
        for difference in declared.compare(&mut conn)? {
            report.changes.push(difference.describe());
            if !arguments.check {
                report.ended += difference.apply(&mut conn, config)?;
            }
        }
    }
    if report.ended > 0 {
        thread::sleep(PROPAGATION_TIME);
    }
    if !arguments.check {
        // Also if no session has ended: an earlier command may have been interrupted.
        await_servers(&mut conn, config);
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

/// Reads a file, or those of the settings.
fn read(config: &Config, file: Option<&Path>) -> Result<Vec<Declared>, Error> {
    let read_clients = |path: &Path| {
        let clients = DeclaredClients::read(path, config.oauth.allow_localhost)?;
        Ok::<_, Error>(Declared::Clients(clients))
    };
    let read_users = |path: &Path| Ok::<_, Error>(Declared::Users(DeclaredUsers::read(path)?));
    if let Some(file) = file {
        let declared = if declares_clients(file)? { read_clients(file) } else { read_users(file) };
        return Ok(vec![declared?]);
    }
    let users = config.accounts.file.as_deref().map(read_users);
    let clients = config.oauth.file.as_deref().map(read_clients);
    let declared: Vec<Declared> = users.into_iter().chain(clients).collect::<Result<_, _>>()?;
    if declared.is_empty() { Err(Error::NoFile) } else { Ok(declared) }
}

/// Returns whether a file declares clients, and not users. A file without either is
/// rejected: with `prune` it would disable all users or remove all clients.
fn declares_clients(path: &Path) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Keys {
        users: Option<serde::de::IgnoredAny>,
        clients: Option<serde::de::IgnoredAny>,
    }
    // An error is reported by the function that reads the file as users.
    let Ok(text) = fs::read_to_string(path) else { return Ok(false) };
    let Ok(keys) = toml::from_str::<Keys>(&text) else { return Ok(false) };
    match keys {
        Keys { users: None, clients: None } => Err(Error::Empty(path.to_owned())),
        Keys { clients, .. } => Ok(clients.is_some()),
    }
}

impl Declared {
    fn compare(&self, conn: &mut Conn) -> Result<Vec<Difference>, Error> {
        Ok(match self {
            Self::Users(declared) => {
                let differences = declared.compare(conn).map_err(users::DeclaredError::from)?;
                differences.into_iter().map(Difference::User).collect()
            }
            Self::Clients(declared) => {
                declared.compare(conn)?.into_iter().map(Difference::Client).collect()
            }
        })
    }
}

impl Difference {
    fn describe(&self) -> String {
        match self {
            Self::User(difference) => difference.to_string(),
            Self::Client(difference) => difference.to_string(),
        }
    }

    /// Applies the difference. Returns the number of sessions that ended.
    fn apply(self, conn: &mut Conn, config: &Config) -> Result<usize, Error> {
        Ok(match self {
            Self::User(difference) => {
                let context = users::ApplyContext {
                    policy: &config.policy,
                    password_min_length: config.accounts.password_min_length,
                };
                users::apply(conn, difference, context)?
            }
            Self::Client(difference) => clients::apply(conn, difference, &config.policy)?,
        })
    }
}
