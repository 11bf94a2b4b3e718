//! Registration: makes a new user or a guest an account.

use secrecy::SecretString;

use super::create::{self, NamedAccount, Rejection, Stop};
use super::verify_registration::PendingRegistration;
use super::{Accounts, Error, LoginName, NameKind, Password, Registration, Unacceptable};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::sessions::{ClientInfo, Context};
use crate::store::accounts::NewAccount;
use crate::store::{Conn, sessions};
use crate::tokens::VerifiedToken;

/// A request for an account.
pub struct Register {
    pub name: LoginName,
    pub password: SecretString,
    /// The guest that becomes the account and keeps its id and session.
    pub guest: Option<VerifiedToken>,
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
    /// The session of the guest has ended.
    GuestLoggedOut,
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
            Rejection::GuestLoggedOut => Self::GuestLoggedOut,
            // Only the use of a link is rejected as an invalid link.
            Rejection::AlreadyAccount | Rejection::InvalidLink => Self::AlreadyAccount,
        }
    }
}

impl Accounts {
    /// Registers an account. Returns its user. With mail, an email address is verified
    /// first: until then there is no account, and a name that is taken makes no difference.
    pub async fn register(&self, request: Register) -> Result<UserId, RegisterError> {
        if self.options.registration != Registration::Open {
            return Err(RegisterError::Closed(self.options.registration));
        }
        let Register { name, password, guest, client } = request;
        let password =
            self.choose_password(&password, &name).map_err(RegisterError::Unacceptable)?;
        let password_hash = self.hasher.hash(password).await?;
        if let Some(mailer) = &self.mailer
            && name.kind() == NameKind::Email
        {
            let pending = PendingRegistration { name, password_hash, guest, client };
            return self.await_verification(mailer, pending).await;
        }
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let user = guest.as_ref().map_or_else(UserId::random, |guest| guest.user);
        let session = guest.map(|guest| guest.session);
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
            create::all_or_nothing(conn, |conn| {
                create::insert(conn, new, &cx)?;
                match session {
                    // Last, so that it sees what it waited for: a deletion, for example.
                    Some(session) if !sessions::is_live(conn, session, now)? => {
                        Err(Stop::Rejected(Rejection::GuestLoggedOut))
                    }
                    _ => Ok(()),
                }
            })
        };
        self.store.write(register).await??;
        tracing::info!(%user, "account registered");
        self.profiles.forget(user);
        Ok(user)
    }

    /// Checks a new password without registering it.
    pub fn check_password(
        &self,
        text: &SecretString,
        name: &LoginName,
    ) -> Result<(), Unacceptable> {
        self.choose_password(text, name).map(drop)
    }

    pub(super) fn choose_password(
        &self,
        text: &SecretString,
        name: &LoginName,
    ) -> Result<Password, Unacceptable> {
        Password::choose(text, self.options.password_min_length, name)
    }
}
