//! A request that carries an access token, and what is done about a `401`.

use std::error::Error as StdError;

use awc::ClientRequest;
use awc::http::header::{CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue};
use awc::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;
use tracing::{Instrument, Span};

use crate::credentials::Held;
use crate::protocol::drain;
use crate::transport::{Outgoing, Target, is_repeatable};
use crate::{Client, Error, Event, Response};

/// How often a request is sent at the most: with the tokens at hand, with those
/// that others have left, and with fresh ones.
const MOST_ATTEMPTS: u32 = 3;

/// A request to be. What is wrong with it is said when it is sent.
#[must_use = "nothing is sent before `send`"]
pub struct Request {
    client: Client,
    method: Method,
    target: Result<Target, Error>,
    query: Option<String>,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Request {
    pub(crate) fn new(client: Client, method: Method, target: Result<Target, Error>) -> Self {
        let headers = HeaderMap::new();
        Self { client, method, target, query: None, headers, body: None }
    }

    /// Adds a header. `Authorization` is the session's own. `Expect` is refused:
    /// interim responses are skipped, and a body is sent without waiting for one.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            (Ok(EXPECT), _) => self.fail("`Expect` is not supported".to_owned()),
            (Ok(name), Ok(value)) => self.headers.append(name, value),
            _ => self.fail(format!("`{name}` is no header, or its value cannot be one")),
        }
        self
    }

    /// Sets the query of the URL.
    pub fn query(mut self, query: &impl Serialize) -> Self {
        match serde_urlencoded::to_string(query) {
            Ok(query) => self.query = Some(query),
            Err(error) => self.fail(format!("the query: {error}")),
        }
        self
    }

    /// Sends `value` as JSON.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => self.typed("application/json", json.into()),
            Err(error) => self.fail(format!("the JSON body: {error}")),
        }
        self
    }

    /// Sends `value` as a form.
    pub fn form(mut self, value: &impl Serialize) -> Self {
        match serde_urlencoded::to_string(value) {
            Ok(form) => self.typed("application/x-www-form-urlencoded", form.into()),
            Err(error) => self.fail(format!("the form: {error}")),
        }
        self
    }

    /// Sends `body` as it stands.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn span(&self) -> Span {
        tracing::debug_span!("request", method = %self.method)
    }

    fn typed(&mut self, content_type: &'static str, body: Bytes) {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = Some(body);
    }

    fn fail(&mut self, problem: String) {
        if self.target.is_ok() {
            self.target = Err(Error::Invalid(problem));
        }
    }

    /// Sends it. On a `401` it refreshes the tokens, or waits for whoever does,
    /// and sends it again; the answer to fresh tokens is final. Redirects are
    /// answers like any other: none is followed.
    ///
    /// # Errors
    /// When nobody is logged in, the session has ended, or the server cannot be
    /// reached; [`Error::NotReplayable`] for a body beyond the limit.
    pub async fn send(self) -> Result<Response, Error> {
        let span = self.span();
        self.send_and_again().instrument(span).await
    }

    async fn send_and_again(mut self) -> Result<Response, Error> {
        let body = self.body.take().unwrap_or_default();
        let is_kept = body.len() <= self.client.credentials().body_limit();
        let target = self.target()?;
        let mut held = self.client.ready(is_kept).await?;
        let mut attempts = 0;
        loop {
            let outgoing = self.outgoing(&target, &held)?;
            let tell = |event: &dyn Fn() -> Event| self.client.credentials().tell_of(event);
            let response = self.client.http().send(&outgoing, body.clone(), tell).await?;
            attempts += 1;
            // Tokens that others left in the store may have expired as well.
            let again = attempts == 1 || attempts < MOST_ATTEMPTS && held.may_have_expired();
            if response.status() != StatusCode::UNAUTHORIZED || !again {
                return Ok(response);
            }
            drain(response).await;
            held = self.client.renew(&held).await?;
            if !is_kept {
                return Err(Error::NotReplayable);
            }
            self.client.credentials().tell(&Event::Retried);
        }
    }

    /// Sends `stream` as the body, once: a refresh comes before it where the
    /// access token is not known to be fresh.
    ///
    /// # Errors
    /// Those of [`Self::send`]; [`Error::NotReplayable`] when the server answers
    /// `401` all the same. The tokens are fresh then.
    pub async fn send_stream<S, E>(self, stream: S) -> Result<Response, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + 'static,
        E: Into<Box<dyn StdError>> + 'static,
    {
        let span = self.span();
        self.send_stream_once(stream).instrument(span).await
    }

    async fn send_stream_once<S, E>(self, stream: S) -> Result<Response, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + 'static,
        E: Into<Box<dyn StdError>> + 'static,
    {
        let target = self.target()?;
        let held = self.client.ready(false).await?;
        let outgoing = self.outgoing(&target, &held)?;
        let send = |request: ClientRequest| request.send_stream(stream);
        let tell = |event: &dyn Fn() -> Event| self.client.credentials().tell_of(event);
        let response = self.client.http().send_once(&outgoing, send, tell).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        drain(response).await;
        self.client.renew(&held).await?;
        Err(Error::NotReplayable)
    }

    /// Where it goes, with the query.
    fn target(&self) -> Result<Target, Error> {
        let target = self.target.as_ref().map_err(Clone::clone)?;
        let Some(query) = &self.query else { return Ok(target.clone()) };
        let url = target.uri.to_string();
        let separator = if url.contains('?') { '&' } else { '?' };
        let uri = Uri::try_from(format!("{url}{separator}{query}"));
        let uri = uri.map_err(|error| Error::Invalid(format!("its URL: {error}")))?;
        Ok(Target { uri, ..target.clone() })
    }

    fn outgoing<'a>(&'a self, target: &'a Target, held: &Held) -> Result<Outgoing<'a>, Error> {
        let bearer = held.bearer.clone().ok_or_else(|| {
            Error::UnexpectedResponse(
                "an access token with characters that no header takes".to_owned(),
            )
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
