//! The proof that a request comes from the user of the account, and not only from a client or
//! a browser that is logged in: the password.

use secrecy::SecretString;

use super::hashing::Verdict;
use super::throttle::{Key, TooManyFailures};
use super::{Accounts, Error, LoginSession, Password};
use crate::ids::UserId;
use crate::sessions::{ClientInfo, Keep};
use crate::store::accounts::{self, Account};
use crate::tokens::VerifiedToken;

/// The user of a request, and the login by which it came.
#[derive(Debug, Clone, Copy)]
pub struct Requester {
    pub user: UserId,
    pub(super) login: Keep,
}

impl From<&VerifiedToken> for Requester {
    fn from(access: &VerifiedToken) -> Self {
        Self { user: access.user, login: Keep::Session(access.session) }
    }
}

impl From<&LoginSession> for Requester {
    fn from(login: &LoginSession) -> Self {
        Self { user: login.user, login: Keep::LoginSession(login.id) }
    }
}

/// A password that a request presents.
pub struct Proof {
    pub requester: Requester,
    pub password: SecretString,
    pub client: ClientInfo,
}

/// Why a proof is not accepted.
#[derive(Debug)]
pub enum ProofError {
    /// The user is a guest.
    NoAccount,
    /// The user logs in without a password.
    NoPassword,
    WrongPassword,
    TooManyFailures(TooManyFailures),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for ProofError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// An account whose password was presented.
pub(super) struct Proven {
    pub(super) account: Account,
    pub(super) password_hash: String,
}

impl Accounts {
    /// Verifies the password of a request. Failures of logins do not delay it.
    pub(super) async fn prove(&self, proof: Proof) -> Result<Proven, ProofError> {
        let Proof { requester, password, client } = proof;
        let user = requester.user;
        let account = self.store.run(move |conn| accounts::find(conn, user)).await?;
        let account = account.ok_or(ProofError::NoAccount)?;
        let password_hash = account.password_hash.clone().ok_or(ProofError::NoPassword)?;
        let attempt = self.throttle.admit(Key::user(user), None, client.ip).await;
        let attempt = attempt.map_err(ProofError::TooManyFailures)?;
        let Some(password) = Password::presented(&password) else {
            return Err(ProofError::WrongPassword);
        };
        if self.hasher.verify(password, Some(&password_hash)).await? == Verdict::Wrong {
            attempt.fail();
            self.record_rejection(user, "invalid_credentials", client)?;
            return Err(ProofError::WrongPassword);
        }
        Ok(Proven { account, password_hash })
    }
}
