//! The table `accounts`: users that can log in again. A user without a row is a guest.

use diesel::prelude::*;

use super::Conn;
use super::schema::accounts;
use crate::clock::Timestamp;
use crate::ids::UserId;

/// The primary key of an account.
fn key(user: UserId) -> (i16, UserId) {
    (user.place().value(), user)
}

/// An account.
#[derive(Debug, Clone, Queryable)]
pub struct Account {
    pub user: UserId,
    pub created_at: Timestamp,
    pub display_name: Option<String>,
    /// The hash of the password; `None` if the account has no password.
    pub password_hash: Option<String>,
    pub is_admin: bool,
    pub disabled_at: Option<Timestamp>,
    pub last_login_at: Option<Timestamp>,
    /// The secret of the second factor, encrypted.
    pub totp_secret: Option<Vec<u8>>,
    /// When the second factor was confirmed. Before that it is not asked for.
    pub totp_confirmed_at: Option<Timestamp>,
    /// The time step of the last accepted code.
    pub totp_last_step: Option<i64>,
}

/// The columns of a new account.
#[derive(Clone, Copy)]
pub struct NewAccount<'a> {
    pub user: UserId,
    pub display_name: Option<&'a str>,
    pub password_hash: Option<&'a str>,
    pub is_admin: bool,
}

/// [`insert`] on one database: diesel has no `ON CONFLICT` for `MultiConnection`.
macro_rules! insert_if_guest {
    ($conn:expr, $new:expr, $now:expr) => {
        diesel::insert_into(accounts::table)
            .values((
                accounts::place.eq($new.user.place().value()),
                accounts::user_id.eq($new.user),
                accounts::created_at.eq($now),
                accounts::display_name.eq($new.display_name),
                accounts::password_hash.eq($new.password_hash),
                accounts::is_admin.eq($new.is_admin),
            ))
            .on_conflict_do_nothing()
            .execute($conn)
    };
}

/// Makes a user an account. Returns `false` if it is one already. Fails if the user does
/// not exist.
pub fn insert(conn: &mut Conn, new: NewAccount<'_>, now: Timestamp) -> QueryResult<bool> {
    let inserted = match conn {
        Conn::Postgres(conn) => insert_if_guest!(conn, new, now)?,
        Conn::Sqlite(conn) => insert_if_guest!(conn, new, now)?,
    };
    Ok(inserted == 1)
}

/// Returns whether the user is an account.
pub fn exists(conn: &mut Conn, user: UserId) -> QueryResult<bool> {
    let found = accounts::table
        .find(key(user))
        .select(accounts::user_id)
        .first::<UserId>(conn)
        .optional()?;
    Ok(found.is_some())
}

/// Selects the columns of [`Account`].
macro_rules! columns {
    () => {
        (
            accounts::user_id,
            accounts::created_at,
            accounts::display_name,
            accounts::password_hash,
            accounts::is_admin,
            accounts::disabled_at,
            accounts::last_login_at,
            accounts::totp_secret,
            accounts::totp_confirmed_at,
            accounts::totp_last_step,
        )
    };
}

/// Reads an account.
pub fn find(conn: &mut Conn, user: UserId) -> QueryResult<Option<Account>> {
    accounts::table.find(key(user)).select(columns!()).first(conn).optional()
}

/// Reads the accounts of these users.
pub fn find_all(conn: &mut Conn, users: &[UserId]) -> QueryResult<Vec<Account>> {
    let places = users.iter().map(|user| user.place().value());
    accounts::table
        .filter(accounts::place.eq_any(places))
        .filter(accounts::user_id.eq_any(users))
        .select(columns!())
        .load(conn)
}

/// Records a login, and locks the row until the end of the transaction. Returns `false` if
/// the account is disabled, or if its password is no longer the one with `password_hash`.
pub fn use_password(
    conn: &mut Conn,
    user: UserId,
    password_hash: &str,
    now: Timestamp,
) -> QueryResult<bool> {
    let unchanged = accounts::table
        .find(key(user))
        .filter(accounts::password_hash.eq(password_hash))
        .filter(accounts::disabled_at.is_null());
    let changed = diesel::update(unchanged).set(accounts::last_login_at.eq(now)).execute(conn)?;
    Ok(changed == 1)
}

