//! The end of sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use diesel::{Connection, QueryResult};

use super::{Context, EndReason, EventKind};
use crate::clock::Timestamp;
use crate::ids::{ClientId, LoginSessionId, SessionId, UserId};
use crate::store::events::{self, Event};
use crate::store::revocations::{self, Revocation};
use crate::store::sessions::{SessionEnd, Whose};
use crate::store::{
    self, Conn, authorization_codes, device_codes, imported_refresh_tokens, login_sessions,
    logout_notices,
};

/// How long the end of a session is remembered at least, also if its access tokens have all
/// expired. Redis and the servers' memories then know it after a failover of the database to
/// a replica that lagged.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// The reason in the audit log.
///
/// NEVER CHANGE THIS VALUE once a version is released: rows of the audit log have it.
const FORGOTTEN: &str = "forgotten_by_database";

/// The revocation of all sessions of a user.
pub struct Revoked {
    /// How many sessions ended.
    pub ended: usize,
    /// The sessions to publish: those, and others that a concurrent request has just
    /// ended and may not have published yet.
    pub to_publish: Vec<SessionId>,
}

impl Revoked {
    /// No session ended.
    pub const NOTHING: Self = Self { ended: 0, to_publish: Vec::new() };
}

/// Ends a session at the request of its user. Returns `false` if it had ended or does not
/// exist. An expired session ends as well, because a clock may be set back. A session that does
/// not exist is revoked all the same: its token was genuine.
pub fn revoke(conn: &mut Conn, session: SessionId, cx: &Context<'_>) -> QueryResult<bool> {
    conn.transaction(|conn| {
        let user = end(conn, session, EndReason::LoggedOut, cx)?;
        if user.is_some() {
            let event = Event { user, ..cx.event(EventKind::LoggedOut, session) };
            events::insert(conn, &event)?;
        } else if store::sessions::owner(conn, session)?.is_none() {
            // The database has lost the login. Redis may have its access tokens as active.
            let access_expires_at = cx.now.after(cx.policy.access_lifetime.max(REMEMBERED_FOR));
            revocations::insert(conn, &Revocation { session_id: session, access_expires_at })?;
        }
        Ok(user.is_some())
    })
}

/// Ends these sessions at the request of their user. Needs a transaction that has written
/// already.
pub fn end_each(
    conn: &mut Conn,
    sessions: &BTreeSet<SessionId>,
    cx: &Context<'_>,
) -> QueryResult<Revoked> {
    let mut ended = 0;
    for (session, n) in sessions.iter().copied().zip(0..) {
        let cx = Context { event: cx.event.offset(n), ..*cx };
        ended += usize::from(revoke(conn, session, &cx)?);
    }
    Ok(Revoked { ended, to_publish: sessions.iter().copied().collect() })
}

/// Ends sessions again whose end the database has forgotten. Most of them may have ended there,
/// because another server did the same.
pub fn end_again(
    conn: &mut Conn,
    sessions: &[SessionId],
    cx: &Context<'_>,
) -> QueryResult<Revoked> {
    let mut ended = 0;
    conn.write(|conn| {
        for (session, n) in sessions.iter().copied().zip(0..) {
            let cx = Context { event: cx.event.offset(n), ..*cx };
            let user = end(conn, session, EndReason::LoggedOut, &cx)?;
            if user.is_some() {
                ended += 1;
                let reason = Some(FORGOTTEN);
                let event = Event { reason, user, ..cx.event(EventKind::LoggedOut, session) };
                events::insert(conn, &event)?;
            }
        }
        Ok(())
    })?;
    Ok(Revoked { ended, to_publish: sessions.to_vec() })
}

/// The login that a logout everywhere else leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    Session(SessionId),
    /// The login of the browser that requests it.
    LoginSession(LoginSessionId),
}

/// Which sessions of a user end, and why.
#[derive(Debug, Clone, Copy)]
pub struct UserSessions {
    pub user: UserId,
    pub keep: Keep,
    pub reason: EndReason,
}

