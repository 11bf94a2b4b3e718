//! Deletes sessions and clears successor salts along the primary key.

use diesel::prelude::*;

use crate::clock::Timestamp;
use crate::ids::{Place, SessionId};
use crate::store::schema::sessions;
use crate::store::{Conn, Page};

/// The columns that decide what the sweeper does with a session.
#[derive(Queryable)]
pub struct SweepCandidate {
    pub id: SessionId,
    pub has_salt: bool,
    /// Whether the last rotation had an idempotency key.
    pub has_idempotency_key: bool,
    /// Whether an OAuth client opened it.
    pub is_of_client: bool,
    pub rotated_at: Option<Timestamp>,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// The action of the sweeper on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepAction {
    Keep,
    ClearSalt,
    Delete,
}

/// The result of one step of the sweeper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The last session that was read, or `None` if there are no more.
    pub last: Option<SessionId>,
    /// How many salts were cleared.
    pub cleared: usize,
    /// How many sessions were deleted.
    pub deleted: usize,
}

/// Applies to each session of a page the action that `action_for` returns.
///
/// The order is that of the primary key: within a place, the order in which sessions were
/// opened. Locked rows are skipped, so that the sweeper waits neither for a refresh nor
/// for the sweeper of another server.
pub fn sweep(
    conn: &mut Conn,
    page: Page<SessionId>,
    action_for: impl Fn(&SweepCandidate) -> SweepAction,
) -> QueryResult<SweepReport> {
    let candidates = next_candidates(conn, page)?;
    let last = candidates.last().map(|candidate| candidate.id);
    let mut report = SweepReport { last, ..SweepReport::default() };
    let due = candidates.iter().filter(|candidate| action_for(candidate) != SweepAction::Keep);
    let due: Vec<SessionId> = due.map(|candidate| candidate.id).collect();
    if due.is_empty() {
        return Ok(report);
    }
    conn.write(|conn| {
        for ids in due.chunk_by(|a, b| a.place() == b.place()) {
            let place = ids[0].place();
            // The rows may have changed before they were locked.
            let locked = lock_candidates(conn, place, ids)?;
            let with = |action| {
                let those = locked.iter().filter(|candidate| action_for(candidate) == action);
                those.map(|candidate| candidate.id).collect::<Vec<_>>()
            };
            report.cleared += clear(conn, place, with(SweepAction::ClearSalt))?;
            report.deleted += delete(conn, place, with(SweepAction::Delete))?;
        }
        Ok(report)
    })
}

/// Selects the columns of [`SweepCandidate`].
macro_rules! candidates {
    () => {
        sessions::table.select((
            sessions::id,
            sessions::successor_salt.is_not_null(),
            sessions::idempotency_key_digest.is_not_null(),
            sessions::client_id.is_not_null(),
            sessions::rotated_at,
            sessions::idle_expires_at,
            sessions::expires_at,
            sessions::ended_at,
        ))
    };
}

fn next_candidates(conn: &mut Conn, page: Page<SessionId>) -> QueryResult<Vec<SweepCandidate>> {
    let Page { after, limit } = page;
    let mut candidates: Vec<SweepCandidate> = Vec::new();
    for place in after.map_or(Place::MIN, SessionId::place).and_later() {
        let left = limit.saturating_sub(i64::try_from(candidates.len()).unwrap_or(i64::MAX));
        if left <= 0 {
            break;
        }
        let after = after.filter(|after| after.place() == place);
        let rows: Vec<SweepCandidate> = candidates!()
            .filter(sessions::place.eq(place.value()))
            .filter(sessions::id.gt(after.unwrap_or(SessionId::MIN)))
            .order(sessions::id)
            .limit(left)
            .load(conn)?;
        candidates.extend(rows);
    }
    Ok(candidates)
}

fn lock_candidates(
    conn: &mut Conn,
    place: Place,
    ids: &[SessionId],
) -> QueryResult<Vec<SweepCandidate>> {
    let those = candidates!()
        .filter(sessions::place.eq(place.value()))
        .filter(sessions::id.eq_any(ids.iter().copied()));
    match conn {
        Conn::Postgres(conn) => those.for_update().skip_locked().load(conn),
        Conn::Sqlite(conn) => those.load(conn),
    }
}

/// Clears the salts of those sessions that were last rotated before `before` and without
/// an idempotency key. Returns how many. One transaction per place.
pub fn clear_salts(conn: &mut Conn, ids: &[SessionId], before: Timestamp) -> QueryResult<usize> {
    let mut ids = ids.to_vec();
    ids.sort_unstable_by_key(|id| id.place());
    let mut cleared = 0;
    for ids in ids.chunk_by(|a, b| a.place() == b.place()) {
        let place = ids[0].place();
        let old = sessions::table
            .filter(sessions::place.eq(place.value()))
            .filter(sessions::id.eq_any(ids.iter().copied()))
            .filter(sessions::rotated_at.lt(before))
            .filter(sessions::idempotency_key_digest.is_null())
            .filter(sessions::successor_salt.is_not_null())
            .select(sessions::id);
        cleared += conn.write(|conn| {
            let ids: Vec<SessionId> = match conn {
                Conn::Postgres(conn) => old.for_update().skip_locked().load(conn)?,
                Conn::Sqlite(conn) => old.load(conn)?,
            };
            clear(conn, place, ids)
        })?;
    }
    Ok(cleared)
}

/// Clears the columns from which a successor could be derived. Returns how many rows had
/// them.
fn clear(conn: &mut Conn, place: Place, ids: Vec<SessionId>) -> QueryResult<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    let those =
        sessions::table.filter(sessions::place.eq(place.value())).filter(sessions::id.eq_any(ids));
    diesel::update(those)
        .set((
            sessions::successor_salt.eq(None::<&[u8]>),
            sessions::idempotency_key_digest.eq(None::<&[u8]>),
        ))
        .execute(conn)
}

fn delete(conn: &mut Conn, place: Place, ids: Vec<SessionId>) -> QueryResult<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    let those =
        sessions::table.filter(sessions::place.eq(place.value())).filter(sessions::id.eq_any(ids));
    diesel::delete(those).execute(conn)
}
