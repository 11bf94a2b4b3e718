//! `matchbook-server backends …`: the applications that may open sessions for their users.

use std::fmt::Write;
use std::io;

use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::format::to_json;
use crate::accounts::backends::{new_backend, new_secret};
use crate::clock;
use crate::config::Config;
use crate::crypto::RngError;
use crate::store::{self, OpenError, backends};
use crate::tokens::client_secret_digest;

#[derive(Clone, Subcommand)]
pub enum Command {
    /// Add a backend and print its id and secret. The secret is shown once.
    Add {
        /// The name of the application.
        name: String,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the backends.
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Replace the secret of a backend. The old one is accepted until the next replacement.
    RotateSecret {
        /// The id, from `backends list`.
        id: String,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove a backend: its secret is rejected at once, sessions continue.
    Remove {
        /// The id, from `backends list`.
        id: String,
    },
}

/// The reasons why a command fails, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed: {0}")]
    Query(#[from] diesel::result::Error),
    #[error("there is already a backend named {0:?}: `backends list` prints its id")]
    NameTaken(String),
    #[error("there is no backend {0:?}: `backends list` prints the ids")]
    NotFound(String),
    #[error("the name of a backend has 1 to 100 characters, and no control characters")]
    InvalidName,
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The credentials of a backend.
#[derive(Serialize)]
struct Credentials<'a> {
    id: &'a str,
    secret: &'a str,
}

#[derive(Serialize)]
struct Listed {
    id: String,
    name: String,
    #[serde(rename = "createdAt")]
    created_at: String,
}

/// Carries out a command and prints its result. Blocks.
pub fn run(config: &Config, command: &Command) -> Result<(), Error> {
    let output = match command {
        Command::Add { name, json } => add(config, name, *json)?,
        Command::List { json } => list(config, *json)?,
        Command::RotateSecret { id, json } => rotate_secret(config, id, *json)?,
        Command::Remove { id } => remove(config, id)?,
    };
    Ok(super::print(&output)?)
}

fn add(config: &Config, name: &str, json: bool) -> Result<String, Error> {
    if !(1..=100).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(Error::InvalidName);
    }
    let mut conn = store::connect_to_change(&config.database.url)?;
    let (backend, secret) = new_backend(name, clock::now())?;
    if !backends::insert(&mut conn, &backend)? {
        return Err(Error::NameTaken(name.to_owned()));
    }
    Ok(credentials(&backend.id, &secret, json))
}

fn list(config: &Config, json: bool) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let all = backends::all(&mut conn)?;
    let listed = all.into_iter().map(|backend| Listed {
        id: backend.id,
        name: backend.name,
        created_at: backend.created_at.to_string(),
    });
    let listed: Vec<Listed> = listed.collect();
    if json {
        return Ok(to_json(&listed));
    }
    let mut lines = String::new();
    for Listed { id, name, created_at } in listed {
        let _ = writeln!(lines, "{id}  {name}, added {created_at}");
    }
    Ok(lines)
}

fn rotate_secret(config: &Config, id: &str, json: bool) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let secret = new_secret()?;
    if !backends::replace_secret(&mut conn, id, &client_secret_digest(&secret))? {
        return Err(Error::NotFound(id.to_owned()));
    }
    Ok(credentials(id, &secret, json))
}

fn remove(config: &Config, id: &str) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    if !backends::delete(&mut conn, id)? {
        return Err(Error::NotFound(id.to_owned()));
    }
    Ok(format!("{id} is removed; `sessions end` ends the sessions that it opened\n"))
}

fn credentials(id: &str, secret: &SecretString, json: bool) -> String {
    let secret = secret.expose_secret();
    if json {
        to_json(&Credentials { id, secret })
    } else {
        format!("id: {id}\nsecret: {secret}\nStore the secret now: it is not shown again.\n")
    }
}
