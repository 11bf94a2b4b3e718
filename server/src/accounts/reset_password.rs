//! Forgotten passwords: a link by mail, and the new password.

use std::sync::Arc;

use diesel::QueryResult;
use secrecy::SecretString;
use tracing::Instrument;

use super::create::{self, Rejection, Stop};
use super::events::AccountEvent;
use super::links::{LinkError, LinkToken, ResetLink, reset_link};
use super::mails::reset_mail;
use super::{Accounts, Error, LoginName, NameKind, lifecycle};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context, EndReason, Revoked};
use crate::store::identities::Identity;
use crate::store::one_time_links::{self, Link, Purpose};
use crate::store::{Conn, accounts, events, identities};

/// A request for a link that sets a new password.
pub struct ForgottenPassword {
    pub name: LoginName,
    pub client: ClientInfo,
}

/// The use of such a link.
pub struct ResetPassword {
    pub token: Option<LinkToken>,
    pub new: SecretString,
    pub client: ClientInfo,
}

impl Accounts {
    /// Sends a link if the account has an email address. Returns at once, so that the
    /// response does not depend on whether there is an account.
    pub fn forgot_password(self: Arc<Self>, request: ForgottenPassword) {
        let work = async move {
            if let Err(error) = self.send_reset_link(request).await {
                tracing::error!(%error, "reset link not created");
            }
        };
        actix_rt::spawn(work.in_current_span());
    }

    async fn send_reset_link(&self, request: ForgottenPassword) -> Result<(), Error> {
        let ForgottenPassword { name, client } = request;
        let find = move |conn: &mut Conn| recipient(conn, &name);
        let Some(Recipient { user, email }) = self.store.run(find).await? else {
            tracing::debug!("password reset requested for an unknown name");
            return Ok(());
        };
        let (Some(mailer), Some(email)) = (&self.mailer, email) else {
            tracing::warn!(
                %user,
                "password reset requested, but no mail can be sent; `matchbook-server users \
                 reset-password` prints a link"
            );
            return Ok(());
        };
        let token = LinkToken::random().map_err(crate::issuer::Error::from)?;
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let policy = *self.issuer.policy();
        let to = email.clone();
        let link_token = token.clone();
        let create = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let link = ResetLink { user, mailed_to: Some(&email) };
            let created = reset_link(conn, &link_token, link, &cx)?;
            Ok(created.then_some(client))
        };
        if let Some(client) = self.store.write_once(create).await? {
            mailer.send(reset_mail(&self.options.public_url, &to, &token, &client));
        }
        Ok(())
    }

    /// Sets a new password, and ends all sessions of the user. When this returns, no server
    /// accepts their tokens any more.
    pub async fn reset_password(&self, request: ResetPassword) -> Result<(), LinkError> {
        let ResetPassword { token, new, client } = request;
        let digest = token.ok_or(LinkError::InvalidLink)?.digest();
        let now = clock::now();
        let find = move |conn: &mut Conn| {
            let Some(link) = one_time_links::find(conn, &digest, Purpose::Reset, now)? else {
                return Ok(None);
            };
            let names = identities::of_user(conn, link.user)?;
            Ok(Some((link.user, names)))
        };
        let (user, names) = self.store.run(find).await?.ok_or(LinkError::InvalidLink)?;
        let name = names.iter().find_map(|identity| LoginName::parse(&identity.name).ok());
        let name = name.ok_or(LinkError::InvalidLink)?;
        let new = self.choose_password(&new, &name).map_err(LinkError::Unacceptable)?;
        let new_hash = self.hasher.hash(new).await?;
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let policy = *self.issuer.policy();
        let reset = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let done = create::all_or_nothing(conn, |conn| {
                let invalid = || Stop::Rejected(Rejection::InvalidLink);
                // In the order of the other changes of a password: the account, then its
                // links.
                if !accounts::lock(conn, user)? {
                    return Err(invalid());
                }
                let link = one_time_links::consume(conn, &digest, Purpose::Reset, now)?;
                verify_email(conn, &link.ok_or_else(invalid)?, &cx)?;
                let cx = Context { event: event.offset(1), ..cx };
                lifecycle::set_password(conn, user, &new_hash, &cx)?.ok_or_else(invalid)
            });
            Ok(match done? {
                Ok(revoked) => (Ok(()), revoked),
                Err(rejection) => (Err(rejection), Revoked::NOTHING),
            })
        };
        self.issuer.change_and_revoke(EndReason::PasswordChanged, reset).await??;
        self.profiles.forget(user);
        tracing::info!(%user, "password reset");
        Ok(())
    }
}

/// The account that a link is for.
struct Recipient {
    user: UserId,
    /// Its verified or only email address.
    email: Option<String>,
}

/// Finds the account of a name. A disabled account gets no link.
fn recipient(conn: &mut Conn, name: &LoginName) -> QueryResult<Option<Recipient>> {
    let Some(Identity { user, .. }) = identities::find(conn, name.as_str())? else {
        return Ok(None);
    };
    let account = accounts::find(conn, user)?;
    if account.is_none_or(|account| account.disabled_at.is_some()) {
        return Ok(None);
    }
    Ok(Some(Recipient { user, email: email_of(conn, user, name.as_str())? }))
}

/// Returns the email address of a user to which links are sent: a verified one, or else the
/// only one. `preferred` comes first.
pub fn email_of(conn: &mut Conn, user: UserId, preferred: &str) -> QueryResult<Option<String>> {
    let mut emails = identities::of_user(conn, user)?;
    emails.retain(|identity| identity.kind == NameKind::Email.as_str());
    emails.sort_by_key(|identity| identity.name != preferred);
    let verified = emails.iter().find(|identity| identity.verified_at.is_some());
    let only = if let [only] = emails.as_slice() { Some(only) } else { None };
    Ok(verified.or(only).map(|identity| identity.name.clone()))
}

/// Verifies the email address to which a link was sent.
fn verify_email(conn: &mut Conn, link: &Link, cx: &Context<'_>) -> QueryResult<()> {
    let Some(name) = link.name.as_deref().filter(|_| link.is_mailed) else { return Ok(()) };
    let identity = identities::find(conn, name)?;
    let is_own = identity.is_some_and(|it| it.user == link.user && it.verified_at.is_none());
    if is_own {
        identities::verify(conn, name, cx.now)?;
        let kind = AccountEvent::EmailVerified.as_str();
        events::insert(conn, &cx.user_event(kind, link.user))?;
    }
    Ok(())
}
