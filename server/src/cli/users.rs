//! `matchbook-server users …`: adds, imports, lists and changes users.

mod add;
mod change;
mod group;
mod import;
mod invite;
mod list;
mod show;
mod user_sessions;

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use secrecy::SecretString;
use uuid::Uuid;

use crate::accounts::{
    HashError, InvalidDisplayName, InvalidGroupName, InvalidName, LoginName, Unacceptable,
};
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::crypto::RngError;
use crate::ids::{EventId, UserId};
use crate::mail;
use crate::sessions::{ClientInfo, Context};
use crate::store::{self, Conn, OpenError, identities, users};

#[derive(Clone, Subcommand)]
pub enum Command {
    /// Add an account.
    Add(Add),
    /// Print all accounts, one login name per line.
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Print an account, and what keeps its user from logging in.
    Show(One),
    /// Print a link with which a new user registers, once.
    Invite(Invite),
    /// Let a disabled user log in again.
    Enable(One),
    /// Reject the logins of a user, and end all sessions of the user at every server.
    Disable(One),
    /// Remove the second factor of a user after the loss of app and recovery codes.
    RemoveSecondFactor(One),
    /// Delete a user with everything that belongs to it, and end all its sessions. Entries of
    /// the audit log stay, without a name.
    Delete(One),
    /// Print a link with which a user sets a new password, once.
    ResetPassword {
        #[command(flatten)]
        one: One,
        /// Instead, set the password in the first line of standard input, and end all sessions
        /// of the user.
        #[arg(long, conflicts_with = "mail")]
        password_stdin: bool,
        /// Send the link to the email address of the user, instead of printing it.
        #[arg(long)]
        mail: bool,
    },
    /// Print the live sessions of a user, or end them.
    Sessions {
        #[command(flatten)]
        one: One,
        /// End all of them at every server.
        #[arg(long)]
        end: bool,
    },
    /// Add users to groups, remove them, and list the groups.
    #[command(subcommand)]
    Group(group::Command),
    /// Add the users in a file of JSON lines, with their password hashes and refresh tokens.
    Import(Import),
}

/// The user that a command is about.
#[derive(Clone, Args)]
pub struct One {
    /// The login name or the id of the user.
    #[arg(value_name = "NAME-OR-ID")]
    user: String,
    /// Print a JSON object, or an array of several.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Args)]
pub struct Add {
    /// The login name: an email address or a user name.
    name: String,
    /// Read the password from the first line of standard input. Without a password, the user
    /// needs a link from `users reset-password`.
    #[arg(long)]
    password_stdin: bool,
    /// Mark the user as an administrator.
    #[arg(long)]
    admin: bool,
    /// The name that people see.
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Args)]
pub struct Invite {
    /// The login name of the account. Without a name, the invited user chooses one.
    name: Option<String>,
    /// Make the user an administrator.
    #[arg(long)]
    admin: bool,
    /// Send the link to the email address that is the login name, instead of printing it.
    #[arg(long, requires = "name")]
    mail: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Args)]
