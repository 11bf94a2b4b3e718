//! The creation of an account by an operator.

use diesel::QueryResult;

use super::LoginName;
use super::create::{self, NamedAccount};
use crate::ids::UserId;
use crate::sessions::Context;
use crate::store::accounts::NewAccount;
use crate::store::{Conn, accounts};

/// The maximum length of a display name, in characters.
const MAX_DISPLAY_NAME_LEN: usize = 100;

/// The name of an account that people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplayName(String);

/// The text is no display name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a display name has 1 to {MAX_DISPLAY_NAME_LEN} characters, and no control characters")]
pub struct InvalidDisplayName;

impl DisplayName {
    /// Parses a display name, without spaces around it.
    pub fn parse(text: &str) -> Result<Self, InvalidDisplayName> {
        let text = text.trim();
        let is_valid = (1..=MAX_DISPLAY_NAME_LEN).contains(&text.chars().count())
            && !text.chars().any(char::is_control);
        is_valid.then(|| Self(text.to_owned())).ok_or(InvalidDisplayName)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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
