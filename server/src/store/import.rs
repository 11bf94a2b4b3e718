//! The import of many users at once. Rows are inserted in batches, because a file may have
//! hundreds of thousands of users.

use std::collections::HashSet;

use diesel::prelude::*;

use super::Conn;
use super::events::{self, Event};
use super::schema::{accounts, identities, imported_refresh_tokens, users};
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::UserId;

/// A user of another server.
pub struct ImportedUser {
    pub user: UserId,
    /// The normalized login name.
    pub name: String,
    /// The kind of the name.
    pub kind: &'static str,
    pub created_at: Timestamp,
    /// When the user proved that the email address is theirs.
    pub verified_at: Option<Timestamp>,
    pub display_name: Option<String>,
    pub password_hash: Option<String>,
    pub is_admin: bool,
    pub disabled_at: Option<Timestamp>,
    /// The digests of refresh tokens, and when each expires.
    pub refresh_tokens: Vec<(Digest, Timestamp)>,
}

/// Inserts rows on either database: diesel inserts no batches through `MultiConnection`.
macro_rules! insert_rows {
    ($conn:expr, $table:expr, $rows:expr) => {
        match $conn {
            Conn::Postgres(conn) => diesel::insert_into($table).values($rows).execute(conn)?,
            Conn::Sqlite(conn) => diesel::insert_into($table).values($rows).execute(conn)?,
        }
    };
}

/// Inserts users with their names and refresh tokens. Fails if one of them exists. Needs a
/// transaction.
pub fn insert(
    conn: &mut Conn,
    imported: &[ImportedUser],
    logged: &[Event<'_>],
    now: Timestamp,
) -> QueryResult<()> {
    let rows: Vec<_> = imported
        .iter()
        .map(|new| {
            (
                users::place.eq(new.user.place().value()),
                users::id.eq(new.user),
                users::created_at.eq(new.created_at),
                users::logged_in_at.eq(now),
            )
        })
        .collect();
    insert_rows!(conn, users::table, &rows);
    let rows: Vec<_> = imported
        .iter()
        .map(|new| {
            (
                accounts::place.eq(new.user.place().value()),
                accounts::user_id.eq(new.user),
                accounts::created_at.eq(new.created_at),
                accounts::display_name.eq(new.display_name.as_deref()),
                accounts::password_hash.eq(new.password_hash.as_deref()),
                accounts::is_admin.eq(new.is_admin),
                accounts::disabled_at.eq(new.disabled_at),
            )
        })
        .collect();
    insert_rows!(conn, accounts::table, &rows);
    let rows: Vec<_> = imported
        .iter()
        .map(|new| {
            (
                identities::name.eq(new.name.as_str()),
                identities::kind.eq(new.kind),
                identities::user_id.eq(new.user),
                identities::created_at.eq(new.created_at),
                identities::verified_at.eq(new.verified_at),
            )
        })
        .collect();
    insert_rows!(conn, identities::table, &rows);
    let rows: Vec<_> = imported
        .iter()
        .flat_map(|new| new.refresh_tokens.iter().map(|token| (new.user, token)))
        .map(|(user, (digest, expires_at))| {
            (
                imported_refresh_tokens::digest.eq(digest.as_bytes()),
                imported_refresh_tokens::user_id.eq(user),
                imported_refresh_tokens::created_at.eq(now),
                imported_refresh_tokens::expires_at.eq(*expires_at),
            )
        })
        .collect();
    insert_rows!(conn, imported_refresh_tokens::table, &rows);
    events::insert_all(conn, logged)
}

/// Returns those of the names that are taken.
pub fn taken_names(conn: &mut Conn, names: &[&str]) -> QueryResult<HashSet<String>> {
    let taken = identities::table.filter(identities::name.eq_any(names));
    Ok(taken.select(identities::name).load::<String>(conn)?.into_iter().collect())
}

/// Returns those of the users that exist.
pub fn existing_users(conn: &mut Conn, ids: &[UserId]) -> QueryResult<HashSet<UserId>> {
    let places = ids.iter().map(|id| id.place().value());
    let existing = users::table.filter(users::place.eq_any(places)).filter(users::id.eq_any(ids));
    Ok(existing.select(users::id).load::<UserId>(conn)?.into_iter().collect())
}

/// Returns those of the refresh tokens that were imported before.
pub fn existing_tokens(conn: &mut Conn, digests: &[Digest]) -> QueryResult<HashSet<Vec<u8>>> {
    let digests = digests.iter().map(Digest::as_bytes);
    let existing =
        imported_refresh_tokens::table.filter(imported_refresh_tokens::digest.eq_any(digests));
    let existing = existing.select(imported_refresh_tokens::digest).load::<Vec<u8>>(conn)?;
    Ok(existing.into_iter().collect())
}
