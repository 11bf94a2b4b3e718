//! What users do with their own accounts: read, rename, delete.

use diesel::{Connection, QueryResult};
use secrecy::SecretString;

use super::backends::SUBJECT_KIND;
use super::events::AccountEvent;
use super::proof::{Proof, ProofError};
use super::second_factor::{self, CodeError};
use super::throttle::TooManyFailures;
use super::{Accounts, DisplayName, Error, lifecycle};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context, EndReason, Revoked};
use crate::store::accounts::{self, Account};
use crate::store::identities::Identity;
use crate::store::{Conn, events, identities, recovery_codes};

/// An account as its user sees it.
pub struct OwnAccount {
    pub account: Account,
    /// The login names, the oldest first.
    pub names: Vec<Identity>,
    pub recovery_codes_left: i64,
}

/// Why the account is not read or renamed.
#[derive(Debug)]
pub enum OwnAccountError {
    /// The user is a guest.
    NoAccount,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for OwnAccountError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Why an account is not deleted.
#[derive(Debug)]
pub enum DeleteError {
    NotProven(ProofError),
    /// The password is right, and the second factor is missing.
    SecondFactorRequired,
    WrongCode,
    TooManyFailures(TooManyFailures),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for DeleteError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CodeError> for DeleteError {
    fn from(error: CodeError) -> Self {
        match error {
            CodeError::Missing => Self::SecondFactorRequired,
            CodeError::Wrong => Self::WrongCode,
            CodeError::TooManyFailures(wait) => Self::TooManyFailures(wait),
            CodeError::Failed(error) => Self::Failed(error),
        }
    }
}

impl Accounts {
    /// Returns the account of a user.
    pub async fn own_account(&self, user: UserId) -> Result<OwnAccount, OwnAccountError> {
        let find = move |conn: &mut Conn| find(conn, user);
        self.store.run(find).await?.ok_or(OwnAccountError::NoAccount)
    }

    /// Sets the name that people see; `None` removes it.
    pub async fn rename(
        &self,
        user: UserId,
        name: Option<DisplayName>,
        client: ClientInfo,
    ) -> Result<OwnAccount, OwnAccountError> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let rename = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.transaction(|conn| {
                let name = name.as_ref().map(DisplayName::as_str);
                if !accounts::set_display_name(conn, user, name)? {
                    return Ok(None);
                }
                let kind = AccountEvent::DisplayNameChanged.as_str();
                events::insert(conn, &cx.user_event(kind, user))?;
                find(conn, user)
            })
        };
        let renamed = self.store.write(rename).await?.ok_or(OwnAccountError::NoAccount)?;
        self.profiles.forget(user);
        Ok(renamed)
    }

    /// Deletes an account. When this returns, no server accepts its tokens any more.
    pub async fn delete(
        &self,
        proof: Proof,
        code: Option<&SecretString>,
    ) -> Result<(), DeleteError> {
        let user = proof.requester.user;
        let client = proof.client.clone();
        let proven = self.prove(proof).await.map_err(DeleteError::NotProven)?;
        let code = self.check_code(&proven.account, code)?;
        let hash = proven.password_hash;
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let delete = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.transaction(|conn| {
                // Locks the account, and fails if its password was changed meanwhile.
                let is_proven = accounts::replace_password_hash(conn, user, &hash, &hash)?;
                if !is_proven || !second_factor::accept(conn, user, code.as_ref(), &cx)? {
                    return Ok((false, Revoked::NOTHING));
                }
                let cx = Context { event: event.offset(1), ..cx };
                let revoked = lifecycle::delete(conn, user, &cx)?;
                Ok((revoked.is_some(), revoked.unwrap_or(Revoked::NOTHING)))
            })
        };
        if !self.issuer.change_and_revoke(EndReason::UserDisabled, delete).await? {
            return Err(DeleteError::WrongCode);
        }
        self.profiles.forget(user);
        tracing::info!(%user, "account deleted");
        Ok(())
    }
}

fn find(conn: &mut Conn, user: UserId) -> QueryResult<Option<OwnAccount>> {
    let Some(account) = accounts::find(conn, user)? else { return Ok(None) };
    let mut names = identities::of_user(conn, user)?;
    // A backend's name of the user is no login name.
    names.retain(|name| name.kind != SUBJECT_KIND);
    let recovery_codes_left = recovery_codes::count_unused(conn, user)?;
    Ok(Some(OwnAccount { account, names, recovery_codes_left }))
}
