//! The command line of Matchbook's server.

use std::error::Error;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{ArgGroup, Parser, Subcommand};
use humantime::parse_rfc3339;
use matchbook_server::cli::{self, explain};
use matchbook_server::clock::Timestamp;
use matchbook_server::config::{self, Config};
use matchbook_server::ids::UserId;
use matchbook_server::store::sessions::Selection;
use matchbook_server::{app, clock};
use rustix::fs::Mode;
use rustix::process::umask;
use uuid::Uuid;

/// A self-hosted token server: log in, stay logged in, log out everywhere.
#[derive(Parser)]
#[command(name = "matchbook-server", version)]
struct Arguments {
    /// The settings file; `matchbook.toml` is read where it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Answer requests (the default).
    Serve,
    /// Print the settings in force, secrets masked, and where each comes from.
    CheckConfig,
    /// Exit with 0 if the server of these settings is ready.
    Health,
    /// Say what the refresh token on standard input is, and what would become of it.
    Explain,
    /// See and change the keys that sign access tokens.
    #[command(subcommand)]
    Keys(Keys),
    /// Replace the server's secret.
    #[command(subcommand)]
    Secret(Secret),
    /// End sessions, as after a restored backup.
    #[command(subcommand)]
    Sessions(Sessions),
}

#[derive(Clone, Subcommand)]
enum Sessions {
    /// End sessions at every server, in the audit log as logged out.
    #[command(group = ArgGroup::new("which").required(true).args(["before", "user", "all"]))]
    End {
        /// Those that were opened before this time, like 2026-11-27T08:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = parse_rfc3339)]
        before: Option<SystemTime>,
        /// Those of the user with this id.
        #[arg(long, value_name = "ID")]
        user: Option<Uuid>,
        /// All.
        #[arg(long)]
        all: bool,
    },
}

impl Sessions {
    fn selection(&self) -> Selection {
        let Self::End { before, user, .. } = *self;
        Selection { user: user.map(UserId), opened_before: before.map(Timestamp::from) }
    }
}

#[derive(Clone, Subcommand)]
enum Secret {
    /// End everything that somebody who knows the old secret could use: revoke all
    /// signing keys, end all sessions, and replace a generated secret. A configured
    /// one has to be the new one already.
    Rotate {
        /// Say that others may know the old secret. A planned change needs no
        /// command: see `old_secrets`.
        #[arg(long, required = true)]
        compromised: bool,
    },
}

#[derive(Clone, Subcommand)]
enum Keys {
    /// Print the keys: kid, algorithm, what each is at this moment.
    List,
    /// Publish the next key, which signs after `keys.publish_ahead`.
    Rotate,
    /// Refuse what a key has signed, at once. Sessions go on.
    Revoke {
        /// The key's name, from `keys list`.
        // One in 64 begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

/// No token is longer.
const LONGEST_INPUT: u64 = 1024;

#[actix_rt::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matchbook-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // Files that this process makes are for its user alone, SQLite's too.
    umask(Mode::RWXG | Mode::RWXO);
    let (config, settings) = config::load(arguments.config.as_deref())?;
    let command = arguments.command.as_ref().unwrap_or(&Command::Serve);
    if !matches!(command, Command::Serve | Command::Health) {
        for warning in settings.warnings() {
            eprintln!("matchbook-server: {warning}");
        }
    }
    match command {
        Command::Serve => serve(&config, settings.warnings()).await,
        Command::CheckConfig => Ok(settings.print(&mut std::io::stdout().lock())?),
        Command::Health => Ok(app::health(&config).await?),
        Command::Explain => explain(&config),
        Command::Secret(Secret::Rotate { .. }) => {
            let said = cli::secret::rotate_compromised(&config)?;
            Ok(write!(std::io::stdout(), "{said}")?)
        }
        Command::Sessions(sessions) => {
            let said = cli::sessions::end(&config, &sessions.selection())?;
            Ok(write!(std::io::stdout(), "{said}")?)
        }
        Command::Keys(command) => Ok(write!(std::io::stdout(), "{}", keys(&config, command)?)?),
    }
}

fn keys(config: &Config, command: &Keys) -> Result<String, cli::keys::Error> {
    match command {
        Keys::List => cli::keys::list(config),
        Keys::Rotate => cli::keys::rotate(config),
        Keys::Revoke { kid } => cli::keys::revoke(config, kid),
    }
}

async fn serve(config: &Config, warnings: &[String]) -> Result<(), Box<dyn Error>> {
    config.log.start();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let listening = app::start(config).await?;
    for address in &listening.addresses {
        let url = app::base_url(&config.tls, *address);
        tracing::info!(%url, database = %config.database.url, "listening");
        writeln!(std::io::stdout(), "matchbook-server listens on {url}")?;
    }
    listening.server.await?;
    tracing::info!("stopped");
    Ok(())
}

/// The token comes from standard input: a command line is for all to see.
fn explain(config: &Config) -> Result<(), Box<dyn Error>> {
    if std::io::stdin().is_terminal() {
        eprintln!("Paste the refresh token, then press Enter.");
    }
    let mut text = Vec::new();
    let mut input = std::io::stdin().lock().take(LONGEST_INPUT);
    // One line of a person's, or all that a program has to say.
    while text.trim_ascii().is_empty() && input.read_until(b'\n', &mut text)? > 0 {}
    let explanation = explain::explain(config, &String::from_utf8_lossy(&text), clock::now())?;
    write!(std::io::stdout(), "{explanation}")?;
    Ok(())
}
