//! The table `users`.

use diesel::dsl::not;
use diesel::prelude::*;

use super::schema::{
    accounts, identities, imported_refresh_tokens, one_time_links, sessions, users,
};
use super::{Conn, Page};
use crate::clock::Timestamp;
use crate::ids::{Place, UserId};

/// The primary key of a user.
fn key(id: UserId) -> (i16, UserId) {
    (id.place().value(), id)
}

/// Inserts a guest.
pub fn insert(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<()> {
    diesel::insert_into(users::table)
        .values((users::place.eq(id.place().value()), users::id.eq(id), users::created_at.eq(now)))
        .execute(conn)?;
    Ok(())
}

/// [`insert_used`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_used_if_new {
    ($conn:expr, $id:expr, $now:expr) => {
        diesel::insert_into(users::table)
            .values((
                users::place.eq($id.place().value()),
                users::id.eq($id),
                users::created_at.eq($now),
                users::logged_in_at.eq($now),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
            .map(drop)
    };
}

/// Inserts a user whose id permits no login, for an account. Does nothing if the user
/// exists: a guest becomes an account.
pub fn insert_used(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<()> {
    match conn {
        Conn::Postgres(conn) => insert_used_if_new!(conn, id, now),
        Conn::Sqlite(conn) => insert_used_if_new!(conn, id, now),
    }
}

/// Inserts the user of a client that acts for itself, or marks it as used, so that the
/// sweeper keeps it. Needs a transaction.
pub fn insert_or_use(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<()> {
    let changed = diesel::update(users::table.find(key(id)))
        .set(users::logged_in_at.eq(now))
        .execute(conn)?;
    if changed == 0 { insert_used(conn, id, now) } else { Ok(()) }
}

/// Uses the guest's only login. Of several concurrent calls, one returns `true`.
pub fn use_login(conn: &mut Conn, id: UserId, now: Timestamp) -> QueryResult<bool> {
    let changed = diesel::update(users::table.find(key(id)).filter(users::logged_in_at.is_null()))
        .set(users::logged_in_at.eq(now))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Deletes a user with everything that references it: account, sessions, recovery codes.
/// Returns `false` if there is no such user.
pub fn delete(conn: &mut Conn, id: UserId) -> QueryResult<bool> {
    Ok(diesel::delete(users::table.find(key(id))).execute(conn)? == 1)
}

/// Deletes a user with everything of it: login names, links, imported refresh tokens, and
/// what [`delete`] deletes.
pub fn delete_with_names(conn: &mut Conn, id: UserId) -> QueryResult<()> {
    diesel::delete(identities::table.filter(identities::user_id.eq(id))).execute(conn)?;
    diesel::delete(one_time_links::table.filter(one_time_links::user_id.eq(id))).execute(conn)?;
    let imported = imported_refresh_tokens::table.filter(imported_refresh_tokens::user_id.eq(id));
    diesel::delete(imported).execute(conn)?;
    delete(conn, id).map(drop)
}

/// Locks the user, if there is one. Returns `false` if another transaction changes the user,
/// or inserts a row that refers to it. On SQLite the transaction excludes others.
pub fn lock_if_free(conn: &mut Conn, id: UserId) -> QueryResult<bool> {
    let Conn::Postgres(postgres) = conn else { return Ok(true) };
    let this = users::table.find(key(id)).select(users::id).for_update().skip_locked();
    let is_locked = this.first::<UserId>(postgres).optional()?.is_some();
    Ok(is_locked || !exists(conn, id)?)
}

/// Lets the guest log in again.
pub fn release_login(conn: &mut Conn, id: UserId) -> QueryResult<()> {
    diesel::update(users::table.find(key(id)))
        .set(users::logged_in_at.eq(None::<Timestamp>))
        .execute(conn)?;
    Ok(())
}

/// The result of one step of the sweeper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The last user that was read, or `None` if there are no more.
    pub last: Option<UserId>,
    /// How many users were deleted.
    pub deleted: usize,
}

/// Deletes the unneeded guests of a page. These were registered before `unused` and never
/// logged in, or logged in before `used` and have no session left. A guest logs in once.
/// Accounts are not deleted.
pub fn sweep(
    conn: &mut Conn,
    page: Page<UserId>,
    unused: Timestamp,
    used: Timestamp,
) -> QueryResult<SweepReport> {
    let Page { after, limit } = page;
    let mut report = SweepReport::default();
    let mut left = limit;
    for place in after.map_or(Place::MIN, UserId::place).and_later() {
        if left <= 0 {
            break;
        }
        let after = after.filter(|after| after.place() == place);
        let seen: Vec<UserId> = users::table
            .filter(users::place.eq(place.value()))
            .filter(users::id.gt(after.unwrap_or(UserId::MIN)))
            .order(users::id)
            .limit(left)
            .select(users::id)
            .load(conn)?;
        let Some(last) = seen.last() else { continue };
        report.last = Some(*last);
        left = left.saturating_sub(i64::try_from(seen.len()).unwrap_or(i64::MAX));
        let own_sessions = sessions::place.eq(users::place).and(sessions::user_id.eq(users::id));
        let has_sessions = diesel::dsl::exists(sessions::table.filter(own_sessions));
        let own_account = accounts::place.eq(users::place).and(accounts::user_id.eq(users::id));
        let is_account = diesel::dsl::exists(accounts::table.filter(own_account));
        let never_used = users::logged_in_at.is_null().and(users::created_at.lt(unused));
        let is_over = users::logged_in_at.is_not_null().and(users::logged_in_at.lt(used));
        // The statement that deletes checks again: a guest may be logging in.
        let due = users::table
            .filter(users::place.eq(place.value()))
            .filter(users::id.eq_any(seen))
            .filter(not(is_account))
            .filter(never_used.or(is_over.and(not(has_sessions)).assume_not_null()));
        report.deleted += diesel::delete(due).execute(conn)?;
    }
    Ok(report)
}

/// Returns whether the user exists.
pub fn exists(conn: &mut Conn, id: UserId) -> QueryResult<bool> {
    let found = users::table.find(key(id)).select(users::id).first::<UserId>(conn).optional()?;
    Ok(found.is_some())
}
