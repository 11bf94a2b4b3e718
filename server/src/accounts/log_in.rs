//! Login with a name and a password.
//!
//! A login is first verified, and then admitted in the transaction that opens what it is for:
//! a session with tokens, or the login session of a browser.

use std::fmt;

use diesel::QueryResult;
use secrecy::SecretString;

use super::events::AccountEvent;
use super::hashing::Verdict;
use super::known_device::KnownDevice;
use super::second_factor::{self, CodeError, FittingCode};
use super::throttle::{Key, TooManyFailures};
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
    /// A code of the second factor, or a recovery code.
    pub code: Option<SecretString>,
    /// The cookie of the browser.
    pub device: Option<String>,
    pub client: ClientInfo,
}

/// A login.
pub struct LoggedIn {
    pub tokens: IssuedTokens,
    /// The cookie by which the browser will be known.
    pub device: String,
}

/// Why a login is rejected.
#[derive(Debug)]
pub enum LogInError {
    /// Unknown name, wrong password or wrong code.
    InvalidCredentials,
    /// The password is right, and the code of the second factor is missing.
    SecondFactorRequired(ProvenPassword),
    /// The password is right, but the account is disabled.
    Disabled,
    /// The password was changed while it was verified.
    PasswordChanged,
    TooManyFailures(TooManyFailures),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for LogInError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CodeError> for LogInError {
    fn from(error: CodeError) -> Self {
        match error {
            // Code that checks a code handles a missing one itself.
            CodeError::Missing | CodeError::Wrong => Self::InvalidCredentials,
            CodeError::TooManyFailures(wait) => Self::TooManyFailures(wait),
            CodeError::Failed(error) => Self::Failed(error),
        }
    }
}

/// An account whose password was right, and that password's hash.
pub struct ProvenPassword {
    pub(super) user: UserId,
    pub(super) hash: String,
}

impl fmt::Debug for ProvenPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProvenPassword({})", self.user)
    }
}

/// A password, and the code that goes with it.
struct Credentials {
    password: SecretString,
    code: Option<SecretString>,
}

/// The results of the verification, before the session is opened.
pub(super) struct Verified {
    pub(super) user: UserId,
    pub(super) password_hash: String,
    /// A hash that replaces an outdated one.
    pub(super) upgraded: Option<String>,
    pub(super) code: Option<FittingCode>,
}

/// What a login opens, and the cookie by which the browser will be known.
pub(super) struct Opened<T> {
    pub(super) opened: T,
    pub(super) device: String,
}

impl Accounts {
    /// Verifies a password and opens a session. An unknown name takes as long as a wrong
    /// password.
    pub async fn log_in(&self, request: LogIn) -> Result<LoggedIn, LogInError> {
        let open = async |verified: Verified, client: &ClientInfo| {
            let user = verified.user;
            let admit = move |conn: &mut Conn, cx: &Context<'_>| admit(conn, &verified, cx);
            self.issuer.open_session(user, client.clone(), admit).await?
        };
        let Opened { opened: tokens, device } = self.log_in_with(request, open).await?;
        Ok(LoggedIn { tokens, device })
    }

    /// Verifies a login, and calls `open` to admit it. `open` is called again if a concurrent
    /// login has upgraded the hash of the password.
    pub(super) async fn log_in_with<T>(
        &self,
        request: LogIn,
        open: impl AsyncFn(Verified, &ClientInfo) -> Result<T, LogInError>,
    ) -> Result<Opened<T>, LogInError> {
        let LogIn { name, password, code, device, client } = request;
        let parsed = LoginName::parse(&name).ok();
        let key = Key::name(parsed.as_ref().map_or(name.as_str(), LoginName::as_str));
        let account = self.find(parsed.clone()).await?;
        let known = KnownDevice::parse(device.as_deref(), &self.keys.devices);
        let number = account.as_ref().and_then(|account| known.number(account.user));
        let attempt = self.throttle.admit(key, number, client.ip).await;
        let attempt = attempt.map_err(LogInError::TooManyFailures)?;
        let credentials = Credentials { password, code };
        let log_in_to = async |account: Option<Account>| {
            let verified = self.verify_or_record(account, &credentials, &client).await?;
            let user = verified.user;
            Ok::<_, LogInError>((user, open(verified, &client).await?))
        };
        let mut outcome = log_in_to(account).await;
        if let Err(LogInError::PasswordChanged) = outcome {
            // A concurrent login may have upgraded the hash of the same password.
            outcome = log_in_to(self.find(parsed).await?).await;
        }
        if let Err(LogInError::InvalidCredentials | LogInError::PasswordChanged) = outcome {
            attempt.fail();
        }
        let (user, opened) = outcome?;
        Ok(Opened { opened, device: known.after_login(user, &self.keys.devices)? })
    }

