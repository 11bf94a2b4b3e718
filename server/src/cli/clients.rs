//! `matchbook-server clients …`: the OAuth clients.

mod show;

use std::fmt::Write;
use std::io;

use clap::{ArgGroup, Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::format::to_json;
use super::propagation::await_servers;
use crate::clients::{
    self, Client, ClientKind, GracePeriod, InvalidClient, LogoutSettings, check, new_id,
    new_secret, parse_grace_period,
};
use crate::clock;
use crate::config::Config;
use crate::crypto::RngError;
use crate::ids::{ClientId, EventId};
use crate::sessions::{ClientInfo, Context};
use crate::store::{self, OpenError, clients as rows};
use crate::tokens::{InvalidScope, Scope, SecretDigests, client_secret_digest};

#[derive(Clone, Subcommand)]
pub enum Command {
    /// Add a client and print its id, and its secret once.
    Add(Add),
    /// Print the clients.
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Print a client.
    Show(One),
    /// Replace the secret of a confidential client. The old one is accepted until the next
    /// replacement.
    RotateSecret(One),
    /// Remove a client, with the consents of users, and end all its sessions at every server.
    Remove(One),
}

#[derive(Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
#[command(group = ArgGroup::new("kind").required(true).args(["public", "confidential"]))]
pub struct Add {
    /// The name that users see.
    name: String,
    /// The client cannot keep a secret: a single-page, native or command-line app.
    #[arg(long)]
    public: bool,
    /// The client authenticates with a secret: a web app with a server, or a machine.
    #[arg(long)]
    confidential: bool,
    /// A redirect URI, which requests must repeat exactly. Can be given several times.
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// The client belongs to you: users are not asked for their consent.
    #[arg(long)]
    first_party: bool,
    /// A scope that the client may request. Can be given several times.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// A resource server that its access tokens may be for, besides `tokens.audience`. Can be
    /// given several times.
    #[arg(long, value_name = "URI")]
    audience: Vec<String>,
    /// The client may get access tokens for itself (client credentials).
    #[arg(long)]
    machine: bool,
    /// The client may log users in through another device (device authorization grant).
    #[arg(long)]
    device: bool,
    /// A URI that a logout may return to. Can be given several times.
    #[arg(long, value_name = "URI")]
    post_logout_redirect_uri: Vec<String>,
    /// Where the client is notified of ended sessions (back-channel logout).
    #[arg(long, value_name = "URI")]
    backchannel_logout_uri: Option<String>,
    /// Sessions with the scope `offline_access` continue when their browser logs out.
    #[arg(long)]
    keep_offline_access: bool,
    /// Accept authorization requests of this confidential client without PKCE.
    #[arg(long)]
    no_pkce: bool,
    /// Grace period of rotated refresh tokens: `120s` (up to 10m), `strict` for none, or
    /// `default` for that of the settings.
    #[arg(long, value_name = "DURATION", default_value = "default", value_parser = parse_grace_period)]
    grace_period: GracePeriod,
    /// The id. By default a random one.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// The client that a command is about.
#[derive(Clone, Args)]
pub struct One {
    /// The id, from `clients list`.
    id: String,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// The reasons why a command fails, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database failed: {0}")]
    Query(#[from] diesel::result::Error),
    #[error("the database failed: {0}; some sessions may have ended: run this command again")]
    Remove(diesel::result::Error),
    #[error("there is already a client {0}: choose another id")]
    IdTaken(ClientId),
    #[error("there is no client {0:?}: `clients list` prints the ids")]
    NotFound(String),
    #[error("{0} is a public client: it has no secret")]
    Public(ClientId),
    #[error("nothing was added: {0}")]
    Invalid(#[from] InvalidClient),
    #[error("nothing was added: the scope {0}")]
    Scope(#[from] InvalidScope),
    #[error(transparent)]
    Randomness(#[from] RngError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The credentials of a client, with the names of RFC 7591 §3.2.1.
#[derive(Serialize)]
struct Credentials<'a> {
    client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<&'a str>,
}

#[derive(Serialize)]
struct Removed<'a> {
    client_id: &'a str,
    /// How many sessions ended.
    ended: usize,
}

/// Carries out a command and prints its result. Blocks.
pub fn run(config: &Config, command: &Command) -> Result<(), Error> {
    let output = match command {
        Command::Add(new) => add(config, new)?,
        Command::List { json } => show::list(config, *json)?,
        Command::Show(one) => show::show(config, one)?,
        Command::RotateSecret(one) => rotate_secret(config, one)?,
        Command::Remove(one) => remove(config, one)?,
    };
    Ok(super::print(&output)?)
}

fn add(config: &Config, new: &Add) -> Result<String, Error> {
    let secret = if new.confidential { Some(new_secret()?) } else { None };
    let secrets = secret
        .as_ref()
        .map(|secret| SecretDigests { current: client_secret_digest(secret), previous: None });
    let client = Client {
        id: match &new.id {
            Some(id) => id.as_str().into(),
            None => new_id()?,
        },
        name: new.name.clone(),
        kind: secrets.map_or(ClientKind::Public, ClientKind::Confidential),
        redirect_uris: new.redirect_uri.clone(),
        scope: Scope::parse(&new.scope.join(" "))?,
        audiences: new.audience.clone(),
        is_first_party: new.first_party,
        require_pkce: !new.no_pkce,
        is_machine: new.machine,
        is_device: new.device,
        logout: LogoutSettings {
            redirect_uris: new.post_logout_redirect_uri.clone(),
            backchannel_uri: new.backchannel_logout_uri.clone(),
            keeps_offline_access: new.keep_offline_access,
        },
        grace_period: new.grace_period,
        created_at: clock::now(),
    };
    check(&client, config.oauth.allow_localhost)?;
    let mut conn = store::connect_to_change(&config.database.url)?;
    if !rows::insert(&mut conn, &client)? {
        return Err(Error::IdTaken(client.id));
    }
    Ok(credentials(&client.id, secret.as_ref(), new.json))
}

fn rotate_secret(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let id = ClientId::from(one.id.as_str());
    let client = rows::find(&mut conn, &id)?.ok_or_else(|| Error::NotFound(one.id.clone()))?;
    if client.is_public() {
        return Err(Error::Public(id));
    }
    let secret = new_secret()?;
    if !rows::replace_secret(&mut conn, &id, &client_secret_digest(&secret))? {
        return Err(Error::NotFound(one.id.clone()));
    }
    Ok(credentials(&id, Some(&secret), one.json))
}

fn remove(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = store::connect_to_change(&config.database.url)?;
    let id = ClientId::from(one.id.as_str());
    let now = clock::now();
    let operator = ClientInfo::command_line();
    let event = EventId::new(now)?;
    let cx = Context { policy: &config.policy, client: &operator, event, now };
    let removed = clients::remove(&mut conn, &id, &cx).map_err(Error::Remove)?;
    await_servers(&mut conn, config);
    let clients::Removed { existed, ended } = removed;
    if !existed && ended == 0 {
        return Err(Error::NotFound(one.id.clone()));
    }
    if one.json {
        return Ok(to_json(&Removed { client_id: id.as_str(), ended }));
    }
    let sessions = if ended == 1 { "session has" } else { "sessions have" };
    Ok(format!("{id} is removed; {ended} {sessions} ended\n"))
}

fn credentials(id: &ClientId, secret: Option<&SecretString>, json: bool) -> String {
    let client_id = id.as_str();
    let client_secret = secret.map(SecretString::expose_secret);
    if json {
        return to_json(&Credentials { client_id, client_secret });
    }
    let mut text = format!("client_id: {client_id}\n");
    if let Some(secret) = client_secret {
        let _ = writeln!(text, "client_secret: {secret}");
        text.push_str("Store the secret now: it is not shown again.\n");
    }
    text
}
