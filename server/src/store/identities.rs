//! The table `identities`: the names that accounts log in with. The key of the table is
//! the name, so a name belongs to one user at most.

use diesel::prelude::*;

use super::Conn;
use super::schema::identities;
use crate::clock::Timestamp;
use crate::ids::UserId;

/// A login name of a user.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct Identity {
    /// The normalized name.
    pub name: String,
    /// `email`, `username` or `subject`.
    pub kind: String,
    pub user: UserId,
    /// When the user proved that the email address is theirs.
    pub verified_at: Option<Timestamp>,
}

/// A login name that is to be inserted.
#[derive(Clone, Copy)]
pub struct NewIdentity<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    pub user: UserId,
    pub verified_at: Option<Timestamp>,
}

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_free {
    ($conn:expr, $new:expr, $now:expr) => {
        diesel::insert_into(identities::table)
            .values((
                identities::name.eq($new.name),
                identities::kind.eq($new.kind),
                identities::user_id.eq($new.user),
                identities::created_at.eq($now),
                identities::verified_at.eq($new.verified_at),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

/// Inserts a name. Returns `false` if it is taken. Of several concurrent calls for one
/// name, one returns `true`.
pub fn insert(conn: &mut Conn, new: NewIdentity<'_>, now: Timestamp) -> QueryResult<bool> {
    let inserted = match conn {
        Conn::Postgres(conn) => insert_if_free!(conn, new, now)?,
        Conn::Sqlite(conn) => insert_if_free!(conn, new, now)?,
    };
    Ok(inserted == 1)
}

/// Selects the columns of [`Identity`].
macro_rules! columns {
    () => {
        (identities::name, identities::kind, identities::user_id, identities::verified_at)
    };
}

/// Returns the user of a name.
pub fn find(conn: &mut Conn, name: &str) -> QueryResult<Option<Identity>> {
    identities::table.find(name).select(columns!()).first(conn).optional()
}

/// Returns the names of a user, the oldest first.
pub fn of_user(conn: &mut Conn, user: UserId) -> QueryResult<Vec<Identity>> {
    identities::table
        .filter(identities::user_id.eq(user))
        .order((identities::created_at, identities::name))
        .select(columns!())
        .load(conn)
}

/// Returns up to `limit` names after `after`, in their order.
pub fn list(conn: &mut Conn, after: &str, limit: i64) -> QueryResult<Vec<Identity>> {
    identities::table
        .filter(identities::name.gt(after))
        .order(identities::name)
        .limit(limit)
        .select(columns!())
        .load(conn)
}

/// Records that the user proved that the email address is theirs.
pub fn verify(conn: &mut Conn, name: &str, now: Timestamp) -> QueryResult<()> {
    diesel::update(identities::table.find(name).filter(identities::verified_at.is_null()))
        .set(identities::verified_at.eq(now))
        .execute(conn)
        .map(drop)
}

/// Deletes the names of a user.
pub fn delete(conn: &mut Conn, user: UserId) -> QueryResult<()> {
    diesel::delete(identities::table.filter(identities::user_id.eq(user))).execute(conn).map(drop)
}
