//! Refresh: exchanges a refresh token for its successor.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, IssuedTokens, Issuer, Narrowing, ResponseTerms};
use crate::clock::{self, Timestamp};
use crate::ids::{ClientId, SessionId};
use crate::sessions::{
    self, EndReason, InvalidGrant, Policy, PresentedToken, Refresh, RefreshOutcome, ReuseByDate,
    Rules,
};
use crate::store::sessions::redate_late;
use crate::store::{self, BatchOutcome, Conn, revocations};
use crate::tokens::{RefreshToken, RotationRandomness};

/// The pause before a token that looks reused is assessed again. A rotation that
/// was committed late has its date corrected by then, also by a server that has to connect
/// to the database again.
const REASSESS_AFTER: Duration = Duration::from_secs(2);

/// How the tokens of an OAuth client are refreshed.
pub struct RefreshTerms {
    pub policy: Policy,
    pub narrowing: Narrowing,
    /// The nonce of the authorization request, at a repeated exchange of its code.
    pub nonce: Option<String>,
}

impl RefreshTerms {
    pub(super) fn response(&self) -> ResponseTerms<'_> {
        ResponseTerms { narrowing: &self.narrowing, nonce: self.nonce.as_deref() }
    }
}

/// Why a refresh is rejected.
#[derive(Debug)]
pub enum RefreshError {
    InvalidGrant(InvalidGrant),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for RefreshError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Issuer {
    /// Authenticates a refresh token by its tag, without a query. Returns `None` for
    /// a token that this server did not issue to this client.
    #[must_use]
    pub fn authenticate(
        &self,
        refresh_token: &str,
        client: Option<&ClientId>,
    ) -> Option<RefreshToken> {
        RefreshToken::parse(refresh_token, client, &self.token_keys)
    }

    /// Returns the session of a refresh token of the native endpoints, or `None` for another
    /// token. Makes no query.
    #[must_use]
    pub fn session_of(&self, refresh_token: &str) -> Option<SessionId> {
        self.authenticate(refresh_token, None).map(|token| token.session)
    }

    /// Exchanges a refresh token for its successor and a new access token, or reissues
    /// the response to a token that was rotated a moment ago.
    pub async fn refresh(
        self: &Arc<Self>,
        presented: PresentedToken,
    ) -> Result<IssuedTokens, RefreshError> {
        let terms =
            RefreshTerms { policy: self.policy, narrowing: Narrowing::default(), nonce: None };
        self.refresh_on(presented, &terms).await
    }

    /// Refreshes as [`Self::refresh`] does, on the terms of an OAuth client.
    pub async fn refresh_on(
        self: &Arc<Self>,
        presented: PresentedToken,
        terms: &RefreshTerms,
    ) -> Result<IssuedTokens, RefreshError> {
        let now = clock::now();
        let rules = self.rules(&terms.policy);
        let session = presented.token.session;
        let keyed = presented.idempotency_key.is_some();
        let randomness = RotationRandomness::generate(now)?;
        let refresh =
            Refresh::new(presented, randomness, rules, now).until(self.store.deadline(now));
        if !keyed {
            // Before the rotation: the client may disconnect, but the salt must be
            // cleared anyway.
            self.salt_expiry.track(session, now, &terms.policy);
        }
        let refresh = Arc::new(refresh);
        let outcome = match self.store.rotate(refresh.update.clone()).await? {
            BatchOutcome::Rotated(row) => refresh.rotated(row, rules),
            BatchOutcome::NoMatch | BatchOutcome::RolledBack => {
                self.resolve_conflict(&refresh, terms.policy).await?
            }
        };
        self.record_refresh(&refresh, &outcome);
        self.respond(outcome, &terms.response(), now).await
    }

    /// Issues the tokens of an outcome.
    pub(super) async fn respond(
        self: &Arc<Self>,
        outcome: RefreshOutcome,
        terms: &ResponseTerms<'_>,
        now: Timestamp,
    ) -> Result<IssuedTokens, RefreshError> {
        match outcome {
            RefreshOutcome::Rotated(grant) | RefreshOutcome::Reissued(grant) => {
                self.issue_unless_ended(grant, terms, now).await
            }
            RefreshOutcome::TimedOut | RefreshOutcome::LooksLikeReuse => {
                Err(store::Error::TimedOut.into())
            }
            RefreshOutcome::Rejected { reason, .. } => Err(RefreshError::InvalidGrant(reason)),
        }
    }

    /// Handles a rotation that a batch did not carry out.
    pub(super) async fn resolve_conflict(
        self: &Arc<Self>,
        refresh: &Arc<Refresh>,
        policy: Policy,
    ) -> Result<RefreshOutcome, Error> {
        let outcome = self.resolve_conflict_once(refresh, policy, ReuseByDate::Defer).await?;
        if !matches!(outcome, RefreshOutcome::LooksLikeReuse) {
            return Ok(outcome);
        }
        if !self.is_date_final(refresh.update.session).await {
            return Ok(RefreshOutcome::TimedOut);
        }
        self.resolve_conflict_once(refresh, policy, ReuseByDate::Reject).await
    }

    /// Waits for the time that the correction of a late commit takes. Returns `false` if the
    /// date of the session's last rotation, or of the exchange that opened it, may be corrected
    /// still later.
    pub(crate) async fn is_date_final(&self, session: SessionId) -> bool {
        tokio::time::sleep(REASSESS_AFTER).await;
        !self.store.is_unsettled(session) && !self.store.failed_lately()
    }

    async fn resolve_conflict_once(
        self: &Arc<Self>,
        refresh: &Arc<Refresh>,
        policy: Policy,
        reuse_by_date: ReuseByDate,
    ) -> Result<RefreshOutcome, Error> {
        let issuer = self.clone();
        let refresh = refresh.clone();
        Self::detached(async move {
            let session = refresh.update.session;
            let worker = issuer.clone();
            let update = refresh.update.clone();
            let resolve = move |conn: &mut Conn| {
                let rules = worker.rules(&policy);
                let outcome = sessions::resolve_conflict(conn, &refresh, rules, reuse_by_date)?;
                if let RefreshOutcome::Rotated(_) = outcome {
                    redate_late(conn, std::iter::once(&*refresh.update));
                }
                Ok(outcome)
            };
            let outcome = issuer.store.write(resolve).await;
            let outcome =
                outcome.inspect_err(|error| issuer.store.rotation_failed(error, &update))?;
            if let RefreshOutcome::Rejected { reason: InvalidGrant::Reuse, .. } = outcome {
                issuer.metrics.record_revocations(EndReason::Reuse.as_str(), 1);
                issuer.logout_notices.wake();
                let find = move |conn: &mut Conn| revocations::for_sessions(conn, &[session]);
                let revoked = issuer.store.run(find).await?;
                if let Err(error) = issuer.status.publish_revocations(&revoked).await {
                    // The client did not request the end. The refresh token is rejected.
                    tracing::warn!(%session, %error, "session ended after reuse");
                }
            }
            Ok(outcome)
        })
        .await
    }

    pub(super) fn rules<'a>(&'a self, policy: &'a Policy) -> Rules<'a> {
        Rules { policy, token_keys: &self.token_keys }
    }

    /// Logs and counts the outcome of a refresh.
    pub(super) fn record_refresh(&self, refresh: &Refresh, outcome: &RefreshOutcome) {
        let presented = refresh.presented();
        let RefreshToken { session, generation, .. } = presented.token;
        let keyed = presented.idempotency_key.is_some();
        let ip = presented.client.ip.map(tracing::field::display);
        let user_agent = presented.client.user_agent.as_deref();
        match outcome {
            RefreshOutcome::Rotated(_) => self.metrics.record_refresh("rotated"),
            RefreshOutcome::Reissued(grant) => {
                self.metrics.record_refresh("reissued");
                let user = grant.user;
                tracing::info!(
                    %session, %user, generation, keyed, ip, user_agent, "refresh reissued"
                );
            }
            RefreshOutcome::TimedOut | RefreshOutcome::LooksLikeReuse => {
                self.metrics.record_refresh("timed_out");
            }
            RefreshOutcome::Rejected { reason: invalid_grant, user, elsewhere } => {
                let reason = invalid_grant.reason().as_str();
                self.metrics.record_refresh(reason);
                let user = user.map(tracing::field::display);
                if *invalid_grant == InvalidGrant::Reuse {
                    tracing::warn!(
                        %session, user, generation, ip, user_agent,
                        "refresh token reused, session ended"
                    );
                } else if *invalid_grant == InvalidGrant::Superseded && *elsewhere {
                    tracing::warn!(
                        %session, user, generation, ip, user_agent,
                        "superseded refresh token presented from another address or device"
                    );
                } else {
                    tracing::info!(
                        %session, user, generation, ip, user_agent, reason, "refresh rejected"
                    );
                }
            }
        }
    }
}
