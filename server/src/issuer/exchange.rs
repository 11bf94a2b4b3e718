//! Refresh with a token that another server issued, whose users were imported.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, IssuedTokens, Issuer, RefreshError};
use crate::clock;
use crate::crypto::{Digest, IdempotencyKey, Secret};
use crate::ids::SessionId;
use crate::sessions::{
    self, ClientInfo, Context, Exchange, ExchangeOutcome, InvalidGrant, PresentedToken,
};
use crate::store::imported_refresh_tokens::{self, ImportedToken};
use crate::store::{self, Conn, Store};
use crate::tokens::{RefreshToken, RotationRandomness};

/// How long the server relies on what it knows about the table. An import waits longer
/// before it reports its end.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// How often a token is read again that a concurrent request has changed.
const MAX_ATTEMPTS: usize = 3;

/// A token whose tag is not of this server, and its request.
pub struct UnrecognizedToken {
    pub text: String,
    pub idempotency_key: Option<IdempotencyKey>,
    pub client: ClientInfo,
}

/// Whether any token was imported. Without it, every malformed token would cost a query.
#[derive(Default)]
pub(super) struct ImportedTokens {
    /// When the database was read, and the result; `None` after a failure.
    known: Mutex<Option<(Instant, Option<bool>)>>,
    /// Held by the request that reads the database.
    reading: tokio::sync::Mutex<()>,
}

impl ImportedTokens {
    async fn exist(&self, store: &Store) -> Result<bool, store::Error> {
        if let Some(known) = self.known() {
            return known;
        }
        let _reading = self.reading.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        let started = Instant::now();
        let read = store.run(imported_refresh_tokens::any).await;
        let known = Some((started, read.as_ref().ok().copied()));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        read
    }

    fn known(&self) -> Option<Result<bool, store::Error>> {
        let (read_at, exist) = (*self.known.lock().unwrap_or_else(PoisonError::into_inner))?;
        (read_at.elapsed() < FRESH_FOR).then(|| exist.ok_or(store::Error::TimedOut))
    }
}

impl Issuer {
    /// Exchanges a refresh token of another server for one of this server. Returns `None` if
    /// the token was not imported.
    pub async fn exchange(
        self: &Arc<Self>,
        presented: UnrecognizedToken,
    ) -> Result<Option<IssuedTokens>, RefreshError> {
        let UnrecognizedToken { text, idempotency_key, client } = presented;
        let Some(session) = self.session_of_imported(&text, &client).await? else {
            let ip = client.ip.map(tracing::field::display);
            tracing::info!(ip, "refresh rejected: not a token of this server");
            self.metrics.record_refresh("unrecognized");
            return Ok(None);
        };
        let secret = Secret::of_imported_token(&text);
        let token = RefreshToken { session, generation: 0, secret, client: None };
        self.refresh(PresentedToken { token, idempotency_key, client }).await.map(Some)
    }

    /// Returns the session of an imported token, and opens it if it is not open yet.
    async fn session_of_imported(
        self: &Arc<Self>,
        text: &str,
        client: &ClientInfo,
    ) -> Result<Option<SessionId>, RefreshError> {
        let may_exist = !RefreshToken::has_prefix(text);
        if !may_exist || !self.imported_tokens.exist(&self.store).await? {
            return Ok(None);
        }
        let digest = Digest::of(&[text.as_bytes()]);
        for _ in 0..MAX_ATTEMPTS {
            let find = move |conn: &mut Conn| imported_refresh_tokens::find(conn, digest);
            let Some(found) = self.store.run(find).await? else { return Ok(None) };
            if let Some(session) = found.session {
                return Ok(Some(session));
            }
            if found.expires_at <= clock::now() {
                return Err(self.reject_imported(&found, InvalidGrant::ExpiredAbsolute));
            }
            match self.open_imported(text, &found, client).await? {
                (session, ExchangeOutcome::Opened) => return Ok(Some(session)),
                (_, ExchangeOutcome::Changed) => {}
                (_, ExchangeOutcome::Rejected(reason)) => {
                    return Err(self.reject_imported(&found, reason));
                }
            }
        }
        Err(store::Error::TimedOut.into())
    }

    /// Opens the session of an imported token. The token is rotated in a second step, so
    /// that a repeated request finds an ordinary session.
    async fn open_imported(
        self: &Arc<Self>,
        text: &str,
        found: &ImportedToken,
        client: &ClientInfo,
    ) -> Result<(SessionId, ExchangeOutcome), Error> {
        let now = clock::now();
        let user = found.user;
        let session = SessionId::new(user, now)?;
        let RotationRandomness { access, event, .. } = RotationRandomness::generate(now)?;
        let request = Exchange {
            digest: Digest::of(&[text.as_bytes()]),
            user,
            session,
            secret: Secret::of_imported_token(text),
            access,
        };
        let policy = self.policy;
        let token_keys = self.token_keys.clone();
        let ip = client.ip.map(tracing::field::display);
        let client = ClientInfo { user_agent: client.user_agent.clone(), ip: client.ip };
        let exchange = move |conn: &mut Conn| {
            let cx = Context { policy: &policy, client: &client, event, now };
            sessions::exchange(conn, request, &token_keys.current, &cx)
        };
        let outcome = self.store.write_once(exchange).await?;
        if outcome == ExchangeOutcome::Opened {
            tracing::info!(%session, %user, ip, "session opened by an imported refresh token");
            self.metrics.record_login();
        }
        Ok((session, outcome))
    }

    fn reject_imported(&self, found: &ImportedToken, reason: InvalidGrant) -> RefreshError {
        let (user, word) = (found.user, reason.reason().as_str());
        tracing::info!(%user, reason = word, "imported refresh token rejected");
        self.metrics.record_refresh(word);
        RefreshError::InvalidGrant(reason)
    }
}
