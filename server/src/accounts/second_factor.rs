//! The second factor: time-based one-time codes (TOTP, RFC 6238) and recovery codes.

use diesel::{Connection, QueryResult};
use secrecy::{ExposeSecret, SecretString};
use totp_rs::{Builder, Totp};

use super::events::AccountEvent;
use super::proof::{Proof, ProofError};
use super::recovery_code::RecoveryCode;
use super::throttle::TooManyFailures;
use super::{Accounts, Error};
use crate::clock::{self, Timestamp};
use crate::crypto::{CryptoError, Digest, random};
use crate::ids::{EventId, UserId};
use crate::secrets::KeyEncryptionKeys;
use crate::sessions::{ClientInfo, Context};
use crate::store::accounts::{Account, TotpUse};
use crate::store::{Conn, accounts, events, identities, recovery_codes};

/// The length of a secret in bytes (RFC 4226 §4, R6).
const SECRET_LEN: usize = 20;

/// How many recovery codes a user gets.
const RECOVERY_CODES: usize = 10;

/// A second factor that is not confirmed yet, for the user's app.
pub struct NewSecondFactor {
    /// The secret in base 32.
    pub secret: String,
    /// The same as an `otpauth:` URI, for a QR code.
    pub uri: String,
}

/// Why the second factor is not changed.
#[derive(Debug)]
pub enum SecondFactorError {
    /// The user is a guest.
    NoAccount,
    /// The password is not verified.
    NotProven(ProofError),
    /// The second factor is on already.
    AlreadyOn,
    /// There is no second factor.
    Off,
    WrongCode,
    TooManyFailures(TooManyFailures),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for SecondFactorError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Why a code is not accepted.
#[derive(Debug)]
pub(super) enum CodeError {
    Missing,
    Wrong,
    TooManyFailures(TooManyFailures),
    Failed(Error),
}

/// A code that fits the account. It is accepted by [`accept`], once.
pub(super) enum FittingCode {
    Totp {
        step: i64,
        /// The stored secret, encrypted.
        stored: Vec<u8>,
        /// The secret, encrypted under the current key.
        encrypted: Vec<u8>,
    },
    Recovery(Digest),
}

/// Accepts the result of [`Accounts::check_code`] in the transaction that depends on it,
/// after the row of the account is locked. Returns `false` if the code was accepted before,
/// or the second factor has changed.
pub(super) fn accept(
    conn: &mut Conn,
    user: UserId,
    code: Option<&FittingCode>,
    cx: &Context<'_>,
) -> QueryResult<bool> {
    match code {
        // The second factor may have been confirmed meanwhile.
        None => {
            let account = accounts::find(conn, user)?;
            Ok(account.is_some_and(|account| account.totp_confirmed_at.is_none()))
        }
        Some(FittingCode::Totp { step, stored, encrypted }) => {
            let code = TotpUse { step: *step, stored, encrypted };
            accounts::use_totp(conn, user, code)
        }
        Some(FittingCode::Recovery(digest)) => {
            if !recovery_codes::consume(conn, user, digest, cx.now)? {
                return Ok(false);
            }
            let event = cx.user_event(AccountEvent::RecoveryCodeUsed.as_str(), user);
            events::insert(conn, &event)?;
            tracing::info!(%user, "recovery code used");
            Ok(true)
        }
    }
}

impl Accounts {
    /// Begins to add a second factor: stores a new secret, which counts once it is confirmed.
    pub async fn begin_second_factor(
        &self,
        proof: Proof,
    ) -> Result<NewSecondFactor, SecondFactorError> {
        let user = proof.requester.user;
        self.prove(proof).await.map_err(SecondFactorError::NotProven)?;
        let secret: [u8; SECRET_LEN] = random()?;
        let encrypted = encrypt(&self.keys.second_factor, user, &secret)?;
        let store = move |conn: &mut Conn| {
            let stored = accounts::set_totp_secret(conn, user, &encrypted)?;
            Ok((stored, identities::of_user(conn, user)?))
        };
        let (is_stored, names) = self.store.write(store).await?;
        if !is_stored {
            return Err(SecondFactorError::AlreadyOn);
        }
        let name = names.into_iter().next().map_or_else(|| user.to_string(), |name| name.name);
        let totp = Builder::new()
            .with_secret(secret.to_vec())
            .with_account_name(name.replace(':', "_"))
            .with_issuer(Some(host(self.issuer.name())))
            .build()
            .map_err(Error::from)?;
        let uri = totp.to_url().map_err(Error::from)?;
        Ok(NewSecondFactor { secret: totp.secret().to_base32(), uri })
    }

