//! The client of one thread, and the tokens with which it sends.

use std::sync::Arc;
use std::time::Duration;

use awc::http::header::HeaderValue;

use crate::background;
use crate::credentials::{Credentials, Strategy};
use crate::error::Error;
use crate::refresh::Refresher;
use crate::server::Server;
use crate::single_flight::Outcome;
use crate::token_set::TokenSet;
use crate::transport::Http;
use crate::user_agent::UserAgent;

/// The fraction of the access token's lifetime that must remain for a body that cannot be
/// sent twice.
const MIN_REMAINING_FOR_STREAM: f64 = 0.8;

/// An HTTP client of one thread. It sends requests with the access token of its
/// [`Credentials`], and refreshes it when necessary.
#[derive(Debug, Clone)]
pub struct Client(Refresher);

impl Client {
    /// Creates a client for this thread. Threads share a login by clones of its
    /// `credentials`.
    #[must_use]
    pub fn new(server: &Server, credentials: Credentials) -> Self {
        Self::from_parts(server.clone(), server.http(), credentials)
    }

    /// Returns a client with the same connections and other credentials.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self::from_parts(self.0.server.clone(), self.0.http.clone(), credentials)
    }

    /// Returns a client with the same connections and credentials, and another `User-Agent`:
    /// that of a browser, on behalf of which an app sends requests.
    #[must_use]
    pub fn with_user_agent(&self, user_agent: UserAgent) -> Self {
        let Refresher { server, http, credentials } = &self.0;
        let http = http.with_user_agent(user_agent);
        Self::from_parts(server.clone(), http, credentials.clone())
    }

    /// Returns a client with the same connections and credentials, which sends the addresses
    /// of another client as `X-Forwarded-For`. An app that sends requests on behalf of
    /// browsers appends the address of the browser to the header that it received. The server
    /// accepts the header if the app is one of its trusted proxies, and ignores it otherwise.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `addresses` is empty or has control characters.
    pub fn with_forwarded_for(&self, addresses: &str) -> Result<Self, Error> {
        let Refresher { server, http, credentials } = &self.0;
        let value = HeaderValue::from_str(addresses).ok().filter(|value| !value.is_empty());
        let problem = "X-Forwarded-For is not empty, and has no control characters";
        let value = value.ok_or_else(|| Error::Invalid(problem.to_owned()))?;
        let http = http.with_forwarded_for(value);
        Ok(Self::from_parts(server.clone(), http, credentials.clone()))
    }

    fn from_parts(server: Server, http: Http, credentials: Credentials) -> Self {
        let refresher = Refresher { server, http, credentials };
        background::start(&refresher);
        Self(refresher)
    }

    /// Returns the credentials of this client.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Refreshes the tokens, or waits for the refresh in progress.
    ///
    /// # Errors
    /// [`Error::NotLoggedIn`], or [`Error::LoggedOut`] if the server has ended the session;
    /// [`Error::Transient`] if the refresh may succeed later.
    pub async fn refresh(&self) -> Result<(), Error> {
        let current = self.credentials().current().await?;
        self.recover_from_401(&current).await.map(|_| ())
    }

    pub(crate) fn server(&self) -> &Server {
        &self.0.server
    }

    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    pub(crate) fn refresher(&self) -> &Refresher {
        &self.0
    }

    /// Returns the tokens for a request. They are refreshed first if the strategy requires
    /// it, or if the body cannot be sent twice and they may expire before it arrives.
    pub(crate) async fn fresh_tokens(&self, is_replayable: bool) -> Outcome {
        let current = self.credentials().current().await?;
        let due_in = match self.credentials().strategy() {
            // Tokens of unknown age or lifetime are refreshed.
            _ if !is_replayable => {
                current.time_until(1.0 - MIN_REMAINING_FOR_STREAM).unwrap_or(Duration::ZERO)
            }
            Strategy::Proactive { fraction } => {
                current.time_until(fraction).unwrap_or(Duration::MAX)
            }
            _ => Duration::MAX,
        };
        if due_in > Duration::ZERO {
            return Ok(current);
        }
        let refreshed = match self.recover_from_401(&current).await {
            // Tokens that another process left in the store may be just as old.
            Ok(tokens) if !is_replayable && tokens.may_have_expired() => {
                self.recover_from_401(&tokens).await
            }
            refreshed => refreshed,
        };
        match refreshed {
            Err(error @ (Error::LoggedOut(_) | Error::NotLoggedIn | Error::SupersededByLogin)) => {
                Err(error)
            }
            // The current access token has not expired yet.
            Err(_) if current.remaining() > Some(Duration::ZERO) => Ok(current),
            refreshed => refreshed,
        }
    }

    /// Returns tokens in place of those that the server rejected, or that are too old.
    pub(crate) async fn recover_from_401(&self, rejected: &Arc<TokenSet>) -> Outcome {
        // The thread of the background task may have ended.
        background::start(&self.0);
        self.0.replace(rejected).await
    }
}