    /// Verifies the login to an account, or to none if the name is unknown. Records why it
    /// fails.
    async fn verify_or_record(
        &self,
        account: Option<Account>,
        credentials: &Credentials,
        client: &ClientInfo,
    ) -> Result<Verified, LogInError> {
        let user = account.as_ref().map(|account| account.user);
        let verified = self.verify(account, credentials).await;
        if let Err(rejection) = &verified {
            self.record(user, rejection, client)?;
        }
        verified
    }

    /// Verifies the password, and then the code.
    async fn verify(
        &self,
        account: Option<Account>,
        credentials: &Credentials,
    ) -> Result<Verified, LogInError> {
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let Some(password) = Password::presented(&credentials.password) else {
            return Err(LogInError::InvalidCredentials);
        };
        let verdict = self.hasher.verify(password.clone(), hash.as_deref()).await?;
        let (Some(account), Some(password_hash)) = (account, hash) else {
            return Err(LogInError::InvalidCredentials);
        };
        if verdict == Verdict::Wrong {
            return Err(LogInError::InvalidCredentials);
        }
        if account.disabled_at.is_some() {
            return Err(LogInError::Disabled);
        }
        let code = match self.check_code(&account, credentials.code.as_ref()) {
            Ok(code) => code,
            Err(CodeError::Missing) => {
                let proven = ProvenPassword { user: account.user, hash: password_hash };
                return Err(LogInError::SecondFactorRequired(proven));
            }
            Err(error) => return Err(error.into()),
        };
        let upgraded = match verdict {
            Verdict::RightButOutdated => Some(self.hasher.hash(password).await?),
            _ => None,
        };
        Ok(Verified { user: account.user, password_hash, upgraded, code })
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

    /// Logs a rejection, and adds it to the audit log. Does not wait for the database: an
    /// unknown name has no entry, and must not be rejected faster.
    pub(super) fn record(
        &self,
        user: Option<UserId>,
        rejection: &LogInError,
        client: &ClientInfo,
    ) -> Result<(), Error> {
        let reason = match rejection {
            LogInError::InvalidCredentials => "invalid_credentials",
            LogInError::Disabled => "user_disabled",
            LogInError::SecondFactorRequired(_)
            | LogInError::PasswordChanged
            | LogInError::TooManyFailures(_)
            | LogInError::Failed(_) => return Ok(()),
        };
        match user {
            Some(user) => self.record_rejection(user, reason, client.clone())?,
            None => {
                tracing::info!(ip = client.ip.map(tracing::field::display), "login rejected");
            }
        }
        Ok(())
    }

    /// Adds an entry to the audit log, in the background. Repeated rejections are counted in
    /// one.
    pub(super) fn record_rejection(
        &self,
        user: UserId,
        reason: &'static str,
        client: ClientInfo,
    ) -> Result<(), Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        tracing::info!(%user, ip = client.ip.map(tracing::field::display), reason, "login rejected");
        let record = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let kind = AccountEvent::LoginRejected.as_str();
            events::count(conn, &Event { reason: Some(reason), ..cx.user_event(kind, user) })
        };
        let store = self.store.clone();
        actix_rt::spawn(async move {
            if let Err(error) = store.write(record).await {
                tracing::warn!(%error, "rejected login not recorded");
            }
        });
        Ok(())
    }
}

/// Admits a login, in the transaction that opens the session.
pub(super) fn admit(
    conn: &mut Conn,
    verified: &Verified,
    cx: &Context<'_>,
) -> QueryResult<Result<(), LogInError>> {
    let Verified { user, password_hash, upgraded, code } = verified;
    if !accounts::use_password(conn, *user, password_hash, cx.now)? {
        return changed_meanwhile(conn, *user, password_hash).map(Err);
    }
    // The session's own event has the first id.
    let further = Context { event: cx.event.offset(1), ..*cx };
    if !second_factor::accept(conn, *user, code.as_ref(), &further)? {
        return Ok(Err(match code {
            Some(_) => LogInError::InvalidCredentials,
            None => LogInError::SecondFactorRequired(ProvenPassword {
                user: *user,
                hash: password_hash.clone(),
            }),
        }));
    }
    if let Some(upgraded) = upgraded {
        accounts::replace_password_hash(conn, *user, password_hash, upgraded)?;
    }
    Ok(Ok(()))
}

/// Returns why a login with the right password is rejected: the account was disabled or
/// deleted, or its password changed, while the password was verified.
fn changed_meanwhile(conn: &mut Conn, user: UserId, hash: &str) -> QueryResult<LogInError> {
    let account = accounts::find(conn, user)?;
    let is_right = account.is_some_and(|account| account.password_hash.as_deref() == Some(hash));
    Ok(if is_right { LogInError::Disabled } else { LogInError::PasswordChanged })
}
