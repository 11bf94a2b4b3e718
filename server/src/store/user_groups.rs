//! The table `user_groups`: the groups of users, which clients get as claims.

use diesel::prelude::*;

use super::Conn;
use super::schema::user_groups;
use crate::ids::UserId;

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_new {
    ($conn:expr, $user:expr, $name:expr) => {
        diesel::insert_into(user_groups::table)
            .values((
                user_groups::place.eq($user.place().value()),
                user_groups::user_id.eq($user),
                user_groups::name.eq($name),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

/// Adds a user to a group. Returns `false` if the user is in it already. Fails if the user
/// does not exist.
pub fn insert(conn: &mut Conn, user: UserId, name: &str) -> QueryResult<bool> {
    let inserted = match conn {
        Conn::Postgres(conn) => insert_if_new!(conn, user, name)?,
        Conn::Sqlite(conn) => insert_if_new!(conn, user, name)?,
    };
    Ok(inserted == 1)
}

/// Removes a user from a group. Returns `false` if the user was not in it.
pub fn delete(conn: &mut Conn, user: UserId, name: &str) -> QueryResult<bool> {
    let row = user_groups::table.find((user.place().value(), user, name));
    Ok(diesel::delete(row).execute(conn)? == 1)
}

/// Removes a user from all groups.
pub fn delete_all(conn: &mut Conn, user: UserId) -> QueryResult<()> {
    let own = user_groups::table
        .filter(user_groups::place.eq(user.place().value()))
        .filter(user_groups::user_id.eq(user));
    diesel::delete(own).execute(conn).map(drop)
}

/// Returns the groups of a user in the order of their names.
pub fn of_user(conn: &mut Conn, user: UserId) -> QueryResult<Vec<String>> {
    let mut names: Vec<String> = user_groups::table
        .filter(user_groups::place.eq(user.place().value()))
        .filter(user_groups::user_id.eq(user))
        .select(user_groups::name)
        .load(conn)?;
    // By bytes: the order of the database depends on its locale.
    names.sort_unstable();
    Ok(names)
}

/// Returns how many users each group has, in the order of the names.
pub fn all(conn: &mut Conn) -> QueryResult<Vec<(String, i64)>> {
    user_groups::table
        .group_by(user_groups::name)
        .order(user_groups::name)
        .select((user_groups::name, diesel::dsl::count_star()))
        .load(conn)
}
