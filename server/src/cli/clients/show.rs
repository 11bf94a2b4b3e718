//! `clients list` and `clients show`.

use std::fmt::Write;

use serde::Serialize;

use super::{Error, One};
use crate::cli::format::{to_json, when};
use crate::clients::{Client, ClientKind, describe_grace_period};
use crate::clock;
use crate::config::Config;
use crate::ids::ClientId;
use crate::store::{self, clients};

/// A client, with the names of `clients.toml`.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a JSON object")]
struct Shown<'a> {
    client_id: &'a str,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    redirect_uris: &'a [String],
    scopes: Vec<&'a str>,
    audiences: &'a [String],
    first_party: bool,
    require_pkce: bool,
    machine: bool,
    device: bool,
    post_logout_redirect_uris: &'a [String],
    backchannel_logout_uri: Option<&'a str>,
    keep_offline_access: bool,
    grace_period: String,
    /// Whether the secret before is accepted as well.
    has_previous_secret: bool,
    created_at: String,
}

impl<'a> Shown<'a> {
    fn of(client: &'a Client) -> Self {
        let (kind, has_previous_secret) = match client.kind {
            ClientKind::Public => ("public", false),
            ClientKind::Confidential(secrets) => ("confidential", secrets.previous.is_some()),
        };
        Self {
            client_id: client.id.as_str(),
            name: &client.name,
            kind,
            redirect_uris: &client.redirect_uris,
            scopes: client.scope.tokens().collect(),
            audiences: &client.audiences,
            first_party: client.is_first_party,
            require_pkce: client.require_pkce,
            machine: client.is_machine,
            device: client.is_device,
            post_logout_redirect_uris: &client.logout.redirect_uris,
            backchannel_logout_uri: client.logout.backchannel_uri.as_deref(),
            keep_offline_access: client.logout.keeps_offline_access,
            grace_period: describe_grace_period(client.grace_period),
            has_previous_secret,
            created_at: client.created_at.to_string(),
        }
    }
}

pub(super) fn list(config: &Config, json: bool) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let all = clients::all(&mut conn)?;
    if json {
        return Ok(to_json(&all.iter().map(Shown::of).collect::<Vec<_>>()));
    }
    let mut lines = String::new();
    for client in &all {
        let Shown { client_id, name, kind, created_at, .. } = Shown::of(client);
        let _ = writeln!(lines, "{client_id}  {name}, {kind}, added {created_at}");
    }
    Ok(lines)
}

pub(super) fn show(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let client = clients::find(&mut conn, &ClientId::from(one.id.as_str()))?;
    let client = client.ok_or_else(|| Error::NotFound(one.id.clone()))?;
    let shown = Shown::of(&client);
    Ok(if one.json { to_json(&shown) } else { describe(&client, &shown) })
}

fn describe(client: &Client, shown: &Shown<'_>) -> String {
    let added = when(client.created_at, clock::now());
    let mut text =
        format!("{}: {}\n  {} client, added {added}\n", client.id, client.name, shown.kind);
    for uri in &client.redirect_uris {
        let _ = writeln!(text, "  redirect URI {uri}");
    }
    for uri in &client.logout.redirect_uris {
        let _ = writeln!(text, "  post-logout redirect URI {uri}");
    }
    if let Some(uri) = &client.logout.backchannel_uri {
        let _ = writeln!(text, "  back-channel logout URI {uri}");
    }
    for audience in &client.audiences {
        let _ = writeln!(text, "  audience {audience}");
    }
    let scope = if client.scope.is_empty() { "(empty)" } else { client.scope.as_str() };
    let _ = writeln!(text, "  scope {scope}");
    let _ = writeln!(text, "  grace period {}", shown.grace_period);
    for (applies, line) in [
        (client.is_first_party, "first party: users are not asked for their consent"),
        (client.is_machine, "may get access tokens for itself"),
        (client.is_device, "may log users in through another device"),
        (
            client.logout.keeps_offline_access,
            "sessions with offline_access continue when their browser logs out",
        ),
        (!client.require_pkce, "needs no PKCE"),
        (shown.has_previous_secret, "the secret before is accepted as well"),
    ] {
        if applies {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}
