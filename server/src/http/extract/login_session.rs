//! The login session of a browser.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::HeaderName;
use actix_web::{FromRequest, HttpRequest, web};

use super::cookies;
use crate::accounts::LoginSession;
use crate::http::error::Error;
use crate::http::state::State;

/// The cookie of a login session. The prefix makes browsers accept it only from this host,
/// over HTTPS, and not from a subdomain.
const COOKIE: &str = "__Host-matchbook_login";

/// The login session of a request, if the browser is logged in.
pub(in crate::http) struct OptionalLogin {
    pub(in crate::http) session: Option<LoginSession>,
    /// The cookie of the browser, valid or not.
    pub(in crate::http) cookie: Option<String>,
}

impl FromRequest for OptionalLogin {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let state = request.app_data::<web::Data<State>>().ok_or(Error::NotFound)?;
            let cookie = cookies::value(&request, COOKIE);
            let session = state.accounts.login_session(cookie).await?;
            Ok(Self { session, cookie: cookie.map(str::to_owned) })
        })
    }
}

/// Returns the header that sets the cookie.
pub(in crate::http) fn set(value: &str, lifetime: Duration) -> (HeaderName, String) {
    cookies::set(COOKIE, value, lifetime.as_secs())
}

/// Returns the header that deletes the cookie.
pub(in crate::http) fn clear() -> (HeaderName, String) {
    cookies::set(COOKIE, "", 0)
}
