//! The exchange of a code for tokens (RFC 6749 §4.1.3).

use std::sync::Arc;
use std::time::Duration;

use super::token::narrowed_audiences;
use super::{Error, Grants, TokenError, pkce};
use crate::clients::Client;
use crate::clock::{self, Timestamp};
use crate::issuer::{FirstExchange, IssuedTokens, Narrowing, RefreshTerms};
use crate::sessions::{ClientInfo, PresentedToken};
use crate::store::authorization_codes::{self, CodeGrant, StoredCode};
use crate::store::{self, Conn};
use crate::tokens::{ClientGrant, RefreshToken};

/// A code, and its request by an authenticated client.
pub struct CodeExchange {
    pub client: Arc<Client>,
    pub code: String,
    pub redirect_uri: Option<String>,
    /// `code_verifier` (RFC 7636 §4.5).
    pub verifier: Option<String>,
    /// The resource servers that the access token is for; empty: as the code says.
    pub audiences: Vec<String>,
    pub from: ClientInfo,
}

/// Why a code is rejected before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeError {
    /// This server did not issue it, or not to this client.
    Unrecognized,
    /// The redirect URI is not that of the authorization request.
    RedirectUri,
    /// There is no redirect URI, and no challenge that would replace it.
    NoRedirectUri,
    /// The verifier is missing or wrong, or there was no challenge.
    Verifier,
    Expired,
}

/// An authenticated code, and its request.
pub(super) struct AuthenticCode {
    pub(super) client: Arc<Client>,
    pub(super) code: RefreshToken,
    pub(super) audiences: Vec<String>,
    pub(super) from: ClientInfo,
}

/// The exchange of a code that was exchanged before.
struct Repetition {
    /// When the request arrived: it may have waited for another one since.
    now: Timestamp,
    /// The time in which it gets the same tokens; `None`: it is over.
    retry: Option<Duration>,
    /// The nonce of the authorization request.
    nonce: Option<String>,
}

impl Grants {
    /// Exchanges a code for tokens. The same exchange within `oauth.code_retry` gets the same
    /// tokens; after that, the code was copied, and the session ends.
    pub async fn exchange_code(&self, exchange: CodeExchange) -> Result<IssuedTokens, TokenError> {
        let CodeExchange { client, code, redirect_uri, verifier, audiences, from } = exchange;
        let Some(code) = self.issuer.authenticate_code(&code, &client.id) else {
            log_rejection(&client, &from, CodeError::Unrecognized);
            return Err(TokenError::Code(CodeError::Unrecognized));
        };
        let check = |grant: &CodeGrant| check(grant, redirect_uri.as_deref(), verifier.as_deref());
        self.exchange_authentic(AuthenticCode { client, code, audiences, from }, check).await
    }

