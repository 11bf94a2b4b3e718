//! `users enable`, `disable`, `remove-second-factor`, `delete`, and `reset-password --password-stdin`.

use serde::Serialize;

use super::{Error, One, Operator, connect_to_change, find, read_password};
use crate::accounts::{self, LoginName, Password, hash_password};
use crate::cli::format::to_json;
use crate::cli::propagation::await_servers;
use crate::config::Config;
use crate::ids::UserId;
use crate::sessions::{Context, Revoked};
use crate::store::{self, Conn, identities};

#[derive(Serialize)]
struct Outcome {
    id: UserId,
    /// Whether the command changed anything.
    changed: bool,
    /// How many sessions ended.
    ended: usize,
}

/// A change of an account, and its printed result.
struct Change<'a> {
    one: &'a One,
    done: &'static str,
    /// The printed result if nothing had to be changed.
    unchanged: &'static str,
    /// Whether the change ends sessions.
    ends_sessions: bool,
}

impl Change<'_> {
    /// Applies a rule, and waits until every server rejects the tokens of the sessions that
    /// ended.
    fn apply(
        &self,
        config: &Config,
        rule: impl FnOnce(&mut Conn, UserId, &Context<'_>) -> diesel::QueryResult<Option<usize>>,
    ) -> Result<String, Error> {
        let mut conn = connect_to_change(config)?;
        let user = find(&mut conn, &self.one.user)?;
        if !store::accounts::exists(&mut conn, user)? {
            return Err(Error::Guest(user));
        }
        let operator = Operator::new()?;
        let changed = rule(&mut conn, user, &operator.context(config))?;
        let ended = changed.unwrap_or_default();
        // Also if no session has ended: an earlier command may have been interrupted after its
        // commit.
        if self.ends_sessions {
            await_servers(&mut conn, config);
        }
        if self.one.json {
            return Ok(to_json(&Outcome { id: user, changed: changed.is_some(), ended }));
        }
        let name = &self.one.user;
        Ok(match changed {
            None => format!("{name} {}\n", self.unchanged),
            Some(0) => format!("{name} {}\n", self.done),
            Some(1) => format!("{name} {}; 1 session has ended\n", self.done),
            Some(n) => format!("{name} {}; {n} sessions have ended\n", self.done),
        })
    }
}

fn count(revoked: Option<Revoked>) -> Option<usize> {
    revoked.map(|revoked| revoked.ended)
}

pub(super) fn enable(config: &Config, one: &One) -> Result<String, Error> {
    let change =
        Change { one, done: "is enabled", unchanged: "was enabled already", ends_sessions: false };
    change.apply(config, |conn, user, cx| Ok(accounts::enable(conn, user, cx)?.then_some(0)))
}

pub(super) fn disable(config: &Config, one: &One) -> Result<String, Error> {
    let change =
        Change { one, done: "is disabled", unchanged: "was disabled already", ends_sessions: true };
    change.apply(config, |conn, user, cx| Ok(count(accounts::disable(conn, user, cx)?)))
}

pub(super) fn remove_second_factor(config: &Config, one: &One) -> Result<String, Error> {
    let change = Change {
        one,
        done: "has no second factor any more",
        unchanged: "had no second factor",
        ends_sessions: false,
    };
    change.apply(config, |conn, user, cx| {
        Ok(accounts::remove_second_factor(conn, user, cx)?.then_some(0))
    })
}

pub(super) fn delete(config: &Config, one: &One) -> Result<String, Error> {
    let change =
        Change { one, done: "is deleted", unchanged: "was deleted already", ends_sessions: true };
    change.apply(config, |conn, user, cx| Ok(count(accounts::delete(conn, user, cx)?)))
}

pub(super) fn set_password(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = store::connect(&config.database.url)?;
    let user = find(&mut conn, &one.user)?;
    let names = identities::of_user(&mut conn, user)?;
    let name = names.iter().find_map(|name| LoginName::parse(&name.name).ok());
    let name = name.ok_or(Error::NoLoginName(user))?;
    let min_length = config.accounts.password_min_length;
    let password = Password::choose(&read_password()?, min_length, &name);
    let hash = hash_password(&password.map_err(Error::Unacceptable)?)?;
    let change =
        Change { one, done: "has the new password", unchanged: "was deleted", ends_sessions: true };
    change.apply(config, |conn, user, cx| Ok(count(accounts::set_password(conn, user, &hash, cx)?)))
}