/// Ends all live sessions of a user, in a transaction of its own.
pub fn revoke_all(
    conn: &mut Conn,
    selected: UserSessions,
    cx: &Context<'_>,
) -> QueryResult<Revoked> {
    conn.write(|conn| end_all(conn, selected, cx))
}

/// Ends all live sessions of a user, logs out their browsers at the pages of the server, and
/// revokes authorization codes, approved requests of devices and imported refresh tokens that
/// have opened no session yet. Needs a transaction that has written already.
pub fn end_all(conn: &mut Conn, selected: UserSessions, cx: &Context<'_>) -> QueryResult<Revoked> {
    let UserSessions { user, keep, reason } = selected;
    // First: if a concurrent exchange has locked a code or a token, its session is found below.
    imported_refresh_tokens::revoke_unused(conn, Some(user), None)?;
    let (whose, login_session) = match keep {
        Keep::Nothing => (Whose::All, None),
        Keep::Session(id) => (Whose::Except(id), None),
        Keep::LoginSession(id) => (Whose::All, Some(id)),
    };
    // Before the codes: a concurrent request that has locked its login session issues one.
    login_sessions::delete_all(conn, user, login_session)?;
    // Before the codes: a poll that has locked its request issues one.
    device_codes::delete_of_user(conn, user, None)?;
    authorization_codes::delete_of_user(conn, user, None)?;
    let end = SessionEnd { at: cx.now, reason };
    let ended = store::sessions::end_all(conn, user, whose, end)?;
    record_ends(conn, user, &ended, reason, cx)
}

/// Ends the live sessions of a user that an OAuth client opened, and revokes its codes
/// and approved requests of devices. Needs a transaction that has written already.
pub fn end_of_client(
    conn: &mut Conn,
    user: UserId,
    client: &ClientId,
    cx: &Context<'_>,
) -> QueryResult<Revoked> {
    device_codes::delete_of_user(conn, user, Some(client))?;
    authorization_codes::delete_of_user(conn, user, Some(client))?;
    let reason = EndReason::LoggedOut;
    let end = SessionEnd { at: cx.now, reason };
    let ended = store::sessions::end_all(conn, user, Whose::OfClient(client), end)?;
    record_ends(conn, user, &ended, reason, cx)
}

/// Records the revocation of sessions that have just ended.
fn record_ends(
    conn: &mut Conn,
    user: UserId,
    ended: &[(SessionId, Timestamp)],
    reason: EndReason,
    cx: &Context<'_>,
) -> QueryResult<Revoked> {
    for ((session, access_expires_at), n) in ended.iter().copied().zip(0..) {
        record_revocation(conn, session, access_expires_at, cx.now)?;
        let cx = Context { event: cx.event.offset(n), ..*cx };
        let event = Event {
            user: Some(user),
            reason: reason.explains_logout(),
            ..cx.event(EventKind::LoggedOut, session)
        };
        events::insert(conn, &event)?;
    }
    Ok(Revoked { ended: ended.len(), to_publish: revocations::for_user(conn, user)? })
}

/// Ends a session and records its revocation. Returns its user, or `None` if it had
/// ended already.
pub(super) fn end(
    conn: &mut Conn,
    session: SessionId,
    reason: EndReason,
    cx: &Context<'_>,
) -> QueryResult<Option<UserId>> {
    let end = SessionEnd { at: cx.now, reason };
    let ended = store::sessions::end(conn, session, end)?;
    let Some((user, access_expires_at)) = ended else { return Ok(None) };
    record_revocation(conn, session, access_expires_at, cx.now)?;
    Ok(Some(user))
}

/// Records that a session is revoked, until its last access token has expired or longer, and
/// that its client is to be notified.
pub(super) fn record_revocation(
    conn: &mut Conn,
    session: SessionId,
    access_expires_at: Timestamp,
    now: Timestamp,
) -> QueryResult<()> {
    let access_expires_at = access_expires_at.max(now.after(REMEMBERED_FOR));
    revocations::insert(conn, &Revocation { session_id: session, access_expires_at })?;
    logout_notices::insert(conn, session, now)
}
