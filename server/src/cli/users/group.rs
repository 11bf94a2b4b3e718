//! `users group …`: the groups of users.

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Error, connect_to_change, find};
use crate::accounts::{Addition, GroupName, add_to_group, remove_from_group};
use crate::cli::format::to_json;
use crate::config::Config;
use crate::store::{self, user_groups};

#[derive(Clone, Subcommand)]
pub enum Command {
    /// Add a user to a group. Clients get it as the claim `groups` with their next ID token.
    Add(Membership),
    /// Remove a user from a group. Tokens that were issued before keep the claim.
    Remove(Membership),
    /// Print the groups, and how many users each has.
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
}

/// A user and a group.
#[derive(Clone, Args)]
pub struct Membership {
    /// The login name or the id of the user.
    #[arg(value_name = "NAME-OR-ID")]
    user: String,
    /// The name of the group.
    group: String,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Changed {
    /// Whether the command changed anything.
    changed: bool,
    /// All groups of the user.
    groups: Vec<String>,
}

#[derive(Serialize)]
struct Listed {
    group: String,
    users: i64,
}

pub(super) fn run(config: &Config, command: &Command) -> Result<String, Error> {
    match command {
        Command::Add(membership) => add(config, membership),
        Command::Remove(membership) => remove(config, membership),
        Command::List { json } => list(config, *json),
    }
}

fn add(config: &Config, membership: &Membership) -> Result<String, Error> {
    let group = GroupName::parse(&membership.group)?;
    let mut conn = connect_to_change(config)?;
    let user = find(&mut conn, &membership.user)?;
    let changed = match add_to_group(&mut conn, user, &group)? {
        Addition::Added => true,
        Addition::Unchanged => false,
        Addition::TooMany => return Err(Error::TooManyGroups(membership.user.clone())),
    };
    let done = if changed { "is in the group" } else { "was already in the group" };
    report(&mut conn, membership, (changed, done))
}

fn remove(config: &Config, membership: &Membership) -> Result<String, Error> {
    let group = GroupName::parse(&membership.group)?;
    let mut conn = connect_to_change(config)?;
    let user = find(&mut conn, &membership.user)?;
    let changed = remove_from_group(&mut conn, user, &group)?;
    let done = if changed { "is no longer in the group" } else { "was not in the group" };
    report(&mut conn, membership, (changed, done))
}

fn report(
    conn: &mut store::Conn,
    membership: &Membership,
    (changed, done): (bool, &str),
) -> Result<String, Error> {
    if membership.json {
        let user = find(conn, &membership.user)?;
        return Ok(to_json(&Changed { changed, groups: user_groups::of_user(conn, user)? }));
    }
    Ok(format!("{} {done} {}\n", membership.user, membership.group))
}

fn list(config: &Config, json: bool) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let all = user_groups::all(&mut conn)?;
    if json {
        let all = all.into_iter().map(|(group, users)| Listed { group, users });
        return Ok(to_json(&all.collect::<Vec<_>>()));
    }
    let mut lines = String::new();
    for (group, users) in all {
        let noun = if users == 1 { "user" } else { "users" };
        let _ = writeln!(lines, "{group}  {users} {noun}");
    }
    Ok(lines)
}
