//! The texts of mails.

use super::links::LinkToken;
use crate::mail::Mail;
use crate::sessions::ClientInfo;
use crate::store::one_time_links::Purpose;

/// Returns the mail of an invitation to the email address `to`.
#[must_use]
pub fn invitation_mail(public_url: &str, to: &str, token: &LinkToken) -> Mail {
    let link = token.url(public_url, Purpose::Invitation);
    let text = format!(
        "You are invited to create an account at {public_url}. Choose a password here:\n\n\
         {link}\n\n\
         The link works once, and expires soon. If you did not expect this invitation, ignore \
         this mail.\n"
    );
    Mail {
        to: to.to_owned(),
        kind: "invitation",
        subject: "Your invitation".to_owned(),
        text,
        secret: Some(token.encode()),
    }
}

/// Returns the mail with which a user verifies an email address.
pub(super) fn verification_mail(
    public_url: &str,
    to: &str,
    token: &LinkToken,
    client: &ClientInfo,
) -> Mail {
    let link = token.url(public_url, Purpose::Verification);
    let origin = origin(client);
    let text = format!(
        "An account with this email address was requested at {public_url}{origin}. If this was \
         you, confirm the address here:\n\n\
         {link}\n\n\
         The link works once, within 24 hours. If it was not you, do not open the link: without \
         it there is no account.\n"
    );
    Mail {
        to: to.to_owned(),
        kind: "verification",
        subject: "Confirm your email address".to_owned(),
        text,
        secret: Some(token.encode()),
    }
}

/// Returns the mail for the owner of an account whose email address was registered again.
pub(super) fn name_taken_mail(public_url: &str, to: &str, client: &ClientInfo) -> Mail {
    let origin = origin(client);
    let text = format!(
        "A new account with this email address was requested at {public_url}{origin}. You have \
         an account with this address already, and it has not changed.\n\n\
         If this was you, log in with your password. If you have forgotten it, request a link \
         that sets a new one. If it was not you, ignore this mail.\n"
    );
    Mail {
        to: to.to_owned(),
        kind: "name_taken",
        subject: "You have an account already".to_owned(),
        text,
        secret: None,
    }
}

/// Returns the mail with which a user sets a new password.
#[must_use]
pub fn reset_mail(public_url: &str, to: &str, token: &LinkToken, client: &ClientInfo) -> Mail {
    let link = token.url(public_url, Purpose::Reset);
    let origin = origin(client);
    let text = format!(
        "A new password for your account at {public_url} was requested{origin}. Choose it \
         here:\n\n\
         {link}\n\n\
         The link works once, within one hour, and logs you out everywhere. If you did not \
         request it, ignore this mail: your password has not changed.\n"
    );
    Mail {
        to: to.to_owned(),
        kind: "reset",
        subject: "Choose a new password".to_owned(),
        text,
        secret: Some(token.encode()),
    }
}

/// Returns where a request came from, for the recipient of its mail.
fn origin(client: &ClientInfo) -> String {
    client.ip.map_or_else(String::new, |ip| format!(" from the IP address {ip}"))
}