    /// Turns the second factor on, with its first code. Returns the recovery codes, which
    /// cannot be shown again.
    pub async fn confirm_second_factor(
        &self,
        user: UserId,
        code: &SecretString,
        client: ClientInfo,
    ) -> Result<Vec<RecoveryCode>, SecondFactorError> {
        let account = self.store.run(move |conn| accounts::find(conn, user)).await?;
        let account = account.ok_or(SecondFactorError::NoAccount)?;
        if account.totp_confirmed_at.is_some() {
            return Err(SecondFactorError::AlreadyOn);
        }
        let stored = account.totp_secret.ok_or(SecondFactorError::Off)?;
        let (secret, _) = self.decrypt(user, &stored)?;
        let attempt = self.throttle.admit_code(user).map_err(SecondFactorError::TooManyFailures)?;
        let now = clock::now();
        let Some(step) = matching_step(secret, code, now)? else {
            attempt.fail();
            return Err(SecondFactorError::WrongCode);
        };
        drop(attempt);
        let codes: Vec<RecoveryCode> =
            (0..RECOVERY_CODES).map(|_| RecoveryCode::random()).collect::<Result<_, _>>()?;
        let digests: Vec<Digest> = codes.iter().map(RecoveryCode::digest).collect();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let confirm = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.transaction(|conn| {
                if !accounts::confirm_totp(conn, user, &stored, step, now)? {
                    return Ok(false);
                }
                recovery_codes::replace(conn, user, &digests)?;
                let kind = AccountEvent::SecondFactorEnabled.as_str();
                events::insert(conn, &cx.user_event(kind, user))?;
                Ok(true)
            })
        };
        if !self.store.write(confirm).await? {
            return Err(SecondFactorError::AlreadyOn);
        }
        tracing::info!(%user, "second factor enabled");
        Ok(codes)
    }

    /// Removes the second factor. The request needs a code, too, unless the second factor was
    /// never confirmed.
    pub async fn disable_second_factor(
        &self,
        proof: Proof,
        code: Option<&SecretString>,
    ) -> Result<(), SecondFactorError> {
        let user = proof.requester.user;
        let client = proof.client.clone();
        let account = self.prove(proof).await.map_err(SecondFactorError::NotProven)?.account;
        if account.totp_secret.is_none() {
            return Err(SecondFactorError::Off);
        }
        let code = self.check_code(&account, code)?;
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = *self.issuer.policy();
        let remove = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.transaction(|conn| {
                accounts::lock(conn, user)?;
                let further = Context { event: event.offset(1), ..cx };
                Ok(accept(conn, user, code.as_ref(), &further)?
                    && super::lifecycle::remove_second_factor(conn, user, &cx)?)
            })
        };
        if !self.store.write(remove).await? {
            return Err(SecondFactorError::WrongCode);
        }
        tracing::info!(%user, "second factor disabled");
        Ok(())
    }

    /// Verifies the code of a request after the password. Returns `None` if the account has
    /// no second factor. The caller has to [`accept`] the code.
    pub(super) fn check_code(
        &self,
        account: &Account,
        code: Option<&SecretString>,
    ) -> Result<Option<FittingCode>, CodeError> {
        let user = account.user;
        let (Some(stored), Some(_)) = (&account.totp_secret, account.totp_confirmed_at) else {
            return Ok(None);
        };
        let code = code.ok_or(CodeError::Missing)?;
        if let Some(code) = RecoveryCode::parse(code.expose_secret()) {
            return Ok(Some(FittingCode::Recovery(code.digest())));
        }
        let attempt = self.throttle.admit_code(user).map_err(CodeError::TooManyFailures)?;
        let (secret, is_current) = self.decrypt(user, stored).map_err(CodeError::Failed)?;
        let encrypted = if is_current {
            stored.clone()
        } else {
            let encrypted = encrypt(&self.keys.second_factor, user, &secret);
            encrypted.map_err(|error| CodeError::Failed(error.into()))?
        };
        let step = matching_step(secret, code, clock::now()).map_err(CodeError::Failed)?;
        let Some(step) = step else {
            attempt.fail();
            return Err(CodeError::Wrong);
        };
        Ok(Some(FittingCode::Totp { step, stored: stored.clone(), encrypted }))
    }

    /// Decrypts a stored secret. Returns whether it was encrypted under the current key.
    fn decrypt(&self, user: UserId, stored: &[u8]) -> Result<(Vec<u8>, bool), Error> {
        let keys = &self.keys.second_factor;
        let aad = user.0.as_bytes();
        if let Some(secret) = keys.current.decrypt(aad, stored) {
            return Ok((secret, true));
        }
        let secret = keys.old.iter().find_map(|old| old.decrypt(aad, stored));
        Ok((secret.ok_or(Error::WrongSecret(user))?, false))
    }
}

