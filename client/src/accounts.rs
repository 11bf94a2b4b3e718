//! Login and registration with a name and a password.

use std::fmt;
use std::time::Instant;

use awc::http::Method;
use awc::http::StatusCode;
use awc::http::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use matchbook_shared::{
    DEVICE_COOKIE, LoginRequest, RegisterRequest, RegisteredUser, TokenResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::protocol;
use crate::response::{parse_json, rejection_from};
use crate::token_set::TokenSet;
use crate::transport::{Outgoing, Response};

/// Proves that a browser or a device has logged in to an account before. The server does
/// not slow down its logins while another client guesses the password. It opens no session.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceToken(String);

impl DeviceToken {
    /// Takes a token that [`Self::as_str`] returned before. Returns `None` if it has
    /// characters that a cookie cannot have (RFC 6265 §4.1.1).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_cookie_octet =
            |c: char| c.is_ascii_graphic() && !matches!(c, '"' | ',' | ';' | '\\');
        let is_valid = !text.is_empty() && text.chars().all(is_cookie_octet);
        is_valid.then(|| Self(text.to_owned()))
    }

    /// Returns the token, to keep it on the device for the next login.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the token that a response sets as a cookie.
    fn set_by(response: &Response) -> Option<Self> {
        let cookies = response.headers().get_all(SET_COOKIE);
        let pairs = cookies.filter_map(|cookie| cookie.to_str().ok()?.split(';').next());
        let mut named = pairs.filter_map(|pair| pair.split_once('='));
        let (_, value) = named.find(|(name, _)| name.trim() == DEVICE_COOKIE)?;
        Self::new(value.trim())
    }
}

/// Does not show the token.
impl fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceToken")
    }
}

/// A login with a name and a password. It has no `Debug`, so that no log shows the password.
#[derive(Clone, Copy)]
#[must_use]
pub struct PasswordLogin<'a> {
    name: &'a str,
    password: &'a str,
    code: Option<&'a str>,
    device: Option<&'a DeviceToken>,
}

impl<'a> PasswordLogin<'a> {
    /// Takes a login name of the account, and its password.
    pub fn new(name: &'a str, password: &'a str) -> Self {
        Self { name, password, code: None, device: None }
    }

    /// Adds the code of the second factor, or a recovery code. It is needed after
    /// [`Rejection::SecondFactorRequired`](crate::Rejection::SecondFactorRequired).
    pub fn code(mut self, code: &'a str) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds the token of an earlier login on this device.
    pub fn device(mut self, device: &'a DeviceToken) -> Self {
        self.device = Some(device);
        self
    }

    /// Returns the secrets that an error response might quote.
    fn secrets(&self) -> Vec<&'a str> {
        let device = self.device.map(DeviceToken::as_str);
        [Some(self.password), self.code, device].into_iter().flatten().collect()
    }
}

impl Client {
    /// Logs in with a name and a password. Ends the session of the previous login of these
    /// credentials.
    ///
    /// # Errors
    /// Those of [`Self::log_in_with_password`].
    pub async fn log_in(&self, name: &str, password: &str) -> Result<(), Error> {
        self.log_in_with_password(PasswordLogin::new(name, password)).await.map(drop)
    }

    /// Logs in with a name and a password, and if necessary with a second factor. Ends the
    /// session of the previous login of these credentials.
    ///
    /// Returns the token of this device, if the server issued one. Keep it on the device,
    /// and send it with the next login.
    ///
    /// # Errors
    /// [`Error::Rejected`] with the reason: the credentials, a missing code, a disabled
    /// account, or too many attempts. The current tokens stay then. [`Error::Transient`] if
    /// the server cannot be reached or is busy; [`Error::Invalid`] if it is an OAuth server;
    /// [`Error::Store`] if the tokens cannot be stored.
    pub async fn log_in_with_password(
        &self,
        login: PasswordLogin<'_>,
    ) -> Result<Option<DeviceToken>, Error> {
        self.require_matchbook("login with a password")?;
        let body = LoginRequest {
            name: Some(login.name.to_owned()),
            password: Some(login.password.to_owned()),
            code: login.code.map(str::to_owned),
        };
        let sent_at = Instant::now();
        let response = self.post_without_token("/login", &body, login.device).await?;
        let device = DeviceToken::set_by(&response);
        let tokens = self.read_accepted::<TokenResponse>(response, &login.secrets()).await?;
        let tokens = TokenSet::from_login(tokens, Some(sent_at));
        let opened = tokens.tokens.clone();
        if let Err(error) = self.replace_login(tokens).await {
            self.end_session_of(Some(opened)).await;
            return Err(error);
        }
        Ok(device)
    }

    /// Registers an account, and returns its user. A guest that is logged in becomes the
    /// account, and keeps its id and its session. Otherwise log in afterwards.
    ///
    /// # Errors
    /// [`Error::Rejected`] with the reason: the name, the password, or closed registration.
    /// Those of a request, if the client is logged in; [`Error::Invalid`] for an OAuth server.
    pub async fn register(&self, name: &str, password: &str) -> Result<Uuid, Error> {
        self.require_matchbook("registration with a password")?;
        let body =
            RegisterRequest { name: Some(name.to_owned()), password: Some(password.to_owned()) };
        let response = match self.credentials().current().await {
            Ok(_) => {
                self.post("/register").json(&body).send().await?.timeout(self.server().timeout())
            }
            Err(Error::NotLoggedIn) => self.post_without_token("/register", &body, None).await?,
            Err(error) => return Err(error),
        };
        let current = self.credentials().in_memory();
        let mut secrets = vec![password];
        if let Some(current) = &current {
            secrets.extend(protocol::secrets(self.server(), &current.tokens));
        }
        let RegisteredUser { user_id } = self.read_accepted(response, &secrets).await?;
        Ok(user_id)
    }

    /// Parses the JSON of a successful response.
    async fn read_accepted<T: DeserializeOwned>(
        &self,
        response: Response,
        secrets: &[&str],
    ) -> Result<T, Error> {
        match response.status() {
            StatusCode::OK | StatusCode::CREATED => parse_json(self.server(), response).await,
            _ => Err(rejection_from(self.server(), response, secrets).await),
        }
    }

    async fn post_without_token(
        &self,
        path: &str,
        body: &impl Serialize,
        device: Option<&DeviceToken>,
    ) -> Result<Response, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Invalid(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(device) = device {
            let cookie = HeaderValue::try_from(format!("{DEVICE_COOKIE}={}", device.as_str()));
            let mut cookie = cookie.map_err(|error| Error::Invalid(error.to_string()))?;
            cookie.set_sensitive(true);
            headers.insert(COOKIE, cookie);
        }
        let outgoing = Outgoing {
            method: &Method::POST,
            target: &self.server().target(path)?,
            headers: &headers,
            authorization: None,
            // Each attempt counts, and a second login opens a second session.
            repeatable: false,
        };
        let emit = |event: &dyn Fn() -> Event| self.credentials().emit_with(event);
        let response = self.http().send(&outgoing, body.into(), emit).await?;
        Ok(response.timeout(self.server().timeout()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_token_cannot_add_another_cookie_or_header() {
        for bad in ["", "a b", "a;b=c", "a\r\nx: y", "a,b", "ü", "\"a\""] {
            assert_eq!(DeviceToken::new(bad), None, "{bad:?}");
        }
        let token = DeviceToken::new("v1.a-b_c==").unwrap();
        assert_eq!((token.as_str(), format!("{token:?}").as_str()), ("v1.a-b_c==", "DeviceToken"));
    }
}
