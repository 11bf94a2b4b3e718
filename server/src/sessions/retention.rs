//! The deletion of salts and sessions that are not needed any more.

use std::time::Duration;

use diesel::QueryResult;

use super::{MAX_GRACE_PERIOD, Policy};
use crate::clock::Timestamp;
use crate::ids::SessionId;
use crate::store::sessions::{SweepAction, SweepCandidate, SweepReport};
use crate::store::{self, Conn, Page};

/// How much longer a pass keeps a salt. A server may find out only later that it has committed
/// a rotation, and then corrects its date.
pub const SALT_MARGIN: Duration = Duration::from_secs(5 * 60);

/// Clears the unneeded salts and deletes the expired sessions of a page.
pub fn sweep(
    conn: &mut Conn,
    page: Page<SessionId>,
    policy: &Policy,
    now: Timestamp,
) -> QueryResult<SweepReport> {
    let action = |candidate: &SweepCandidate| retention_action(candidate, policy, now);
    store::sessions::sweep(conn, page, action)
}

fn retention_action(candidate: &SweepCandidate, policy: &Policy, now: Timestamp) -> SweepAction {
    let expires_at = candidate.idle_expires_at.min(candidate.expires_at);
    let over_at = candidate.ended_at.map_or(expires_at, |ended_at| ended_at.min(expires_at));
    if over_at.after(policy.retention) <= now {
        return SweepAction::Delete;
    }
    let rotated_at = candidate.rotated_at.unwrap_or(now);
    let salt_lifetime = if candidate.is_of_client {
        // The client may have a longer grace period. A server that rotates its session knows
        // the exact one.
        policy.salt_lifetime(true).max(MAX_GRACE_PERIOD)
    } else {
        policy.salt_lifetime(candidate.has_idempotency_key)
    };
    let salt_expires_at = rotated_at.after(salt_lifetime).after(SALT_MARGIN);
    if candidate.has_salt && (over_at <= now || salt_expires_at < now) {
        SweepAction::ClearSalt
    } else {
        SweepAction::Keep
    }
}

/// Clears the salts of those of `sessions` that were rotated longer than `lifetime` ago. A
/// session that was rotated with an idempotency key keeps its salt for the recovery window.
pub fn clear_salts(
    conn: &mut Conn,
    sessions: &[SessionId],
    lifetime: Duration,
    now: Timestamp,
) -> QueryResult<usize> {
    store::sessions::clear_salts(conn, sessions, now.before(lifetime))
}
