//! The client app: logs in at a Matchbook server and stays logged in.

mod api;
mod app;
mod assets;
mod browser_folder;
mod browser_sessions;
mod commands;
mod config;
mod cookie;
mod csrf;
mod ended;
mod error;
mod feed;
mod login_limiter;
mod sealed;
mod terminal;
mod upstream;

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use config::{Config, Purpose};
use matchbook_settings::loopback_if_unspecified;

/// Logs in at a Matchbook server and stays logged in.
#[derive(Parser)]
#[command(name = "matchbook-client", version, after_help = commands::EXIT_CODES)]
struct Arguments {
    /// Settings file. Default: `matchbook-client.toml`, if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the page and the API (default).
    Serve,
    /// Print the effective settings and the source of each.
    CheckConfig,
    /// Exit with 0 if the app with these settings is running.
    Health,
    #[command(flatten)]
    Cli(commands::Command),
}

#[actix_rt::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(error.as_ref()),
    }
}

/// Prints the error and returns the exit code. A closed output is a success: a pager
/// or `head` has read enough.
fn report(error: &(dyn Error + 'static)) -> ExitCode {
    let cli_error = error.downcast_ref::<commands::CliError>();
    let io_error = error.downcast_ref::<std::io::Error>();
    if matches!(cli_error, Some(commands::CliError::OutputClosed))
        || io_error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr(), "matchbook-client: {error}");
    cli_error.map_or(ExitCode::FAILURE, commands::CliError::exit_code)
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let command = arguments.command.as_ref().unwrap_or(&Command::Serve);
    let purpose = match command {
        Command::Cli(_) => Purpose::Command,
        _ => Purpose::App,
    };
    let (config, settings) = config::load(arguments.config.as_deref(), purpose)?;
    match command {
        Command::Serve => serve(&config, settings.warnings()).await,
        Command::CheckConfig => {
            for warning in settings.warnings() {
                eprintln!("matchbook-client: {warning}");
            }
            Ok(settings.print(&mut std::io::stdout().lock())?)
        }
        Command::Health => health(&config).await,
        Command::Cli(command) => {
            start_logging(&config, settings.warnings());
            Ok(commands::run(command, &config).await?)
        }
    }
}

fn start_logging(config: &Config, warnings: &[String]) {
    config.log.init();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

async fn serve(config: &Config, warnings: &[String]) -> Result<(), Box<dyn Error>> {
    start_logging(config, warnings);
    let (server, addresses) = app::start(config).await?;
    for address in addresses {
        tracing::info!(url = %format!("http://{address}"), server = config.server_url, "listening");
        writeln!(std::io::stdout(), "matchbook-client listens on http://{address}")?;
    }
    server.await?;
    tracing::info!("stopped");
    Ok(())
}

async fn health(config: &Config) -> Result<(), Box<dyn Error>> {
    let url = format!("http://{}/health/live", loopback_if_unspecified(config.address));
    let response = awc::Client::new().get(&url).send().await;
    let response = response.map_err(|error| format!("no response from {url}: {error}"))?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("{url} returned status {}", response.status().as_u16()).into())
    }
}
