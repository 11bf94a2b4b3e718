//! The end of many sessions at once, by an operator.

use diesel::QueryResult;

use super::end::record_revocation;
use super::{Context, EndReason, EventKind};
use crate::store::events::{self, Event};
use crate::store::sessions::{Selection, SessionEnd};
use crate::store::{
    self, Conn, authorization_codes, device_codes, imported_refresh_tokens, login_sessions,
};

/// The reason in the audit log.
///
/// NEVER CHANGE THIS VALUE once a version is released: rows of the audit log have it.
const CLIENT_REMOVED: &str = "client_removed";

/// Ends the selected sessions in batches, each session with a revocation that all
/// servers publish and an entry of the audit log. Returns how many. After an error the
/// sessions of earlier batches have ended. Authorization codes, approved requests of devices
/// and imported refresh tokens that have opened no session yet are revoked as well, and browsers are logged out at the
/// pages of the server, except for the selection of a client, which has none.
pub fn end_selected(
    conn: &mut Conn,
    selection: &Selection,
    cx: &Context<'_>,
) -> QueryResult<usize> {
    if selection.client.is_none() {
        imported_refresh_tokens::revoke_unused(conn, selection.user, selection.opened_before)?;
        login_sessions::delete_selected(conn, selection.user, selection.opened_before)?;
    }
    // Before the codes: a poll that has locked its request issues one.
    device_codes::delete_selected(conn, selection)?;
    authorization_codes::delete_selected(conn, selection)?;
    let reason = selection.client.as_ref().map(|_| CLIENT_REMOVED);
    let mut after = None;
    let mut count = 0;
    loop {
        let ended = conn.write(|conn| {
            let end = SessionEnd { at: cx.now, reason: EndReason::LoggedOut };
            let ended = store::sessions::end_next(conn, selection, after, end)?;
            for ((session, user, access_expires_at), n) in ended.iter().copied().zip(count..) {
                record_revocation(conn, session, access_expires_at, cx.now)?;
                let cx = Context { event: cx.event.offset(n), ..*cx };
                let event =
                    Event { user: Some(user), reason, ..cx.event(EventKind::LoggedOut, session) };
                events::insert(conn, &event)?;
            }
            Ok(ended)
        })?;
        count += ended.len() as u128;
        match ended.last() {
            Some((last, ..)) => after = Some(*last),
            None => return Ok(usize::try_from(count).unwrap_or(usize::MAX)),
        }
    }
}
