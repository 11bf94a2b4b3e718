//! Sessions: list and revoke.

use std::sync::Arc;

use diesel::QueryResult;

use super::{Error, Issuer, SessionSummary};
use crate::clock;
use crate::ids::{EventId, SessionId, UserId};
use crate::sessions::{self, ClientInfo, Context, EndReason, Keep, Revoked, UserSessions};
use crate::store::revocations::{self, Revocation};
use crate::store::{self, Conn};

impl Issuer {
    /// Returns the live sessions of a user, the last used first.
    pub async fn sessions(&self, user: UserId) -> Result<Vec<SessionSummary>, Error> {
        let now = clock::now();
        let list = move |conn: &mut Conn| store::sessions::list_live(conn, user, now);
        Ok(self.store.run(list).await?)
    }

    /// Revokes a session. If this succeeds, no server accepts its tokens any more.
    pub async fn revoke(
        self: &Arc<Self>,
        session: SessionId,
        client: ClientInfo,
    ) -> Result<(), Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = self.policy;
        self.revoke_with(move |conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let ended = sessions::revoke(conn, session, &cx)?;
            // Publish again even if it had ended: the request that ended it may not have
            // published yet.
            Ok(Revoked { ended: usize::from(ended), to_publish: vec![session] })
        })
        .await?;
        Ok(())
    }

    /// Revokes a session of this user. Returns `false` if the user has no such session.
    pub async fn revoke_own(
        self: &Arc<Self>,
        user: UserId,
        session: SessionId,
        client: ClientInfo,
    ) -> Result<bool, Error> {
        let find = move |conn: &mut Conn| store::sessions::owner(conn, session);
        if self.store.run(find).await? != Some(user) {
            return Ok(false);
        }
        self.revoke(session, client).await?;
        Ok(true)
    }

    /// Revokes all live sessions of a user except `keep`. Returns how many.
    pub async fn revoke_all(
        self: &Arc<Self>,
        user: UserId,
        keep: Keep,
        client: ClientInfo,
    ) -> Result<usize, Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = self.policy;
        self.revoke_with(move |conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            let selected = UserSessions { user, keep, reason: EndReason::LoggedOut };
            sessions::revoke_all(conn, selected, &cx)
        })
        .await
    }

    /// Ends sessions in the database, then publishes their revocations. Returns how many
    /// ended.
    async fn revoke_with(
        self: &Arc<Self>,
        mut end: impl FnMut(&mut Conn) -> QueryResult<Revoked> + Send + 'static,
    ) -> Result<usize, Error> {
        self.change_and_revoke(EndReason::LoggedOut, move |conn| {
            let revoked = end(conn)?;
            Ok((revoked.ended, revoked))
        })
        .await
    }

    /// Runs `change`, which ends sessions for `reason`, then publishes their revocations.
    /// If this succeeds, no server accepts the tokens of these sessions any more. If it fails
    /// with [`Error::Unconfirmed`], the change is committed. Runs to its end even if the client
    /// disconnects.
    pub(crate) async fn change_and_revoke<T: Send + 'static>(
        self: &Arc<Self>,
        reason: EndReason,
        mut change: impl FnMut(&mut Conn) -> QueryResult<(T, Revoked)> + Send + 'static,
    ) -> Result<T, Error> {
        let issuer = self.clone();
        Self::detached(async move {
            let change = move |conn: &mut Conn| {
                let (changed, Revoked { ended, to_publish }) = change(conn)?;
                Ok((changed, ended, revocations::for_sessions(conn, &to_publish)?))
            };
            let (changed, ended, revoked) = issuer.store.write(change).await?;
            issuer.metrics.record_revocations(reason.as_str(), ended);
            if ended > 0 {
                issuer.logout_notices.wake();
                let reason = reason.as_str();
                for Revocation { session_id: session, .. } in &revoked {
                    tracing::info!(%session, reason, "session ended");
                }
            }
            if !revoked.is_empty() {
                issuer.status.publish_revocations(&revoked).await?;
            }
            Ok(changed)
        })
        .await
    }
}
