//! `users list`.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use super::Error;
use crate::config::Config;
use crate::ids::UserId;
use crate::store::accounts::Account;
use crate::store::identities::Identity;
use crate::store::{self, accounts, identities};

/// How many names are read at once.
const PAGE: i64 = 500;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    id: UserId,
    name: &'a str,
    kind: &'a str,
    display_name: Option<&'a str>,
    is_admin: bool,
    created_at: String,
    disabled_at: Option<String>,
    last_login_at: Option<String>,
}

/// Prints the accounts page by page: there may be millions.
pub(super) fn list(config: &Config, json: bool) -> Result<(), Error> {
    let mut conn = store::connect(&config.database.url)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut after = String::new();
    let mut separator = if json { "[" } else { "" };
    loop {
        let names = identities::list(&mut conn, &after, PAGE)?;
        let Some(last) = names.last() else { break };
        after.clone_from(&last.name);
        let users: Vec<UserId> = names.iter().map(|name| name.user).collect();
        let found = accounts::find_all(&mut conn, &users)?;
        let found: HashMap<UserId, Account> =
            found.into_iter().map(|account| (account.user, account)).collect();
        for name in &names {
            let Some(account) = found.get(&name.user) else { continue };
            if json {
                let line = serde_json::to_string(&listed(name, account)).unwrap_or_default();
                write!(out, "{separator}{line}")?;
                separator = ",\n";
            } else {
                writeln!(out, "{}", line(name, account))?;
            }
        }
    }
    if json {
        writeln!(out, "{}]", if separator == "[" { "[" } else { "" })?;
    }
    Ok(out.flush()?)
}

fn listed<'a>(name: &'a Identity, account: &'a Account) -> Listed<'a> {
    Listed {
        id: account.user,
        name: &name.name,
        kind: &name.kind,
        display_name: account.display_name.as_deref(),
        is_admin: account.is_admin,
        created_at: account.created_at.to_string(),
        disabled_at: account.disabled_at.map(|at| at.to_string()),
        last_login_at: account.last_login_at.map(|at| at.to_string()),
    }
}

fn line(name: &Identity, account: &Account) -> String {
    let last_login = account.last_login_at.map(|at| format!("last login {at}"));
    let last_login = last_login.unwrap_or_else(|| "never logged in".to_owned());
    let mut text = format!("{}  {:<32}  {last_login}", account.user, name.name);
    if account.is_admin {
        text += ", administrator";
    }
    if account.disabled_at.is_some() {
        text += ", disabled";
    }
    text
}