pub struct Import {
    /// The file: a JSON object per line, see docs/accounts.md.
    file: PathBuf,
    /// Check the file, and import nothing.
    #[arg(long)]
    check: bool,
    /// Ignore lines whose login name exists, instead of rejecting the file.
    #[arg(long)]
    skip_existing: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// The reasons why a command fails, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed, so run the command again: {0}")]
    Query(#[from] diesel::result::Error),
    #[error("{0:?} is not a login name: {InvalidName}")]
    InvalidName(String),
    #[error("there is no user {0:?}: `users list` prints the names")]
    NotFound(String),
    #[error("{0} is a guest: it has no account")]
    Guest(UserId),
    #[error("{0} has no login name, and so needs no password")]
    NoLoginName(UserId),
    #[error("the login name {0:?} is taken")]
    NameTaken(String),
    #[error(transparent)]
    DisplayName(#[from] InvalidDisplayName),
    #[error(transparent)]
    GroupName(#[from] InvalidGroupName),
    #[error("{0} is in as many groups as possible: remove the user from another one first")]
    TooManyGroups(String),
    #[error("give the password on standard input, for example from a file: `< FILE`")]
    NoPassword,
    #[error("{}", .0.message())]
    Unacceptable(Unacceptable),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0} of the file cannot be imported; nothing has been imported")]
    BadLines(String),
    #[error("the file has changed while it was imported: nothing has been imported")]
    FileChanged,
    #[error("no mail can be sent: set `smtp.url` and `mail.from`")]
    NoMail,
    #[error("{0} is not an email address: run the command without --mail")]
    NoAddress(String),
    #[error("the mail with the link was not sent, so run the command again: {0}")]
    Mail(#[from] mail::Error),
    #[error("cannot read the password or write the output: {0}")]
    Terminal(#[from] io::Error),
}

/// Carries out a command and prints its result. Blocks, except while it sends a mail.
pub async fn run(config: &Config, command: &Command) -> Result<(), Error> {
    let output = match command {
        Command::Add(new) => add::add(config, new)?,
        Command::List { json } => return list::list(config, *json),
        Command::Show(one) => show::show(config, one)?,
        Command::Invite(invite) => invite::invite(config, invite).await?,
        Command::Enable(one) => change::enable(config, one)?,
        Command::Disable(one) => change::disable(config, one)?,
        Command::RemoveSecondFactor(one) => change::remove_second_factor(config, one)?,
        Command::Delete(one) => change::delete(config, one)?,
        Command::ResetPassword { one, password_stdin: true, .. } => {
            change::set_password(config, one)?
        }
        Command::ResetPassword { one, mail, .. } => invite::reset(config, one, *mail).await?,
        Command::Sessions { one, end: false } => user_sessions::list(config, one)?,
        Command::Sessions { one, end: true } => user_sessions::end(config, one)?,
        Command::Group(command) => group::run(config, command)?,
        Command::Import(arguments) => return import::import(config, arguments),
    };
    Ok(super::print(&output)?)
}

/// Finds a user by its id or its login name.
fn find(conn: &mut Conn, text: &str) -> Result<UserId, Error> {
    let not_found = || Error::NotFound(text.to_owned());
    if let Ok(id) = Uuid::parse_str(text) {
        let user = UserId(id);
        return if users::exists(conn, user)? { Ok(user) } else { Err(not_found()) };
    }
    let name = LoginName::parse(text).map_err(|_| not_found())?;
    let identity = identities::find(conn, name.as_str())?;
    identity.map(|identity| identity.user).ok_or_else(not_found)
}

/// Opens the database for a change.
fn connect_to_change(config: &Config) -> Result<Conn, Error> {
    Ok(store::connect_to_change(&config.database.url)?)
}

/// The circumstances of a change by an operator.
struct Operator {
    client: ClientInfo,
    event: EventId,
    now: Timestamp,
}

impl Operator {
    fn new() -> Result<Self, Error> {
        let now = clock::now();
        Ok(Self { client: ClientInfo::command_line(), event: EventId::new(now)?, now })
    }

    fn context<'a>(&'a self, config: &'a Config) -> Context<'a> {
        Context { policy: &config.policy, client: &self.client, event: self.event, now: self.now }
    }
}

/// The maximum length of a password on standard input, in bytes.
const MAX_PASSWORD_LEN: u64 = 8 * 1024;

/// Reads a password from the first line of standard input: other users can read a command
/// line.
fn read_password() -> Result<SecretString, Error> {
    if io::stdin().is_terminal() {
        eprintln!("Type the password, then press Enter. It is visible.");
    }
    let mut line = String::new();
    io::stdin().lock().take(MAX_PASSWORD_LEN).read_line(&mut line)?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Error::NoPassword);
    }
    Ok(password.into())
}
