//! `users invite` and `users reset-password`: links that work once.

use serde::Serialize;

use super::{Error, Invite, One, Operator, connect_to_change, find};
use crate::accounts::{Invitation, LinkPurpose, LinkToken, LoginName, ResetLink};
use crate::cli::format::to_json;
use crate::config::Config;
use crate::ids::UserId;
use crate::{accounts, store};

#[derive(Serialize)]
struct Link {
    /// The user that the link is about, or that it will create.
    id: UserId,
    link: String,
}

pub(super) fn invite(config: &Config, request: &Invite) -> Result<String, Error> {
    let name = request.name.as_deref();
    let name =
        name.map(|text| LoginName::parse(text).map_err(|_| Error::InvalidName(text.to_owned())));
    let name = name.transpose()?;
    let mut conn = connect_to_change(config)?;
    let token = LinkToken::random()?;
    let operator = Operator::new()?;
    let user = UserId::random();
    let invitation =
        Invitation { user, name: name.as_ref(), is_admin: request.admin, is_mailed: false };
    if !accounts::invite(&mut conn, &token, invitation, &operator.context(config))? {
        return Err(Error::NameTaken(
            name.map_or_else(String::new, |name| name.as_str().to_owned()),
        ));
    }
    let link = token.url(&config.public_url, LinkPurpose::Invitation);
    if request.json {
        return Ok(to_json(&Link { id: user, link }));
    }
    let lifetime = if request.admin { "for one hour" } else { "for seven days" };
    Ok(format!("{link}\nThe link works once, {lifetime}. It is not printed again.\n"))
}

pub(super) fn reset(config: &Config, one: &One) -> Result<String, Error> {
    let mut conn = connect_to_change(config)?;
    let user = find(&mut conn, &one.user)?;
    if store::identities::of_user(&mut conn, user)?.is_empty() {
        return Err(Error::NoLoginName(user));
    }
    let token = LinkToken::random()?;
    let operator = Operator::new()?;
    let link = ResetLink { user, mailed_to: None };
    if !accounts::reset_link(&mut conn, &token, link, &operator.context(config))? {
        return Err(Error::Guest(user));
    }
    let link = token.url(&config.public_url, LinkPurpose::Reset);
    if one.json {
        return Ok(to_json(&Link { id: user, link }));
    }
    Ok(format!(
        "{link}\nThe link works once, for one hour. It sets a new password, and ends all sessions \
         of the user.\nIt is not printed again.\n"
    ))
}
