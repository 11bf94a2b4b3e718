//! Requests that carry an access token, and what to do when it has expired.

use awc::http::StatusCode;
use matchbook_shared::{ErrorBody, Tokens};

use crate::credential::{Held, Step};
use crate::server::{Response, Server, exchange, read, refusal};
use crate::{Credential, Error};

/// The refresh token is not good (RFC 6749 §5.2).
const INVALID_GRANT: &str = "invalid_grant";

/// Says that a refresh is the same attempt as before, so that the server gives
/// the same answer again where the first one was lost.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A thread's way to the server, logged in as its [`Credential`] says.
#[derive(Clone)]
pub struct Session {
    server: Server,
    http: awc::Client,
    credential: Credential,
}

impl Session {
    /// A session for this thread. Threads that are to share tokens are given
    /// clones of one `credential`.
    #[must_use]
    pub fn new(server: &Server, credential: Credential) -> Self {
        Self { server: server.clone(), http: server.client(), credential }
    }

    /// Registers a guest and logs in as it; whoever was logged in before is not
    /// any more.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn log_in_as_guest(&self) -> Result<(), Error> {
        let register = self.http.get(self.server.at("/register"));
        let user: String = read(exchange(register, None).await?).await?;
        let token = self.http.get(self.server.at(&format!("/token?userId={user}")));
        let tokens: Tokens = read(exchange(token, None).await?).await?;
        self.credential.replace(tokens);
        Ok(())
    }

    /// Sends `GET path`. On a `401` it refreshes the tokens, or waits for
    /// whoever does, and sends the request once more; the answer to that one is
    /// final.
    ///
    /// # Errors
    /// When nobody is logged in, the session has ended, or the server cannot be
    /// reached.
    pub async fn get(&self, path: &str) -> Result<Response, Error> {
        let held = self.credential.held().ok_or(Error::NotLoggedIn)?;
        let response = self.send(path, &held).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let fresh = match self.credential.after_refusal(&held)? {
            Step::Resend(held) => held,
            Step::Wait(flight) => flight.outcome().await?,
            Step::Refresh(held, landing, flight) => {
                // On a task of its own: whoever asked for it may give up, but
                // what the server has rotated must be kept.
                let session = self.clone();
                actix_rt::spawn(async move { landing.land(session.refresh(&held).await) });
                flight.outcome().await?
            }
        };
        self.send(path, &fresh).await
    }

    async fn send(&self, path: &str, held: &Held) -> Result<Response, Error> {
        exchange(self.http.get(self.server.at(path)).bearer_auth(&held.tokens.token), None).await
    }

    /// Trades the refresh token. Only the server's `401`, or `invalid_grant`
    /// (RFC 6749 §5.2), says that it is no longer good; what is not JSON comes
    /// from something in between, and may pass.
    async fn refresh(&self, held: &Held) -> Result<Tokens, Error> {
        let request = self.http.post(self.server.at("/refresh"));
        let request = request.insert_header((IDEMPOTENCY_KEY, held.attempt.as_str()));
        let form = [("refresh_token", held.tokens.refresh_token.as_str())];
        let mut response = exchange(request, Some(&form)).await?;
        match response.status() {
            StatusCode::OK => read(response).await,
            StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => {
                let status = response.status();
                Err(match response.json::<ErrorBody>().await {
                    Ok(body)
                        if status == StatusCode::UNAUTHORIZED || body.error == INVALID_GRANT =>
                    {
                        Error::LoggedOut(body.reason)
                    }
                    Ok(body) => Error::Unexpected(body.message),
                    Err(_) => Error::Transient {
                        problem: format!("{} to a refresh, from no token server", status.as_u16()),
                        retry_after: None,
                    },
                })
            }
            _ => Err(refusal(response).await),
        }
    }
}
