//! Registration: makes a new user or a guest an account.

use diesel::{Connection, QueryResult};
use secrecy::SecretString;

use super::events::AccountEvent;
use super::{Accounts, Error, LoginName, Password, Registration, Unacceptable};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context};
use crate::store::accounts::NewAccount;
use crate::store::identities::NewIdentity;
use crate::store::{Conn, accounts, events, identities, users};

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

/// The outcome of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Registered,
    NameTaken,
    AlreadyAccount,
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
            let new = NewAccount {
                user,
                display_name: None,
                password_hash: Some(&password_hash),
                is_admin: false,
            };
            insert(conn, new, &name, guest.is_some(), &cx)
        };
        match self.store.write(register).await? {
            Outcome::Registered => {
                tracing::info!(%user, "account registered");
                self.profiles.forget(user);
                Ok(user)
            }
            Outcome::NameTaken => Err(RegisterError::NameTaken),
            Outcome::AlreadyAccount => Err(RegisterError::AlreadyAccount),
        }
    }

    pub(super) fn choose_password(
        &self,
        text: &SecretString,
        name: &LoginName,
    ) -> Result<Password, Unacceptable> {
        Password::choose(text, self.options.password_min_length, name)
    }
}

/// Inserts the account with its name, all or nothing.
fn insert(
    conn: &mut Conn,
    new: NewAccount<'_>,
    name: &LoginName,
    is_guest: bool,
    cx: &Context<'_>,
) -> QueryResult<Outcome> {
    /// Rolls the transaction back with an outcome.
    enum Stop {
        With(Outcome),
        Failed(diesel::result::Error),
    }
    impl From<diesel::result::Error> for Stop {
        fn from(error: diesel::result::Error) -> Self {
            Self::Failed(error)
        }
    }
    let user = new.user;
    let inserted = conn.transaction(|conn| {
        let identity = NewIdentity {
            name: name.as_str(),
            kind: name.kind().as_str(),
            user,
            verified_at: None,
        };
        if !identities::insert(conn, identity, cx.now)? {
            return Err(Stop::With(Outcome::NameTaken));
        }
        if !is_guest {
            users::insert_used(conn, user, cx.now)?;
        }
        if !accounts::insert(conn, new, cx.now)? {
            return Err(Stop::With(Outcome::AlreadyAccount));
        }
        events::insert(conn, &cx.user_event(AccountEvent::Registered.as_str(), user))?;
        Ok(Outcome::Registered)
    });
    match inserted {
        Ok(outcome) | Err(Stop::With(outcome)) => Ok(outcome),
        Err(Stop::Failed(error)) => Err(error),
    }
}