/// Records a login without a password, and locks the row until the end of the transaction.
/// Returns `false` if the account is disabled or does not exist.
pub fn use_account(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<bool> {
    let enabled = accounts::table.find(key(user)).filter(accounts::disabled_at.is_null());
    let changed = diesel::update(enabled).set(accounts::last_login_at.eq(now)).execute(conn)?;
    Ok(changed == 1)
}

/// Replaces the hash of a password. Returns `false` if `old` is no longer the stored hash.
pub fn replace_password_hash(
    conn: &mut Conn,
    user: UserId,
    old: &str,
    new: &str,
) -> QueryResult<bool> {
    let unchanged = accounts::table.find(key(user)).filter(accounts::password_hash.eq(old));
    let changed = diesel::update(unchanged).set(accounts::password_hash.eq(new)).execute(conn)?;
    Ok(changed == 1)
}

/// Sets the password. Returns `false` if there is no such account.
pub fn set_password_hash(conn: &mut Conn, user: UserId, new: &str) -> QueryResult<bool> {
    let account = accounts::table.find(key(user));
    let changed = diesel::update(account).set(accounts::password_hash.eq(new)).execute(conn)?;
    Ok(changed == 1)
}

/// Sets the name that people see. Returns `false` if there is no such account.
pub fn set_display_name(conn: &mut Conn, user: UserId, name: Option<&str>) -> QueryResult<bool> {
    let account = accounts::table.find(key(user));
    let changed = diesel::update(account).set(accounts::display_name.eq(name)).execute(conn)?;
    Ok(changed == 1)
}

/// Stores the secret of a second factor that is not confirmed yet. Returns `false` if the
/// second factor is on, or if there is no such account.
pub fn set_totp_secret(conn: &mut Conn, user: UserId, encrypted: &[u8]) -> QueryResult<bool> {
    let off = accounts::table.find(key(user)).filter(accounts::totp_confirmed_at.is_null());
    let changed = diesel::update(off).set(accounts::totp_secret.eq(encrypted)).execute(conn)?;
    Ok(changed == 1)
}

/// Turns the second factor on. `step` is the time step of the first code. Returns `false`
/// if `secret` is no longer the stored secret, or if the second factor is on already.
pub fn confirm_totp(
    conn: &mut Conn,
    user: UserId,
    secret: &[u8],
    step: i64,
    now: Timestamp,
) -> QueryResult<bool> {
    let unconfirmed = accounts::table
        .find(key(user))
        .filter(accounts::totp_secret.eq(secret))
        .filter(accounts::totp_confirmed_at.is_null());
    let changed = diesel::update(unconfirmed)
        .set((accounts::totp_confirmed_at.eq(now), accounts::totp_last_step.eq(step)))
        .execute(conn)?;
    Ok(changed == 1)
}

/// The use of a code of the second factor.
#[derive(Clone, Copy)]
pub struct TotpUse<'a> {
    /// The time step of the code.
    pub step: i64,
    /// The stored secret that the code was compared with, encrypted.
    pub stored: &'a [u8],
    /// The same secret, maybe encrypted under another key. It is stored from now on.
    pub encrypted: &'a [u8],
}

/// Accepts a code. Returns `false` if a code of this step or of a later one was accepted
/// before, or if the stored secret has changed. Of several concurrent calls, one returns
/// `true`.
pub fn use_totp(conn: &mut Conn, user: UserId, code: TotpUse<'_>) -> QueryResult<bool> {
    let TotpUse { step, stored, encrypted } = code;
    let unused = accounts::totp_last_step.is_null().or(accounts::totp_last_step.lt(step));
    let account = accounts::table
        .find(key(user))
        .filter(accounts::totp_confirmed_at.is_not_null())
        .filter(accounts::totp_secret.eq(stored))
        .filter(unused);
    let changed = diesel::update(account)
        .set((accounts::totp_last_step.eq(step), accounts::totp_secret.eq(encrypted)))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Removes the second factor. Returns `false` if the account has no second factor.
pub fn clear_totp(conn: &mut Conn, user: UserId) -> QueryResult<bool> {
    let on = accounts::table.find(key(user)).filter(accounts::totp_secret.is_not_null());
    let changed = diesel::update(on)
        .set((
            accounts::totp_secret.eq(None::<Vec<u8>>),
            accounts::totp_confirmed_at.eq(None::<Timestamp>),
            accounts::totp_last_step.eq(None::<i64>),
        ))
        .execute(conn)?;
    Ok(changed == 1)
}

/// Gives or takes the role of an administrator. Returns `false` if there is no such account.
pub fn set_admin(conn: &mut Conn, user: UserId, is_admin: bool) -> QueryResult<bool> {
    let account = accounts::table.find(key(user));
    let changed = diesel::update(account).set(accounts::is_admin.eq(is_admin)).execute(conn)?;
    Ok(changed == 1)
}

/// Disables an account. Returns `false` if it is disabled or does not exist.
pub fn disable(conn: &mut Conn, user: UserId, now: Timestamp) -> QueryResult<bool> {
    let enabled = accounts::table.find(key(user)).filter(accounts::disabled_at.is_null());
    let changed = diesel::update(enabled).set(accounts::disabled_at.eq(now)).execute(conn)?;
    Ok(changed == 1)
}

/// Enables an account. Returns `false` if it is enabled or does not exist.
pub fn enable(conn: &mut Conn, user: UserId) -> QueryResult<bool> {
    let disabled = accounts::table.find(key(user)).filter(accounts::disabled_at.is_not_null());
    let changed =
        diesel::update(disabled).set(accounts::disabled_at.eq(None::<Timestamp>)).execute(conn)?;
    Ok(changed == 1)
}

/// Locks the row of an account until the end of the transaction. Returns `false` if there
/// is no such account. Logins lock the row as well, so none happens at the same time.
pub fn lock(conn: &mut Conn, user: UserId) -> QueryResult<bool> {
    let account = accounts::table.find(key(user));
    let changed =
        diesel::update(account).set(accounts::is_admin.eq(accounts::is_admin)).execute(conn)?;
    Ok(changed == 1)
}
