//! The creation of an account, from whichever source.

use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel::{Connection, QueryResult};

use super::LoginName;
use super::events::AccountEvent;
use crate::clock::Timestamp;
use crate::sessions::Context;
use crate::store::accounts::NewAccount;
use crate::store::events::Event;
use crate::store::identities::NewIdentity;
use crate::store::{Conn, accounts, events, identities, users};

/// Why no account is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The link that permits it was used, has expired, or never existed.
    InvalidLink,
    NameTaken,
    /// The user is an account already.
    AlreadyAccount,
    /// The session of the guest that becomes the account has ended.
    GuestLoggedOut,
}

/// Rolls a transaction back.
pub(super) enum Stop {
    Rejected(Rejection),
    Failed(diesel::result::Error),
}

impl From<diesel::result::Error> for Stop {
    fn from(error: diesel::result::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs `work` in a transaction that a rejection rolls back.
pub(super) fn all_or_nothing<T>(
    conn: &mut Conn,
    work: impl FnOnce(&mut Conn) -> Result<T, Stop>,
) -> QueryResult<Result<T, Rejection>> {
    match conn.transaction(work) {
        Ok(done) => Ok(Ok(done)),
        Err(Stop::Rejected(rejection)) => Ok(Err(rejection)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// An account and its login name.
#[derive(Clone, Copy)]
pub(super) struct NamedAccount<'a> {
    pub(super) account: NewAccount<'a>,
    pub(super) name: &'a LoginName,
    /// When the user proved that the email address is theirs.
    pub(super) verified_at: Option<Timestamp>,
    /// Why the user may have an account, for the audit log.
    pub(super) reason: Option<&'static str>,
}

/// Inserts an account with its name. A guest keeps its row in `users`. Needs a transaction.
pub(super) fn insert(conn: &mut Conn, new: NamedAccount<'_>, cx: &Context<'_>) -> Result<(), Stop> {
    let NamedAccount { account, name, verified_at, reason } = new;
    let user = account.user;
    let identity =
        NewIdentity { name: name.as_str(), kind: name.kind().as_str(), user, verified_at };
    if !identities::insert(conn, identity, cx.now)? {
        return Err(Stop::Rejected(Rejection::NameTaken));
    }
    users::insert_used(conn, user, cx.now)?;
    match accounts::insert(conn, account, cx.now) {
        Ok(true) => {}
        Ok(false) => return Err(Stop::Rejected(Rejection::AlreadyAccount)),
        // A concurrent request has deleted the user, and with it the session.
        Err(QueryError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => {
            return Err(Stop::Rejected(Rejection::GuestLoggedOut));
        }
        Err(error) => return Err(error.into()),
    }
    let event = cx.user_event(AccountEvent::Registered.as_str(), user);
    events::insert(conn, &Event { reason, ..event })?;
    Ok(())
}
