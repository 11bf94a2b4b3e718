//! The client app: it logs in at a Matchbook server and stays logged in.

mod api;
mod app;
mod assets;
mod browser_sessions;
mod commands;
mod config;
mod cookie;
mod csrf;
mod ended;
mod error;
mod feed;
mod logins;
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
    /// The settings file; `matchbook-client.toml` is read where it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Answer requests (the default).
    Serve,
    /// Print the settings in force, and where each comes from.
    CheckConfig,
    /// Exit with 0 if the app of these settings answers.
    Health,
    #[command(flatten)]
    Script(commands::Command),
}

#[actix_rt::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(error.as_ref()),
    }
}

/// Says what went wrong, unless nobody listens, and what the shell is told.
fn end(error: &(dyn Error + 'static)) -> ExitCode {
    let failure = error.downcast_ref::<commands::Failure>();
    let io = error.downcast_ref::<std::io::Error>();
    if matches!(failure, Some(commands::Failure::Closed))
        || io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr(), "matchbook-client: {error}");
    failure.map_or(ExitCode::FAILURE, commands::Failure::exit_code)
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let command = arguments.command.as_ref().unwrap_or(&Command::Serve);
    let purpose = match command {
        Command::Script(_) => Purpose::Command,
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
        Command::Script(command) => {
            config.log.start();
            for warning in settings.warnings() {
                tracing::warn!("{warning}");
            }
            Ok(commands::run(command, &config).await?)
        }
    }
}

async fn serve(config: &Config, warnings: &[String]) -> Result<(), Box<dyn Error>> {
    config.log.start();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let (serving, addresses) = app::start(config)?;
    for address in addresses {
        tracing::info!(url = %format!("http://{address}"), server = config.server_url, "listening");
        writeln!(std::io::stdout(), "matchbook-client listens on http://{address}")?;
    }
    serving.await?;
    tracing::info!("stopped");
    Ok(())
}

async fn health(config: &Config) -> Result<(), Box<dyn Error>> {
    let url = format!("http://{}/health/live", loopback_if_unspecified(config.address));
    let answer = awc::Client::new().get(&url).send().await;
    let answer = answer.map_err(|error| format!("{url} does not answer: {error}"))?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(format!("{url} answers {}", answer.status().as_u16()).into())
    }
}
