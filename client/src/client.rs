//! A thread's way to the server: logging in and out, and fresh tokens for those
//! who send.

use std::sync::Arc;
use std::time::{Duration, Instant};

use awc::http::Method;
use awc::http::header::HeaderMap;
use bytes::Bytes;
use matchbook_shared::{Reason, RevokedSessions, TokenResponse};
use tracing::Instrument;

use crate::credentials::{Granted, Held, Landing, Outcome, Step, Strategy};
use crate::refresh::{Found, in_store, refresh};
use crate::server::{Server, read};
use crate::store::{StoreGuard, StoredTokens};
use crate::transport::{Http, Outgoing, Response};
use crate::{Credentials, Error, Event, Request, background, protocol};

/// A stream is sent only with an access token that has more than this fraction
/// of its life left.
const FRESH_ENOUGH: f64 = 0.8;

/// A thread's way to the server, logged in as its [`Credentials`] says.
#[derive(Debug, Clone)]
pub struct Client {
    server: Server,
    http: Http,
    credentials: Credentials,
}

impl Client {
    /// A session for this thread. Threads that are to share tokens are given
    /// clones of one `credentials`.
    #[must_use]
    pub fn new(server: &Server, credentials: Credentials) -> Self {
        Self::from_parts(server.clone(), server.http(), credentials)
    }

