//! Rows of `users`.

use diesel::prelude::*;

use super::Conn;
use super::schema::users;
use crate::clock::Timestamp;
use crate::token::UserId;

/// Adds a guest.
///
/// # Errors
/// When the statement fails.
pub fn insert(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<()> {
    diesel::insert_into(users::table)
        .values((users::id.eq(id), users::created_at.eq(now)))
        .execute(conn)?;
    Ok(())
}

/// Uses up the guest's one sign-in. Of several at once, one gets `true`.
///
/// # Errors
/// When the statement fails.
pub fn use_sign_in(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<bool> {
    let changed = diesel::update(users::table.find(id).filter(users::signed_in_at.is_null()))
        .set(users::signed_in_at.eq(now))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Gives the guest's one sign-in back.
///
/// # Errors
/// When the statement fails.
pub fn give_back_sign_in(conn: &mut Conn, id: UserId) -> QueryResult<()> {
    diesel::update(users::table.find(id))
        .set(users::signed_in_at.eq(None::<Timestamp>))
        .execute(conn)?;
    Ok(())
}

/// Whether there is such a user.
///
/// # Errors
/// When the query fails.
pub fn exists(conn: &mut Conn, id: UserId) -> QueryResult<bool> {
    let found = users::table.find(id).select(users::id).first::<UserId>(conn).optional()?;
    Ok(found.is_some())
}
