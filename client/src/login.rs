//! Guest login and logout, and what all logins share.

use std::sync::Arc;
use std::time::Instant;

use awc::http::Method;
use awc::http::header::HeaderMap;
use bytes::Bytes;
use matchbook_shared::{InvalidGrantReason, RevokedSessions, TokenResponse};

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::protocol;
use crate::refresh::{StoreState, Update};
use crate::response::read_json;
use crate::single_flight::RefreshLeader;
use crate::store::StoredTokens;
use crate::token_set::TokenSet;
use crate::transport::{Outgoing, Response};

impl Client {
    /// Registers a guest and logs in. Ends the session of the previous login of these
    /// credentials.
    ///
    /// # Errors
    /// [`Error::Transient`] if the server cannot be reached; [`Error::Invalid`] if it is an
    /// OAuth server; [`Error::Store`] if the tokens cannot be stored.
    pub async fn log_in_as_guest(&self) -> Result<(), Error> {
        self.require_matchbook("guests")?;
        // Acquired first, because a guest can log in only once.
        let (leader, update) = self.lock().await?;
        let registered = self.get_without_token("/register", true).await?;
        let user: String = read_json(self.server(), registered, &[]).await?;
        let query = serde_urlencoded::to_string([("userId", &user)]);
        let query = query.map_err(|error| Error::UnexpectedResponse(error.to_string()))?;
        let sent_at = Instant::now();
        let response = self.get_without_token(&format!("/token?{query}"), false).await?;
        let tokens: TokenResponse = read_json(self.server(), response, &[&user]).await?;
        let previous = self.previous_tokens().await;
        self.install(leader, update, TokenSet::from_login(tokens, Some(sent_at))).await?;
        self.end_session_of(previous).await;
        Ok(())
    }

    /// Installs tokens from elsewhere in place of the current ones. Their age is unknown, so
    /// a [`Strategy`](crate::Strategy) other than reactive refreshes them first.
    ///
    /// Ends the session of the previous tokens, if it is another one: both access tokens
    /// name their session (`sid`). With an OAuth server, or without that claim, nothing is
    /// compared and the previous session lives until it expires. Call [`Self::log_out`]
    /// first to end it.
    ///
    /// # Errors
    /// [`Error::Store`] if the tokens cannot be stored; [`Error::Transient`] if a refresh in
    /// progress takes too long.
    pub async fn log_in_with(&self, tokens: TokenResponse) -> Result<(), Error> {
        let (leader, update) = self.lock().await?;
        let tokens = TokenSet::from_login(tokens, None);
        let previous = self.previous_tokens().await.filter(|previous| {
            protocol::differ_in_session(self.server(), previous, &tokens.tokens)
        });
        self.install(leader, update, tokens).await?;
        self.end_session_of(previous).await;
        Ok(())
    }

    /// Ends the session at the server, then erases the tokens. Does nothing without tokens.
    ///
    /// # Errors
    /// Any error means that the server has not confirmed the end of the session. The tokens
    /// are kept, so that the call can be repeated.
    pub async fn log_out(&self) -> Result<(), Error> {
        match self.credentials().current().await {
            Err(Error::NotLoggedIn) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.log_out_if(None).await,
        }
    }

    /// Ends all sessions of the user, and erases the tokens. Returns the number of sessions
    /// ended.
    ///
    /// # Errors
    /// Those of a request; [`Error::UnexpectedResponse`] if the server has not confirmed
    /// the end; [`Error::Invalid`] if it is an OAuth server.
    pub async fn log_out_everywhere(&self) -> Result<usize, Error> {
        self.require_matchbook("a list of sessions")?;
        let before = self.credentials().current().await?;
        let response = self.delete("/sessions").send().await?;
        let newest = self.credentials().in_memory().unwrap_or_else(|| before.clone());
        let mut secrets = protocol::secrets(self.server(), &before.tokens);
        secrets.extend(protocol::secrets(self.server(), &newest.tokens));
        let RevokedSessions { ended } = read_json(self.server(), response, &secrets).await?;
        // The tokens of a login since then are kept.
        self.log_out_if(Some(&before.tokens.login_id)).await?;
        Ok(ended)
    }

