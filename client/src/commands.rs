//! Commands for a script, which stays logged in between them: the tokens are in
//! a file.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures_util::StreamExt;
use matchbook_client::{Credential, Error, FileStore, Response, Server, ServerError, Session};
use matchbook_shared::UserInfo;

use crate::config::Config;

/// What a script can do.
#[derive(Clone, Subcommand)]
pub(crate) enum Command {
    /// Log in as a new guest; whoever was logged in before is not any more.
    Login(Store),
    /// Print who is logged in.
    Info(Store),
    /// Print what the server answers to `GET URL`.
    Get {
        /// A path below `server.url`, like `/user`, or a whole URL of that server.
        url: String,
        #[command(flatten)]
        store: Store,
    },
    /// End the session at the server, and forget its tokens.
    Logout(Store),
}

#[derive(Clone, Args)]
pub(crate) struct Store {
    /// The file of the tokens, in place of the setting `store.path`.
    #[arg(long = "store", value_name = "FILE")]
    path: Option<PathBuf>,
}

/// For `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes of login, info, get and logout:
  0  done; for `get`, the server answered 2xx
  1  another failure
  2  the command is not written as it should be
  3  nobody is logged in, or the session has ended: log in
  4  this may pass: try again later
  5  the server answered another status: its body is on standard output, the
     status on standard error";

/// What becomes of a command.
type Outcome = Result<(), Failure>;

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("not logged in: run `matchbook-client login` first")]
    NotLoggedIn,
    #[error("the session has ended: run `matchbook-client login` to log in again")]
    LoggedOut,
    #[error("{0}; try again later")]
    Transient(String),
    #[error("somebody has logged in anew meanwhile: run this again")]
    OtherSignIn,
    #[error("the server answers {0}")]
    Status(u16),
    #[error("{0}")]
    Usage(Error),
    #[error("{0}")]
    Other(String),
    /// Standard output was closed. Whoever did that has seen enough.
    #[error("standard output is closed")]
    Closed,
}

impl Failure {
    /// What the shell is told.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Closed => 0,
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::NotLoggedIn | Self::LoggedOut => 3,
            Self::Transient(_) | Self::OtherSignIn => 4,
            Self::Status(_) => 5,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NotLoggedIn => Self::NotLoggedIn,
            Error::LoggedOut(_) => Self::LoggedOut,
            Error::Transient { problem, .. } => Self::Transient(problem),
            Error::Superseded => Self::Transient(error.to_string()),
            Error::OtherSignIn => Self::OtherSignIn,
            Error::Invalid(_) | Error::ForeignOrigin(_) => Self::Usage(error),
            error => Self::Other(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Other(format!("standard output: {error}")),
        }
    }
}

/// Carries out a command.
pub(crate) async fn run(command: &Command, config: &Config) -> Outcome {
    let server = Server::new(&config.server_url, &config.trust, config.timeout).map_err(
        |error| match error {
            ServerError::Trust(error) => Failure::Other(format!("`server.ca_file`: {error}")),
            error => Failure::Other(format!("`server.url`: {error}")),
        },
    )?;
    let (Command::Login(store)
    | Command::Info(store)
    | Command::Get { store, .. }
    | Command::Logout(store)) = command;
    let store = FileStore::new(store.path.as_ref().unwrap_or(&config.store));
    let credential = Credential::builder().store(store).build();
    let session = Session::new(&server, credential);
    match command {
        Command::Login(_) => {
            session.log_in_as_guest().await?;
            say("Logged in")
        }
        Command::Info(_) => info(&session).await,
        Command::Get { url, .. } => get(&session, url).await,
        Command::Logout(_) => {
            session.log_out().await?;
            say("Logged out")
        }
    }
}

async fn info(session: &Session) -> Outcome {
    let mut response = session.get("/user").send().await?;
    if !response.status().is_success() {
        return show(response).await;
    }
    let user = response.json::<UserInfo>().await;
    // The parser's own words may quote what it read.
    let user = user.map_err(|_| Failure::Transient("this is not the server's answer".into()))?;
    say(&format!("User Id: {}", user.user_id))
}

async fn get(session: &Session, url: &str) -> Outcome {
    show(session.get(url).send().await?).await
}

/// Prints a body as it arrives. A status other than 2xx decides how that ends,
/// whatever became of the printing.
async fn show(mut response: Response) -> Outcome {
    let status = response.status();
    let printed = print_body(&mut response).await;
    if status.is_success() { printed } else { Err(Failure::Status(status.as_u16())) }
}

async fn print_body(response: &mut Response) -> Outcome {
    let mut out = io::stdout().lock();
    while let Some(chunk) = response.next().await {
        let broken = |error| Failure::Transient(format!("the answer broke off: {error}"));
        out.write_all(&chunk.map_err(broken)?)?;
    }
    Ok(out.flush()?)
}

fn say(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
