//! Links that work once: invitations, and resets of a password.
//!
//! A link contains a token of 256 random bits. The database has its digest, so the link
//! cannot be shown again. The server never logs a token.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::{Connection, QueryResult};

use super::create::Rejection;
use super::events::AccountEvent;
use super::{Error, LoginName, Unacceptable};
use crate::crypto::{Digest, RngError, Secret};
use crate::ids::UserId;
use crate::sessions::Context;
use crate::store::one_time_links::{self, NewLink, Purpose};
use crate::store::{Conn, accounts, events, identities};

/// The prefix of every token, by which scanners for leaked secrets can find one.
///
/// NEVER CHANGE THIS PREFIX once a version is released: links that were sent would no longer
/// work.
const PREFIX: &str = "mb_ln_";

const INVITATION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The lifetime of an invitation that makes an administrator.
const ADMIN_INVITATION_LIFETIME: Duration = Duration::from_secs(60 * 60);
pub(super) const VERIFICATION_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
const RESET_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Why the use of a link is rejected. A rejected request does not use the link.
#[derive(Debug)]
pub enum LinkError {
    /// The link was used, has expired, was replaced, or never existed.
    InvalidLink,
    /// The invitation has no name, and neither has the request.
    NameMissing,
    /// The invitation has another name than the request.
    NameFixed,
    NameTaken,
    /// The guest of the registration is an account already.
    AlreadyAccount,
    Unacceptable(Unacceptable),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for LinkError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Rejection> for LinkError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            // A link does not depend on the session of a guest.
            Rejection::InvalidLink | Rejection::GuestLoggedOut => Self::InvalidLink,
            Rejection::NameTaken => Self::NameTaken,
            Rejection::AlreadyAccount => Self::AlreadyAccount,
        }
    }
}

/// The secret in a link.
#[derive(Clone)]
pub struct LinkToken(Secret);

impl LinkToken {
    /// Returns a new token.
    pub fn random() -> Result<Self, RngError> {
        Secret::random().map(Self)
    }

    /// Parses the token of a link.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secret = URL_SAFE_NO_PAD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
        secret.try_into().ok().map(|secret| Self(Secret::from_bytes(secret)))
    }

    /// Returns the text in the link.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{PREFIX}{}", self.0.to_base64())
    }

    /// Returns the link of a purpose at the server with the URL `public_url`.
    #[must_use]
    pub fn url(&self, public_url: &str, purpose: Purpose) -> String {
        let page = match purpose {
            Purpose::Invitation => "invitation",
            Purpose::Verification => "verify",
            Purpose::Reset => "reset",
        };
        format!("{}/{page}?token={}", public_url.trim_end_matches('/'), self.encode())
    }

    pub(super) fn digest(&self) -> Digest {
        self.0.digest()
    }
}

/// An invitation to register an account.
#[derive(Clone, Copy)]
pub struct Invitation<'a> {
    /// The user of the future account.
    pub user: UserId,
    /// The login name of the account. `None`: the invited user chooses one.
    pub name: Option<&'a LoginName>,
    /// Whether the account administrates the server.
    pub is_admin: bool,
    /// Whether the link is only sent to the email address `name`.
    pub is_mailed: bool,
}

/// Invites a user, and voids the earlier invitations of the name. Returns `false` if the
/// name is taken.
pub fn invite(
    conn: &mut Conn,
    token: &LinkToken,
    invitation: Invitation<'_>,
    cx: &Context<'_>,
) -> QueryResult<bool> {
    let Invitation { user, name, is_admin, is_mailed } = invitation;
    let name = name.map(LoginName::as_str);
    let lifetime = if is_admin { ADMIN_INVITATION_LIFETIME } else { INVITATION_LIFETIME };
    let link = NewLink {
        digest: token.digest(),
        purpose: Purpose::Invitation,
        user,
        name,
        password_hash: None,
        is_admin,
        is_mailed,
        expires_at: cx.now.after(lifetime),
    };
    conn.write(|conn| {
        if let Some(name) = name {
            one_time_links::void_invitations(conn, name)?;
            if identities::find(conn, name)?.is_some() {
                return Ok(false);
            }
        }
        one_time_links::insert(conn, &link, cx.now)?;
        events::insert(conn, &cx.user_event(AccountEvent::Invited.as_str(), user))?;
        Ok(true)
    })
}

/// A link that sets a new password.
#[derive(Clone, Copy)]
pub struct ResetLink<'a> {
    pub user: UserId,
    /// The email address of the user, if the link is only sent there.
    pub mailed_to: Option<&'a str>,
}

/// Creates a reset link, and voids the earlier links of the user. Returns `false` if there
/// is no such account.
pub fn reset_link(
    conn: &mut Conn,
    token: &LinkToken,
    link: ResetLink<'_>,
    cx: &Context<'_>,
) -> QueryResult<bool> {
    let ResetLink { user, mailed_to } = link;
    let link = NewLink {
        digest: token.digest(),
        purpose: Purpose::Reset,
        user,
        name: mailed_to,
        password_hash: None,
        is_admin: false,
        is_mailed: mailed_to.is_some(),
        expires_at: cx.now.after(RESET_LIFETIME),
    };
    conn.transaction(|conn| {
        if !accounts::lock(conn, user)? {
            return Ok(false);
        }
        one_time_links::void(conn, user)?;
        one_time_links::insert(conn, &link, cx.now)?;
        events::insert(conn, &cx.user_event(AccountEvent::ResetLinkCreated.as_str(), user))?;
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_found_in_its_link_and_nothing_else_is_a_token() {
        let token = LinkToken(Secret::from_bytes([7; 32]));
        let url = token.url("https://auth.example.com/", Purpose::Reset);
        let (base, text) = url.split_once("?token=").unwrap();
        assert_eq!(base, "https://auth.example.com/reset");
        assert!(text.starts_with("mb_ln_") && text.len() == 49, "{text}");
        assert!(LinkToken::parse(&format!(" {text}\n")).unwrap().digest() == token.digest());
        for other in ["", "mb_ln_", &text[6..], &text[..48], &format!("{text}A"), "mb_ln_é"] {
            assert!(LinkToken::parse(other).is_none(), "{other}");
        }
    }
}
