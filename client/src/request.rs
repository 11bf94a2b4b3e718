//! A request with the access token, and its recovery from a `401`.

use std::error::Error as StdError;

use awc::ClientRequest;
use awc::http::header::{CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue};
use awc::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;
use tracing::{Instrument, Span};

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::response::drain;
use crate::token_set::TokenSet;
use crate::transport::{Outgoing, Response, Target, is_repeatable};

/// The most times that a request is sent: with the current tokens, with those that another
/// process left in the store, and with refreshed ones.
const MAX_ATTEMPTS: u32 = 3;

/// A request that is not sent yet. Its methods record an error, which [`Self::send`] returns.
#[must_use = "nothing is sent before `send`"]
pub struct Request {
    client: Client,
    method: Method,
    target: Result<Target, Error>,
    query: Option<String>,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Client {
    /// Starts a request. `target` is a path below the server's base URL, or a URL of an
    /// origin that [`Server::allow_origin`](crate::Server::allow_origin) allows.
    pub fn request(&self, method: Method, target: &str) -> Request {
        Request {
            client: self.clone(),
            method,
            target: self.server().bearer_target(target),
            query: None,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    /// Starts a `GET` request to a target of [`Self::request`].
    pub fn get(&self, target: &str) -> Request {
        self.request(Method::GET, target)
    }

    /// Starts a `POST` request to a target of [`Self::request`].
    pub fn post(&self, target: &str) -> Request {
        self.request(Method::POST, target)
    }

    /// Starts a `PUT` request to a target of [`Self::request`].
    pub fn put(&self, target: &str) -> Request {
        self.request(Method::PUT, target)
    }

    /// Starts a `PATCH` request to a target of [`Self::request`].
    pub fn patch(&self, target: &str) -> Request {
        self.request(Method::PATCH, target)
    }

    /// Starts a `DELETE` request to a target of [`Self::request`].
    pub fn delete(&self, target: &str) -> Request {
        self.request(Method::DELETE, target)
    }
}

impl Request {
    /// Adds a header. The client sets `Authorization` itself. `Expect` is an error: a body
    /// is sent without waiting for `100 Continue`.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            (Ok(EXPECT), _) => self.record_error("`Expect` is not supported".to_owned()),
            (Ok(name), Ok(value)) => self.headers.append(name, value),
            _ => self.record_error(format!("`{name}` is not a valid header, or its value is not")),
        }
        self
    }

    /// Sets the query of the URL.
    pub fn query(mut self, query: &impl Serialize) -> Self {
        match serde_urlencoded::to_string(query) {
            Ok(query) => self.query = Some(query),
            Err(error) => self.record_error(format!("the query: {error}")),
        }
        self
    }

    /// Sets `value` as a JSON body.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => self.set_body("application/json", json.into()),
            Err(error) => self.record_error(format!("the JSON body: {error}")),
        }
        self
    }

    /// Sets `value` as a form body (`application/x-www-form-urlencoded`).
    pub fn form(mut self, value: &impl Serialize) -> Self {
        match serde_urlencoded::to_string(value) {
            Ok(form) => self.set_body("application/x-www-form-urlencoded", form.into()),
            Err(error) => self.record_error(format!("the form: {error}")),
        }
        self
    }

    /// Sets the bytes of the body. `Content-Type` is left to [`Self::header`].
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn span(&self) -> Span {
        tracing::debug_span!("request", method = %self.method)
    }

    fn set_body(&mut self, content_type: &'static str, body: Bytes) {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = Some(body);
    }

    /// Records the first error.
    fn record_error(&mut self, problem: String) {
        if self.target.is_ok() {
            self.target = Err(Error::Invalid(problem));
        }
    }

    /// Sends the request. After a `401` the tokens are refreshed, or the refresh in progress
    /// is awaited, and the request is sent again. A `401` to refreshed tokens is returned like
    /// any other response. Redirects are returned too: none is followed.
    ///
    /// # Errors
    /// [`Error::NotLoggedIn`] or [`Error::LoggedOut`] without a session,
    /// [`Error::Transient`] if there is no response, [`Error::Misconfigured`] if retrying
    /// cannot help, [`Error::NotReplayable`] for a body beyond
    /// [`body_limit`](crate::CredentialsBuilder::body_limit), [`Error::Invalid`] or
    /// [`Error::OriginNotAllowed`] before anything is sent.
    pub async fn send(self) -> Result<Response, Error> {
        let span = self.span();
        self.send_replayable().instrument(span).await
    }

    async fn send_replayable(mut self) -> Result<Response, Error> {
        let body = self.body.take().unwrap_or_default();
        let is_replayable = body.len() <= self.client.credentials().body_limit();
        let target = self.target()?;
        let mut tokens = self.client.fresh_tokens(is_replayable).await?;
        let mut attempts = 0;
        loop {
            let outgoing = self.outgoing(&target, &tokens)?;
            let emit = |event: &dyn Fn() -> Event| self.client.credentials().emit_with(event);
            let response = self.client.http().send(&outgoing, body.clone(), emit).await?;
            attempts += 1;
            // Tokens that another process left in the store may have expired as well.
            let may_repeat = attempts == 1 || attempts < MAX_ATTEMPTS && tokens.may_have_expired();
            if response.status() != StatusCode::UNAUTHORIZED || !may_repeat {
                return Ok(response);
            }
            drain(response).await;
            tokens = self.client.recover_from_401(&tokens).await?;
            if !is_replayable {
                return Err(Error::NotReplayable);
            }
            self.client.credentials().emit(&Event::Retried);
        }
    }

    /// Sends the request once, with `stream` as its body. The tokens are refreshed first,
    /// unless the access token is known to be fresh.
    ///
    /// # Errors
    /// Those of [`Self::send`]. [`Error::NotReplayable`] if the server responds `401`
    /// nevertheless; the tokens have been refreshed by then.
    pub async fn send_stream<S, E>(self, stream: S) -> Result<Response, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + 'static,
        E: Into<Box<dyn StdError>> + 'static,
    {
        let span = self.span();
        self.send_once(stream).instrument(span).await
    }

    async fn send_once<S, E>(self, stream: S) -> Result<Response, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + 'static,
        E: Into<Box<dyn StdError>> + 'static,
    {
        let target = self.target()?;
        let tokens = self.client.fresh_tokens(false).await?;
        let outgoing = self.outgoing(&target, &tokens)?;
        let send = |request: ClientRequest| request.send_stream(stream);
        let emit = |event: &dyn Fn() -> Event| self.client.credentials().emit_with(event);
        let response = self.client.http().send_once(&outgoing, send, emit).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        drain(response).await;
        self.client.recover_from_401(&tokens).await?;
        Err(Error::NotReplayable)
    }

    /// Returns the target with the query.
    fn target(&self) -> Result<Target, Error> {
        let target = self.target.as_ref().map_err(Clone::clone)?;
        let Some(query) = &self.query else { return Ok(target.clone()) };
        let url = target.uri.to_string();
        let separator = if url.contains('?') { '&' } else { '?' };
        let uri = Uri::try_from(format!("{url}{separator}{query}"));
        let uri = uri.map_err(|error| Error::Invalid(format!("the URL: {error}")))?;
        Ok(Target { uri, ..target.clone() })
    }

    fn outgoing<'a>(
        &'a self,
        target: &'a Target,
        tokens: &TokenSet,
    ) -> Result<Outgoing<'a>, Error> {
        let bearer = tokens.bearer.clone().ok_or_else(|| {
            let problem = "the access token has characters that a header cannot have";
            Error::UnexpectedResponse(problem.to_owned())
        })?;
        Ok(Outgoing {
            method: &self.method,
            target,
            headers: &self.headers,
            authorization: Some(bearer),
            repeatable: is_repeatable(&self.method, &self.headers),
        })
    }
}
