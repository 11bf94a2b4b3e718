//! Registration with an email address: the account is created when the address is verified.
//!
//! Until then there is a link only, with the password and the id of the future user. A name
//! that is taken gets the same response in the same time, and its owner gets another mail.

use super::create::{self, NamedAccount, Rejection, Stop};
use super::events::AccountEvent;
use super::links::{LinkError, LinkToken, VERIFICATION_LIFETIME};
use super::mails::{name_taken_mail, verification_mail};
use super::{Accounts, LoginName, NameKind, RegisterError};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::mail::Mailer;
use crate::sessions::{ClientInfo, Context};
use crate::store::accounts::NewAccount;
use crate::store::one_time_links::{self, Link, NewLink, Purpose};
use crate::store::{Conn, accounts, events, identities, sessions};
use crate::tokens::VerifiedToken;

/// A registration whose email address is not verified yet.
pub(super) struct PendingRegistration {
    pub(super) name: LoginName,
    pub(super) password_hash: String,
    /// The guest that becomes the account.
    pub(super) guest: Option<VerifiedToken>,
    pub(super) client: ClientInfo,
}

impl Accounts {
    /// Returns whether the server sends mail.
    #[must_use]
    pub fn sends_mail(&self) -> bool {
        self.mailer.is_some()
    }

    /// Returns whether a registration with this name sends a mail.
    #[must_use]
    pub fn sends_mail_to(&self, name: &LoginName) -> bool {
        self.mailer.is_some() && name.kind() == NameKind::Email
    }

    /// Stores a registration, and sends the link that completes it. Returns the user of the
    /// future account.
    pub(super) async fn await_verification(
        &self,
        mailer: &Mailer,
        pending: PendingRegistration,
    ) -> Result<UserId, RegisterError> {
        let PendingRegistration { name, password_hash, guest, client } = pending;
        let token = LinkToken::random().map_err(crate::issuer::Error::from)?;
        let digest = token.digest();
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let user = guest.as_ref().map_or_else(UserId::random, |guest| guest.user);
        let policy = *self.issuer.policy();
        let to = name.as_str().to_owned();
        let store = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let link = NewLink {
                digest,
                purpose: Purpose::Verification,
                user,
                name: Some(name.as_str()),
                password_hash: Some(&password_hash),
                is_admin: false,
                is_mailed: true,
                expires_at: now.after(VERIFICATION_LIFETIME),
            };
            let stored = create::all_or_nothing(conn, |conn| {
                // The same statements for every name, so that it takes the same time. The
                // link for a name that is taken is not sent.
                one_time_links::insert(conn, &link, now)?;
                let kind = AccountEvent::RegistrationStarted.as_str();
                events::insert(conn, &cx.user_event(kind, user))?;
                if let Some(guest) = &guest {
                    check_guest(conn, guest, &cx)?;
                }
                Ok(identities::find(conn, name.as_str())?.is_some())
            });
            Ok((stored?, client))
        };
        let (stored, client) = self.store.write_once(store).await?;
        let public_url = &self.options.public_url;
        mailer.send(if stored? {
            name_taken_mail(public_url, &to, &client)
        } else {
            verification_mail(public_url, &to, &token, &client)
        });
        Ok(user)
    }

    /// Creates the account of a registration. Returns its user.
    pub async fn confirm_registration(
        &self,
        token: Option<LinkToken>,
        client: ClientInfo,
    ) -> Result<UserId, LinkError> {
        let digest = token.ok_or(LinkError::InvalidLink)?.digest();
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let policy = *self.issuer.policy();
        let confirm = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            create::all_or_nothing(conn, |conn| {
                let invalid = || Stop::Rejected(Rejection::InvalidLink);
                let link = one_time_links::consume(conn, &digest, Purpose::Verification, now)?;
                let Link { user, name, password_hash, .. } = link.ok_or_else(invalid)?;
                let name = name.and_then(|name| LoginName::parse(&name).ok());
                let name = name.ok_or_else(invalid)?;
                let account = NewAccount {
                    user,
                    display_name: None,
                    password_hash: password_hash.as_deref(),
                    is_admin: false,
                };
                let reason = Some("verification");
                let verified_at = Some(now);
                let new = NamedAccount { account, name: &name, verified_at, reason };
                create::insert(conn, new, &cx)?;
                Ok(user)
            })
        };
        let user = self.store.write(confirm).await??;
        tracing::info!(%user, "account registered");
        self.profiles.forget(user);
        Ok(user)
    }
}

/// Checks that the guest of a registration can become an account.
fn check_guest(conn: &mut Conn, guest: &VerifiedToken, cx: &Context<'_>) -> Result<(), Stop> {
    if accounts::exists(conn, guest.user)? {
        return Err(Stop::Rejected(Rejection::AlreadyAccount));
    }
    if !sessions::is_live(conn, guest.session, cx.now)? {
        return Err(Stop::Rejected(Rejection::GuestLoggedOut));
    }
    Ok(())
}
