//! Logins: opens sessions.

use diesel::{Connection, QueryResult};

use super::{Error, IssuedTokens, Issuer};
use crate::clock;
use crate::crypto::Secret;
use crate::ids::{SessionId, UserId};
use crate::sessions::{self, ClientInfo, Context, GuestRejection, Login, Policy};
use crate::store::{self, Affected, Conn, FollowUp, users};
use crate::tokens::{ClientGrant, ExtraClaims, RotationRandomness};

/// A session that is to be opened.
pub(super) struct Opening {
    pub(super) user: UserId,
    /// Further claims of its access tokens.
    pub(super) claims: Option<ExtraClaims>,
    /// The OAuth client that opens it; `None` at the native endpoints.
    pub(super) grant: Option<ClientGrant>,
    pub(super) policy: Policy,
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
    pub async fn log_in_guest(
        &self,
        user: UserId,
        client: ClientInfo,
    ) -> Result<Result<IssuedTokens, GuestRejection>, Error> {
        let ip = client.ip.map(tracing::field::display);
        let admit = move |conn: &mut Conn, cx: &Context<'_>| sessions::admit_guest(conn, user, cx);
        // Before: the reversal may end after the user was found to be logged in.
        let is_being_undone = self.store.is_being_undone(user);
        let opened = self.open_session(user, client, admit).await?;
        if let Err(reason) = &opened {
            if is_being_undone {
                return Err(store::Error::TimedOut.into());
            }
            tracing::info!(ip, ?reason, "login rejected");
        }
        Ok(opened)
    }

    /// Opens a session if `admit` returns `Ok` in the same transaction. A login whose
    /// client disconnects before the commit is reversed.
    pub(crate) async fn open_session<R: Send + 'static>(
        &self,
        user: UserId,
        client: ClientInfo,
        admit: impl FnOnce(&mut Conn, &Context<'_>) -> QueryResult<Result<(), R>> + Send + 'static,
    ) -> Result<Result<IssuedTokens, R>, Error> {
        self.open_session_with(user, None, client, admit).await
    }

    /// Opens a session whose access tokens have further claims, as [`Self::open_session`]
    /// does.
    pub(crate) async fn open_session_with<R: Send + 'static>(
        &self,
        user: UserId,
        claims: Option<ExtraClaims>,
        client: ClientInfo,
        admit: impl FnOnce(&mut Conn, &Context<'_>) -> QueryResult<Result<(), R>> + Send + 'static,
    ) -> Result<Result<IssuedTokens, R>, Error> {
        let opening = Opening { user, claims, grant: None, policy: self.policy };
        self.open_session_on(opening, client, admit).await
    }

    pub(super) async fn open_session_on<R: Send + 'static>(
        &self,
        opening: Opening,
        client: ClientInfo,
        admit: impl FnOnce(&mut Conn, &Context<'_>) -> QueryResult<Result<(), R>> + Send + 'static,
    ) -> Result<Result<IssuedTokens, R>, Error> {
        let Opening { user, claims, grant, policy } = opening;
        let now = clock::now();
        let session = SessionId::new(user, now)?;
        let secret = Secret::random()?;
        let RotationRandomness { access, event, .. } = RotationRandomness::generate(now)?;
        let ip = client.ip.map(tracing::field::display);
        let login = Login { user, session, secret, access, claims, grant, code: None };
        let token_keys = self.token_keys.clone();
        let open = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            conn.transaction(|conn| match admit(conn, &cx)? {
                Ok(()) => sessions::open(conn, login, &token_keys.current, &cx).map(Ok),
                Err(rejection) => Ok(Err(rejection)),
            })
        };
        let undo = move |conn: &mut Conn| sessions::undo_open(conn, session, user);
        let undo = FollowUp::new(Affected::User(user), undo);
        match self.store.write_or_undo(open, undo).await? {
            Ok(grant) => {
                tracing::info!(%session, %user, ip, "session opened");
                self.metrics.record_login();
                Ok(Ok(self.issue(grant, now).await?))
            }
            Err(rejection) => Ok(Err(rejection)),
        }
    }
}
