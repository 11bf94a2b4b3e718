//! The command line of Matchbook's server.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use matchbook_server::{cli, config};
use rustix::fs::Mode;
use rustix::process::umask;

/// A self-hosted token server: log in, stay logged in, log out everywhere.
#[derive(Parser)]
#[command(name = "matchbook-server", version)]
struct Arguments {
    /// The settings file; `matchbook.toml` is read if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Respond to requests (the default).
    Serve,
    /// Print the settings in use, with secrets masked, and the source of each.
    CheckConfig,
    /// Create or upgrade the tables in the database, with a role that owns them.
    Migrate,
    /// Exit with 0 if the server with these settings is ready.
    Health,
    /// Explain the refresh token on standard input, and how the server would treat it.
    Explain,
    /// List and change the keys that sign tokens.
    #[command(subcommand)]
    Keys(cli::keys::Command),
    /// Replace the server's secret.
    #[command(subcommand)]
    Secret(cli::secret::Command),
    /// Manage the applications that open sessions for users of their own.
    #[command(subcommand)]
    Backends(cli::backends::Command),
    /// Manage the OAuth clients: the applications that log users in with this server.
    #[command(subcommand)]
    Clients(cli::clients::Command),
    /// Make users and OAuth clients in the database those that files declare.
    Apply(cli::apply::Arguments),
    /// Add, import, list and change users.
    #[command(subcommand)]
    Users(cli::users::Command),
    /// End sessions, for example after a restored backup.
    #[command(subcommand)]
    Sessions(cli::sessions::Command),
    /// Copy a SQLite database to a new file, also while servers use it.
    Backup(cli::backup::Backup),
    /// Replace a SQLite database by a copy, and keep the former one. No server may run.
    Restore(cli::backup::Restore),
}

#[actix_rt::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matchbook-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // Only the user of this process may read the files that it creates, SQLite's included.
    umask(Mode::RWXG | Mode::RWXO);
    let (config, settings) = config::load(arguments.config.as_deref())?;
    let command = arguments.command.as_ref().unwrap_or(&Command::Serve);
    if !matches!(command, Command::Serve | Command::Health) {
        for warning in settings.warnings() {
            eprintln!("matchbook-server: {warning}");
        }
    }
    match command {
        Command::Serve => cli::serve::run(&config, settings.warnings()).await?,
        Command::CheckConfig => cli::check_config::run(&settings)?,
        Command::Migrate => cli::migrate::run(&config)?,
        Command::Health => cli::health::run(&config).await?,
        Command::Explain => cli::explain::run(&config)?,
        Command::Keys(command) => cli::keys::run(&config, command)?,
        Command::Secret(command) => cli::secret::run(&config, command)?,
        Command::Backends(command) => cli::backends::run(&config, command)?,
        Command::Clients(command) => cli::clients::run(&config, command)?,
        Command::Apply(arguments) => cli::apply::run(&config, arguments)?,
        Command::Users(command) => cli::users::run(&config, command).await?,
        Command::Sessions(command) => cli::sessions::run(&config, command)?,
        Command::Backup(arguments) => cli::backup::backup(&config, arguments)?,
        Command::Restore(arguments) => cli::backup::restore(&config, arguments)?,
    }
    Ok(())
}
