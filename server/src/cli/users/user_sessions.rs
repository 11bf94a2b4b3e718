//! `users sessions`.

use std::fmt::Write;

use serde::Serialize;

use super::{Error, One, Operator, connect_to_change, find};
use crate::cli::format::{describe_client, to_json, when};
use crate::cli::propagation::await_servers;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::ids::{SessionId, UserId};
use crate::sessions::end_selected;
use crate::store::sessions::{Selection, SessionSummary, list_live};
use crate::store::{self, Conn};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    id: SessionId,
    opened_at: String,
    last_used_at: String,
    /// When it ends unless it is refreshed.
    expires_at: String,
    user_agent: Option<String>,
    ip: Option<String>,
}

#[derive(Serialize)]
struct Ended {
    id: UserId,
    ended: usize,
}

pub(super) fn list(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let user = find(&mut conn, &one.user)?;
    let now = clock::now();
    if one.json {
        return Ok(to_json(&live(&mut conn, user, now)?));
    }
    let mut text = String::new();
    for session in list_live(&mut conn, user, now)? {
        let _ = writeln!(text, "{}  {}", session.id, describe(&session, now));
    }
    if text.is_empty() {
        text += "no live session\n";
    }
    Ok(text)
}

/// Ends the sessions of a user, and waits until every server rejects their access tokens.
pub(super) fn end(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = connect_to_change(config)?;
    let user = find(&mut conn, &one.user)?;
    let operator = Operator::new()?;
    let selection = Selection { user: Some(user), ..Selection::default() };
    let ended = end_selected(&mut conn, &selection, &operator.context(config))?;
    // Also if none has: an earlier command may have been interrupted after its commit.
    await_servers(&mut conn, config);
    if one.json {
        return Ok(to_json(&Ended { id: user, ended }));
    }
    let sessions = if ended == 1 { "session has" } else { "sessions have" };
    Ok(format!("{ended} {sessions} ended\n"))
}

/// Returns the live sessions of a user, for JSON.
pub(super) fn live(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<Vec<Listed>, Error> {
    let sessions = list_live(conn, user, now)?.into_iter().map(|session| Listed {
        id: session.id,
        opened_at: session.created_at.to_string(),
        last_used_at: last_used(&session).to_string(),
        expires_at: session.idle_expires_at.min(session.expires_at).to_string(),
        user_agent: session.user_agent,
        ip: session.ip.map(|ip| ip.0.to_string()),
    });
    Ok(sessions.collect())
}

/// Describes a session in one line.
pub(super) fn describe(session: &SessionSummary, now: Timestamp) -> String {
    let client = describe_client(session.ip.map(|ip| ip.0), session.user_agent.as_deref());
    format!("last used {}, {client}", when(last_used(session), now))
}

fn last_used(session: &SessionSummary) -> Timestamp {
    session.rotated_at.unwrap_or(session.created_at)
}