    /// Installs the tokens of a new session in place of those of the previous login, and ends
    /// its session.
    pub(crate) async fn replace_login(&self, tokens: TokenSet) -> Result<(), Error> {
        let (leader, update) = self.lock().await?;
        let previous = self.previous_tokens().await;
        self.install(leader, update, tokens).await?;
        self.end_session_of(previous).await;
        Ok(())
    }

    pub(crate) fn require_matchbook(&self, feature: &str) -> Result<(), Error> {
        match self.server().as_oauth() {
            Some(_) => Err(Error::Invalid(format!("an OAuth server has no {feature}"))),
            None => Ok(()),
        }
    }

    /// Waits until no other change of the tokens is in progress, here or in another process.
    async fn lock(&self) -> Result<(RefreshLeader, Update<'_>), Error> {
        let leader = self.credentials().acquire().await?;
        let update = Update::start(self.refresher()).await?;
        Ok((leader, update))
    }

    async fn install(
        &self,
        leader: RefreshLeader,
        mut update: Update<'_>,
        tokens: TokenSet,
    ) -> Result<(), Error> {
        update.write(Some(tokens.tokens.clone())).await?;
        update.record(Event::LoggedIn);
        let events = update.finish();
        leader.complete(Ok(Arc::new(tokens)));
        self.refresher().emit(&events);
        Ok(())
    }

    /// Returns the newest tokens of the previous login, if there was one.
    async fn previous_tokens(&self) -> Option<StoredTokens> {
        let in_memory = self.credentials().in_memory().map(|current| current.tokens.clone());
        self.credentials().read().await.ok().flatten().or(in_memory)
    }

    /// Ends the session of tokens that are kept nowhere any more. After a failure the session
    /// lives until its idle expiry.
    pub(crate) async fn end_session_of(&self, tokens: Option<StoredTokens>) {
        let Some(tokens) = tokens else { return };
        let mut events = Vec::new();
        let record = |event| events.push(event);
        let outcome = protocol::log_out(self.server(), self.http(), &tokens, record).await;
        if let Err(error) = outcome {
            tracing::warn!(%error, "session whose tokens are dropped not ended");
        }
        self.refresher().emit(&events);
    }

    /// Logs out, unless `login_id` is given and another login has replaced it.
    async fn log_out_if(&self, login_id: Option<&str>) -> Result<(), Error> {
        let (leader, mut update) = self.lock().await?;
        let outcome = self.end_session(login_id, &mut update).await;
        let events = update.finish();
        match &outcome {
            Ok(()) => leader.complete(Err(Error::LoggedOut(Some(InvalidGrantReason::LoggedOut)))),
            Err(error) => leader.complete(Err(error.clone())),
        }
        self.refresher().emit(&events);
        match outcome {
            Err(Error::NotLoggedIn | Error::SupersededByLogin) => Ok(()),
            outcome => outcome,
        }
    }

    /// Ends the session of the newest tokens at the server, and deletes them from the store.
    async fn end_session(
        &self,
        login_id: Option<&str>,
        update: &mut Update<'_>,
    ) -> Result<(), Error> {
        let current = self.credentials().in_memory().ok_or(Error::NotLoggedIn)?;
        let newest = match update.reconcile(&current).await {
            Ok(StoreState::Unchanged(newest) | StoreState::Replaced(newest)) => newest,
            // The store is empty, but the session may still exist at the server.
            Err(Error::NotLoggedIn) => current.tokens.clone(),
            Err(error) => return Err(error),
        };
        if login_id.is_some_and(|login_id| login_id != newest.login_id) {
            return Err(Error::SupersededByLogin);
        }
        update.end_session(&newest).await?;
        update.write(None).await?;
        update.record(Event::LoggedOut(Some(InvalidGrantReason::LoggedOut)));
        Ok(())
    }

    async fn get_without_token(&self, path: &str, repeatable: bool) -> Result<Response, Error> {
        let outgoing = Outgoing {
            method: &Method::GET,
            target: &self.server().target(path)?,
            headers: &HeaderMap::new(),
            authorization: None,
            repeatable,
        };
        let emit = |event: &dyn Fn() -> Event| self.credentials().emit_with(event);
        let response = self.http().send(&outgoing, Bytes::new(), emit).await?;
        Ok(response.timeout(self.server().timeout()))
    }
}
