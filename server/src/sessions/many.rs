//! The end of many sessions at once, by an operator.

use diesel::QueryResult;

use super::{ClientInfo, EndReason, EventKind, Policy, Subject, note_end, record};
use crate::clock::Timestamp;
use crate::ids::EventId;
use crate::store::sessions::Selection;
use crate::store::{self, Conn};

/// Ends the selected sessions in batches, each session with a revocation that all
/// servers publish and an entry of the audit log. Returns how many.
///
/// # Errors
/// When a statement fails. The sessions of earlier batches have ended then.
pub fn end_selected(
    conn: &mut Conn,
    selection: &Selection,
    first_event: EventId,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<usize> {
    let device = ClientInfo { user_agent: Some("matchbook-server".to_owned()), ip: None };
    let mut after = None;
    let mut count = 0;
    loop {
        let ended = conn.write(|conn| {
            let reason = EndReason::LoggedOut.as_str();
            let ended = store::sessions::end_next(conn, selection, after, reason, now)?;
            for ((session, user, access_expires_at), n) in ended.iter().copied().zip(count..) {
                note_end(conn, session, access_expires_at, policy, now)?;
                let subject = Subject { session, user: Some(user), generation: None };
                record(
                    conn,
                    EventKind::LoggedOut,
                    None,
                    &subject,
                    &device,
                    first_event.offset(n),
                    now,
                )?;
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
