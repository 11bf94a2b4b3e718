//! Logouts that the database has forgotten: a failover to a replica that lagged, or a restored
//! backup, undoes commits. The sessions are ended again.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, ErrorKind, IssuedTokens, Issuer, RefreshError, ResponseTerms};
use crate::clock::{self, Timestamp};
use crate::ids::{EventId, SessionId};
use crate::sessions::{self, ClientInfo, Context, EndReason, InvalidGrant, TokenGrant};
use crate::store::sessions::State;
use crate::store::{self, Conn};
use crate::token_status::Tombstone;

/// How many sessions one transaction ends.
const BATCH: usize = 100;
/// The pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl Issuer {
    /// Ends each session again that the database is found to have forgotten the end of. Never
    /// returns.
    pub async fn end_forgotten_sessions(self: Arc<Self>) {
        loop {
            let sessions: Vec<SessionId> = self.status.forgotten_ends().await.into_iter().collect();
            let mut ended = 0;
            for batch in sessions.chunks(BATCH) {
                ended += self.end_again_at_last(batch).await;
            }
            if ended > 0 {
                tracing::warn!(
                    sessions = ended,
                    "logouts forgotten by the database, sessions ended again"
                );
            }
        }
    }

    /// Retries until the database is available. Gives up if a retry would fail as well.
    async fn end_again_at_last(self: &Arc<Self>, sessions: &[SessionId]) -> usize {
        loop {
            match self.end_again(sessions.to_vec()).await {
                Ok(ended) => return ended,
                Err(error) if error.kind() == ErrorKind::Internal => {
                    let sessions = sessions.len();
                    tracing::error!(
                        %error, sessions,
                        "logouts forgotten by the database, and sessions not ended again"
                    );
                    return 0;
                }
                Err(error) => tracing::debug!(%error, "sessions not ended again, retrying"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Ends these sessions, unless they have ended. Returns how many ended.
    async fn end_again(self: &Arc<Self>, sessions: Vec<SessionId>) -> Result<usize, Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = self.policy;
        self.change_and_revoke(EndReason::LoggedOut, move |conn| {
            // No client requests this a second time.
            let client = ClientInfo { user_agent: None, ip: None };
            let cx = Context { policy: &policy, client: &client, event, now };
            let revoked = sessions::end_again(conn, &sessions, &cx)?;
            Ok((revoked.ended, revoked))
        })
        .await
    }

    /// Issues the tokens of a session that is live in the database. Ends it if it has ended
    /// as far as Redis or this server's memory knows, and rejects the request.
    pub(super) async fn issue_unless_ended(
        self: &Arc<Self>,
        grant: TokenGrant,
        terms: &ResponseTerms<'_>,
        now: Timestamp,
    ) -> Result<IssuedTokens, RefreshError> {
        let (session, user) = (grant.session, grant.user);
        let (tokens, tombstone) = self.issue_on(grant, terms, now).await?;
        if tombstone == Tombstone::NotFound {
            return Ok(tokens);
        }
        let ended = self.end_again(vec![session]).await?;
        if ended > 0 {
            tracing::warn!(
                sessions = ended,
                "logouts forgotten by the database, sessions ended again"
            );
        }
        // It may have ended a moment ago, for another reason.
        let find = move |conn: &mut Conn| store::sessions::find(conn, session);
        let reason = match self.store.run(find).await?.map(|found| found.state) {
            Some(State::Ended { reason, .. }) => reason,
            Some(State::Live) | None => EndReason::LoggedOut,
        };
        let rejection = InvalidGrant::Ended(reason);
        let reason = rejection.reason().as_str();
        tracing::info!(%session, %user, reason, "refresh rejected: the session has ended");
        self.metrics.record_refresh(reason);
        Err(RefreshError::InvalidGrant(rejection))
    }
}
