//! The browser of a page: its login, and the protection of forms against other sites (CSRF).
//!
//! A form carries the HMAC of a random cookie and of the login session. Another site can
//! neither read the value nor set the cookie, whose prefix `__Host-` also excludes subdomains.
//! The value changes with the login, so that a form of one user is never sent as another.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN, SET_COOKIE};
use actix_web::{FromRequest, HttpRequest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::page::{Page, failure};
use super::problem::Problem;
use crate::accounts::{BrowserLoggedIn, LoginSession};
use crate::crypto::random;
use crate::http::error::Error;
use crate::http::extract::login_session::OptionalLogin;
use crate::http::extract::{cookies, device_cookie, login_session};
use crate::http::state::State;
use crate::issuer;

const COOKIE: &str = "__Host-matchbook_csrf";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const COOKIE_LEN: usize = 32;
const ID_LEN: usize = 16;
const TAG_LEN: usize = 32;

/// The browser of a request.
pub(in crate::http) struct Browser {
    login: Option<LoginSession>,
    login_cookie: Option<String>,
    /// The random value of the cookie, encoded.
    csrf_cookie: String,
    /// Whether the cookie has to be set.
    is_new: bool,
    /// Whether the browser says that the request comes from another site.
    is_cross_site: bool,
}

impl Browser {
    pub(in crate::http) fn login(&self) -> Option<&LoginSession> {
        self.login.as_ref()
    }

    /// Returns the cookie of the login session, valid or not.
    pub(super) fn login_cookie(&self) -> Option<&str> {
        self.login_cookie.as_deref()
    }

    /// Returns a value that only this browser knows.
    pub(super) fn secret(&self) -> &str {
        &self.csrf_cookie
    }

    /// Returns the value for the forms of a page.
    pub(super) fn form_value(&self, state: &State) -> String {
        let tag: [u8; TAG_LEN] = state.pages.csrf_keys.current.tag(&self.message());
        URL_SAFE_NO_PAD.encode(tag)
    }

    /// Checks the value of a form, in constant time.
    pub(super) fn check(&self, state: &State, value: &str) -> Result<(), Problem> {
        let tag = URL_SAFE_NO_PAD.decode(value).unwrap_or_default();
        let message = self.message();
        let mut keys = state.pages.csrf_keys.all();
        let is_genuine = keys.any(|key| key.verifies::<TAG_LEN>(&message, &tag));
        if self.is_new || self.is_cross_site || !is_genuine {
            tracing::info!(cross_site = self.is_cross_site, "form of another browser rejected");
            return Err(Problem::foreign_form());
        }
        Ok(())
    }

    /// Sets the cookie of the forms with a page, unless the browser has it.
    pub(super) fn show(&self, page: Page) -> Page {
        if !self.is_new {
            return page;
        }
        let attributes = "Path=/; Secure; HttpOnly; SameSite=Lax";
        page.with_cookie((SET_COOKIE, format!("{COOKIE}={}; {attributes}", self.csrf_cookie)))
    }

    /// Sets the cookies of a login.
    pub(super) fn logged_in(page: Page, login: &BrowserLoggedIn, state: &State) -> Page {
        let lifetime = state.accounts.login_lifetime();
        page.with_cookie(login_session::set(&login.cookie, lifetime))
            .with_cookie(device_cookie::set(&login.device))
    }

    fn message(&self) -> Vec<u8> {
        let login = self.login.map_or([0; ID_LEN], |login| *login.id.0.as_bytes());
        [self.csrf_cookie.as_bytes(), &login].concat()
    }

    async fn of(request: &HttpRequest) -> Result<Self, Error> {
        let login = OptionalLogin::extract(request).await?;
        let cookie = cookies::value(request, COOKIE).filter(|value| is_cookie(value));
        let random = random::<COOKIE_LEN>().map_err(issuer::Error::from)?;
        Ok(Self {
            login: login.session,
            login_cookie: login.cookie,
            is_new: cookie.is_none(),
            csrf_cookie: cookie.map_or_else(|| URL_SAFE_NO_PAD.encode(random), str::to_owned),
            is_cross_site: is_cross_site(request.headers()),
        })
    }
}

fn is_cookie(value: &str) -> bool {
    URL_SAFE_NO_PAD.decode(value).is_ok_and(|bytes| bytes.len() == COOKIE_LEN)
}

/// Returns whether the headers of a browser say that another site sent the request. A browser
/// without them is trusted to send the cookie only where it should.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text(SEC_FETCH_SITE) {
        // "none": the user reloaded the page or restored it.
        return !matches!(site, "same-origin" | "none");
    }
    match text(ORIGIN) {
        // Browsers hide the origin from pages with `Referrer-Policy: no-referrer`.
        None | Some("null") => false,
        Some(origin) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_none() || authority != text(HOST)
        }
    }
}

impl FromRequest for Browser {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Self::of(&request).await.map_err(|error| failure(error, &request)) })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn request_of_another_site_is_detected_by_its_headers() {
        let is_cross = |headers: &[(HeaderName, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(name.clone(), HeaderValue::from_static(value));
            }
            is_cross_site(&map)
        };
        let here = (HOST, "auth.example.com");
        assert!(!is_cross(&[]));
        assert!(!is_cross(&[here.clone(), (ORIGIN, "https://auth.example.com")]));
        assert!(!is_cross(&[here.clone(), (ORIGIN, "null")]));
        assert!(is_cross(&[here.clone(), (ORIGIN, "https://example.com")]));
        assert!(is_cross(&[here.clone(), (ORIGIN, "https://auth.example.com:8443")]));
        assert!(is_cross(&[(ORIGIN, "nonsense")]));
        for (site, expected) in
            [("same-origin", false), ("none", false), ("same-site", true), ("cross-site", true)]
        {
            let site = (SEC_FETCH_SITE, site);
            assert_eq!(is_cross(&[here.clone(), site, (ORIGIN, "null")]), expected);
        }
    }
}
