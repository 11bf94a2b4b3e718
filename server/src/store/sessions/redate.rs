//! The date of a rotation that was committed late.

use std::time::Duration;

use diesel::prelude::*;

use super::RotationUpdate;
use crate::clock::{self, Timestamp};
use crate::ids::{Place, SessionId};
use crate::store::Conn;
use crate::store::schema::sessions;

/// After a slower commit, the grace period may be too short to present the token again.
pub(crate) const LATE_AFTER: Duration = Duration::from_secs(1);

/// Moves the date of rotations that were committed late, so that their grace period begins
/// when a response can be sent. A failure is logged, and has no other effect.
pub fn redate_late<'a>(conn: &mut Conn, rotated: impl Iterator<Item = &'a RotationUpdate>) {
    let now = clock::now();
    let late = late(rotated, now);
    if late.is_empty() {
        return;
    }
    match redate(conn, &late, now) {
        Ok(rotations) => tracing::warn!(rotations, "late commit: grace period moved"),
        Err(error) => tracing::warn!(%error, "late commit: grace period not moved"),
    }
}

/// Returns the sessions and successors of rotations that began long before `now`.
pub(crate) fn late<'a>(
    rotated: impl Iterator<Item = &'a RotationUpdate>,
    now: Timestamp,
) -> Vec<(SessionId, &'a [u8])> {
    let late = rotated.filter(|next| now.since(next.now) > LATE_AFTER);
    late.map(|next| (next.session, next.successor.as_bytes())).collect()
}

/// Locks sessions of a place that no transaction has locked, and returns their current
/// digests.
pub(crate) fn lock_released(
    conn: &mut Conn,
    place: Place,
    ids: &[SessionId],
) -> QueryResult<Vec<(SessionId, Vec<u8>)>> {
    let those = sessions::table
        .filter(sessions::place.eq(place.value()))
        .filter(sessions::id.eq_any(ids.iter().copied()))
        .select((sessions::id, sessions::secret_digest));
    match conn {
        Conn::Postgres(conn) => those.for_update().skip_locked().load(conn),
        Conn::Sqlite(conn) => those.load(conn),
    }
}

/// Sets the date of rotations to `now`, each found by its session and the digest of its
/// successor. A session that was rotated again since is not changed.
pub fn redate(
    conn: &mut Conn,
    rotations: &[(SessionId, &[u8])],
    now: Timestamp,
) -> QueryResult<usize> {
    let places = rotations.iter().map(|(id, _)| id.place().value());
    let ids = rotations.iter().map(|(id, _)| *id);
    let secrets = rotations.iter().map(|(_, secret)| *secret);
    let those = sessions::table
        .filter(sessions::place.eq_any(places))
        .filter(sessions::id.eq_any(ids))
        .filter(sessions::secret_digest.eq_any(secrets))
        .filter(sessions::rotated_at.lt(now));
    diesel::update(those).set(sessions::rotated_at.eq(now)).execute(conn)
}