impl From<CodeError> for SecondFactorError {
    fn from(error: CodeError) -> Self {
        match error {
            CodeError::Missing | CodeError::Wrong => Self::WrongCode,
            CodeError::TooManyFailures(wait) => Self::TooManyFailures(wait),
            CodeError::Failed(error) => Self::Failed(error),
        }
    }
}

/// Encrypts a secret. The user is the associated data, so that two rows cannot be swapped.
fn encrypt(keys: &KeyEncryptionKeys, user: UserId, secret: &[u8]) -> Result<Vec<u8>, CryptoError> {
    keys.current.encrypt(user.0.as_bytes(), secret)
}

/// Returns the time step whose code this is: the current one, or one of its neighbors.
fn matching_step(
    secret: Vec<u8>,
    code: &SecretString,
    now: Timestamp,
) -> Result<Option<i64>, Error> {
    let totp: Totp = Builder::new().with_secret(secret).build()?;
    let digits: String =
        code.expose_secret().chars().filter(|c| *c != ' ' && *c != '-').take(7).collect();
    let now = u64::try_from(now.as_secs()).unwrap_or_default();
    Ok(totp.check(&digits, now).and_then(|step| i64::try_from(step).ok()))
}

/// Returns the host of a URL, for people to recognize.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.replace(':', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_current_step_and_its_neighbors_fits() {
        // RFC 6238, appendix B, the last six digits: time 1111111109.
        let secret = b"12345678901234567890".to_vec();
        let step = 1_111_111_109 / 30;
        let code = SecretString::from("081 804");
        for (time, expected) in [
            (1_111_111_109, Some(step)),
            (1_111_111_109 - 30, Some(step)),
            (1_111_111_109 + 30, Some(step)),
            (1_111_111_109 - 61, None),
            (1_111_111_109 + 61, None),
        ] {
            let found = matching_step(secret.clone(), &code, Timestamp::from_secs(time)).unwrap();
            assert_eq!(found, expected, "{time}");
        }
        for other in ["", "081805", "0818041", "08180", "x".repeat(10_000).as_str()] {
            let code = SecretString::from(other);
            let now = Timestamp::from_secs(1_111_111_109);
            assert_eq!(matching_step(secret.clone(), &code, now).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn host_has_no_port_and_no_colon() {
        for (url, expected) in [
            ("https://auth.example.com", "auth.example.com"),
            ("https://localhost:5001/path", "localhost"),
            ("https://[2001:db8::1]:5001", "[2001.db8..1]"),
            ("name", "name"),
        ] {
            assert_eq!(host(url), expected);
        }
    }
}
