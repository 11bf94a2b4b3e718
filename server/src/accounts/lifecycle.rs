//! Rules about existing accounts, for the server and the command line: disable, enable,
//! delete, set a password.
//!
//! Each rule first writes to the row of the account, as a login does. A login at the same
//! time therefore either is committed before, and its session ends with the others, or
//! sees the change and is rejected.

use diesel::{Connection, QueryResult};

use super::events::AccountEvent;
use crate::ids::UserId;
use crate::sessions::{self, Context, EndReason, Keep, Revoked, UserSessions};
use crate::store::{Conn, accounts, events, one_time_links, recovery_codes, users};

/// Disables an account and ends its sessions. Returns `None` if the account is disabled
/// already or does not exist.
pub fn disable(conn: &mut Conn, user: UserId, cx: &Context<'_>) -> QueryResult<Option<Revoked>> {
    conn.transaction(|conn| {
        if !accounts::disable(conn, user, cx.now)? {
            return Ok(None);
        }
        record_and_end(conn, user, AccountEvent::Disabled, cx).map(Some)
    })
}

/// Enables an account. Returns `false` if it is enabled already or does not exist.
pub fn enable(conn: &mut Conn, user: UserId, cx: &Context<'_>) -> QueryResult<bool> {
    conn.transaction(|conn| {
        if !accounts::enable(conn, user)? {
            return Ok(false);
        }
        events::insert(conn, &cx.user_event(AccountEvent::Enabled.as_str(), user))?;
        Ok(true)
    })
}

/// Deletes an account with its names, links, sessions and codes. Entries of the audit log
/// remain; they contain the id of the user and no name. Returns `None` if there is no such
/// account.
pub fn delete(conn: &mut Conn, user: UserId, cx: &Context<'_>) -> QueryResult<Option<Revoked>> {
    conn.transaction(|conn| {
        if !accounts::lock(conn, user)? {
            return Ok(None);
        }
        // Before the rows of the sessions are deleted: the revocations need them.
        let revoked = record_and_end(conn, user, AccountEvent::Deleted, cx)?;
        users::delete_with_names(conn, user)?;
        Ok(Some(revoked))
    })
}

/// Sets the password of an account without the current one, and ends all its sessions.
/// Returns `None` if there is no such account.
pub fn set_password(
    conn: &mut Conn,
    user: UserId,
    password_hash: &str,
    cx: &Context<'_>,
) -> QueryResult<Option<Revoked>> {
    conn.transaction(|conn| {
        if !accounts::set_password_hash(conn, user, password_hash)? {
            return Ok(None);
        }
        record_and_end(conn, user, AccountEvent::PasswordReset, cx).map(Some)
    })
}

/// Removes the second factor of an account whose user has lost it. Returns `false` if
/// it has no second factor.
pub fn remove_second_factor(conn: &mut Conn, user: UserId, cx: &Context<'_>) -> QueryResult<bool> {
    conn.transaction(|conn| {
        if !accounts::clear_totp(conn, user)? {
            return Ok(false);
        }
        recovery_codes::delete(conn, user)?;
        events::insert(conn, &cx.user_event(AccountEvent::SecondFactorDisabled.as_str(), user))?;
        Ok(true)
    })
}

/// Adds an entry to the audit log, voids the links of the user, and ends all sessions.
fn record_and_end(
    conn: &mut Conn,
    user: UserId,
    kind: AccountEvent,
    cx: &Context<'_>,
) -> QueryResult<Revoked> {
    events::insert(conn, &cx.user_event(kind.as_str(), user))?;
    one_time_links::void(conn, user)?;
    let reason = match kind {
        AccountEvent::PasswordReset => EndReason::PasswordChanged,
        _ => EndReason::UserDisabled,
    };
    let cx = Context { event: cx.event.offset(1), ..*cx };
    sessions::end_all(conn, UserSessions { user, keep: Keep::Nothing, reason }, &cx)
}
