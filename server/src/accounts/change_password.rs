//! The change of a password by its user.

use diesel::Connection;
use secrecy::SecretString;

use super::events::AccountEvent;
use super::proof::{Proof, ProofError, Requester};
use super::throttle::TooManyFailures;
use super::{Accounts, Error, LoginName, Unacceptable};
use crate::clock;
use crate::ids::EventId;
use crate::sessions::{self, ClientInfo, Context, EndReason, Revoked, UserSessions};
use crate::store::{Conn, accounts, events, identities, one_time_links};

/// A request to change a password.
pub struct ChangePassword {
    pub requester: Requester,
    pub current: SecretString,
    pub new: SecretString,
    pub client: ClientInfo,
}

/// Why a password is not changed.
#[derive(Debug)]
pub enum ChangePasswordError {
    /// The user is a guest, or logs in without a password.
    NoPassword,
    /// The current password is wrong.
    WrongPassword,
    TooManyFailures(TooManyFailures),
    Unacceptable(Unacceptable),
    Failed(Error),
}

impl From<ProofError> for ChangePasswordError {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::NoAccount | ProofError::NoPassword => Self::NoPassword,
            ProofError::WrongPassword => Self::WrongPassword,
            ProofError::TooManyFailures(wait) => Self::TooManyFailures(wait),
            ProofError::Failed(error) => Self::Failed(error),
        }
    }
}

impl<E: Into<Error>> From<E> for ChangePasswordError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Accounts {
    /// Changes a password, and ends the other sessions of the user. When this returns, no
    /// server accepts the tokens of those any more.
    pub async fn change_password(
        &self,
        request: ChangePassword,
    ) -> Result<(), ChangePasswordError> {
        let ChangePassword { requester, current, new, client } = request;
        let user = requester.user;
        let proof = Proof { requester, password: current, client: client.clone() };
        let hash = self.prove(proof).await?.password_hash;
        let find = move |conn: &mut Conn| identities::of_user(conn, user);
        let names = self.store.run(find).await?;
        let name = names.first().and_then(|identity| LoginName::parse(&identity.name).ok());
        let name = name.ok_or(ChangePasswordError::NoPassword)?;
        let new = self.choose_password(&new, &name).map_err(ChangePasswordError::Unacceptable)?;
        let new_hash = self.hasher.hash(new).await?;
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let policy = *self.issuer.policy();
        let change = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.transaction(|conn| {
                if !accounts::replace_password_hash(conn, user, &hash, &new_hash)? {
                    return Ok((false, Revoked::NOTHING));
                }
                one_time_links::void(conn, user)?;
                let kind = AccountEvent::PasswordChanged.as_str();
                events::insert(conn, &cx.user_event(kind, user))?;
                let cx = Context { event: event.offset(1), ..cx };
                let others = UserSessions {
                    user,
                    keep: requester.login,
                    reason: EndReason::PasswordChanged,
                };
                Ok((true, sessions::end_all(conn, others, &cx)?))
            })
        };
        if !self.issuer.change_and_revoke(EndReason::PasswordChanged, change).await? {
            // Another request changed it first.
            return Err(ChangePasswordError::WrongPassword);
        }
        tracing::info!(%user, "password changed");
        Ok(())
    }
}
