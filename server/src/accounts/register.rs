//! Registration: makes a new user or a guest an account.

use secrecy::SecretString;

use super::create::{self, NamedAccount, Rejection};
use super::{Accounts, Error, LoginName, Password, Registration, Unacceptable};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context};
use crate::store::Conn;
use crate::store::accounts::NewAccount;

/// A request for an account.
pub struct Register {
    pub name: LoginName,
    pub password: SecretString,
    /// The guest that becomes the account and keeps its id and session.
    pub guest: Option<UserId>,
    pub client: ClientInfo,
}

/// Why a registration is rejected.
#[derive(Debug)]
pub enum RegisterError {
    /// Who may register is restricted.
    Closed(Registration),
    Unacceptable(Unacceptable),
    NameTaken,
    /// The access token is of an account, not of a guest.
    AlreadyAccount,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for RegisterError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Rejection> for RegisterError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NameTaken => Self::NameTaken,
            // Only the use of a link is rejected as an invalid link.
            Rejection::AlreadyAccount | Rejection::InvalidLink => Self::AlreadyAccount,
        }
    }
}

impl Accounts {
    /// Registers an account. Returns its user.
    pub async fn register(&self, request: Register) -> Result<UserId, RegisterError> {
        if self.options.registration != Registration::Open {
            return Err(RegisterError::Closed(self.options.registration));
        }
        let Register { name, password, guest, client } = request;
        let password =
            self.choose_password(&password, &name).map_err(RegisterError::Unacceptable)?;
        let password_hash = self.hasher.hash(password).await?;
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let user = guest.unwrap_or_else(UserId::random);
        let policy = *self.issuer.policy();
        let register = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let new = NamedAccount {
                account: NewAccount {
                    user,
                    display_name: None,
                    password_hash: Some(&password_hash),
                    is_admin: false,
                },
                name: &name,
                verified_at: None,
                reason: None,
            };
            create::all_or_nothing(conn, |conn| create::insert(conn, new, &cx))
        };
        self.store.write(register).await??;
        tracing::info!(%user, "account registered");
        self.profiles.forget(user);
        Ok(user)
    }

    pub(super) fn choose_password(
        &self,
        text: &SecretString,
        name: &LoginName,
    ) -> Result<Password, Unacceptable> {
        Password::choose(text, self.options.password_min_length, name)
    }
}
