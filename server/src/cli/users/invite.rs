//! `users invite` and `users reset-password`: links that work once, printed or mailed.

use serde::Serialize;

use super::{Error, Invite, One, Operator, connect_to_change, find};
use crate::accounts::{Invitation, LinkPurpose, LinkToken, LoginName, NameKind, ResetLink};
use crate::cli::format::to_json;
use crate::config::Config;
use crate::ids::UserId;
use crate::mail::{Mail, Mailer};
use crate::{accounts, store};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    /// The user that the link is about, or that it will create.
    id: UserId,
    /// Absent if the link was mailed.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// The email address to which the link was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailed_to: Option<String>,
}

pub(super) async fn invite(config: &Config, request: &Invite) -> Result<String, Error> {
    let name = request.name.as_deref();
    let name =
        name.map(|text| LoginName::parse(text).map_err(|_| Error::InvalidName(text.to_owned())));
    let name = name.transpose()?;
    let address = match &name {
        Some(name) if request.mail => Some(email_address(name)?),
        _ => None,
    };
    let mailer = mailer(config, request.mail)?;
    let mut conn = connect_to_change(config)?;
    let token = LinkToken::random()?;
    let operator = Operator::new()?;
    let user = UserId::random();
    let invitation = Invitation {
        user,
        name: name.as_ref(),
        is_admin: request.admin,
        is_mailed: address.is_some(),
    };
    if !accounts::invite(&mut conn, &token, invitation, &operator.context(config))? {
        return Err(Error::NameTaken(
            name.map_or_else(String::new, |name| name.as_str().to_owned()),
        ));
    }
    if let (Some(mailer), Some(to)) = (mailer, address) {
        let mail = accounts::invitation_mail(&config.public_url, &to, &token);
        return deliver(&mailer, mail, user, request.json).await;
    }
    let link = token.url(&config.public_url, LinkPurpose::Invitation);
    if request.json {
        return Ok(to_json(&Output { id: user, link: Some(link), mailed_to: None }));
    }
    let lifetime = if request.admin { "for one hour" } else { "for seven days" };
    Ok(format!("{link}\nThe link works once, {lifetime}. It is not printed again.\n"))
}

pub(super) async fn reset(config: &Config, one: &One, by_mail: bool) -> Result<String, Error> {
    let mailer = mailer(config, by_mail)?;
    let mut conn = connect_to_change(config)?;
    let user = find(&mut conn, &one.user)?;
    if store::identities::of_user(&mut conn, user)?.is_empty() {
        return Err(Error::NoLoginName(user));
    }
    let address = match mailer {
        Some(_) => accounts::email_of(&mut conn, user, &one.user)?
            .map(Some)
            .ok_or_else(|| Error::NoAddress(one.user.clone()))?,
        None => None,
    };
    let token = LinkToken::random()?;
    let operator = Operator::new()?;
    let link = ResetLink { user, mailed_to: address.as_deref() };
    if !accounts::reset_link(&mut conn, &token, link, &operator.context(config))? {
        return Err(Error::Guest(user));
    }
    if let (Some(mailer), Some(to)) = (mailer, address) {
        let mail = accounts::reset_mail(&config.public_url, &to, &token, &operator.client);
        return deliver(&mailer, mail, user, one.json).await;
    }
    let link = token.url(&config.public_url, LinkPurpose::Reset);
    if one.json {
        return Ok(to_json(&Output { id: user, link: Some(link), mailed_to: None }));
    }
    Ok(format!(
        "{link}\nThe link works once, for one hour. It sets a new password, and ends all sessions \
         of the user.\nIt is not printed again.\n"
    ))
}

/// Returns a mailer if the link is to be mailed.
fn mailer(config: &Config, by_mail: bool) -> Result<Option<Mailer>, Error> {
    if !by_mail {
        return Ok(None);
    }
    let options = config.mail.as_ref().ok_or(Error::NoMail)?;
    Ok(Some(Mailer::new(options)?))
}

fn email_address(name: &LoginName) -> Result<String, Error> {
    match name.kind() {
        NameKind::Email => Ok(name.as_str().to_owned()),
        NameKind::Username => Err(Error::NoAddress(name.as_str().to_owned())),
    }
}

async fn deliver(mailer: &Mailer, mail: Mail, user: UserId, json: bool) -> Result<String, Error> {
    mailer.deliver(&mail).await?;
    let to = mail.to;
    if json {
        return Ok(to_json(&Output { id: user, link: None, mailed_to: Some(to) }));
    }
    Ok(format!("The link was sent to {to}.\n"))
}
