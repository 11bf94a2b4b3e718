//! Commands for scripts. They stay logged in between calls, because the tokens are in
//! a file.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures_util::StreamExt;
use matchbook_client::{
    Client, Credentials, Error, FileStore, PasswordLogin, Rejection, Response, Server, ServerError,
};
use matchbook_shared::{InvalidGrantReason, UserInfo};

use crate::config::Config;
use crate::ended::{SUPERSEDED, SessionEnd};
use crate::terminal;

/// Commands for scripts.
#[derive(Clone, Subcommand)]
pub(crate) enum Command {
    /// Log in as a new guest, or with a name and a password. Ends the current session, if
    /// there is one.
    Login {
        /// Login name of an account. The password is the first line of standard input; the
        /// code of a second factor is the second line.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        store: Store,
    },
    /// Print the id of the logged-in user.
    Info(Store),
    /// Send `GET URL` and print the response body.
    Get {
        /// Path below `server.url`, like `/user`, or a full URL of that server.
        url: String,
        #[command(flatten)]
        store: Store,
    },
    /// End the session at the server and delete its tokens.
    Logout(Store),
}

#[derive(Clone, Args)]
pub(crate) struct Store {
    /// Token file, in place of the setting `store.path`.
    #[arg(long = "store", value_name = "FILE")]
    path: Option<PathBuf>,
}

/// Help text. Scripts depend on these codes: they must never change.
pub(crate) const EXIT_CODES: &str = "\
Exit codes of login, info, get and logout:
  0  success; for `get`: the server returned 2xx
  1  permanent failure: the message says what to change
  2  invalid command line
  3  not logged in, or the session has ended: log in
  4  temporary failure: try again later, the session is kept
  5  the server returned another status: the body is on standard output, the
     status on standard error";

/// The result of a command.
type CliResult = Result<(), CliError>;

/// An error of a command. Its message names the cause and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("not logged in (no tokens in {}): run `matchbook-client login` first", .0.display())]
    NotLoggedIn(PathBuf),
    #[error("{}: run `matchbook-client login` to log in again", SessionEnd::Ended(*.0).message())]
    LoggedOut(Option<InvalidGrantReason>),
    #[error("{SUPERSEDED}: use one token file for all processes, and try again")]
    Superseded,
    #[error("{0} (to use another file: `--store FILE`, or the setting `store.path`)")]
    Store(Error),
    #[error("{0}; try again later")]
    Transient(String),
    #[error("another process logged in at the same time: run this command again")]
    SupersededByLogin,
    #[error("the server returned status {0}")]
    Status(u16),
    #[error("{0}")]
    Usage(Error),
    #[error("{0}")]
    Other(String),
    /// The reader of standard output has closed it.
    #[error("standard output is closed")]
    OutputClosed,
}

impl CliError {
    /// Adds the path of the token file, which the library's error does not contain.
    fn with_store_path(self, path: &Path) -> Self {
        match self {
            Self::NotLoggedIn(_) => Self::NotLoggedIn(path.to_owned()),
            other => other,
        }
    }

    /// Returns the exit code, as documented in `EXIT_CODES`.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Other(_) | Self::Store(_) => 1,
            Self::Usage(_) => 2,
            Self::NotLoggedIn(_) | Self::LoggedOut(_) => 3,
            Self::Transient(_) | Self::Superseded | Self::SupersededByLogin => 4,
            Self::Status(_) => 5,
        })
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        match error {
            // `run` adds the path.
            Error::NotLoggedIn => Self::NotLoggedIn(PathBuf::new()),
            Error::LoggedOut(reason) => Self::LoggedOut(reason),
            Error::Transient { problem, .. } => Self::Transient(problem),
            Error::Rejected(rejection @ Rejection::TooManyAttempts { .. }) => {
                Self::Transient(rejection.to_string())
            }
            Error::Superseded => Self::Superseded,
            Error::Store(_) => Self::Store(error),
            Error::SupersededByLogin => Self::SupersededByLogin,
            Error::Invalid(_) | Error::OriginNotAllowed(_) => Self::Usage(error),
            error => Self::Other(error.to_string()),
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Other(format!("cannot write to standard output: {error}")),
        }
    }
}

/// Runs a command.
pub(crate) async fn run(command: &Command, config: &Config) -> CliResult {
    let server = Server::new(&config.server_url, &config.trust, config.timeout).map_err(
        |error| match error {
            ServerError::RootCerts(error) => CliError::Other(format!("`server.ca_file`: {error}")),
            error => CliError::Other(format!("`server.url`: {error}")),
        },
    )?;
    let (Command::Login { store, .. }
    | Command::Info(store)
    | Command::Get { store, .. }
    | Command::Logout(store)) = command;
    let path = store.path.as_ref().unwrap_or(&config.store);
    let credentials = Credentials::builder().store(FileStore::new(path)).build();
    let client = Client::new(&server, credentials);
    let result = match command {
        Command::Login { name: None, .. } => login(&client).await,
        Command::Login { name: Some(name), .. } => login_as(&client, name).await,
        Command::Info(_) => info(&client).await,
        Command::Get { url, .. } => get(&client, url).await,
        Command::Logout(_) => logout(&client).await,
    };
    result.map_err(|error| error.with_store_path(path))
}

async fn login(client: &Client) -> CliResult {
    client.log_in_as_guest().await?;
    println("Logged in")
}

/// Logs in with a password, and with a code if the account has a second factor.
async fn login_as(client: &Client, name: &str) -> CliResult {
    let password = read_secret("Password")?;
    let login = PasswordLogin::new(name, &password);
    match client.log_in_with_password(login).await {
        Err(Error::Rejected(Rejection::SecondFactorRequired)) => {
            let code = read_secret("Code")?;
            client.log_in_with_password(login.code(&code)).await?;
        }
        outcome => drop(outcome?),
    }
    println("Logged in")
}

/// Reads a line from standard input. Asks for it on a terminal, which does not show it.
fn read_secret(what: &'static str) -> Result<String, CliError> {
    terminal::read_secret(what).map_err(|problem| {
        CliError::Other(format!(
            "cannot read the {} from standard input: {problem}",
            what.to_lowercase()
        ))
    })
}

async fn logout(client: &Client) -> CliResult {
    client.log_out().await?;
    println("Logged out")
}

async fn info(client: &Client) -> CliResult {
    let mut response = client.get("/user").send().await?;
    if !response.status().is_success() {
        return print_response(response).await;
    }
    let user = response.json::<UserInfo>().await;
    // The parser's message may quote the body.
    let user =
        user.map_err(|_| CliError::Transient("the response is not from the token server".into()))?;
    println(&format!("User Id: {}", user.user_id))
}

async fn get(client: &Client, url: &str) -> CliResult {
    print_response(client.get(url).send().await?).await
}

/// Prints a body as it arrives. A status other than 2xx decides the exit code, even if
/// the body cannot be printed.
async fn print_response(mut response: Response) -> CliResult {
    let status = response.status();
    let printed = print_body(&mut response).await;
    if status.is_success() { printed } else { Err(CliError::Status(status.as_u16())) }
}

async fn print_body(response: &mut Response) -> CliResult {
    let mut out = io::stdout().lock();
    while let Some(chunk) = response.next().await {
        let interrupted =
            |error| CliError::Transient(format!("the response was interrupted: {error}"));
        out.write_all(&chunk.map_err(interrupted)?)?;
    }
    Ok(out.flush()?)
}

/// Prints a line. Unlike the macro, it reports a closed output as an error.
fn println(text: &str) -> CliResult {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
