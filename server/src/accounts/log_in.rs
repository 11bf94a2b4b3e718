//! Login with a name and a password.

use diesel::QueryResult;
use secrecy::SecretString;

use super::events::AccountEvent;
use super::hashing::Verdict;
use super::{Accounts, Error, LoginName, Password};
use crate::clock;
use crate::ids::{EventId, UserId};
use crate::issuer::IssuedTokens;
use crate::sessions::{ClientInfo, Context};
use crate::store::accounts::Account;
use crate::store::events::Event;
use crate::store::{Conn, accounts, events, identities};

/// A request to log in.
pub struct LogIn {
    pub name: String,
    pub password: SecretString,
    pub client: ClientInfo,
}

/// Why a login is rejected.
#[derive(Debug)]
pub enum LogInError {
    /// Unknown name or wrong password.
    InvalidCredentials,
    /// The password is right, but the account is disabled.
    Disabled,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for LogInError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Returns why a login with the right password is rejected: the account was disabled or
/// deleted, or its password changed, while the password was verified.
fn changed_meanwhile(conn: &mut Conn, user: UserId, hash: &str) -> QueryResult<LogInError> {
    let account = accounts::find(conn, user)?;
    let is_right = account.is_some_and(|account| account.password_hash.as_deref() == Some(hash));
    Ok(if is_right { LogInError::Disabled } else { LogInError::InvalidCredentials })
}

impl Accounts {
    /// Verifies a password and opens a session. An unknown name takes as long as a wrong
    /// password.
    pub async fn log_in(&self, request: LogIn) -> Result<IssuedTokens, LogInError> {
        let LogIn { name, password, client } = request;
        let account = self.find(LoginName::parse(&name).ok()).await?;
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let Some(password) = Password::presented(&password) else {
            return Err(LogInError::InvalidCredentials);
        };
        let verdict = self.hasher.verify(password.clone(), hash.as_deref()).await?;
        let (Some(account), Some(hash)) = (account, hash) else {
            tracing::info!(ip = client.ip.map(tracing::field::display), "login rejected");
            return Err(LogInError::InvalidCredentials);
        };
        let user = account.user;
        if verdict == Verdict::Wrong {
            self.record_rejection(user, "invalid_credentials", client).await?;
            return Err(LogInError::InvalidCredentials);
        }
        if account.disabled_at.is_some() {
            self.record_rejection(user, "user_disabled", client).await?;
            return Err(LogInError::Disabled);
        }
        let upgraded = match verdict {
            Verdict::RightButOutdated => Some(self.hasher.hash(password).await?),
            _ => None,
        };
        let admit = move |conn: &mut Conn, cx: &Context<'_>| {
            if !accounts::use_password(conn, user, &hash, cx.now)? {
                return changed_meanwhile(conn, user, &hash).map(Err);
            }
            if let Some(upgraded) = &upgraded {
                accounts::replace_password_hash(conn, user, &hash, upgraded)?;
            }
            Ok(Ok(()))
        };
        self.issuer.open_session(user, client, admit).await?
    }

    /// Finds the account of a name. An unknown name takes as many queries as a known one.
    async fn find(&self, name: Option<LoginName>) -> Result<Option<Account>, Error> {
        let find = move |conn: &mut Conn| {
            let name = name.as_ref().map_or("", LoginName::as_str);
            let user = identities::find(conn, name)?.map(|identity| identity.user);
            accounts::find(conn, user.unwrap_or(UserId::MIN))
        };
        Ok(self.store.run(find).await?)
    }

    /// Adds an entry to the audit log. Repeated rejections are counted in one.
    async fn record_rejection(
        &self,
        user: UserId,
        reason: &'static str,
        client: ClientInfo,
    ) -> Result<(), Error> {
        let now = clock::now();
        let event = EventId::new(now).map_err(crate::issuer::Error::from)?;
        let policy = *self.issuer.policy();
        tracing::info!(%user, ip = client.ip.map(tracing::field::display), reason, "login rejected");
        let record = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let kind = AccountEvent::LoginRejected.as_str();
            events::count(conn, &Event { reason: Some(reason), ..cx.user_event(kind, user) })
        };
        Ok(self.store.write(record).await?)
    }
}
