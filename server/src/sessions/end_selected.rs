//! The end of many sessions at once, by an operator.

use diesel::QueryResult;

use super::end::record_revocation;
use super::{Context, EndReason, EventKind};
use crate::store::events::{self, Event};
use crate::store::sessions::{Selection, SessionEnd};
use crate::store::{self, Conn, imported_refresh_tokens, login_sessions};

/// Ends the selected sessions in batches, each session with a revocation that all
/// servers publish and an entry of the audit log. Returns how many. After an error the
/// sessions of earlier batches have ended. Imported refresh tokens that have opened no
/// session yet are revoked as well, and browsers are logged out at the pages of the server.
pub fn end_selected(
    conn: &mut Conn,
    selection: &Selection,
    cx: &Context<'_>,
) -> QueryResult<usize> {
    imported_refresh_tokens::revoke_unused(conn, selection.user, selection.opened_before)?;
    login_sessions::delete_selected(conn, selection.user, selection.opened_before)?;
    let mut after = None;
    let mut count = 0;
    loop {
        let ended = conn.write(|conn| {
            let end = SessionEnd { at: cx.now, reason: EndReason::LoggedOut };
            let ended = store::sessions::end_next(conn, selection, after, end)?;
            for ((session, user, access_expires_at), n) in ended.iter().copied().zip(count..) {
                record_revocation(conn, session, access_expires_at)?;
                let cx = Context { event: cx.event.offset(n), ..*cx };
                let event = Event { user: Some(user), ..cx.event(EventKind::LoggedOut, session) };
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
