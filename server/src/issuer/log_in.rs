//! Guests: registration and login.

use super::{Error, IssuedTokens, Issuer};
use crate::clock;
use crate::crypto::Secret;
use crate::ids::{SessionId, UserId};
use crate::sessions::{self, ClientInfo, Context, Login, LoginOutcome};
use crate::store::users;
use crate::tokens::RotationRandomness;

/// Why a login is rejected.
#[derive(Debug)]
pub enum LoginError {
    UserNotFound,
    /// The guest has a live session, which has to be refreshed instead.
    AlreadyActive,
    /// The guest has logged in before, and that session is over.
    GuestIdUsed,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for LoginError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Issuer {
    /// Adds a guest.
    pub async fn register_guest(&self) -> Result<UserId, Error> {
        let user = UserId::random();
        let now = clock::now();
        self.store.write(move |conn| users::insert(conn, user, now)).await?;
        Ok(user)
    }

    /// Opens the one session of a guest.
    pub async fn log_in(
        &self,
        user: UserId,
        client: ClientInfo,
    ) -> Result<IssuedTokens, LoginError> {
        let now = clock::now();
        let session = SessionId::new(user, now)?;
        let secret = Secret::random()?;
        let randomness = RotationRandomness::generate(now)?;
        let ip = client.ip.map(tracing::field::display);
        let login = Login { user, session, secret, access: randomness.access };
        let policy = self.policy;
        let token_keys = self.token_keys.clone();
        let outcome = self
            .store
            .write_or_undo(
                move |conn| {
                    let event = randomness.event;
                    let cx = Context { policy: &policy, client: &client, event, now };
                    sessions::log_in(conn, login, &token_keys.current, &cx)
                },
                move |conn, outcome| match outcome {
                    LoginOutcome::Granted(_) => sessions::undo_log_in(conn, session, user),
                    _ => Ok(()),
                },
            )
            .await?;
        let rejection = match outcome {
            LoginOutcome::Granted(grant) => {
                tracing::info!(%session, %user, ip, "session opened");
                self.metrics.record_login();
                return Ok(self.issue(grant, now).await?);
            }
            LoginOutcome::UserNotFound => LoginError::UserNotFound,
            LoginOutcome::AlreadyActive => LoginError::AlreadyActive,
            LoginOutcome::GuestIdUsed => LoginError::GuestIdUsed,
        };
        tracing::info!(ip, reason = ?rejection, "login rejected");
        Err(rejection)
    }
}
