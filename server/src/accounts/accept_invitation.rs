//! The acceptance of an invitation: creates the account.

use secrecy::SecretString;

use super::create::{self, NamedAccount, Rejection, Stop};
use super::links::{LinkError, LinkToken};
use super::{Accounts, LoginName, NameKind};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context};
use crate::store::Conn;
use crate::store::accounts::NewAccount;
use crate::store::one_time_links::{self, Link, Purpose};

/// The acceptance of an invitation.
pub struct AcceptInvitation {
    pub token: Option<LinkToken>,
    /// The login name, if the invitation has none.
    pub name: Option<LoginName>,
    pub password: SecretString,
    pub client: ClientInfo,
}

impl Accounts {
    /// Creates the account of an invitation. Returns its user. A rejected request does not
    /// use the invitation.
    pub async fn accept_invitation(&self, request: AcceptInvitation) -> Result<UserId, LinkError> {
        let AcceptInvitation { token, name, password, client } = request;
        let digest = token.ok_or(LinkError::InvalidLink)?.digest();
        let link = self.find_link(digest, Purpose::Invitation).await?;
        let link = link.ok_or(LinkError::InvalidLink)?;
        let name = invited_name(&link, name)?;
        let password = self.choose_password(&password, &name).map_err(LinkError::Unacceptable)?;
        let password_hash = self.hasher.hash(password).await?;
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let policy = *self.issuer.policy();
        let user = link.user;
        let accept = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            create::all_or_nothing(conn, |conn| {
                let link = one_time_links::consume(conn, &digest, Purpose::Invitation, now)?;
                let link = link.ok_or(Stop::Rejected(Rejection::InvalidLink))?;
                let proves_address = link.is_mailed && name.kind() == NameKind::Email;
                let new = NamedAccount {
                    account: NewAccount {
                        user,
                        display_name: None,
                        password_hash: Some(&password_hash),
                        is_admin: link.is_admin,
                    },
                    name: &name,
                    verified_at: proves_address.then_some(now),
                    reason: Some("invitation"),
                };
                create::insert(conn, new, &cx)
            })
        };
        self.store.write(accept).await??;
        tracing::info!(%user, "invitation accepted");
        Ok(user)
    }
}

/// Returns the name of the account: that of the invitation, or else that of the request.
fn invited_name(link: &Link, requested: Option<LoginName>) -> Result<LoginName, LinkError> {
    let Some(invited) = &link.name else { return requested.ok_or(LinkError::NameMissing) };
    // A stored name is normalized, so that it can be parsed.
    let invited = LoginName::parse(invited).map_err(|_| LinkError::InvalidLink)?;
    match requested {
        Some(requested) if requested != invited => Err(LinkError::NameFixed),
        _ => Ok(invited),
    }
}
