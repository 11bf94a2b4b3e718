//! The table `one_time_links`: links that work once.

use diesel::prelude::*;

use super::Conn;
use super::schema::one_time_links as links;
use crate::clock::Timestamp;
use crate::crypto::Digest;
use crate::ids::UserId;

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Creates the account of an invited user.
    Invitation,
    /// Creates the account of a registration, and verifies its email address.
    Verification,
    /// Sets a new password.
    Reset,
}

impl Purpose {
    /// Returns the purpose as the database stores it.
    ///
    /// NEVER CHANGE these values once a version is released: links that were sent would no
    /// longer work.
    fn as_str(self) -> &'static str {
        match self {
            Self::Invitation => "invitation",
            Self::Verification => "verification",
            Self::Reset => "reset",
        }
    }
}

/// The columns of a new link.
#[derive(Clone, Copy)]
pub struct NewLink<'a> {
    /// The digest of the token in the link.
    pub digest: Digest,
    pub purpose: Purpose,
    pub user: UserId,
    /// The login name that the link is about.
    pub name: Option<&'a str>,
    /// The password of a registration that waits for its verification.
    pub password_hash: Option<&'a str>,
    pub is_admin: bool,
    /// Whether the link is only sent to the email address `name`.
    pub is_mailed: bool,
    pub expires_at: Timestamp,
}

/// A link that has not been used and has not expired.
#[derive(Clone, Queryable)]
pub struct Link {
    /// The user that the link is about, or that it creates.
    pub user: UserId,
    pub name: Option<String>,
    pub password_hash: Option<String>,
    pub is_admin: bool,
    /// Whether the use of the link proves that the email address `name` is the user's.
    pub is_mailed: bool,
}

/// Inserts a link.
pub fn insert(conn: &mut Conn, new: &NewLink<'_>, now: Timestamp) -> QueryResult<()> {
    diesel::insert_into(links::table)
        .values((
            links::digest.eq(new.digest.as_bytes()),
            links::purpose.eq(new.purpose.as_str()),
            links::user_id.eq(new.user),
            links::name.eq(new.name),
            links::password_hash.eq(new.password_hash),
            links::is_admin.eq(new.is_admin),
            links::is_mailed.eq(new.is_mailed),
            links::created_at.eq(now),
            links::expires_at.eq(new.expires_at),
        ))
        .execute(conn)
        .map(drop)
}

/// Selects a link by its digest, if it has the purpose and can be used.
macro_rules! usable {
    ($digest:expr, $purpose:expr, $now:expr) => {
        links::table
            .find($digest.as_bytes())
            .filter(links::purpose.eq($purpose.as_str()))
            .filter(links::used_at.is_null())
            .filter(links::expires_at.gt($now))
    };
}

/// Selects the columns of [`Link`].
macro_rules! columns {
    () => {
        (links::user_id, links::name, links::password_hash, links::is_admin, links::is_mailed)
    };
}

/// Returns a link that can be used. Does not use it.
pub fn find(
    conn: &mut Conn,
    digest: &Digest,
    purpose: Purpose,
    now: Timestamp,
) -> QueryResult<Option<Link>> {
    usable!(digest, purpose, now).select(columns!()).first(conn).optional()
}

/// Uses a link. Of several concurrent calls, one returns the link. Needs a transaction.
pub fn consume(
    conn: &mut Conn,
    digest: &Digest,
    purpose: Purpose,
    now: Timestamp,
) -> QueryResult<Option<Link>> {
    let used =
        diesel::update(usable!(digest, purpose, now)).set(links::used_at.eq(now)).execute(conn)?;
    if used == 0 {
        return Ok(None);
    }
    links::table.find(digest.as_bytes()).select(columns!()).first(conn).optional()
}

/// Deletes the unused links of a user.
pub fn void(conn: &mut Conn, user: UserId) -> QueryResult<()> {
    let open = links::table.filter(links::user_id.eq(user)).filter(links::used_at.is_null());
    diesel::delete(open).execute(conn).map(drop)
}

/// Deletes the unused invitations of a name.
pub fn void_invitations(conn: &mut Conn, name: &str) -> QueryResult<()> {
    let open = links::table
        .filter(links::name.eq(name))
        .filter(links::purpose.eq(Purpose::Invitation.as_str()))
        .filter(links::used_at.is_null());
    diesel::delete(open).execute(conn).map(drop)
}

/// Deletes up to `limit` links that expired before `before`. Returns how many.
pub fn delete_expired(conn: &mut Conn, before: Timestamp, limit: i64) -> QueryResult<usize> {
    let expired: Vec<Vec<u8>> = links::table
        .filter(links::expires_at.lt(before))
        .order(links::expires_at)
        .limit(limit)
        .select(links::digest)
        .load(conn)?;
    if expired.is_empty() {
        return Ok(0);
    }
    diesel::delete(links::table.filter(links::digest.eq_any(expired))).execute(conn)
}
