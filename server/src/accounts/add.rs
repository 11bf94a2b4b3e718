//! The creation of an account by an operator.

use diesel::QueryResult;

use super::create::{self, NamedAccount};
use super::{DisplayName, LoginName};
use crate::ids::UserId;
use crate::sessions::Context;
use crate::store::accounts::NewAccount;
use crate::store::{Conn, accounts};

/// An account that is to be created.
pub struct NewUser {
    pub user: UserId,
    pub name: LoginName,
    pub display_name: Option<DisplayName>,
    pub password_hash: Option<String>,
    pub is_admin: bool,
    pub is_disabled: bool,
}

/// Creates an account with its name. Returns `false` if the name is taken.
pub fn add(conn: &mut Conn, new: &NewUser, cx: &Context<'_>) -> QueryResult<bool> {
    let account = NewAccount {
        user: new.user,
        display_name: new.display_name.as_ref().map(DisplayName::as_str),
        password_hash: new.password_hash.as_deref(),
        is_admin: new.is_admin,
    };
    let named =
        NamedAccount { account, name: &new.name, verified_at: None, reason: Some("operator") };
    let added = create::all_or_nothing(conn, |conn| {
        create::insert(conn, named, cx)?;
        if new.is_disabled {
            accounts::disable(conn, new.user, cx.now)?;
        }
        Ok(())
    })?;
    Ok(added.is_ok())
}
