//! `users show`: an account, and what keeps its user from logging in.

use std::fmt::Write;

use serde::Serialize;

use super::user_sessions::{self, Listed};
use super::{Error, One, find};
use crate::cli::format::{describe_event, to_json, when};
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::ids::UserId;
use crate::store::accounts::Account;
use crate::store::events::{self, LoggedEvent};
use crate::store::identities::{self, Identity};
use crate::store::sessions::{SessionSummary, list_live};
use crate::store::{self, Conn, accounts, imported_refresh_tokens, user_groups};

/// The maximum number of printed entries of the audit log.
const MAX_EVENTS: i64 = 20;

/// A user and everything that concerns its logins.
struct Shown {
    user: UserId,
    account: Option<Account>,
    names: Vec<Identity>,
    sessions: Vec<SessionSummary>,
    events: Vec<LoggedEvent>,
    imported_tokens: i64,
    groups: Vec<String>,
    now: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the fields of a JSON object")]
struct Json {
    id: UserId,
    /// Whether it is a guest.
    is_guest: bool,
    names: Vec<JsonName>,
    display_name: Option<String>,
    is_admin: bool,
    groups: Vec<String>,
    created_at: Option<String>,
    last_login_at: Option<String>,
    disabled_at: Option<String>,
    has_password: bool,
    has_second_factor: bool,
    /// Whether a login with the right password, and code, succeeds.
    can_log_in: bool,
    /// Why not, and what else a login needs.
    remarks: Vec<String>,
    sessions: Vec<Listed>,
    /// Refresh tokens of another server that can still be exchanged.
    imported_refresh_tokens: i64,
    events: Vec<JsonEvent>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonName {
    name: String,
    kind: String,
    verified_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonEvent {
    at: String,
    kind: String,
    reason: Option<String>,
    ip: Option<String>,
    user_agent: Option<String>,
    count: i64,
}

pub(super) fn show(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let user = find(&mut conn, &one.user)?;
    let now = clock::now();
    let shown = Shown::read(&mut conn, user, now)?;
    if one.json {
        let sessions = user_sessions::live(&mut conn, user, now)?;
        return Ok(to_json(&shown.into_json(sessions)));
    }
    Ok(shown.describe())
}

impl Shown {
    fn read(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<Self, Error> {
        Ok(Self {
            user,
            account: accounts::find(conn, user)?,
            names: identities::of_user(conn, user)?,
            sessions: list_live(conn, user, now)?,
            events: events::for_user(conn, user, MAX_EVENTS)?,
            imported_tokens: imported_refresh_tokens::count_unused(conn, user, now)?,
            groups: user_groups::of_user(conn, user)?,
            now,
        })
    }

    fn can_log_in(&self) -> bool {
        let account = self.account.as_ref();
        account
            .is_some_and(|account| account.disabled_at.is_none() && account.password_hash.is_some())
            && !self.names.is_empty()
    }

    /// Returns why a login with the right password fails, and what else it needs.
    fn remarks(&self) -> Vec<String> {
        let Some(account) = &self.account else {
            return vec!["a guest: it has one login, and no password".to_owned()];
        };
        let mut remarks = Vec::new();
        if let Some(at) = account.disabled_at {
            remarks.push(format!("disabled since {}", when(at, self.now)));
        }
        if self.names.is_empty() {
            remarks.push("no login name".to_owned());
        }
        match &account.password_hash {
            None => remarks
                .push("no password: `users reset-password` prints a link to set one".to_owned()),
            Some(hash) if !hash.starts_with("$argon2id$") => remarks.push(
                "the password hash is of another server, and is replaced at the next login"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        for name in &self.names {
            if name.kind == "email" && name.verified_at.is_none() {
                remarks.push(format!("{} is not verified", name.name));
            }
        }
        if account.totp_confirmed_at.is_some() {
            remarks.push("a second factor is on: a login needs a code".to_owned());
        }
        remarks
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(text, "{label:<12} {value}");
        };
        line("user", &self.user.to_string());
        for (i, name) in self.names.iter().enumerate() {
            let kind = if name.verified_at.is_some() { "verified" } else { &name.kind };
            line(if i == 0 { "name" } else { "" }, &format!("{} ({kind})", name.name));
        }
        if let Some(account) = &self.account {
            if let Some(name) = &account.display_name {
                line("shown as", name);
            }
            if account.is_admin {
                line("role", "administrator");
            }
            line("created", &when(account.created_at, self.now));
            let last = account.last_login_at;
            line("last login", &last.map_or("never".to_owned(), |at| when(at, self.now)));
        }
        if !self.groups.is_empty() {
            line("groups", &self.groups.join(", "));
        }
        line("can log in", if self.can_log_in() { "yes" } else { "no" });
        for remark in self.remarks() {
            line("", &remark);
        }
        for (i, session) in self.sessions.iter().enumerate() {
            let label = if i == 0 { "sessions" } else { "" };
            line(label, &user_sessions::describe(session, self.now));
        }
        if self.sessions.is_empty() {
            line("sessions", "none is live");
        }
        if self.imported_tokens > 0 {
            line("imported", &format!("{} refresh tokens, not used yet", self.imported_tokens));
        }
        for (i, event) in self.events.iter().enumerate() {
            line(if i == 0 { "events" } else { "" }, &describe_event(event, self.now));
        }
        text
    }

    fn into_json(self, sessions: Vec<Listed>) -> Json {
        let can_log_in = self.can_log_in();
        let remarks = self.remarks();
        let account = self.account.as_ref();
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Json {
            id: self.user,
            is_guest: account.is_none(),
            display_name: account.and_then(|account| account.display_name.clone()),
            is_admin: account.is_some_and(|account| account.is_admin),
            groups: self.groups,
            created_at: time(account.map(|account| account.created_at)),
            last_login_at: time(account.and_then(|account| account.last_login_at)),
            disabled_at: time(account.and_then(|account| account.disabled_at)),
            has_password: account.is_some_and(|account| account.password_hash.is_some()),
            has_second_factor: account.is_some_and(|account| account.totp_confirmed_at.is_some()),
            can_log_in,
            remarks,
            sessions,
            imported_refresh_tokens: self.imported_tokens,
            names: self
                .names
                .into_iter()
                .map(|name| JsonName {
                    name: name.name,
                    kind: name.kind,
                    verified_at: time(name.verified_at),
                })
                .collect(),
            events: self
                .events
                .into_iter()
                .map(|event| JsonEvent {
                    at: event.occurred_at.to_string(),
                    kind: event.kind,
                    reason: event.reason,
                    ip: event.ip.map(|ip| ip.0.to_string()),
                    user_agent: event.user_agent,
                    count: event.count,
                })
                .collect(),
        }
    }
}
