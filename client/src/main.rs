//! The client app: it logs in at a Matchbook server and stays logged in.

mod app;
mod config;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use config::Config;
use matchbook_shared::settings::reachable;

/// Logs in at a Matchbook server and stays logged in.
#[derive(Parser)]
#[command(name = "matchbook-client", version)]
struct Arguments {
    /// The settings file; `matchbook-client.toml` is read where it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// Answer requests (the default).
    Serve,
    /// Print the settings in force, and where each comes from.
    CheckConfig,
    /// Exit with 0 if the app of these settings answers.
    Health,
}

#[actix_rt::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matchbook-client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (config, settings) = config::load(arguments.config.as_deref())?;
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(&config).await,
        Command::CheckConfig => Ok(settings.print(&mut std::io::stdout().lock())?),
        Command::Health => health(&config).await,
    }
}

async fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    config.log.start();
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
    let url = format!("http://{}/health/live", reachable(config.address));
    let answer = awc::Client::new().get(&url).send().await;
    let answer = answer.map_err(|error| format!("{url} does not answer: {error}"))?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(format!("{url} answers {}", answer.status().as_u16()).into())
    }
}
