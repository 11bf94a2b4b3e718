//! The table `recovery_codes`: codes that replace the second factor, each once.

use diesel::prelude::*;

use super::Conn;
use super::schema::recovery_codes;
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::UserId;

/// Selects the codes of a user.
macro_rules! of_user {
    ($user:expr) => {
        recovery_codes::table
            .filter(recovery_codes::place.eq($user.place().value()))
            .filter(recovery_codes::user_id.eq($user))
    };
}

/// Replaces the codes of a user.
pub fn replace(conn: &mut Conn, user: UserId, digests: &[Digest]) -> QueryResult<()> {
    delete(conn, user)?;
    for digest in digests {
        diesel::insert_into(recovery_codes::table)
            .values((
                recovery_codes::place.eq(user.place().value()),
                recovery_codes::user_id.eq(user),
                recovery_codes::digest.eq(digest.as_bytes()),
            ))
            .execute(conn)?;
    }
    Ok(())
}

/// Uses a code. Returns `false` if the user has no such code, or has used it. Of several
/// concurrent calls, one returns `true`.
pub fn consume(
    conn: &mut Conn,
    user: UserId,
    digest: &Digest,
    now: Timestamp,
) -> QueryResult<bool> {
    let unused = of_user!(user)
        .filter(recovery_codes::digest.eq(digest.as_bytes()))
        .filter(recovery_codes::used_at.is_null());
    Ok(diesel::update(unused).set(recovery_codes::used_at.eq(now)).execute(conn)? == 1)
}

/// Returns how many codes the user has not used.
pub fn count_unused(conn: &mut Conn, user: UserId) -> QueryResult<i64> {
    of_user!(user).filter(recovery_codes::used_at.is_null()).count().get_result(conn)
}

/// Deletes the codes of a user.
pub fn delete(conn: &mut Conn, user: UserId) -> QueryResult<()> {
    diesel::delete(of_user!(user)).execute(conn).map(drop)
}