    /// Exchanges a code as [`Self::exchange_code`] does. `check` compares the exchange with
    /// the request of the code.
    pub(super) async fn exchange_authentic(
        &self,
        exchange: AuthenticCode,
        check: impl FnOnce(&CodeGrant) -> Result<(), CodeError>,
    ) -> Result<IssuedTokens, TokenError> {
        let now = clock::now();
        let (session, digest) = (exchange.code.session, exchange.code.secret.digest());
        let find = move |conn: &mut Conn| authorization_codes::find(conn, session, &digest);
        let Some(StoredCode { grant, exchanged_at }) = self.store.run(find).await? else {
            // The code was deleted long after it expired, but its session knows it.
            return self
                .exchange_again(exchange, Repetition { now, retry: None, nonce: None })
                .await;
        };
        if let Err(problem) = check(&grant) {
            if problem == CodeError::Verifier {
                self.issuer.spend_code(&exchange.code, exchange.from.clone()).await?;
            }
            log_rejection(&exchange.client, &exchange.from, problem);
            return Err(TokenError::Code(problem));
        }
        let audiences = narrowed_audiences(&exchange.audiences, &grant.audiences, &self.audience)?;
        let retry = self.options.code_retry;
        if let Some(exchanged_at) = exchanged_at {
            let retry = self.retry_since(&exchange.code, exchanged_at, now).await?;
            let repetition = Repetition { now, retry, nonce: grant.nonce };
            return self.exchange_again(exchange, repetition).await;
        }
        if grant.expires_at <= now {
            log_rejection(&exchange.client, &exchange.from, CodeError::Expired);
            return Err(TokenError::Code(CodeError::Expired));
        }
        let first = FirstExchange {
            code: exchange.code.clone(),
            user: grant.user,
            grant: ClientGrant {
                client: exchange.client.id.clone(),
                scope: grant.scope,
                audiences: grant.audiences,
                auth_time: Some(grant.auth_time),
            },
            narrowing: Narrowing { scope: None, audiences },
            nonce: grant.nonce.clone(),
            login_session: grant.login_session,
            client: exchange.from.clone(),
        };
        let policy = self.issuer.policy().with_grace_period(retry);
        if let Some(tokens) = self.issuer.exchange_code(first, policy).await? {
            return Ok(tokens);
        }
        // A concurrent request was faster.
        self.exchange_again(exchange, Repetition { now, retry, nonce: grant.nonce }).await
    }

    /// Returns the time within which an exchange may be repeated, or `None` if it is over. A
    /// refresh since the exchange does not prolong it.
    async fn retry_since(
        &self,
        code: &RefreshToken,
        exchanged_at: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Duration>, Error> {
        let Some(retry) = self.options.code_retry else { return Ok(None) };
        let within_retry = |at: Timestamp| (now <= at.after(retry)).then_some(retry);
        if within_retry(exchanged_at).is_some() {
            return Ok(Some(retry));
        }
        // The date of an exchange that was committed late is corrected a moment later.
        if !self.issuer.is_date_final(code.session).await {
            return Err(store::Error::TimedOut.into());
        }
        let (session, digest) = (code.session, code.secret.digest());
        let find = move |conn: &mut Conn| authorization_codes::find(conn, session, &digest);
        let found = self.store.run(find).await?;
        Ok(found.and_then(|code| code.exchanged_at).and_then(within_retry))
    }

    /// Exchanges a code again.
    async fn exchange_again(
        &self,
        exchange: AuthenticCode,
        repetition: Repetition,
    ) -> Result<IssuedTokens, TokenError> {
        let AuthenticCode { code, audiences, from, .. } = exchange;
        let Repetition { now, retry, nonce } = repetition;
        let terms = RefreshTerms {
            policy: self.issuer.policy().with_grace_period(retry),
            narrowing: Narrowing { scope: None, audiences },
            nonce,
        };
        let presented = PresentedToken { token: code, idempotency_key: None, client: from };
        Ok(self.issuer.exchange_code_again(presented, &terms, now).await?)
    }
}

fn log_rejection(client: &Client, from: &ClientInfo, problem: CodeError) {
    let ip = from.ip.map(tracing::field::display);
    tracing::info!(client = %client.id, ip, ?problem, "authorization code rejected");
}

/// Compares an exchange with the authorization request.
fn check(
    grant: &CodeGrant,
    redirect_uri: Option<&str>,
    verifier: Option<&str>,
) -> Result<(), CodeError> {
    match redirect_uri {
        Some(uri) if uri != grant.redirect_uri => return Err(CodeError::RedirectUri),
        // OAuth 2.1 has no such parameter; PKCE protects the code.
        None if grant.code_challenge.is_none() => return Err(CodeError::NoRedirectUri),
        _ => {}
    }
    match (&grant.code_challenge, verifier) {
        (None, None) => Ok(()),
        (Some(challenge), Some(verifier)) if pkce::verifies(challenge, verifier) => Ok(()),
        _ => Err(CodeError::Verifier),
    }
}
