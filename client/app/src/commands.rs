//! Commands for a script, which stays logged in between them: the tokens are in
//! a file.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures_util::StreamExt;
use matchbook_client::{Client, Credentials, Error, FileStore, Response, Server, ServerError};
use matchbook_shared::{InvalidGrantReason, UserInfo};

use crate::config::Config;
use crate::ended::{End, SUPERSEDED};

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
  1  another failure: the message says what to change
  2  the command is not written as it should be
  3  nobody is logged in, or the session has ended: log in
  4  this may pass: try again later, nobody is logged out
  5  the server answered another status: its body is on standard output, the
     status on standard error";

/// What becomes of a command.
type Outcome = Result<(), Failure>;

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("not logged in (no tokens in {}): run `matchbook-client login` first", .0.display())]
    NotLoggedIn(PathBuf),
    #[error("{}: run `matchbook-client login` to log in again", End::Ended(*.0).sentence())]
    LoggedOut(Option<InvalidGrantReason>),
    #[error("{SUPERSEDED}: use one token file for all processes, and try again")]
    Superseded,
    #[error("{0} (another file: `--store FILE`, or the setting `store.path`)")]
    Store(Error),
    #[error("{0}; try again later")]
    Transient(String),
    #[error("another process has logged in meanwhile: run this command again")]
    SupersededByLogin,
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
    /// Names the file in which there are no tokens.
    fn at(self, path: &Path) -> Self {
        match self {
            Self::NotLoggedIn(_) => Self::NotLoggedIn(path.to_owned()),
            other => other,
        }
    }

    /// What the shell is told.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Closed => 0,
            Self::Other(_) | Self::Store(_) => 1,
            Self::Usage(_) => 2,
            Self::NotLoggedIn(_) | Self::LoggedOut(_) => 3,
            Self::Transient(_) | Self::Superseded | Self::SupersededByLogin => 4,
            Self::Status(_) => 5,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            // `run` knows the file.
            Error::NotLoggedIn => Self::NotLoggedIn(PathBuf::new()),
            Error::LoggedOut(reason) => Self::LoggedOut(reason),
            Error::Transient { problem, .. } => Self::Transient(problem),
            Error::Superseded => Self::Superseded,
            Error::Store(_) => Self::Store(error),
            Error::SupersededByLogin => Self::SupersededByLogin,
            Error::Invalid(_) | Error::OriginNotAllowed(_) => Self::Usage(error),
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
            ServerError::RootCerts(error) => Failure::Other(format!("`server.ca_file`: {error}")),
            error => Failure::Other(format!("`server.url`: {error}")),
        },
    )?;
    let (Command::Login(store)
    | Command::Info(store)
    | Command::Get { store, .. }
    | Command::Logout(store)) = command;
    let path = store.path.as_ref().unwrap_or(&config.store);
    let store = FileStore::new(path);
    let credential = Credentials::builder().store(store).build();
    let session = Client::new(&server, credential);
    let outcome = match command {
        Command::Login(_) => session.log_in_as_guest().await,
        Command::Info(_) => return info(&session).await.map_err(|failure| failure.at(path)),
        Command::Get { url, .. } => {
            return get(&session, url).await.map_err(|failure| failure.at(path));
        }
        Command::Logout(_) => session.log_out().await,
    };
    outcome.map_err(|error| Failure::from(error).at(path))?;
    say(if matches!(command, Command::Login(_)) { "Logged in" } else { "Logged out" })
}

async fn info(session: &Client) -> Outcome {
    let mut response = session.get("/user").send().await?;
    if !response.status().is_success() {
        return show(response).await;
    }
    let user = response.json::<UserInfo>().await;
    // The parser's own words may quote what it read.
    let user = user.map_err(|_| Failure::Transient("this is not the server's answer".into()))?;
    say(&format!("User Id: {}", user.user_id))
}

async fn get(session: &Client, url: &str) -> Outcome {
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
