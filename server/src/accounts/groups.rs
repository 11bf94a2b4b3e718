//! The groups of users, which clients get as the claim `groups`.

use diesel::QueryResult;

use crate::ids::UserId;
use crate::store::{Conn, user_groups};

/// The maximum length of a name, in bytes.
const MAX_NAME_LEN: usize = 64;

/// The most groups of one user: tokens carry them.
const MAX_GROUPS: usize = 50;

/// The name of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupName(String);

/// Why a text is not the name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a group has 1 to {MAX_NAME_LEN} ASCII letters, digits and `.`, `_`, `-`, `:`, `/`"
)]
pub struct InvalidGroupName;

/// Why texts are not the groups of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGroups {
    #[error(transparent)]
    Name(#[from] InvalidGroupName),
    #[error("a user is in {MAX_GROUPS} groups at most")]
    TooMany,
}

impl GroupName {
    /// Parses a name. Case matters.
    pub fn parse(text: &str) -> Result<Self, InvalidGroupName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
        let is_valid = (1..=MAX_NAME_LEN).contains(&text.len()) && text.bytes().all(is_allowed);
        is_valid.then(|| Self(text.to_owned())).ok_or(InvalidGroupName)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The outcome of an addition to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addition {
    Added,
    /// The user was in the group already.
    Unchanged,
    /// The user is in as many groups as possible.
    TooMany,
}

/// Adds a user, who exists, to a group. Clients get it with their next token.
pub fn add_to_group(conn: &mut Conn, user: UserId, group: &GroupName) -> QueryResult<Addition> {
    let added = conn.write(|conn| {
        if !user_groups::insert(conn, user, group.as_str())? {
            return Ok(Addition::Unchanged);
        }
        if user_groups::of_user(conn, user)?.len() > MAX_GROUPS {
            return Err(diesel::result::Error::RollbackTransaction);
        }
        Ok(Addition::Added)
    });
    match added {
        Err(diesel::result::Error::RollbackTransaction) => Ok(Addition::TooMany),
        other => other,
    }
}

/// Parses the names of all groups of a user, and sorts them.
pub fn check_groups(names: &[String]) -> Result<Vec<GroupName>, InvalidGroups> {
    let groups = names.iter().map(|name| GroupName::parse(name));
    let mut groups: Vec<GroupName> = groups.collect::<Result<_, _>>()?;
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS {
        return Err(InvalidGroups::TooMany);
    }
    Ok(groups)
}

/// Replaces the groups of a user, who exists.
pub fn set_groups(conn: &mut Conn, user: UserId, groups: &[GroupName]) -> QueryResult<()> {
    conn.write(|conn| {
        user_groups::delete_all(conn, user)?;
        for group in groups {
            user_groups::insert(conn, user, group.as_str())?;
        }
        Ok(())
    })
}

/// Removes a user from a group. Returns `false` if the user was not in it.
pub fn remove_from_group(conn: &mut Conn, user: UserId, group: &GroupName) -> QueryResult<bool> {
    user_groups::delete(conn, user, group.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_separators_are_accepted() {
        for text in ["staff", "Team-1", "org:unit/team", &"a".repeat(64)] {
            assert_eq!(GroupName::parse(text).map(|name| name.0), Ok(text.to_owned()));
        }
        for text in ["", "a b", "a,b", "ä", "a\n", "\"", &"a".repeat(65)] {
            assert_eq!(GroupName::parse(text), Err(InvalidGroupName), "{text:?}");
        }
    }
}
