//! The exchange of authorization codes (RFC 6749 §4.1.3).

use std::sync::Arc;

use super::{Error, IssuedTokens, Issuer, Narrowing, RefreshError, RefreshTerms, ResponseTerms};
use crate::clock::{self, Timestamp};
use crate::crypto::Secret;
use crate::ids::{ClientId, EventId, LoginSessionId, SessionId, UserId};
use crate::sessions::{
    self, ClientInfo, CodeOutcome, Context, EndReason, Login, MAX_GRACE_PERIOD, Policy,
    PresentedCode, PresentedToken, Refresh,
};
use crate::store::{Affected, Conn, FollowUp};
use crate::tokens::{ClientGrant, RefreshToken, RotationRandomness};

/// A new authorization code.
pub struct NewCode {
    /// The session that it opens.
    pub session: SessionId,
    pub secret: Secret,
    /// The code as the client gets it.
    pub text: String,
}

/// An authorization code that was presented as its client should, for the first time.
pub struct FirstExchange {
    pub code: RefreshToken,
    pub user: UserId,
    pub grant: ClientGrant,
    pub narrowing: Narrowing,
    /// The nonce of the authorization request.
    pub nonce: Option<String>,
    /// The login session of the browser that got the code.
    pub login_session: Option<LoginSessionId>,
    pub client: ClientInfo,
}

impl Issuer {
    /// Returns a new code for a session of this user and client.
    pub(crate) fn new_code(&self, user: UserId, client: &ClientId) -> Result<NewCode, Error> {
        let session = SessionId::new(user, clock::now())?;
        let secret = Secret::random()?;
        let code = RefreshToken {
            session,
            generation: RefreshToken::CODE_GENERATION,
            secret: secret.clone(),
            client: Some(client.clone()),
        };
        Ok(NewCode { session, secret, text: code.encode(&self.token_keys.current) })
    }

    /// Authenticates a code by its tag, without a query. Returns `None` for a code that this
    /// server did not issue to this client.
    pub(crate) fn authenticate_code(&self, code: &str, client: &ClientId) -> Option<RefreshToken> {
        RefreshToken::parse_code(code, client, &self.token_keys)
    }

    /// Opens the session of a code. Returns `None` if the code was exchanged before.
    ///
    /// `policy` has the time within which the exchange may be repeated as its grace period.
    /// The client may disconnect: it gets the same tokens when it tries again. This time begins
    /// at the commit if that is late.
    pub(crate) async fn exchange_code(
        self: &Arc<Self>,
        exchange: FirstExchange,
        policy: Policy,
    ) -> Result<Option<IssuedTokens>, RefreshError> {
        let FirstExchange { code, user, grant, narrowing, nonce, login_session, client } = exchange;
        let now = clock::now();
        let RotationRandomness { salt, access, event } = RotationRandomness::generate(now)?;
        let session = code.session;
        let ip = client.ip.map(tracing::field::display);
        let login = Login {
            user,
            session,
            secret: code.secret.successor(&salt, &self.token_keys.current),
            access,
            claims: None,
            grant: Some(grant),
            code: Some(PresentedCode {
                digest: code.secret.digest(),
                salt: policy.reissue.map(|_| salt),
                login_session,
            }),
        };
        // A refresh may follow at once, and its salt is needed for the grace period of the
        // client, which may be longer.
        let longest = policy.reissue.map(|_| MAX_GRACE_PERIOD);
        self.salt_expiry.track(session, now, &policy.with_grace_period(longest));
        let opened = login.secret.digest();
        let correct =
            move |conn: &mut Conn| sessions::redate_exchange(conn, session, &opened, clock::now());
        let correction = FollowUp::new(Affected::Session(session), correct);
        let token_keys = self.token_keys.clone();
        let open = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            sessions::exchange_code(conn, login, &token_keys.current, &cx)
        };
        match self.store.write_or_correct(open, correction).await? {
            CodeOutcome::Opened(grant) => {
                tracing::info!(%session, %user, ip, "session opened by an authorization code");
                self.metrics.record_login();
                let terms = ResponseTerms { narrowing: &narrowing, nonce: nonce.as_deref() };
                self.issue_unless_ended(grant, &terms, now).await.map(Some)
            }
            CodeOutcome::Exchanged => Ok(None),
            CodeOutcome::Rejected(reason) => {
                tracing::info!(%user, ip, reason = reason.reason().as_str(), "authorization code rejected");
                Err(RefreshError::InvalidGrant(reason))
            }
        }
    }

    /// Handles a code that was exchanged before: reissues its tokens within the grace period
    /// of the terms, or ends the session. `now` is when the request arrived.
    pub(crate) async fn exchange_code_again(
        self: &Arc<Self>,
        presented: PresentedToken,
        terms: &RefreshTerms,
        now: Timestamp,
    ) -> Result<IssuedTokens, RefreshError> {
        let randomness = RotationRandomness::generate(now)?;
        let refresh = Refresh::new(presented, randomness, self.rules(&terms.policy), now);
        let refresh = Arc::new(refresh.until(self.store.deadline(now)));
        let outcome = self.resolve_conflict(&refresh, terms.policy).await?;
        self.record_refresh(&refresh, &outcome);
        self.respond(outcome, &terms.response(), now).await
    }

    /// Makes a code useless that was presented with a wrong verifier, and ends the session
    /// that it has opened.
    pub(crate) async fn spend_code(
        self: &Arc<Self>,
        code: &RefreshToken,
        client: ClientInfo,
    ) -> Result<(), Error> {
        let now = clock::now();
        let event = EventId::new(now)?;
        let policy = self.policy;
        let session = code.session;
        let ip = client.ip.map(tracing::field::display);
        tracing::warn!(%session, ip, "authorization code presented with a wrong verifier");
        self.change_and_revoke(EndReason::Reuse, move |conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            sessions::spend_code(conn, session, &cx).map(|revoked| ((), revoked))
        })
        .await
    }
}
