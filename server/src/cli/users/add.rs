//! `users add`.

use std::fmt::Write;

use serde::Serialize;

use super::{Add, Error, Operator, connect_to_change, read_password};
use crate::accounts::{self, DisplayName, LoginName, NewUser, Password, hash_password};
use crate::cli::format::to_json;
use crate::config::Config;
use crate::ids::UserId;

#[derive(Serialize)]
struct Added<'a> {
    id: UserId,
    name: &'a str,
}

pub(super) fn add(config: &Config, request: &Add) -> Result<String, Error> {
    let name = LoginName::parse(&request.name);
    let name = name.map_err(|_| Error::InvalidName(request.name.clone()))?;
    let display_name = request.display_name.as_deref().map(DisplayName::parse).transpose()?;
    let mut conn = connect_to_change(config)?;
    let password_hash = if request.password_stdin {
        let min_length = config.accounts.password_min_length;
        let password = Password::choose(&read_password()?, min_length, &name);
        Some(hash_password(&password.map_err(Error::Unacceptable)?)?)
    } else {
        None
    };
    let operator = Operator::new()?;
    let new = NewUser {
        user: UserId::random(),
        name,
        display_name,
        password_hash,
        is_admin: request.admin,
        is_disabled: false,
    };
    if !accounts::add(&mut conn, &new, &operator.context(config))? {
        return Err(Error::NameTaken(new.name.as_str().to_owned()));
    }
    let (id, name) = (new.user, new.name.as_str());
    if request.json {
        return Ok(to_json(&Added { id, name }));
    }
    let mut text = format!("{name} is added; id {id}\n");
    if new.password_hash.is_none() {
        let _ = writeln!(
            text,
            "The user has no password. Print a link to set one:\n  matchbook-server users \
             reset-password {name}"
        );
    }
    Ok(text)
}