    /// The same connections with the tokens of another sign-in.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self::from_parts(self.server.clone(), self.http.clone(), credentials)
    }

    fn from_parts(server: Server, http: Http, credentials: Credentials) -> Self {
        let client = Self { server, http, credentials };
        background::start(&client);
        client
    }

    /// What it is made of with the tokens left out: makes it again while
    /// somebody else holds those.
    pub(crate) fn downgrade(&self) -> impl Fn() -> Option<Self> + use<> {
        let (server, http) = (self.server.clone(), self.http.clone());
        let credentials = self.credentials.downgrade();
        move || {
            let credentials = credentials()?;
            Some(Self { server: server.clone(), http: http.clone(), credentials })
        }
    }

    /// The tokens that it sends with.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Registers a guest and logs in as it; whoever was logged in before is not
    /// any more.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; [`Error::Invalid`] where it
    /// is not spoken to as a Matchbook server.
    pub async fn log_in_as_guest(&self) -> Result<(), Error> {
        self.needs_matchbook("guests")?;
        // The turn comes first: a guest signs in only once.
        let place = self.place().await?;
        let registered = self.get_alone("/register", true).await?;
        let user: String = read(&self.server, registered, &[]).await?;
        let query = serde_urlencoded::to_string([("userId", &user)]);
        let query = query.map_err(|error| Error::UnexpectedResponse(error.to_string()))?;
        let sent_at = Instant::now();
        let token = self.get_alone(&format!("/token?{query}"), false).await?;
        let tokens: TokenResponse = read(&self.server, token, &[&user]).await?;
        let before = self.before().await;
        self.take(place, Granted::from_login(tokens, Some(sent_at))).await?;
        self.end_session_before(before).await;
        Ok(())
    }

    /// The newest tokens of the sign-in before, where there was one.
    async fn before(&self) -> Option<StoredTokens> {
        let held = self.credentials.in_memory().map(|held| held.tokens.clone());
        self.credentials.read().await.ok().flatten().or(held)
    }

    /// Ends the session of a sign-in that another has replaced: nobody holds its tokens
    /// any more. A failure ends nothing else, and the session lives until it is idle.
    async fn end_session_before(&self, before: Option<StoredTokens>) {
        let Some(before) = before else { return };
        let mut events = Vec::new();
        let note = |event| events.push(event);
        if let Err(error) = protocol::log_out(&self.server, &self.http, &before, note).await {
            tracing::warn!("the session of the log-in before is not ended: {error}");
        }
        for event in &events {
            self.credentials.tell(event);
        }
    }

    /// Takes tokens that were granted elsewhere, in place of whichever were held.
    /// How old they are is not known, so a [`Strategy`] other than reactive
    /// begins with the first refresh.
    ///
    /// Ends the session of the tokens that were held, if it is another one: both
    /// access tokens name their session (`sid`). At an OAuth server, or where a name
    /// is missing, nothing is compared and that session lives until it expires; call
    /// [`Self::log_out`] first to end it.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub async fn log_in_with(&self, tokens: TokenResponse) -> Result<(), Error> {
        let place = self.place().await?;
        let granted = Granted::from_login(tokens, None);
        let before = self.before().await;
        let before =
            before.filter(|held| protocol::differ_in_session(&self.server, held, &granted.tokens));
        self.take(place, granted).await?;
        self.end_session_before(before).await;
        Ok(())
    }

    fn needs_matchbook(&self, what: &str) -> Result<(), Error> {
        match self.server.as_oauth() {
            Some(_) => Err(Error::Invalid(format!("an OAuth server has no {what}"))),
            None => Ok(()),
        }
    }

    /// The turn to change the tokens, and the lock of the store.
    async fn place(&self) -> Result<(Landing, Option<StoreGuard>), Error> {
        let landing = self.credentials.my_turn().await?;
        Ok((landing, self.credentials.lock_store().await?))
    }

    async fn take(
        &self,
        (landing, mut lock): (Landing, Option<StoreGuard>),
        granted: Granted,
    ) -> Result<(), Error> {
        self.credentials.write(&mut lock, Some(granted.tokens.clone())).await?;
        drop(lock);
        landing.land(Ok(Arc::new(granted)));
        self.credentials.tell(&Event::LoggedIn);
        Ok(())
    }

    /// Refreshes the tokens now, or waits for whoever does.
    ///
    /// # Errors
    /// Those of a request that met a `401`.
    pub async fn refresh(&self) -> Result<(), Error> {
        let held = self.credentials.held().await?;
        self.renew(&held).await.map(|_| ())
    }

    /// Ends the session at the server, then forgets the tokens. Where nobody is
    /// logged in there is nothing to do.
    ///
    /// # Errors
    /// When the server did not say that the session has ended: the tokens are
    /// kept, so that it can be tried again.
    pub async fn log_out(&self) -> Result<(), Error> {
        match self.credentials.held().await {
            Err(Error::NotLoggedIn) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.log_out_of(None).await,
        }
    }

    /// Logs out, unless somebody has logged in since the sign-in that is named.
    async fn log_out_of(&self, login_id: Option<&str>) -> Result<(), Error> {
        let mut events = Vec::new();
        let (landing, mut lock) = self.place().await?;
        let ended = self.end(login_id, &mut lock, &mut events).await;
        drop(lock);
        match &ended {
            Ok(()) => landing.land(Err(Error::LoggedOut(Some(Reason::LoggedOut)))),
            Err(error) => landing.land(Err(error.clone())),
        }
        for event in &events {
            self.credentials.tell(event);
        }
        match ended {
            Err(Error::NotLoggedIn | Error::SupersededByLogin) => Ok(()),
            ended => ended,
        }
    }

    /// Ends the session of the newest tokens, and erases them.
    async fn end(
        &self,
        login_id: Option<&str>,
        lock: &mut Option<StoreGuard>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let held = self.credentials.in_memory().ok_or(Error::NotLoggedIn)?;
        let newest = match in_store(&held, &self.credentials, lock).await {
            Ok(Found::TheRefused(newest) | Found::Others(newest)) => newest,
            // Whether the server knows is another question.
            Err(Error::NotLoggedIn) => held.tokens.clone(),
            Err(error) => return Err(error),
        };
        if login_id.is_some_and(|login_id| login_id != newest.login_id) {
            return Err(Error::SupersededByLogin);
        }
        protocol::log_out(&self.server, &self.http, &newest, |event| events.push(event)).await?;
        self.credentials.write(lock, None).await?;
        events.push(Event::LoggedOut(Some(Reason::LoggedOut)));
        Ok(())
    }

    /// Ends all sessions of this user at the server, this one with them; answers
    /// how many.
    ///
    /// # Errors
    /// As for any request, and when the server did not say that they have ended;
    /// [`Error::Invalid`] where it is not spoken to as a Matchbook server.
    pub async fn log_out_everywhere(&self) -> Result<usize, Error> {
        self.needs_matchbook("a list of sessions")?;
        let held = self.credentials.held().await?;
        let response = self.delete("/sessions").send().await?;
        let newest = self.credentials.in_memory().unwrap_or_else(|| held.clone());
        let mut secrets = protocol::secrets(&self.server, &held.tokens);
        secrets.extend(protocol::secrets(&self.server, &newest.tokens));
        let RevokedSessions { ended } = read(&self.server, response, &secrets).await?;
        // What the server has ended is forgotten here; a sign-in since then is not.
        self.log_out_of(Some(&held.tokens.login_id)).await?;
        Ok(ended)
    }

    /// A request with this method to a path of the server, or to a whole URL of
    /// an origin that [`Server::allow_origin`] names.
    pub fn request(&self, method: Method, target: &str) -> Request {
        Request::new(self.clone(), method, self.server.bearer_target(target))
    }

    /// A `GET` request; [`Self::request`] says to where.
    pub fn get(&self, target: &str) -> Request {
        self.request(Method::GET, target)
    }

    /// A `POST` request; [`Self::request`] says to where.
    pub fn post(&self, target: &str) -> Request {
        self.request(Method::POST, target)
    }

    /// A `PUT` request; [`Self::request`] says to where.
    pub fn put(&self, target: &str) -> Request {
        self.request(Method::PUT, target)
    }

    /// A `PATCH` request; [`Self::request`] says to where.
    pub fn patch(&self, target: &str) -> Request {
        self.request(Method::PATCH, target)
    }

    /// A `DELETE` request; [`Self::request`] says to where.
    pub fn delete(&self, target: &str) -> Request {
        self.request(Method::DELETE, target)
    }

    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// Sends a `GET` without a bearer.
    async fn get_alone(&self, path: &str, repeatable: bool) -> Result<Response, Error> {
        let outgoing = Outgoing {
            method: &Method::GET,
            target: &self.server.at(path)?,
            headers: &HeaderMap::new(),
            authorization: None,
            repeatable,
        };
        let tell = |event: &dyn Fn() -> Event| self.credentials.tell_of(event);
        let response = self.http.send(&outgoing, Bytes::new(), tell).await;
        response.map(|response| response.timeout(self.server.timeout()))
    }

    /// The tokens to send with, refreshed before where the strategy or a body
    /// that cannot be sent twice wants that.
    pub(crate) async fn ready(&self, replayable: bool) -> Outcome {
        let held = self.credentials.held().await?;
        let due_in = match self.credentials.strategy() {
            // How old it is is not known, nor how long it lives: better safe.
            _ if !replayable => held.due_in(1.0 - FRESH_ENOUGH).unwrap_or(Duration::ZERO),
            Strategy::Proactive { fraction } => held.due_in(fraction).unwrap_or(Duration::MAX),
            _ => Duration::MAX,
        };
        if due_in > Duration::ZERO {
            return Ok(held);
        }
        let renewed = match self.renew(&held).await {
            // What others have left in the store may be just as old.
            Ok(renewed) if !replayable && renewed.may_have_expired() => self.renew(&renewed).await,
            renewed => renewed,
        };
        match renewed {
            Err(error @ (Error::LoggedOut(_) | Error::NotLoggedIn | Error::SupersededByLogin)) => {
                Err(error)
            }
            // It is good for a while yet.
            Err(_) if held.remaining() > Some(Duration::ZERO) => Ok(held),
            renewed => renewed,
        }
    }

    /// Tokens in place of those that the server refused, or that are too old.
    pub(crate) async fn renew(&self, refused: &Held) -> Outcome {
        // The thread that had this task may be gone.
        background::start(self);
        let wait_timeout = self.credentials.wait_timeout();
        let renewed = match self.credentials.after_refusal(refused)? {
            Step::Resend(held) => Ok(held),
            Step::Rest(error) => self.credentials.adopt(refused).await.ok_or(error),
            Step::Wait(flight) => flight.outcome(wait_timeout).await,
            Step::Refresh(held, landing, flight) => {
                // On a task of its own: whoever asked for it may give up, but
                // what the server has rotated must be kept.
                let span = tracing::info_span!("refresh", generation = held.tokens.generation);
                let (server, http) = (self.server.clone(), self.http.clone());
                let turn = refresh(server, http, held, landing, self.credentials.clone());
                actix_rt::spawn(turn.instrument(span));
                flight.outcome(wait_timeout).await
            }
        }?;
        // What one user has begun is not sent again as another one.
        if renewed.tokens.login_id == refused.tokens.login_id {
            Ok(renewed)
        } else {
            Err(Error::SupersededByLogin)
        }
    }
}
